"""Do emotions that are alike share their top features? Jaccard overlap, against shuffled labels.

Knows nothing of how features are scored, nor of why two emotions count as alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.methods.resampling import against_chance, draw_orders, draw_rows, percentile_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Mean Jaccard index of some pairs, and what it is when emotions are shuffled."""

    value: float
    pairs: int
    chance: float
    low: float
    high: float
    """Interval of the value: bootstrap over emotions."""
    p: float
    """One-sided: as high by shuffling."""


def top_features(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """[e, k] The k features with the highest scores [e, f], in order; of equals, the first."""
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order


def jaccard(tops: NDArray[np.int64]) -> Floats:
    """[e, e] Overlap of the sets of top features [e, k]: shared ones out of all."""
    known, columns = np.unique(tops, return_inverse=True)
    member = np.zeros((len(tops), len(known)))
    np.put_along_axis(member, columns.reshape(tops.shape), 1.0, axis=1)
    shared = member @ member.T
    table: Floats = shared / (2.0 * tops.shape[1] - shared)
    return table


def score_pairs(
    table: Floats,
    pairs: NDArray[np.bool_],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> Overlap:
    """The mean of `table` [e, e] over `pairs` [e, e] (both symmetric), against emotions permuted.

    ValueError if there is no pair of two emotions.
    """
    left, right = np.nonzero(np.triu(pairs, 1))
    if not len(left):
        raise ValueError("no two emotions form such a pair: their overlap is not defined")
    value = table[left, right].mean()
    drawn = [
        table[order[left], order[right]].mean()
        for order in draw_orders(len(table), rng, permutations)
    ]
    chance = against_chance(value, drawn)
    low, high = percentile_interval(_drawn_means(table, left, right, rng))
    return Overlap(
        float(value), len(left), float(chance.mean), float(low), float(high), float(chance.p)
    )


def _drawn_means(
    table: Floats, left: NDArray[np.int64], right: NDArray[np.int64], rng: np.random.Generator
) -> Floats:
    """The mean with emotions drawn with replacement, of those draws that hold any of the pairs.

    A pair counts as often as its two emotions meet; an emotion does not meet its own copies.
    """
    e = len(table)
    times = np.stack([np.bincount(rows, minlength=e) for rows in draw_rows(e, rng)])
    square, shared = np.zeros((2, e, e))
    square[left, right], shared[left, right] = 1.0, table[left, right]
    counts = ((times @ square) * times).sum(axis=1)
    totals = ((times @ shared) * times).sum(axis=1)
    means: Floats = totals[counts > 0.0] / counts[counts > 0.0]
    return means
