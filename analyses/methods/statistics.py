"""Correlations with their intervals, chance levels and corrections, all columns at once.

Then exact tests of counts. (Draws of rows, clusters and orders are in resampling.py.)

Knows nothing of layers or components: a column is a column. Randomness comes from the generator
that is passed in. p values are (b + 1) / (m + 1) for m permutations, so never zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

TIE = 1e-12
"""Two correlations nearer than this are equal: they differ by the order of summation only."""


def correlations(columns: Floats, labels: Floats) -> Floats:
    """Pearson r of each of columns (n, k) with labels (n,): (k,). ValueError if one is constant."""
    products: Floats = _standardise(labels[:, None], "labels")[:, 0] @ _standardise(columns)
    return np.clip(products, -1.0, 1.0)


def correlation_intervals(
    columns: Floats, labels: Floats, *, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Intervals of `correlations`, (k,) low and (k,) high, for columns that are not fitted.

    Fisher's z with the error of the infinitesimal jackknife (Jaeckel 1972, Efron 1982), which needs
    no draws and asks for no normal columns. Three rows tell nothing: -1 to 1.
    """
    r, n = correlations(columns, labels), len(labels)
    if n < 4:
        return np.full(len(r), -1.0), np.full(len(r), 1.0)
    inside = np.clip(r, TIE - 1.0, 1.0 - TIE)
    errors = np.linalg.norm(_influence(columns, labels), axis=0) / (1.0 - inside**2)
    reach = stats.t.ppf((1.0 + level) / 2.0, n - 2) * errors * np.sqrt(n / (n - 3.0))
    low, high = np.tanh(np.arctanh(inside) - reach), np.tanh(np.arctanh(inside) + reach)
    return np.minimum(low, r), np.maximum(high, r)


def _influence(columns: Floats, labels: Floats) -> Floats:
    """What each row adds to the correlations beyond its share, (n, k), the columns held still."""
    x, y = _standardise(columns), _standardise(labels[:, None], "labels")
    r = (x * y).sum(axis=0)
    influence: Floats = x * y - r / 2.0 * (x**2 + y**2)
    return influence


def component_intervals(
    scores: Floats, labels: Floats, *, tested: int | None = None, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Intervals of the correlation of labels (e,) with the first components, (k,) low and high.

    scores (e, K) are those of one PCA of the e rows, all components or at least the neighbours of
    those tested; labels may be NaN. The error is the infinitesimal jackknife's (Jaeckel 1972), of
    the labelled rows and, by the first-order change of eigenvectors (Critchley 1985), of all rows
    that turn the components; it is laid off on the angle arccos r, in which turning adds up. A
    little too wide near r = 1, too narrow where two variances nearly tie.
    """
    known = np.isfinite(labels)
    x, y = scores[known, :tested], labels[known]
    r, n = correlations(x, y), len(y)
    influence = _turning_influence(scores, labels, r)
    influence[known] += _influence(x, y)
    inside = np.clip(r, TIE - 1.0, 1.0 - TIE)
    errors = np.linalg.norm(influence, axis=0) / np.sqrt(1.0 - inside**2)
    reach = stats.t.ppf((1.0 + level) / 2.0, n - 2) * errors * np.sqrt(n / (n - 1.0))
    low = np.sin(np.maximum(np.arcsin(inside) - reach, -np.pi / 2.0))
    high = np.sin(np.minimum(np.arcsin(inside) + reach, np.pi / 2.0))
    return np.minimum(low, r), np.maximum(high, r)


def _turning_influence(scores: Floats, labels: Floats, r: Floats) -> Floats:
    """What each row (e, k) adds to r (k,) by turning the first k of the components.

    A row turns component i towards j by s_i s_j / (e (v_i - v_j)), v the variances; r of i then
    changes by what j has of the labels and i has not.
    """
    known, tested = np.isfinite(labels), slice(len(r))
    variances = scores.var(axis=0)
    gaps = variances[tested, None] - variances
    gaps[np.abs(gaps) < TIE * variances[0]] = TIE * variances[0]
    x, y = scores[known] - scores[known].mean(axis=0), labels[known] - labels[known].mean()
    lengths = np.linalg.norm(x[:, tested], axis=0)
    slopes = y @ x / np.linalg.norm(y) - (x[:, tested] * r / lengths).T @ x
    np.fill_diagonal(slopes, 0.0)
    centred = scores - scores.mean(axis=0)
    turned = centred @ (slopes / lengths[:, None] / gaps).T / len(scores)
    influence: Floats = centred[:, tested] * turned
    return influence


def resampled_correlations(
    columns: Floats, labels: Floats, rng: np.random.Generator, resamples: int = 1000
) -> Floats:
    """`correlations` (resamples, k) of rows drawn with replacement; 0 where a draw is constant."""
    x, y = _standardise(columns), _standardise(labels[:, None], "labels")
    n = len(x)
    weights = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples) / n
    mean_x, mean_y = weights @ x, weights @ y
    variance = (weights @ x**2 - mean_x**2) * (weights @ y**2 - mean_y**2)
    usable = variance > TIE / n**2
    covariance = weights @ (x * y) - mean_x * mean_y
    return np.where(usable, covariance / np.sqrt(np.where(usable, variance, 1.0)), 0.0)


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """Two-sided tests of k correlations against shuffled labels."""

    chance: Floats
    """(k,) mean |r| under shuffling."""
    p: Floats
    """(k,) share of shuffles with |r| as large in the same column."""
    p_max: Floats
    """(k,) share of shuffles with |r| as large in any column: corrected for all looked at."""
    max_threshold: float
    """95th percentile of the largest |r| over the columns under shuffling."""


def permutation_test(
    columns: Floats, labels: Floats, rng: np.random.Generator, *, permutations: int
) -> PermutationTest:
    """Shuffle labels (n,) against columns (n, k); the columns stay together, as they were made."""
    observed = np.abs(correlations(columns, labels)) - TIE
    shuffled = np.abs(shuffled_correlations(columns, labels, rng, permutations))
    largest = shuffled.max(axis=1)
    return PermutationTest(
        chance=shuffled.mean(axis=0),
        p=permutation_p((shuffled >= observed).sum(axis=0), permutations),
        p_max=permutation_p((largest[:, None] >= observed).sum(axis=0), permutations),
        max_threshold=float(np.quantile(largest, 0.95)),
    )


def shuffled_correlations(
    columns: Floats, labels: Floats, rng: np.random.Generator, permutations: int
) -> Floats:
    """`correlations` (permutations, k) of columns with labels in random orders."""
    z, y = _standardise(columns), _standardise(labels[:, None], "labels")[:, 0]
    shuffled: Floats = rng.permuted(np.tile(y, (permutations, 1)), axis=1) @ z
    return shuffled


@dataclass(frozen=True, slots=True)
class Correlated:
    """k correlations with the same labels and all that they are judged by; each array (k,)."""

    n: int
    r: Floats
    low: Floats
    high: Floats
    test: PermutationTest


def correlate(
    columns: Floats, labels: Floats, rng: np.random.Generator, *, permutations: int
) -> Correlated:
    """Correlations, intervals and tests of columns (n, k) with labels (n,), NaN where unknown."""
    known = np.isfinite(labels)
    x, y = columns[known], labels[known]
    low, high = correlation_intervals(x, y)
    test = permutation_test(x, y, rng, permutations=permutations)
    return Correlated(int(known.sum()), correlations(x, y), low, high, test)


def correlate_components(
    scores: Sequence[Floats],
    labels: Floats,
    rng: np.random.Generator,
    *,
    permutations: int,
    tested: int | None = None,
) -> Correlated:
    """Correlations, intervals and tests of the first `tested` components of each of several PCA.

    Each of scores is (e, k), all components of one fit to the same e rows; labels (e,) may be NaN.
    The results stand side by side, fit after fit. All are tested together: the components of all
    fits against the same shuffled labels.
    """
    known = np.isfinite(labels)
    intervals = [component_intervals(fit, labels, tested=tested) for fit in scores]
    low, high = (np.concatenate(ends) for ends in zip(*intervals, strict=True))
    columns, values = np.hstack([fit[known, :tested] for fit in scores]), labels[known]
    test = permutation_test(columns, values, rng, permutations=permutations)
    return Correlated(len(values), correlations(columns, values), low, high, test)


def permutation_p(at_least: NDArray[np.integer], permutations: int) -> Floats:
    """(b + 1) / (m + 1): the observed value counts as one of the permutations."""
    return (np.asarray(at_least, dtype=np.float64) + 1.0) / (permutations + 1.0)


def benjamini_hochberg(p: Floats) -> Floats:
    """q values of p, of any shape: the false discovery rate at which each would be accepted."""
    q: Floats = stats.false_discovery_control(p.ravel(), method="bh").reshape(p.shape)
    return q


def binomial_p(
    successes: int, n: int, chance: float, alternative: Literal["greater", "two-sided"] = "greater"
) -> float:
    """Exact binomial p of at least so many successes of n, or of a count as improbable."""
    return float(stats.binomtest(successes, n, chance, alternative).pvalue)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share successes / n (Wilson 1927, without continuity correction)."""
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def fisher_p(
    table: ArrayLike, alternative: Literal["greater", "less", "two-sided"] = "two-sided"
) -> float:
    """Fisher's exact p of a table of counts (2, 2): rows are conditions, columns outcomes."""
    return float(stats.fisher_exact(np.asarray(table), alternative).pvalue)


def both_ends_p(n: int, positive: int, negative: int, ends: int, at_least: int) -> float:
    """Exact p that both ends of a random ranking of n items are right at least so often.

    Right are positive items among the first `ends` and negative ones among the last `ends`; items
    may be neither. Sums the hypergeometric probabilities of the first end's make-up and, given
    that, of the last end's.
    """
    neither = n - positive - negative
    if min(positive, negative, neither, n - 2 * ends) < 0:
        raise ValueError(f"{n} items cannot have these signs, or ends of {ends} without overlap")
    total = 0.0
    for right in range(at_least, ends + 1):
        for wrong in range(ends - right + 1):
            rest = ends - right - wrong
            ways = comb(positive, right) * comb(negative, wrong) * comb(neither, rest)
            below = stats.hypergeom.sf(at_least - 1, n - ends, negative - wrong, ends)
            total += ways / comb(n, ends) * float(below) if ways else 0.0
    return min(total, 1.0)


def variance_ratio(values: Floats, reference: Floats) -> tuple[float, float]:
    """Variance of values over that of reference, and its one-sided p by the F test.

    Exact for normal values. ValueError on fewer than 2 values or a reference that does not vary.
    """
    for name, sample in (("values", values), ("reference", reference)):
        require_finite(name, sample)
        if len(sample) < 2:
            raise ValueError(f"a variance needs at least 2 {name}, not {len(sample)}")
    spread = float(np.var(reference, ddof=1))
    if spread == 0.0:
        raise ValueError("the reference does not vary: a ratio of variances is not defined")
    ratio = float(np.var(values, ddof=1)) / spread
    return ratio, float(stats.f.sf(ratio, len(values) - 1, len(reference) - 1))


def require_finite(name: str, values: Floats) -> None:
    """ValueError that counts the values that are NaN or infinite, if there are any."""
    lost = int((~np.isfinite(values)).sum())
    if lost:
        raise ValueError(f"{name}: {lost} of {values.size} values are NaN or infinite")


def split_half_cosines(even: Floats, odd: Floats) -> Floats:
    """Cosine (e,) of each vector with itself, from two halves of the texts, each (e, d)."""
    dots = np.einsum("ed,ed->e", even, odd)
    cosines: Floats = dots / (np.linalg.norm(even, axis=1) * np.linalg.norm(odd, axis=1))
    return cosines


def spearman_brown(r: Floats) -> Floats:
    """Reliability of the whole from the correlation r of its halves: 2r / (1 + r).

    The formula holds for r >= 0; a negative r is kept as it is.
    """
    return np.where(r > 0.0, 2.0 * r / (1.0 + np.maximum(r, 0.0)), r)


def _standardise(columns: Floats, name: str = "a column") -> Floats:
    """Columns (n, k) centred and of length 1. ValueError if n < 3 or one is constant."""
    if len(columns) < 3:
        raise ValueError(f"a correlation needs at least 3 rows, not {len(columns)}")
    centred = columns - columns.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    if not (norms > np.abs(columns).max(axis=0) * TIE).all():
        raise ValueError(f"{name} does not vary: its correlation is not defined")
    unit: Floats = centred / norms
    return unit
