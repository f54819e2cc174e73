"""Turns a chunk of documents into what is kept of it: outcomes, scores, summaries and snippets.

Knows nothing of the ledger but the rows it makes, nor of where documents or directions come from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.pooling import Told
from engine.projection.cutting import cut_text
from engine.projection.passes import TokenProjector, TokenScores
from engine.projection.pieces import text_pieces
from engine.projection.summaries import WINDOW, summarise_tokens
from engine.projection.windows import Window, find_windows
from engine.readings import NOT_FINITE, OUT_OF_MEMORY, Fault, Reading, TextReader
from stores.failpoints import reach
from stores.projections import KEPT_SNIPPETS, DocumentOutcome, LayerChunk, Snippet
from stores.samples import Document

TOO_LONG: Fault = ("failed", "too_long")

Bars = Callable[[int], Mapping[str, float]]
"""Layer -> emotion -> the score that a snippet must beat, where there is one."""


@dataclass(frozen=True, slots=True)
class CutDocument:
    """A document as it is read: the beginning of its text, and its tokens."""

    document: Document
    text: str
    cut: bool
    reading: Reading


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
        cut = [self._cut(document) for document in documents]
        reach("chunk_read")
        sound = [i for i, each in enumerate(cut) if each.reading.fault is None]
        told(len(cut) - len(sound), 0)
        scores = self.projector.project([each.reading.segment for each in cut], sound, told)
        if scores is None:
            return None
        reach("chunk_projected")
        means = {layer: mean_scores(rows, scores.bounds) for layer, rows in scores.scores.items()}
        faults = find_faults([each.reading.fault for each in cut], scores, means)
        keeper = _Keeper(self.reader, self.emotions, cut, faults, scores)
        return ReadChunk(
            [_outcome(each, fault) for each, fault in zip(cut, faults, strict=True)],
            {layer: keeper.keep(layer, means[layer], bars(layer)) for layer in means},
        )

    def _cut(self, document: Document) -> CutDocument:
        """Its beginning: as much as is asked for, or less where the model cannot hold that."""
        model, limit = self.reader.model, self.max_tokens
        text, cut = cut_text(model.tokenizer, document.text, limit)
        reading = self.reader.read(text)
        while reading.fault == TOO_LONG and model.context is not None:
            limit -= len(reading.segment.ids) - model.context
            if limit < 1:
                break
            text, cut = cut_text(model.tokenizer, document.text, limit)
            reading = self.reader.read(text)
        cut = cut or document.characters > len(document.text)
        return CutDocument(document, text, cut, reading)


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
    return DocumentOutcome(cut.document.id, status, reason, cut.reading.length, cut.cut)


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
        self._reader = reader
        self._emotions = emotions
        self._done = [i for i, fault in enumerate(faults) if fault is None]
        self._cut = [cut[i] for i in self._done]
        failed = [i for i, fault in enumerate(faults) if fault and not cut[i].reading.fault]
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
            snippets=tuple(self._snippet(rows, window) for window in windows),
        )

    def _snippet(self, rows: NDArray[np.float32], window: Window) -> Snippet:
        first = self._reader.start_token + window.first
        start = self._spans[window.document][0] + window.first
        return Snippet(
            emotion=self._emotions[window.probe],
            document_id=self._cut[window.document].document.id,
            first=first,
            score=window.score,
            tokens=self._pieces_of(window.document)[first : first + WINDOW],
            heat=tuple(rows[window.probe, start : start + WINDOW].tolist()),
        )

    def _pieces_of(self, document: int) -> tuple[str, ...]:
        """All content tokens of a document; most documents are in no snippet at all."""
        if document not in self._pieces:
            cut, model = self._cut[document], self._reader.model
            self._pieces[document] = text_pieces(model, self._reader.format, cut.text)
        return self._pieces[document]
