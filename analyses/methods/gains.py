"""What one of two rivals has more than the other, with an interval and a p.

Knows nothing of what is measured: one value for each of two rivals, for the same things.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import rankdata

from analyses.methods.alignment import best_cosines, nearest_rows
from analyses.methods.geometry import cosine_matrix, unit
from analyses.methods.resampling import draw_rows, percentile_interval
from analyses.methods.statistics import TIE, permutation_p

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pairs = tuple[Ints, ...]
"""Rows and columns of a matrix above its diagonal."""

RARE = 1e-9
PARTS = 16
"""Of the columns of a set of vectors."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference, its 95% interval and a one-sided p of its being no more than 0."""

    value: float
    low: float
    high: float
    p: float


def mean_gain(
    differences: Floats, groups: Ints, rng: np.random.Generator, *, permutations: int
) -> Gain:
    """The mean of differences [e] between two rivals, for things of which `groups` [e] are alike.

    Groups are drawn with replacement for the interval; for p the rivals are exchanged in whole
    groups, which changes the sign of their differences. One group tells nothing: NaN.
    """
    labels = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(labels, weights=differences), np.bincount(labels)
    value = float(differences.mean())
    if len(sums) < 2:
        return Gain(value, np.nan, np.nan, np.nan)
    drawn = draw_rows(len(sums), rng)
    low, high = percentile_interval(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    signs = rng.choice((-1.0, 1.0), size=(permutations, len(sums)))
    exchanged = signs @ sums / len(differences)
    p = permutation_p((exchanged >= value - TIE).sum(axis=0), permutations)
    return Gain(value, float(low), float(high), float(p))


def nearness_gain(
    directions: Floats,
    one: NDArray[np.floating],
    other: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    permutations: int,
) -> Gain:
    """How much nearer the best of rows `one` [f, d] comes to directions [e, d] than that of `other`
    [g, d], as cosines, in the mean.

    Its error is that of other rows, which directions that are alike share: for p rows are exchanged
    between the two, which is exact where both are drawn alike, and the interval is the value less
    what exchange comes to. Of each direction only the nearest rows are kept, so many that hardly
    an exchange in 10^9 leaves a side none of them; such a side stands at the furthest.
    """
    f, total = len(one), len(one) + len(other)
    kept = min(total, int(np.ceil(np.log(RARE) / np.log(max(f, total - f) / total))))
    cosines, owners = nearest_rows(directions, (one, other), kept)
    furthest = cosines.min(axis=1, keepdims=True)

    def ahead(mine: NDArray[np.bool_]) -> float:
        own = mine[owners]
        best = (np.where(side, cosines, furthest).max(axis=1) for side in (own, ~own))
        return float(np.subtract(*best).mean())

    mine = np.arange(total) < f
    value = float(np.subtract(*(best_cosines(directions, each)[0] for each in (one, other))).mean())
    exchanged = np.array([ahead(rng.permutation(mine)) for _ in range(permutations)])
    p = permutation_p((exchanged >= value - TIE).sum(axis=0), permutations)
    low, high = percentile_interval(exchanged)
    return Gain(value, value - float(high), value - float(low), float(p))


def parted_gains(one: Floats, other: Floats, parts: Floats) -> list[Gain]:
    """The differences [k] of what two whole sets come to, the `other` of them drawn at random, from
    the same of its disjoint parts [p, k].

    Their error is that of two other random sets, for which parts stand (random groups, Wolter
    2007), against t: too wide where small sets differ more than large ones do.
    """
    error = np.sqrt(2.0) * parts.std(axis=0, ddof=1)
    degrees = len(parts) - 1
    reach = stats.t.ppf(0.975, degrees) * error
    ahead = one - other
    p = np.where(error > 0.0, stats.t.sf(ahead / np.where(error > 0.0, error, 1.0), degrees), 1.0)
    return [
        Gain(*each)
        for each in zip(*np.stack([ahead, ahead - reach, ahead + reach, p]).tolist(), strict=True)
    ]


def likeness_gain(reference: Floats, one: Floats, other: Floats, rng: np.random.Generator) -> Gain:
    """How much more alike `one` [e, f] is to `reference` [e, d] in shape than `other` [e, g] is.

    The difference of Spearman's r of their cosines. Its error is that of other emotions and of
    other columns in `one` and `other`, which are draws too: the jackknife (Tukey 1958) over
    emotions and over PARTS of the columns, against t. ValueError for fewer than 3 vectors or one
    without length.
    """
    if len(reference) < 3:
        raise ValueError(f"{len(reference)} vectors have no shape: needs at least 3")
    pairs = np.triu_indices(len(reference), 1)
    ranks = rankdata(cosine_matrix(reference)[pairs])
    parts = [_products(unit(vectors), rng) for vectors in (one, other)]
    ranked = [_rank(each.sum(axis=0), pairs) for each in parts]
    value = _r(ranks, ranked[0]) - _r(ranks, ranked[1])
    variance = _jackknife_variance(
        np.array([_without(i, pairs, ranks, ranked) for i in range(len(reference))])
    )
    for each in parts:
        whole = each.sum(axis=0)
        without = [_r(ranks, _rank(whole - part, pairs)) for part in each]
        variance += _jackknife_variance(np.array(without))
    error = float(np.sqrt(variance))
    reach = float(stats.t.ppf(0.975, PARTS - 1)) * error
    p = float(stats.t.sf(value / error, PARTS - 1)) if error > 0.0 else 1.0
    return Gain(value, value - reach, value + reach, p)


def _products(vectors: Floats, rng: np.random.Generator) -> Floats:
    """[PARTS, e, e] Products of vectors [e, f] over each part of their columns."""
    part = rng.permutation(vectors.shape[1]) % PARTS
    columns = [vectors[:, part == i] for i in range(PARTS)]
    return np.stack([each @ each.T for each in columns])


def _rank(products: Floats, pairs: Pairs) -> Floats:
    """Ranks of the cosines of the pairs, from products [e, e]; 0 where nothing is left of one."""
    squares = np.maximum(np.diag(products), 0.0)
    lengths = np.sqrt(np.where(squares > TIE * squares.max(), squares, np.inf))
    ranks: Floats = rankdata((products / np.outer(lengths, lengths))[pairs])
    return ranks


def _without(emotion: int, pairs: Pairs, ranks: Floats, ranked: list[Floats]) -> float:
    """The difference over the pairs that an emotion has no part in."""
    left, right = pairs
    kept = (left != emotion) & (right != emotion)
    one, other = (_r(ranks[kept], each[kept]) for each in ranked)
    return one - other


def _r(a: Floats, b: Floats) -> float:
    """Pearson's; 0 where one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0.0 else 0.0


def _jackknife_variance(without: Floats) -> float:
    """Of a value, from what it is without each of n parts [n]."""
    n = len(without)
    return float((n - 1.0) / n * np.square(without - without.mean()).sum())
