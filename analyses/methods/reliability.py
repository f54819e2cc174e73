"""Vectors from halves of ever more texts, and how well two halves agree.

Every text has a place among its emotion's; even places are one half, odd ones the other, and the
first m places are the set of m texts: so sets are nested, and one pass over the texts, each added
to one sum, gives the halves of every set. Knows nothing of files, rows or topics.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.methods.denoising import project_out
from analyses.methods.directions import TILE, difference_of_means
from analyses.methods.resampling import draw_rows, percentile_interval
from analyses.methods.statistics import split_half_cosines

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

UNEVEN = 0.25
"""The smaller half's share of an emotion's texts below which it is halved on its own."""


def places_within(groups: Integers, keys: Integers) -> Integers:
    """(n,) place of each text among those of its group, in the order of its key; from 0."""
    order = np.lexsort((keys, groups))
    ordered = groups[order]
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered, side="left")
    return places


def halved_places(labels: Integers, halves: Integers, keys: Integers) -> Integers:
    """(n,) place of each text among its label's: even in half 0 and odd in half 1, by key."""
    return 2 * places_within(2 * labels + halves, keys) + halves


def uneven(labels: Integers, halves: Integers) -> Flags:
    """(e,) whether a label has hardly any of its texts in one half."""
    sizes = side_sizes(labels, halves)
    flags: Flags = sizes.min(axis=1) < UNEVEN * sizes.sum(axis=1)
    return flags


def even_out(labels: Integers, halves: Integers, keys: Integers) -> Integers:
    """The halves (n,), but texts of an uneven label take turns, by key."""
    return np.where(uneven(labels, halves)[labels], places_within(labels, keys) % 2, halves)


def side_sizes(labels: Integers, halves: Integers) -> Integers:
    """Texts of each label in each half, (e, 2)."""
    counts = np.bincount(2 * labels + halves, minlength=2 * (int(labels.max()) + 1))
    return counts.reshape(-1, 2)


def shuffle_within(groups: Integers, labels: Integers, rng: np.random.Generator) -> Integers:
    """Labels (n,) in an order at random within each group: a group keeps the labels it has."""
    shuffled = np.empty_like(labels)
    mixed = np.lexsort((rng.random(len(groups)), groups))
    shuffled[np.argsort(groups, kind="stable")] = labels[mixed]
    return shuffled


@dataclass(frozen=True, slots=True)
class Halved:
    """The halves of one nested set: means (2, e, d) of their texts, counts (2, e) of them."""

    stories: float
    """Texts of an emotion, on average."""
    counts: Integers
    means: Floats

    @property
    def whole(self) -> Floats:
        """Means (e, d) of both halves together."""
        weighted = self.means * self.counts[:, :, None]
        whole: Floats = weighted.sum(axis=0) / self.counts.sum(axis=0)[:, None]
        return whole


class Halving:
    """One way of halving n texts of e emotions: which sum each of them belongs to.

    labels (n,) in [0, e) and places (n,) as above. Of the sizes of sets that are wanted those are
    kept that every half of every emotion can fill and that are not all texts: these are the last
    set, even or not. ValueError when a half of an emotion has no text.
    """

    def __init__(self, labels: Integers, places: Integers, wanted: Iterable[int] = ()) -> None:
        sides = side_sizes(labels, places % 2)
        if not sides.all():
            lacking = np.flatnonzero(sides.min(axis=1) == 0).tolist()
            raise ValueError(f"no text in one half of emotions {lacking}")
        fewest, most = 2 * int(sides.min()), int(sides.sum(axis=1).max())
        self.emotions = len(sides)
        self.sizes = tuple(sorted(size for size in wanted if size <= fewest and size < most))
        bucket = np.searchsorted(self.sizes, places, side="right")
        self.cells = (2 * bucket + places % 2) * self.emotions + labels
        self.counts = np.bincount(self.cells, minlength=self.n_cells).reshape(-1, 2, self.emotions)

    @property
    def n_cells(self) -> int:
        """How many sums there are: a bucket for each size and one for the rest, 2 halves, e."""
        return 2 * (len(self.sizes) + 1) * self.emotions

    def nested(self, sums: Floats) -> Iterator[Halved]:
        """The sets from the smallest to all texts, from sums (n_cells, d). Keeps (2, e, d)."""
        total = np.zeros((2, self.emotions, sums.shape[1]))
        counts = np.zeros((2, self.emotions), dtype=np.int64)
        buckets = sums.reshape(len(self.sizes) + 1, *total.shape)
        for added, more in zip(buckets, self.counts, strict=True):
            total += added
            counts = counts + more
            yield Halved(float(counts.sum() / self.emotions), counts, total / counts[:, :, None])


@dataclass(slots=True)
class CellSums:
    """Sums of texts in float64: each text is added to one cell for every way of halving.

    Texts are added one after another, so that not a bit depends on where a block ends.
    """

    n_cells: int
    _sums: Floats | None = None

    @property
    def sums(self) -> Floats:
        """(n_cells, d). ValueError when no text was added."""
        if self._sums is None:
            raise ValueError("no text was added")
        return self._sums

    def add(self, block: NDArray[np.floating], cells: Integers) -> None:
        """Add texts: block (n, d), cells (n, ways) in [0, n_cells)."""
        if len(block) != len(cells):
            raise ValueError(f"{len(block)} rows for the cells of {len(cells)}")
        if self._sums is None:
            self._sums = np.zeros((self.n_cells, block.shape[1]))
        for first in range(0, len(block), TILE):
            rows = block[first : first + TILE].astype(np.float64)
            for row, own in zip(rows, cells[first : first + TILE].tolist(), strict=True):
                for cell in own:
                    total = self._sums[cell]
                    total += row


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the halves of one nested set agree, per emotion; each array (e,).

    A step up is concave: where few texts in few dimensions make cosines noisy, the mean of the
    reliabilities lies a little below the reliability of the mean.
    """

    stories: float
    counts: Integers
    """Texts of each emotion."""
    split_half: Floats
    """Cosine of the vectors of the two halves."""
    reliability: Floats
    """The same, stepped up to both halves together."""
    self_cosine: Floats
    """Cosine of the vectors of this set with those of all texts."""


def agreements(halving: Halving, sums: Floats, components: Floats | None) -> list[Agreement]:
    """The agreement of every nested set, from sums (n_cells, d); the last is of all texts.

    Vectors are differences over the full set of emotions, without their part along `components`
    (k, d) where these are given.
    """
    whole = emotion_vectors(whole_means(halving, sums), components)
    return [_agree(halved, whole, components) for halved in halving.nested(sums)]


def whole_means(halving: Halving, sums: Floats) -> Floats:
    """Means (e, d) of all texts."""
    counts = halving.counts.sum(axis=(0, 1))
    means: Floats = sums.reshape(-1, halving.emotions, sums.shape[1]).sum(axis=0) / counts[:, None]
    return means


def _agree(halved: Halved, whole: Floats, components: Floats | None) -> Agreement:
    even, odd = (emotion_vectors(means, components) for means in halved.means)
    cosines = split_half_cosines(even, odd)
    return Agreement(
        halved.stories,
        halved.counts.sum(axis=0),
        cosines,
        step_up(cosines, *halved.counts),
        split_half_cosines(emotion_vectors(halved.whole, components), whole),
    )


def emotion_vectors(means: Floats, components: Floats | None) -> Floats:
    """Vectors (e, d) of means (e, d), without their part along components (k, d), if any."""
    vectors = difference_of_means(means)
    return vectors if components is None else project_out(vectors, components)


def step_up(r: Floats, first: Integers, second: Integers) -> Floats:
    """Reliability of a whole from the correlation r of two parts with so many texts each.

    Horst (1951), which is Spearman's and Brown's 2r / (1 + r) where the parts are equal. Odd in r,
    so that chance, which is as often below 0 as above, stays 0 on average.
    """
    unequal = 4.0 * first * second / (first + second) ** 2
    square = np.minimum(r * r, 1.0)
    stepped: Floats = 2.0 * r / (np.abs(r) + np.sqrt(square + unequal * (1.0 - square)))
    return stepped


def stories_for(target: float, reliability: float, stories: float) -> float:
    """Texts an emotion for a reliability of `target`, if `stories` of them have `reliability`.

    Spearman's and Brown's line: reliability / (1 - reliability) grows with the number of texts.
    Infinite where there is none to begin with.
    """
    if reliability <= 0.0:
        return float("inf")
    odds = target / (1.0 - target)
    return stories * odds * max(1.0 - reliability, 0.0) / reliability


def mean_interval(values: Floats, rng: np.random.Generator) -> Floats:
    """Mean of values (e,) and the ends of its bootstrap interval, drawing emotions anew: (3,).

    The ends are NaN for two emotions: their vectors are each other's opposites, one number twice.
    """
    if len(values) < 3:
        return np.array([values.mean(), np.nan, np.nan])
    means = values[draw_rows(len(values), rng)].mean(axis=1)
    return np.array([values.mean(), *percentile_interval(means)])
