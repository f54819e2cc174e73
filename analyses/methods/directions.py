"""Emotion vectors from pooled texts: running means per emotion and their differences.

Knows nothing of files, databases or models: it is fed blocks of rows with an integer label each,
so that arrays larger than memory pass through once.
"""

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TILE = 128
"""Rows widened to float64 at a time: few enough to stay in the processor's cache."""


@dataclass(slots=True)
class EmotionMeans:
    """Running sums per emotion in float64, kept apart for its even and its odd texts.

    The first text of an emotion that is added is even, its second odd, and so on. Texts are added
    one after another, so that not a bit depends on where a block ends.
    """

    n_emotions: int
    counts: Integers = field(init=False)
    _sums: Floats | None = field(init=False, default=None)
    _norms: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.counts = np.zeros((2, self.n_emotions), dtype=np.int64)

    def add(self, block: NDArray[np.floating], labels: Integers) -> None:
        """Add texts: block (n, d), labels (n,) in [0, e). ValueError if a row is not finite."""
        if len(block) != len(labels):
            raise ValueError(f"{len(block)} rows for {len(labels)} labels")
        if self._sums is None:
            self._sums = np.zeros((2 * self.n_emotions, block.shape[1]))
        if block.shape[1] != self._sums.shape[1]:
            raise ValueError(
                f"shapes differ: {block.shape[1]} columns, {self._sums.shape[1]} before"
            )
        parity = (self.totals[labels] + _rank_within(labels)) % 2
        group = parity * self.n_emotions + labels
        for first in range(0, len(block), TILE):
            rows = block[first : first + TILE].astype(np.float64)
            norms = np.sqrt(np.vecdot(rows, rows))
            if not np.isfinite(norms).all():
                _refuse_rows(block)
            for norm, place, row in zip(
                norms.tolist(), group[first : first + TILE].tolist(), rows, strict=True
            ):
                self._norms += norm
                total = self._sums[place]
                total += row
        self.counts += np.bincount(group, minlength=2 * self.n_emotions).reshape(2, -1)

    @property
    def totals(self) -> Integers:
        """Texts per emotion, (e,)."""
        totals: Integers = self.counts.sum(axis=0)
        return totals

    @property
    def mean_norm(self) -> float:
        """Mean Euclidean norm of the rows added: the size of a pooled residual."""
        return self._norms / int(self.counts.sum())

    def means(self) -> Floats:
        """Mean row per emotion, (e, d). ValueError if an emotion has no text."""
        even, odd = self._halves()
        return _divide(even + odd, self.totals)

    def half_means(self) -> tuple[Floats, Floats] | None:
        """Means over the even and over the odd texts, or None if an emotion has only one text."""
        if not self.counts.all():
            return None
        even, odd = self._halves()
        return _divide(even, self.counts[0]), _divide(odd, self.counts[1])

    def _halves(self) -> tuple[Floats, Floats]:
        if self._sums is None:
            raise ValueError("no text was added")
        return self._sums[: self.n_emotions], self._sums[self.n_emotions :]


def difference_of_means(means: Floats) -> Floats:
    """Emotion vectors (e, d): each emotion's mean less the mean of the emotion means.

    means is (e, d) over the full set of emotions; choose a subset after this step, not before.
    Emotions weigh the same however many texts they have.
    """
    vectors: Floats = means - means.mean(axis=0)
    return vectors


def _refuse_rows(block: NDArray[np.floating]) -> NoReturn:
    norms = np.linalg.norm(block.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(norms))
    raise ValueError(f"row {bad[0]} of the block is not finite ({len(bad)} such rows)")


def _rank_within(labels: Integers) -> Integers:
    """For each entry, how many earlier entries carry the same label."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def _divide(sums: Floats, counts: Integers) -> Floats:
    if not counts.all():
        raise ValueError(f"no text for emotions {np.flatnonzero(counts == 0).tolist()}")
    means: Floats = sums / counts[:, None]
    return means
