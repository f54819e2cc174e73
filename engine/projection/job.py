"""A reader's pass over a sample: every document cut, read, projected, summarised and kept.

Documents come in chunks by position; a chunk hangs on no other and is committed whole, so that a
pass that was killed goes on and leaves the same rows. The model is loaded only if something is
open. Knows nothing of where texts or vectors come from.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.projection.summaries import KEPT, WINDOW
from stores.database import Connection
from stores.errors import NotReady
from stores.failpoints import reach
from stores.projections import (
    Projection,
    commit_chunk,
    count_outcomes,
    done_chunks,
    find_projection,
    finish_projection,
    open_projection,
    snippet_bars,
)
from stores.runs import STOPPED, recorded_run
from stores.samples import Sample, count_documents, read_documents

if TYPE_CHECKING:  # they load torch
    from engine.extraction import ExtractionProgress
    from engine.loading import LazyModel
    from engine.packing import Batching
    from engine.projection.chunks import ChunkReader

CHUNK_SCORES, SMALLEST_CHUNK = 512, 128
"""Documents of a chunk times layers, about; and no fewer documents than that."""


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Directions of length 1 at some layers: float64 [e, d], row i that of `emotions[i]`."""

    emotions: tuple[str, ...]
    directions: Mapping[int, NDArray[np.float64]]
    vectors: Mapping[int, str]
    """Layer -> sha256 of the stored vectors they were made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSettings:
    """How a reader reads documents: `format` and `start_token` as it reads its own texts."""

    reader: str
    corpus: str
    """Whose emotion vectors are projected on."""
    layers: tuple[int, ...]
    """Ascending 0-based blocks."""
    format: Literal["raw", "chat"]
    start_token: int
    max_tokens: int = 512
    """Content tokens read of a document; the model's context may leave fewer."""
    tokens_per_batch: int | None = None
    """Tokens of one forward pass, padding included; None: what fitted before, or the default."""
    batching: "Batching | Literal['auto']" = "auto"

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be ascending block numbers, not {self.layers}")
        if not 0 <= self.start_token < self.max_tokens:
            raise ValueError("needed: start_token >= 0, max_tokens > start_token")

    @property
    def chunk_documents(self) -> int:
        """Documents that are read and committed together; part of what identifies a pass."""
        return max(SMALLEST_CHUNK, CHUNK_SCORES // len(self.layers))


@dataclass(frozen=True, slots=True)
class ProjectionSummary:
    """What a run did: `documents` and `tokens` read now; `outcomes` of the pass as it stands.

    `outcomes` counts documents as `count_outcomes` does. Seconds by the clock, and those of them
    spent in the model's passes.
    """

    projection_id: int
    documents: int = 0
    tokens: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    stopped: bool = False
    elapsed_s: float = 0.0
    model_s: float = 0.0


def pass_settings(
    model: "LazyModel", settings: ProjectionSettings, directions: Directions
) -> dict[str, Any]:
    """All that a pass's numbers hang on but its texts; known before any weight is loaded."""
    return {
        "layers": list(settings.layers),
        "emotions": list(directions.emotions),
        "vectors": {str(layer): directions.vectors[layer] for layer in settings.layers},
        "model": model.checkpoint.name,
        "weights_sha": model.checkpoint.weights_sha,
        "dtype": model.compute_dtype,
        "format": settings.format,
        "start_token": settings.start_token,
        "max_tokens": settings.max_tokens,
        "chunk_documents": settings.chunk_documents,
        "summaries": KEPT,
        "snippet": WINDOW,
    }


def run_projection(
    conn: Connection,
    sample: Sample,
    model: "LazyModel",
    settings: ProjectionSettings,
    directions: Directions,
    *,
    progress: "Callable[[ExtractionProgress], None]",
    stop: threading.Event,
    tell: Callable[[str], None] = lambda _line: None,
) -> ProjectionSummary:
    """Read the documents that this pass lacks; `tell` hears what the user should know.

    After `stop` the chunk at hand is dropped. Raises NotReady when the sample was not drawn to its
    end, ValueError for a layer without directions or that the model lacks, EngineError when the
    model or the disk refuses.
    """
    if not sample.finished:
        raise NotReady(f"{sample.source} was not drawn to its end: run the same command again")
    if missing := set(settings.layers) - set(directions.directions):
        raise ValueError(f"no directions at layers {sorted(missing)}")
    kept = pass_settings(model, settings, directions)
    found = find_projection(conn, sample, settings.reader, settings.corpus, kept)
    waiting = _waiting(conn, sample, settings, found)
    if found is not None and not waiting:
        return _finish(conn, found)
    reader, how = _open_reader(conn, model, settings, directions, stop, tell)
    with recorded_run(
        conn,
        f"project {sample.source}",
        {**asdict(settings), **how, "source": model.source, "sample": sample.digest},
        reader=settings.reader,
        corpus=settings.corpus,
        model=model.checkpoint.name,
        model_revision=model.checkpoint.weights_sha,
    ) as run:
        projection = open_projection(conn, sample, settings.reader, settings.corpus, kept, run.id)
        reach("pass_opened")
        summary = _Pass(conn, projection, reader, waiting, progress).run()
        if summary.stopped:
            run.outcome = STOPPED
    return summary


def _waiting(
    conn: Connection, sample: Sample, settings: ProjectionSettings, found: Projection | None
) -> list[range]:
    """Positions of the documents of each chunk that is not there, in order."""
    documents, size = count_documents(conn, sample.id), settings.chunk_documents
    done = frozenset[int]() if found is None else done_chunks(conn, found.id)
    return [
        range(first, min(first + size, documents))
        for first in range(0, documents, size)
        if first // size not in done
    ]


def _finish(conn: Connection, projection: Projection) -> ProjectionSummary:
    """Nothing is left to read, and nothing is recorded but that."""
    finish_projection(conn, projection.id)
    return ProjectionSummary(projection.id, outcomes=count_outcomes(conn, projection.id))


def _open_reader(
    conn: Connection,
    model: "LazyModel",
    settings: ProjectionSettings,
    directions: Directions,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> "tuple[ChunkReader, dict[str, Any]]":
    """The loaded model, set up to read chunks, and how it is set up."""
    from engine.budget import open_budget
    from engine.projection.chunks import ChunkReader
    from engine.projection.passes import TokenProjector
    from engine.readings import TextReader
    from engine.selfcheck import choose_batching

    loaded, device = model.loaded, str(model.loaded.device)
    choice = choose_batching(loaded, settings.layers, settings.batching)
    if choice.reason:
        tell(choice.reason)
    which = f"{loaded.name} {loaded.dtype}"
    budget = open_budget(conn, settings.tokens_per_batch, model=which, device=device)
    rows = {layer: directions.directions[layer] for layer in settings.layers}
    reader = ChunkReader(
        TextReader(loaded, settings.format, settings.start_token),
        TokenProjector(loaded, choice.batching, budget, stop, rows),
        directions.emotions,
        settings.max_tokens,
    )
    how = {"tokens_per_batch": budget.tokens, **asdict(choice), "attention": loaded.attention}
    return reader, how | {"dtype": loaded.dtype, "device": device}


@dataclass(slots=True)
class _Pass:
    """The open chunks of a pass, one after the other, and this run's tallies."""

    conn: Connection
    projection: Projection
    reader: "ChunkReader"
    waiting: Sequence[range]
    progress: "Callable[[ExtractionProgress], None]"
    documents: int = 0
    tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    def run(self) -> ProjectionSummary:
        """Read them all, up to a stop."""
        conn, id_ = self.conn, self.projection.id
        complete = all(self._read_chunk(positions) for positions in self.waiting)
        if complete:
            finish_projection(conn, id_)
        return ProjectionSummary(
            projection_id=id_,
            documents=self.documents,
            tokens=self.tokens,
            outcomes=count_outcomes(conn, id_),
            stopped=not complete,
            elapsed_s=time.monotonic() - self.began,
            model_s=self.reader.projector.seconds,
        )

    def _read_chunk(self, positions: range) -> bool:
        """Read a chunk and keep it; False when a stop came first."""
        if self.reader.projector.stop.is_set():
            return False
        sample = self.projection.sample.id
        documents = read_documents(self.conn, sample, positions.start, len(positions))
        read = self.reader.read(documents, self._bars, self._advance)
        if read is None:
            return False
        chunk = positions.start // self.projection.settings["chunk_documents"]
        commit_chunk(self.conn, self.projection, chunk, read.outcomes, read.layers)
        reach("chunk_kept")
        return True

    def _bars(self, layer: int) -> Mapping[str, float]:
        return snippet_bars(self.conn, self.projection.id, layer)

    def _advance(self, documents: int, tokens: int) -> None:
        from engine.extraction import ExtractionProgress

        self.documents += documents
        self.tokens += tokens
        total = sum(map(len, self.waiting))
        elapsed = time.monotonic() - self.began
        self.progress(ExtractionProgress(self.documents, total, self.tokens, elapsed))
