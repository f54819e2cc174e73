"""Finds the windows of a chunk's tokens that excite each probe most.

Knows nothing of texts or of the ledger. Letters: e probes, t tokens, m documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.projection.summaries import best_windows


@dataclass(frozen=True, slots=True)
class Window:
    """The best window of one document for one probe."""

    probe: int
    document: int
    first: int
    """Of the document's pooled tokens."""
    score: float
    """Mean projection of its tokens."""


def find_windows(
    scores: NDArray[np.float32],
    spans: Sequence[tuple[int, int]],
    bars: NDArray[np.float64],
    kept: int,
) -> Iterator[Window]:
    """Of each probe the `kept` best windows above its bar [e], one of a document at most.

    `spans` are the columns of each document in `scores` [e, t]. Best first, of equals the earlier
    document; none of a document that is shorter than a window.
    """
    firsts = np.zeros((len(spans), len(scores)), np.int64)
    means = np.full((len(spans), len(scores)), -np.inf)
    for document, (start, stop) in enumerate(spans):
        if found := best_windows(scores[:, start:stop]):
            firsts[document], means[document] = found
    order = np.argsort(-means, axis=0, kind="stable")[:kept]
    best = np.take_along_axis(means, order, axis=0)
    probes, places = np.nonzero((best > bars).T)
    documents = order[places, probes]
    winners = (probes, documents, firsts[documents, probes], best[places, probes])
    for row in zip(*(each.tolist() for each in winners), strict=True):
        yield Window(*row)
