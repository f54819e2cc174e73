"""Draws of rows, clusters and orders, and the intervals and p values that come of them.

A statistic is computed for each draw by the caller; here are the draws and how to read them:

    drawn = [score(rows) for rows in draw_rows(len(values), rng)]
    low, high = percentile_interval(drawn)

Randomness comes from the generator that is passed in. Knows nothing of what is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analyses.methods.statistics import TIE, permutation_p, require_finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 1000
HALVES = 200
FEWEST = 5
"""Rows below which leaving one out at a time tells nothing of the others that could have been."""


def draw_rows(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Ints:
    """Bootstrap draws (resamples, n) of n rows with replacement (Efron 1979)."""
    return rng.integers(n, size=(resamples, n))


def draw_within(groups: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Ints:
    """Draws (resamples, n) that keep the size of every group: row k is drawn from k's own group."""
    labels = np.asarray(groups)
    drawn = np.empty((resamples, len(labels)), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn[:, members] = rng.choice(members, size=(resamples, len(members)))
    return drawn


def draw_clusters(
    clusters: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Iterator[Ints]:
    """Draws of whole clusters with replacement, as many as there are; each yields its rows.

    For rows that are not independent of each other, such as texts of one topic. The number of rows
    changes from draw to draw where clusters differ in size.
    """
    labels = np.asarray(clusters)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for chosen in draw_rows(len(members), rng, resamples):
        yield np.concatenate([members[cluster] for cluster in chosen])


def draw_orders(n: int, rng: np.random.Generator, permutations: int) -> Ints:
    """Random orders (permutations, n) of n rows."""
    return rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)


def draw_halves(n: int, rng: np.random.Generator, draws: int = HALVES) -> Floats:
    """Halves of n rows without replacement: (draws, n) of 1 for rows kept, of n odd one more."""
    return rng.permuted(np.tile(np.arange(n) % 2 == 0, (draws, 1)), axis=1).astype(np.float64)


def percentile_interval(drawn: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Low and high quantile over the first axis of drawn (resamples, ...). ValueError on NaN."""
    values = np.asarray(drawn, dtype=np.float64)
    require_finite("a resampled statistic", values)
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    return low, high


def jackknife_interval(value: float, without: Floats, level: float = 0.95) -> tuple[float, float]:
    """Low and high for a value in -1 to 1, from what it is without each of its n rows, (n,).

    The jackknife's error on Fisher's z, against t with n - 1 degrees of freedom (Tukey 1958). Needs
    no draws. NaN for fewer than 5 rows, or where a value is not defined without one of them.
    """
    n = len(without)
    if n < FEWEST or not np.isfinite(without).all():
        return np.nan, np.nan
    others = np.arctanh(_inside(without))
    error = np.sqrt((n - 1.0) / n * np.square(others - others.mean()).sum())
    return _on_z(value, float(stats.t.ppf((1.0 + level) / 2.0, n - 1) * error))


def halves_interval(
    value: float, drawn: Floats, halves: Floats, level: float = 0.95
) -> tuple[float, float]:
    """Low and high for a value in -1 to 1, from what it is (m,) for `draw_halves` (m, n).

    The delete-half jackknife's error (Shao and Wu 1989) on Fisher's z, against t with n - 1 degrees
    of freedom: for values that jump when one row is left out, where `jackknife_interval` is not to
    be trusted. NaN for fewer than 5 rows, or where a value is not defined for a half.
    """
    n, kept = halves.shape[1], halves[0].sum()
    if n < FEWEST or not np.isfinite(drawn).all():
        return np.nan, np.nan
    error = np.sqrt(kept / (n - kept)) * np.arctanh(_inside(drawn)).std()
    return _on_z(value, float(stats.t.ppf((1.0 + level) / 2.0, n - 1) * error))


def _on_z(value: float, reach: float) -> tuple[float, float]:
    """The ends that lie `reach` from a value on Fisher's z."""
    middle = np.arctanh(_inside(np.array(value)))
    low, high = float(np.tanh(middle - reach)), float(np.tanh(middle + reach))
    return min(low, value), max(high, value)


def _inside(values: Floats) -> Floats:
    """Values kept off -1 and 1, where Fisher's z is infinite."""
    return np.clip(values, TIE - 1.0, 1.0 - TIE)


@dataclass(frozen=True, slots=True)
class Chance:
    """What chance alone reaches, and how often it does as well as what was observed."""

    mean: Floats
    p: Floats


def against_chance(
    observed: ArrayLike, drawn: ArrayLike, better: Literal["high", "low"] = "high"
) -> Chance:
    """Compare observed (...) with drawn (m, ...) by chance: p = (b + 1) / (m + 1), one-sided.

    b counts the draws at least as good as the observed value. ValueError on NaN.
    """
    values, chance = np.asarray(observed, dtype=np.float64), np.asarray(drawn, dtype=np.float64)
    require_finite("the statistic", values)
    require_finite("a shuffled statistic", chance)
    sign = 1.0 if better == "high" else -1.0
    at_least = (sign * chance >= sign * values - TIE * np.maximum(np.abs(values), 1.0)).sum(axis=0)
    return Chance(chance.mean(axis=0), permutation_p(at_least, len(chance)))
