"""Agreement of two shapes: layers that turn into each other, and geometries of two sets.

A shape is a set of vectors (e, d), or their cosines (e, e); what is compared is of the same e
emotions in the same order, which is the caller's to see to (centre over the full set first, then
choose the emotions that two sets share). Knows nothing of readers, layers or files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analyses.methods.geometry import principal_components, unit, upper_triangle
from analyses.methods.resampling import (
    against_chance,
    draw_halves,
    draw_orders,
    halves_interval,
    jackknife_interval,
)
from analyses.methods.statistics import TIE

Floats = NDArray[np.float64]
Kind = Literal["pearson", "spearman", "cosine"]

NEIGHBOURS = 3
"""Components, in multiples of k, that may take each other's place among the first k."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two shapes agree, and what shuffled emotions reach."""

    value: float
    chance: float
    """Mean with the emotions of one shape in a random order."""
    ci_low: float
    """95% interval over emotions; NaN for fewer than 5."""
    ci_high: float
    p: float
    """Share of random orders that agree as well, (b + 1) / (m + 1), one-sided."""


@dataclass(frozen=True, slots=True)
class MatchedCosines:
    """Cosines between two vectors of the same emotion."""

    cosines: Floats
    """(e,) of each emotion with itself."""
    mean: Agreement
    """Of all of them; chance is the mean cosine of two different emotions."""


def vector_cosines(shapes: Iterable[NDArray[np.floating]]) -> Floats:
    """Mean over emotions of the cosine of an emotion's vector in one shape with its vector in
    another, (l, l), for l shapes (e, d) of one space: an array (l, e, d) is such a sequence.

    1 where nothing turns. ValueError if a vector has no length.
    """
    turned = [unit(vectors) for vectors in shapes]
    cosines = np.array([[np.vdot(a, b) for b in turned] for a in turned]) / len(turned[0])
    return np.clip(cosines, -1.0, 1.0)


def subspace_overlap(loadings: Sequence[Floats]) -> Floats:
    """Mean squared cosine of the principal angles between the spans of loadings, (l, l).

    Each of the l loadings is (k, d), its rows orthonormal. 1 where the smaller span lies within the
    other, 0 where they are at right angles; of two random spans k / d (the larger k).
    """
    overlap = [[np.square(a @ b.T).sum() / min(len(a), len(b)) for b in loadings] for a in loadings]
    return np.minimum(np.array(overlap), 1.0)


def procrustes(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    k: int,
    rng: np.random.Generator,
    *,
    permutations: int,
) -> Agreement:
    """Agreement of shapes (e, d1) and (e, d2) after the best rotation, reflection and scale, 0..1.

    Both are reduced to their first k principal components (fewer where one has fewer), and the
    value is 1 - the disparity of `scipy.spatial.procrustes`: the share of one shape that the other
    explains. By chance alone it is above 0 and rises with k and falls with e: the interval is about
    what as many other emotions would give, and is not corrected for that. It leaves out half of the
    emotions at a time, because the first k of components that tie are others whenever one emotion
    is left out. ValueError on fewer than 3 emotions, or vectors that are all the same.
    """
    _require_emotions(a, b, 3)
    left, right = principal_components(a).scores, principal_components(b).scores
    k = min(k, left.shape[1], right.shape[1])
    first, second = left[:, :k], right[:, :k]
    sizes = np.square(first).sum() * np.square(second).sum()
    drawn = [
        _explained(first.T @ second[order], sizes)
        for order in draw_orders(len(a), rng, permutations)
    ]
    value = float(_explained(first.T @ second, sizes))
    chance = against_chance(value, drawn)
    halves = draw_halves(len(a), rng)
    drawn_halves = np.sqrt(_of_halves(left, right, k, halves))
    low, high = np.square(np.maximum(halves_interval(np.sqrt(value), drawn_halves, halves), 0.0))
    return Agreement(value, float(chance.mean), float(low), float(high), float(chance.p))


def _explained(products: Floats, sizes: Floats) -> Floats:
    """Share explained after the best orthogonal map of crossed products (..., k, k)."""
    stretch = np.linalg.svd(products, compute_uv=False).sum(axis=-1)
    share: Floats = np.minimum(stretch**2 / sizes, 1.0)
    return share


def _of_halves(left: Floats, right: Floats, k: int, halves: Floats) -> Floats:
    """The value of `procrustes` of some emotions alone (m,), with components found anew each time.

    Among the first 3k of all: those further down have too little variance to come up. NaN where
    the vectors of these emotions are all the same.
    """
    a, b = left[:, : NEIGHBOURS * k], right[:, : NEIGHBOURS * k]
    variances_a, axes_a = np.linalg.eigh(_products(a, a, halves))
    variances_b, axes_b = np.linalg.eigh(_products(b, b, halves))
    crossed = np.swapaxes(axes_a[..., -k:], 1, 2) @ _products(a, b, halves) @ axes_b[..., -k:]
    sizes = variances_a[:, -k:].sum(axis=1) * variances_b[:, -k:].sum(axis=1)
    nothing = TIE * np.square(a).sum() * np.square(b).sum()
    return _explained(crossed, np.where(sizes > nothing, sizes, np.nan))


def _products(a: Floats, b: Floats, chosen: Floats) -> Floats:
    """Centred a.T @ b of the rows chosen (m, e), each 0 or 1: (m, k1, k2)."""
    pairs = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
    totals = (chosen @ pairs).reshape(len(chosen), a.shape[1], b.shape[1])
    sums_a, sums_b = chosen @ a, chosen @ b
    counts = chosen.sum(axis=1)[:, None, None]
    products: Floats = totals - sums_a[:, :, None] * sums_b[:, None, :] / counts
    return products


def rsa(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    permutations: int,
    kind: Kind = "pearson",
) -> Agreement:
    """Representational similarity of two matrices of cosines (e, e) of the same emotions.

    The correlation (or cosine) of what stands above their diagonals; p by Mantel's test (1967):
    rows and columns of one are shuffled together. An emotion has a part in e - 1 pairs, so the
    interval leaves out emotions, not pairs (Spearman's with the ranks of all). ValueError on fewer
    than 3 emotions or on a matrix that does not vary.
    """
    _require_emotions(a, b, 3)
    left, right = _compared(a, kind), _compared(b, kind)
    drawn = [
        np.vdot(left, right[np.ix_(order, order)]) / 2.0
        for order in draw_orders(len(left), rng, permutations)
    ]
    value = float(np.clip((left * right).sum() / 2.0, -1.0, 1.0))
    chance = against_chance(value, drawn)
    low, high = jackknife_interval(value, _rsa_without_each(left, right, centred=kind != "cosine"))
    return Agreement(value, float(chance.mean), low, high, float(chance.p))


def _compared(matrix: NDArray[np.floating], kind: Kind) -> Floats:
    """Symmetric (e, e) with zeros on the diagonal and a triangle of length 1, centred or ranked."""
    triangle = upper_triangle(np.asarray(matrix, dtype=np.float64))
    if np.ptp(triangle) == 0.0 and (kind != "cosine" or triangle[0] == 0.0):
        raise ValueError("the cosines do not vary: they are not like or unlike others")
    if kind == "spearman":
        triangle = rankdata(triangle)
    if kind != "cosine":
        triangle = triangle - triangle.mean()
    square = np.zeros(matrix.shape)
    square[np.triu_indices(len(matrix), 1)] = triangle / np.linalg.norm(triangle)
    return square + square.T


def _rsa_without_each(left: Floats, right: Floats, *, centred: bool) -> Floats:
    """`rsa` without each emotion (e,), from what the rows of `_compared` add to each sum."""

    def total(values: Floats) -> Floats:
        without: Floats = values.sum() / 2.0 - values.sum(axis=1)
        return without

    crossed, own_left, own_right = total(left * right), total(left**2), total(right**2)
    if centred:
        pairs = (len(left) - 1) * (len(left) - 2) / 2.0
        mean_left, mean_right = total(left) / pairs, total(right) / pairs
        crossed = crossed - pairs * mean_left * mean_right
        own_left, own_right = own_left - pairs * mean_left**2, own_right - pairs * mean_right**2
    sizes = own_left * own_right
    return crossed / np.sqrt(np.where(sizes > 0.0, sizes, np.nan))


def matched_cosines(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    permutations: int,
) -> MatchedCosines:
    """Cosine of every emotion's vector in a (e, d) with its own in b (e, d), in one space.

    For two corpora read by one reader at one layer. ValueError if shapes differ, a vector has no
    length, or there are fewer than 2 emotions.
    """
    _require_emotions(a, b, 2)
    if a.shape != b.shape:
        raise ValueError(f"vectors of {a.shape[1]} and {b.shape[1]} numbers are not of one space")
    every = np.clip(unit(a) @ unit(b).T, -1.0, 1.0)
    e, own = len(every), np.diag(every)
    drawn = every[np.arange(e), draw_orders(e, rng, permutations)].mean(axis=1)
    p = against_chance(own.mean(), drawn).p
    others = (every.sum() - own.sum()) / (e * (e - 1))
    low, high = jackknife_interval(float(own.mean()), (own.sum() - own) / (e - 1))
    return MatchedCosines(own, Agreement(float(own.mean()), float(others), low, high, float(p)))


def _require_emotions(a: NDArray[np.floating], b: NDArray[np.floating], fewest: int) -> None:
    if len(a) != len(b) or len(a) < fewest:
        raise ValueError(f"{len(a)} and {len(b)} emotions: needs the same, at least {fewest}")
