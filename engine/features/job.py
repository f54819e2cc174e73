"""A reader's pass over its corpus under an SAE and its control: codes pooled by text, kept sparse.

Texts come in chunks that are committed whole, so that a pass that was killed goes on and leaves the
same rows. The model is loaded only if something is open. Knows nothing of what is asked of codes.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.features.sampling import choose_stories, refuse_changed
from stores.database import Connection, canonical_json, digest
from stores.encodings import (
    Encoding,
    count_encoded,
    encoded_texts,
    find_encoding,
    finish_encoding,
    open_encoding,
)
from stores.errors import BadValue, NotReady
from stores.failpoints import reach
from stores.rows import Row, read_rows
from stores.runs import STOPPED, Run, recorded_run
from stores.texts import KINDS, Kind

if TYPE_CHECKING:  # they load torch
    from engine.extraction import ExtractionProgress
    from engine.features.identity import Identity
    from engine.loading import LazyModel
    from engine.packing import Batching

CHUNK_TEXTS = 64
"""Texts that are read and committed together."""
DTYPES = ("float32", "bfloat16", "float16")
SCALED = "expected_average_only_in"
"""The normalisation that needs the mean norm of what is encoded."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Texts that are read together."""

    kind: Kind
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSettings:
    """How a reader reads the corpus: `format` and `start_token` as it read its own texts."""

    reader: str
    corpus: str
    name: str
    """Slug of the SAE; tables and files are named after it."""
    layer: int
    format: Literal["raw", "chat"]
    start_token: int
    seed: int
    differences: tuple[str, ...] = ()
    """In which the SAE is not the reader's, where the user insisted."""
    dtype: str | None = None
    """Of the SAE's weights; None: as the reader computes."""
    spread_tokens: int = 8192
    """Tokens, about, whose covariance the control matches."""
    tokens_per_batch: int | None = None
    batching: "Batching | Literal['auto']" = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise BadValue(f"--sae-dtype {self.dtype}: unknown; use {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True)
class EncodingSummary:
    """What a run did: texts and tokens read now; `outcomes` of the pass as it stands."""

    encoding: Encoding
    texts: int = 0
    tokens: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    stopped: bool = False
    elapsed_s: float = 0.0
    model_s: float = 0.0


def pass_settings(
    conn: Connection,
    model: "LazyModel",
    identity: "Identity",
    settings: EncodingSettings,
    mean_norm: float,
) -> dict[str, Any]:
    """All that a pass's numbers hang on but its texts; known before any weight is loaded.

    Raises NotReady when the reader has pooled no story.
    """
    from engine.features.opening import fingerprint

    stories = _choose(conn, settings)
    if not stories:
        raise NotReady(
            f"reader {settings.reader} has pooled no story of corpus {settings.corpus}; run "
            f"`cli.py extract --reader {settings.reader} --corpus {settings.corpus}`"
        )
    return {
        "sae": fingerprint(identity),
        "layer": settings.layer,
        "differences": list(settings.differences),
        "weights_sha": model.checkpoint.weights_sha,
        "dtype": model.compute_dtype,
        "sae_dtype": settings.dtype or model.compute_dtype.split("+")[-1],
        "format": settings.format,
        "start_token": settings.start_token,
        "seed": settings.seed,
        "spread_tokens": settings.spread_tokens,
        "spread": digest(canonical_json([[row.text_id, row.text_sha] for row in stories])),
        "mean_norm": mean_norm if identity.normalize_activations == SCALED else None,
        "chunk_texts": CHUNK_TEXTS,
    }


def run_encoding(
    conn: Connection,
    model: "LazyModel",
    identity: "Identity",
    settings: EncodingSettings,
    *,
    mean_norm: float,
    progress: "Callable[[ExtractionProgress], None]",
    stop: threading.Event,
    tell: Callable[[str], None] = lambda _line: None,
) -> EncodingSummary:
    """Encode the stories and dialogues that this pass lacks; `tell` hears what the user is to know.

    After `stop` the chunk at hand is dropped. Raises NotReady when the reader has pooled no story
    or a text was changed since, EngineError when model, SAE or disk refuses.
    """
    kept = pass_settings(conn, model, identity, settings, mean_norm)
    here = (settings.reader, settings.corpus, settings.name, kept)
    found = find_encoding(conn, *here)
    waiting = _waiting(conn, settings, found)
    if found is not None and not waiting:
        return EncodingSummary(finish_encoding(conn, found), outcomes=count_encoded(conn, found))
    texts = [(chunk.kind, chunk.rows) for chunk in waiting]
    refuse_changed(conn, settings.reader, settings.corpus, texts)
    from engine.features.passes import open_work

    work = open_work(conn, model.loaded, identity, settings, kept, found, progress, stop, tell)
    with _recorded(conn, model, settings, work.how) as run:
        encoding = open_encoding(conn, *here, run.id, work.noted)
        reach("encoding_opened")
        complete = work.read(encoding, waiting)
        if not complete:
            run.outcome = STOPPED
    return EncodingSummary(
        finish_encoding(conn, encoding) if complete else encoding,
        texts=work.texts,
        tokens=work.tokens,
        outcomes=count_encoded(conn, encoding),
        stopped=not complete,
        elapsed_s=time.monotonic() - work.began,
        model_s=work.pooler.seconds,
    )


def _recorded(
    conn: Connection, model: "LazyModel", settings: EncodingSettings, how: Mapping[str, Any]
) -> AbstractContextManager[Run]:
    return recorded_run(
        conn,
        f"encode {settings.name}",
        {**asdict(settings), **how, "source": model.source},
        reader=settings.reader,
        corpus=settings.corpus,
        model=model.checkpoint.name,
        model_revision=model.checkpoint.weights_sha,
    )


def _choose(conn: Connection, settings: EncodingSettings) -> list[Row]:
    """The stories whose tokens the control matches."""
    return choose_stories(
        conn,
        settings.reader,
        settings.corpus,
        start_token=settings.start_token,
        tokens=settings.spread_tokens,
        seed=settings.seed,
    )


def _waiting(conn: Connection, settings: EncodingSettings, found: Encoding | None) -> list[Chunk]:
    """The texts that the reader has pooled and that have no codes in this pass, in order."""
    chunks = []
    for kind in KINDS:
        encoded = set[int]() if found is None else encoded_texts(conn, found, kind)
        rows = read_rows(conn, settings.reader, settings.corpus, kind)
        left = [row for row in rows if row.status == "done" and row.text_id not in encoded]
        firsts = range(0, len(left), CHUNK_TEXTS)
        chunks += [Chunk(kind, tuple(left[first : first + CHUNK_TEXTS])) for first in firsts]
    return chunks
