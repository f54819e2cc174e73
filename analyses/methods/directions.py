"""Emotion vectors from pooled texts: running means per emotion and their differences.

Knows nothing of files, databases or models: it is fed blocks of rows with an integer label each,
so that arrays larger than memory pass through once.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(slots=True)
class EmotionMeans:
    """Running sums per emotion in float64, kept apart for its even and its odd texts.

    The first text of an emotion that is added is even, its second odd, and so on: the halves
    depend on the order of the texts alone, never on where a block ends.
    """

    n_emotions: int
    counts: Integers = field(init=False)
    _sums: Floats = field(init=False)
    _norms: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.counts = np.zeros((2, self.n_emotions), dtype=np.int64)
        # One column until the first block tells the width: a sum takes the wider shape.
        self._sums = np.zeros((2 * self.n_emotions, 1))

    def add(self, block: NDArray[np.floating], labels: Integers) -> None:
        """Add texts: block (n, d), labels (n,) in [0, e). ValueError if a row is not finite."""
        rows = np.asarray(block, dtype=np.float64)
        if len(rows) != len(labels):
            raise ValueError(f"{len(rows)} rows for {len(labels)} labels")
        if not np.isfinite(rows).all():
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            raise ValueError(f"row {bad[0]} of the block is not finite ({len(bad)} such rows)")
        parity = (self.counts.sum(axis=0)[labels] + _rank_within(labels)) % 2
        group = parity * self.n_emotions + labels
        one_hot = csr_array(
            (np.ones(len(labels)), (group, np.arange(len(labels)))),
            shape=(2 * self.n_emotions, len(labels)),
        )
        self._sums = self._sums + one_hot @ rows
        self._norms += float(np.linalg.norm(rows, axis=1).sum())
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
        even, odd = np.split(self._sums, 2)
        return _divide(even + odd, self.totals)

    def half_means(self) -> tuple[Floats, Floats] | None:
        """Means over the even and over the odd texts, or None if an emotion has only one text."""
        if not self.counts.all():
            return None
        even, odd = np.split(self._sums, 2)
        return _divide(even, self.counts[0]), _divide(odd, self.counts[1])


def difference_of_means(means: Floats) -> Floats:
    """Emotion vectors (e, d): each emotion's mean less the mean of the emotion means.

    means is (e, d) over the full set of emotions; choose a subset after this step, not before.
    Emotions weigh the same however many texts they have.
    """
    vectors: Floats = means - means.mean(axis=0)
    return vectors


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
