"""What the criteria count, as plain functions of matrices.

Knows nothing of models, prompts or thresholds. NaN is refused: nothing that was not measured is
counted. (p probes, s scenarios, t templates, e emotions, x values, a items, c categories.)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from analyses.methods.resampling import (
    against_chance,
    draw_orders,
    draw_rows,
    percentile_interval,
)
from analyses.methods.statistics import both_ends_p, require_finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scored:
    """A score with what it is judged by."""

    value: float
    n: int
    chance: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Scenarios:
    """Readings of cosines (p, s), each a table (p, s) whose own entries `score_own` adds up."""

    rank: Floats
    """Rank of the probe among all probes at the scenario: 1 is best, ties share their mean."""
    first: Floats
    """1 where that rank is 1: one probe alone is highest."""
    top3: Floats
    """1 where that rank is 3 or better."""
    rows: Floats
    """1 where the scenario alone is the highest of its probe: the table read the other way."""


def read_scenarios(cosines: Floats) -> Scenarios:
    """The readings of cosines (p, s): probes down, scenarios across."""
    require_finite("the cosines", cosines)
    rank, rows = (np.asarray(rankdata(-cosines, axis=k), dtype=np.float64) for k in (0, 1))
    counted = (rank == 1.0, rank <= 3.0, rows == 1.0)
    return Scenarios(rank, *(passed.astype(np.float64) for passed in counted))


def centre(cosines: Floats) -> Floats:
    """Cosines (p, s) of each probe less their mean over the scenarios."""
    require_finite("the cosines", cosines)
    centred: Floats = cosines - cosines.mean(axis=1, keepdims=True)
    return centred


def score_own(
    table: ArrayLike,
    rng: np.random.Generator,
    permutations: int,
    *,
    own: ArrayLike | None = None,
    total: Literal["sum", "mean"] = "sum",
    better: Literal["high", "low"] = "high",
) -> Scored:
    """Score the entries table[own[s], s] of a table (p, s): own is 0, 1, 2, ... if not given.

    Chance is what is expected when it is drawn at random which row is whose, p the share of such
    draws that do as well; columns of the same row stay together. So they do in the interval, a
    bootstrap over rows that own columns.
    """
    entries = np.asarray(table, dtype=np.float64)
    require_finite("the table", entries)
    rows, columns = entries.shape
    owners = np.arange(columns) if own is None else np.asarray(own)
    if owners.shape != (columns,) or owners.min() < 0 or owners.max() >= rows:
        raise ValueError(f"each of {columns} columns must have one of {rows} rows as its own")
    divisor = 1.0 if total == "sum" else float(columns)
    found = entries[owners, np.arange(columns)]
    shuffled = entries[draw_orders(rows, rng, permutations)[:, owners], np.arange(columns)]
    value, chance = found.sum() / divisor, entries.mean(axis=0).sum() / divisor
    low, high = percentile_interval(_resampled_sums(found, owners, rng) / divisor)
    p = against_chance(value, shuffled.sum(axis=1) / divisor, better).p
    return Scored(float(value), columns, float(chance), float(low), float(high), float(p))


def _resampled_sums(found: Floats, owners: Ints, rng: np.random.Generator) -> Floats:
    """Sums of found (s,) over owners drawn anew, each with all its columns; scaled to s columns."""
    _, cluster, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    drawn = draw_rows(len(sizes), rng)
    sums = np.bincount(cluster, weights=found)[drawn].sum(axis=1)
    scaled: Floats = sums * (len(found) / sizes[drawn].sum(axis=1))
    return scaled


def trend(curves: Floats, values: ArrayLike) -> Floats:
    """Spearman's rho (...) of curves (..., x) with values (x,); ties share their mean rank.

    NaN where a curve does not vary at all: it has no direction. ValueError if x < 2, on NaN in a
    curve, or if the values are all the same.
    """
    require_finite("the curves", curves)
    ranks, steps = rankdata(curves, axis=-1), rankdata(np.asarray(values, dtype=np.float64))
    if len(steps) < 2 or np.ptp(steps) == 0.0:
        raise ValueError("a trend needs at least two different values")
    y = ranks - ranks.mean(axis=-1, keepdims=True)
    x = steps - steps.mean()
    lengths = np.linalg.norm(y, axis=-1) * np.linalg.norm(x)
    return np.where(lengths > 0.0, y @ x / np.where(lengths > 0.0, lengths, 1.0), np.nan)


@dataclass(frozen=True, slots=True)
class Intensity:
    """Which trends pass, in the shape of the trends; counts are their sums over the last axes."""

    signs: Bools
    """The trend goes the expected way."""
    strong: Bools
    """Its size is above the limit, whichever way it goes."""
    signed: Bools
    """Both."""


def score_intensity(rho: Floats, expected: ArrayLike, limit: float = 0.7) -> Intensity:
    """Read trends rho (..., t, e), NaN where flat, against expected signs (t, e), +1 or -1.

    A flat curve goes no way and is not strong. Templates and emotions may be one axis (..., k).
    """
    signs = np.asarray(expected, dtype=np.float64)
    if not (np.abs(signs) == 1.0).all():
        raise ValueError("an expected sign must be +1 or -1")
    matched, strong = rho * signs > 0.0, np.abs(rho) > limit
    return Intensity(matched, strong, matched & strong)


def category_means(ratings: Floats, categories: ArrayLike) -> Floats:
    """Mean rating (..., c) of ratings (..., a) by category, 0, 1, ..., c - 1; none may be empty."""
    require_finite("the ratings", ratings)
    labels = np.asarray(categories)
    sizes = np.bincount(labels)
    if not sizes.all():
        raise ValueError(f"category {int(sizes.argmin())} has no item")
    means: Floats = ratings @ (labels[:, None] == np.arange(len(sizes))) / sizes
    return means


def category_gap(ratings: Floats, categories: ArrayLike) -> Floats:
    """Best less worst mean rating (...) of the categories of ratings (..., a)."""
    gap: Floats = np.ptp(category_means(ratings, categories), axis=-1)
    return gap


def top(values: Floats, n: int) -> Ints:
    """Indices of the n largest values by size, largest first; earlier ones first where equal."""
    require_finite("the values", values)
    return np.argsort(-np.abs(values), kind="stable")[:n]


def spread(values: Floats, n: int) -> Ints:
    """Indices of n values evenly spaced in rank, lowest first; all of them if there are fewer."""
    require_finite("the values", values)
    places = np.linspace(0, len(values) - 1, min(n, len(values))).round().astype(np.int64)
    return np.argsort(values, kind="stable")[places]


@dataclass(frozen=True, slots=True)
class Ends:
    """Valence at both ends of a ranking."""

    top: int
    """Positive ones among the highest."""
    bottom: int
    """Negative ones among the lowest."""
    p: float
    """Exact probability that both ends do at least as well as the worse of these two."""

    @property
    def worse(self) -> int:
        return min(self.top, self.bottom)


def end_valence(r: Floats, valence: Floats, ends: int = 3) -> Ends:
    """Rank emotions by r (e,) and read the sign of valence (e,) at both ends.

    ValueError on NaN, an unlabelled emotion included, and if the ends would overlap.
    """
    require_finite("r", r)
    require_finite("the valence labels", valence)
    if len(r) < 2 * ends:
        raise ValueError(f"two ends of {ends} need at least {2 * ends} emotions, not {len(r)}")
    signs = np.sign(valence[np.argsort(r, kind="stable")])
    high, low = int((signs[-ends:] > 0).sum()), int((signs[:ends] < 0).sum())
    positive, negative = int((signs > 0).sum()), int((signs < 0).sum())
    return Ends(high, low, both_ends_p(len(r), positive, negative, ends, min(high, low)))


def steered_change(ratings: Floats, baseline: Floats, steered: Bools) -> Floats:
    """Mean change (...) of the steered items from baseline (a,) to ratings (..., a)."""
    change = _change(ratings, baseline, steered)
    return np.asarray(change[..., steered].mean(axis=-1))


def steering_effect(ratings: Floats, baseline: Floats, steered: Bools) -> Floats:
    """Mean change of the steered items less that of the others, (...).

    Elo's sum is fixed, so what steered items lose the others gain: over all items the effect is
    twice the change, and within a category it is not.
    """
    change = _change(ratings, baseline, steered)
    gained = change[..., steered].mean(axis=-1) - change[..., ~steered].mean(axis=-1)
    return np.asarray(gained)


def _change(ratings: Floats, baseline: Floats, steered: Bools) -> Floats:
    require_finite("the ratings", ratings)
    require_finite("the baseline ratings", baseline)
    if steered.dtype != np.bool_ or not steered.any() or steered.all():
        raise ValueError("a change needs a mask with steered items and others")
    return ratings - baseline


def signs_match(values: Floats, labels: Floats) -> Bools:
    """Where the sign of values (n,) is that of labels (n,); a zero matches nothing."""
    require_finite("the values", values)
    require_finite("the labels", labels)
    return np.asarray(values * labels > 0.0)
