"""Turns a chunk of documents into what is kept of it: outcomes, scores, summaries and snippets.

Knows nothing of the ledger but the rows it makes, nor of where documents or directions come from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.pooling import Told
from engine.projection.cutting import Beginning, read_beginning
from engine.projection.passes import TokenProjector, TokenScores
from engine.projection.summaries import WINDOW, summarise_tokens
from engine.projection.windows import Window, find_windows
from engine.readings import NOT_FINITE, OUT_OF_MEMORY, Fault, TextReader
from stores.failpoints import reach
from stores.projections import KEPT_SNIPPETS, DocumentOutcome, LayerChunk, Snippet
from stores.samples import Document

Bars = Callable[[int], Mapping[str, float]]
"""Layer -> emotion -> the score that a snippet must beat, where there is one."""


@dataclass(frozen=True, slots=True)
class CutDocument:
    """A document, and what is read of it."""

    document: Document
    beginning: Beginning

    @property
    def fault(self) -> Fault | None:
        """Why it is not read."""
        return self.beginning.reading.fault


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """All rows of a chunk."""

    outcomes: list[DocumentOutcome]
    layers: dict[int, LayerChunk]


@dataclass(frozen=True, slots=True)
class ChunkReader:
    """Reads documents with one model, up to `max_tokens` content tokens of each."""

    reader: TextReader
    projector: TokenProjector
    emotions: tuple[str, ...]
    max_tokens: int

    def read(self, documents: Sequence[Document], bars: Bars, told: Told) -> ReadChunk | None:
        """What is kept of these documents; None after a stop.

        `told` hears how many documents and tokens are through, as they come.
        """
        cut = self.cut(documents)
        reach("chunk_read")
        scores = self._project(cut, told)
        if scores is None:
            return None
        reach("chunk_projected")
        means = {layer: mean_scores(rows, scores.bounds) for layer, rows in scores.scores.items()}
        faults = find_faults([each.fault for each in cut], scores, means)
        keeper = _Keeper(self.reader, self.emotions, cut, faults, scores)
        outcomes = [_outcome(each, fault) for each, fault in zip(cut, faults, strict=True)]
        layers = {layer: keeper.keep(layer, means[layer], bars(layer)) for layer in means}
        return ReadChunk(outcomes, layers)

    def cut(self, documents: Sequence[Document]) -> list[CutDocument]:
        """As much of each as is read, and its tokens."""
        return [
            CutDocument(each, read_beginning(self.reader, each.text, self.max_tokens))
            for each in documents
        ]

    def _project(self, cut: Sequence[CutDocument], told: Told) -> TokenScores | None:
        """The model's pass over those that have no fault; None after a stop."""
        sound = [i for i, each in enumerate(cut) if each.fault is None]
        told(len(cut) - len(sound), 0)
        segments = [each.beginning.reading.segment for each in cut]
        return self.projector.project(segments, sound, told)


def mean_scores(rows: NDArray[np.float32], bounds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Each text's projections [e, t] averaged over its tokens: [n, e], NaN where it has none.

    The projection of a mean is the mean of the projections.
    """
    means = np.full((len(bounds) - 1, len(rows)), np.nan, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite: found afterwards
        for text, (start, stop) in enumerate(pairwise(bounds.tolist())):
            if stop > start:
                means[text] = rows[:, start:stop].mean(axis=1, dtype=np.float64)
    return means


def find_faults(
    faults: Sequence[Fault | None], scores: TokenScores, means: Mapping[int, NDArray[np.float32]]
) -> list[Fault | None]:
    """Why each text of a chunk has no numbers to use, those it had before included, or None."""
    numbers: NDArray[np.float32] = np.hstack([scores.norms, *means.values()])
    finite = [bool(np.isfinite(row).all()) for row in numbers]
    return [
        fault or (OUT_OF_MEMORY if i in scores.too_large else None if finite[i] else NOT_FINITE)
        for i, fault in enumerate(faults)
    ]


def _outcome(cut: CutDocument, fault: Fault | None) -> DocumentOutcome:
    status, reason = fault or ("done", None)
    document, beginning = cut.document, cut.beginning
    shortened = beginning.cut or document.characters > len(document.text)
    return DocumentOutcome(document.id, status, reason, beginning.reading.length, shortened)


class _Keeper:
    """What is kept of each layer of one chunk, of the documents that are done alone."""

    def __init__(
        self,
        reader: TextReader,
        emotions: tuple[str, ...],
        cut: Sequence[CutDocument],
        faults: Sequence[Fault | None],
        scores: TokenScores,
    ) -> None:
        self._start_token = reader.start_token
        self._emotions = emotions
        self._done = [i for i, fault in enumerate(faults) if fault is None]
        self._cut = [cut[i] for i in self._done]
        failed = [i for i, fault in enumerate(faults) if fault and not cut[i].fault]
        self._scores = scores.without(failed) if failed else scores
        edges = self._scores.bounds.tolist()
        self._spans = [(edges[i], edges[i + 1]) for i in self._done]
        self._pieces: dict[int, tuple[str, ...]] = {}

    def keep(self, layer: int, means: NDArray[np.float32], bars: Mapping[str, float]) -> LayerChunk:
        """One layer's rows; `means` [n, e] are those of all documents."""
        rows = self._scores.scores[layer]
        number = list(self._scores.scores).index(layer)
        above = np.array([bars.get(emotion, -np.inf) for emotion in self._emotions])
        windows = find_windows(rows, self._spans, above, KEPT_SNIPPETS) if self._done else ()
        return LayerChunk(
            scores=means[self._done],
            norms=self._scores.norms[self._done, number],
            summary=summarise_tokens(rows) if self._done else None,
            snippets=tuple(self._snippets(rows, list(windows))),
        )

    def _snippets(self, rows: NDArray[np.float32], windows: Sequence[Window]) -> Iterator[Snippet]:
        """The windows with their texts and, read all at once, their tokens' projections."""
        probes = np.array([each.probe for each in windows], np.int64)
        starts = [self._spans[each.document][0] + each.first for each in windows]
        columns = np.array(starts, np.int64)[:, None] + np.arange(WINDOW)
        heats = rows[probes[:, None], columns].tolist()
        for window, heat in zip(windows, heats, strict=True):
            first = self._start_token + window.first
            yield Snippet(
                self._emotions[window.probe],
                self._cut[window.document].document.id,
                first,
                window.score,
                self._pieces_of(window.document)[first : first + WINDOW],
                tuple(heat),
            )

    def _pieces_of(self, document: int) -> tuple[str, ...]:
        """Of all content tokens of a document, in no snippet or many."""
        if document not in self._pieces:
            self._pieces[document] = self._cut[document].beginning.pieces()
        return self._pieces[document]
