"""Scores of documents on several probes: what all documents share, and what is left without it.

Raw scores share an offset per probe, so that the same probe is highest in nearly every text. Own
centring (`standard_scores`) compares documents with each other; a reference of other texts
(`Draws.against`) compares probes. Standard deviations divide by n. Knows nothing of emotions,
texts or layers. Letters: n documents, e probes, m draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analyses.methods.resampling import RESAMPLES, against_chance, draw_orders
from analyses.methods.statistics import permutation_p, wilson_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWN_AT_ONCE = 1_000_000
"""Rows drawn before their sums are taken: memory does not follow the number of draws."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Values (e,) with their 95% intervals and two-sided p; NaN where they are not defined."""

    values: Floats
    low: Floats
    high: Floats
    p: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Means and standard deviations of scores: as observed (e,), and of bootstrap draws (m, e)."""

    n: int
    mean: Floats
    sd: Floats
    means: Floats
    sds: Floats

    def against(self, reference: "Draws | None" = None) -> tuple[Floats, Floats]:
        """(mean - mean of the reference) / sd, observed (e,) and drawn (m, e).

        Both are drawn anew, the reference's mean as well. NaN where the scores do not vary.
        """
        base, bases = (0.0, 0.0) if reference is None else (reference.mean, reference.means)
        return _ratio(self.mean - base, self.sd), _ratio(self.means - bases, self.sds)

    def offset_share(self) -> tuple[float, Floats]:
        """Share of the scores' variance about their grand mean that the probes' own means explain,
        observed and drawn (m,). NaN where nothing varies."""
        return float(_explained(self.mean, self.sd)), _explained(self.means, self.sds)


def draw_moments(scores: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> Draws:
    """Bootstrap draws of documents (Efron 1979) of scores (n, e): all probes of a draw together."""
    n, e = scores.shape
    centre = scores.mean(axis=0)
    centred = scores - centre  # or squares of a large offset would swallow the spread
    both = np.hstack([centred, np.square(centred)])
    sums = np.empty((resamples, 2 * e))
    at_once = max(1, DRAWN_AT_ONCE // n)
    for first in range(0, resamples, at_once):
        part = sums[first : first + at_once]
        np.matmul(_counts(n, rng, len(part)), both, out=part)
    means, squares = sums[:, :e] / n, sums[:, e:] / n
    sds = np.sqrt(np.maximum(squares - np.square(means), 0.0))
    return Draws(n, centre, centred.std(axis=0), means + centre, sds)


def standard_scores(scores: Floats) -> Floats:
    """Scores (n, e) less each probe's mean over the documents, in its standard deviations.

    0 where a probe is the same for all.
    """
    spread = scores.std(axis=0)
    z: Floats = (scores - scores.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    return z


def count_first(scores: Floats) -> Ints:
    """How many documents of scores (n, e) have their highest on each probe, (e,)."""
    return np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])


def expected_largest(n: int, e: int, rng: np.random.Generator, draws: int = RESAMPLES) -> float:
    """Mean share of the most frequent of e equally likely firsts in n documents."""
    return float(rng.multinomial(n, np.full(e, 1.0 / e), size=draws).max(axis=1).mean() / n)


def judge_draws(values: Floats, drawn: Floats, chance: float = 0.0, level: float = 0.95) -> Judged:
    """Percentile intervals of values (e,) from draws (m, e), widened to hold the value itself.

    p: twice the share of draws on the other side of chance, (b + 1) / (m + 1), at most 1. NaN where
    a draw has no value.
    """
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    beyond = np.where(values >= chance, drawn <= chance, drawn >= chance).sum(axis=0)
    p = np.minimum(2.0 * permutation_p(beyond, len(drawn)), 1.0)
    unknown = np.isnan(low)
    return Judged(
        values, np.minimum(low, values), np.maximum(high, values), np.where(unknown, np.nan, p)
    )


def rank_correlations(a: Floats, b: Floats) -> Floats:
    """Spearman rho (...) of each row of a with its row of b, both (..., e); NaN if one is flat."""
    x, y = (_standardised(rankdata(side, axis=-1)) for side in (a, b))
    rho: Floats = np.clip((x * y).sum(axis=-1), -1.0, 1.0)
    return rho


def shuffled_agreement(
    a: Floats, b: Floats, rng: np.random.Generator, permutations: int
) -> tuple[float, float]:
    """Mean Spearman rho of a (e,) with b (e,) in a random order, and the one-sided p of theirs."""
    x, y = (_standardised(rankdata(side)) for side in (a, b))
    drawn = y[draw_orders(len(y), rng, permutations)] @ x
    chance = against_chance(x @ y, drawn)
    return float(chance.mean), float(chance.p)


def random_contrasts(z: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Differences between random weightings of documents z (n, e), own-centred: (draws, e).

    How probes differ together where texts differ by chance: they go with their neighbours, so two
    such contrasts agree more, and disagree more, than probes in random orders.
    """
    contrasts = np.empty((draws, z.shape[1]))
    at_once = max(1, DRAWN_AT_ONCE // len(z))
    for first in range(0, draws, at_once):
        part = contrasts[first : first + at_once]
        np.matmul(rng.normal(size=(len(part), len(z))), z, out=part)
    return contrasts


def ranks_from_top(values: Floats) -> Floats:
    """1 for the highest of values (e,), equals sharing the better rank; NaN where there is none."""
    ranks: Floats = rankdata(-values, method="min", nan_policy="omit")
    return ranks


def shares_of(counts: Ints, n: int) -> Judged:
    """Shares of n documents (e,) with Wilson intervals; no p, for shares hang on each other."""
    found = {count: wilson_interval(count, n) for count in set(counts.tolist())}
    low, high = np.array([found[count] for count in counts.tolist()]).T
    return Judged(counts / n, low, high, np.full(len(counts), np.nan))


def _counts(n: int, rng: np.random.Generator, draws: int) -> Floats:
    """How often each of n rows is drawn, (draws, n)."""
    drawn = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n)
    return counts.astype(np.float64)


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = above / np.where(below > 0.0, below, np.nan)
    return ratio


def _explained(means: Floats, sds: Floats) -> Floats:
    """Variance between the probes' means over all variance: (...) of (..., e)."""
    between = means.var(axis=-1)
    total = between + np.square(sds).mean(axis=-1)
    return _ratio(between, total)


def _standardised(ranks: Floats) -> Floats:
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    return _ratio(centred, np.linalg.norm(centred, axis=-1, keepdims=True))
