"""Scores of documents on several probes: what all documents share, and what is left without it.

Raw scores share an offset per probe, so that the same probe is highest in nearly every text. Own
centring (`standard_scores`) compares documents with each other; a reference of other texts
(`judge_distance`) compares probes. The distance from it is Glass's delta (1976): in standard
deviations of the reference. In those of the documents it would be least where the documents differ
most, which is on the probes of what some of them express. Standard deviations divide by n. Knows
nothing of emotions, texts or layers. Letters: n documents, e probes, m draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import rankdata

from analyses.methods.resampling import RESAMPLES
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
    """Means and standard deviations of scores: as observed (e,), and of draws of them (m, e)."""

    n: int
    mean: Floats
    sd: Floats
    means: Floats
    sds: Floats

    def against(self, reference: "Draws") -> tuple[Floats, Floats]:
        """(mean - mean of the reference) / sd of the reference, observed (e,) and drawn (m, e).

        Both are drawn anew. NaN where the reference does not vary.
        """
        return (
            ratio(self.mean - reference.mean, reference.sd),
            ratio(self.means - reference.means, reference.sds),
        )

    def offset_share(self) -> tuple[float, Floats]:
        """Share of the scores' variance about their grand mean that the probes' own means explain,
        observed and drawn (m,). NaN where nothing varies."""
        return float(_explained(self.mean, self.sd)), _explained(self.means, self.sds)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Draws of other texts' scores, and the shape of each: what the error of their sd hangs on."""

    draws: Draws
    skewness: Floats
    """(1 + m, e): as observed, then of every draw. NaN where nothing varies."""
    kurtosis: Floats
    """The same; 3 for a normal distribution."""


def draw_moments(scores: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> Draws:
    """Bootstrap draws of documents (Efron 1979) of scores (n, e): all probes of a draw together."""
    return _moments(scores, _draw_powers(scores, rng, resamples, 2))


def draw_reference(
    scores: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Reference:
    """The same of a reference's scores (n, e), with the shape of each draw."""
    drawn = _draw_powers(scores, rng, resamples, 4)
    centred = scores - scores.mean(axis=0)
    observed = np.stack([np.power(centred, power).mean(axis=0) for power in range(1, 5)])
    first, second, third, fourth = np.concatenate([observed[:, None], drawn], axis=1)
    variance = second - first**2
    above = third - 3.0 * first * second + 2.0 * first**3
    spread = fourth - 4.0 * first * third + 6.0 * first**2 * second - 3.0 * first**4
    return Reference(
        _moments(scores, drawn[:2]), ratio(above, variance**1.5), ratio(spread, variance**2)
    )


def halve_moments(scores: Floats, halves: Floats) -> Draws:
    """Moments of scores (n, e), and of the halves (m, n) of them that `draw_halves` drew."""
    centred = scores - scores.mean(axis=0)
    kept = halves.sum(axis=1, keepdims=True)
    powers = np.stack([halves @ centred / kept, halves @ np.square(centred) / kept])
    return _moments(scores, powers)


def distance_errors(documents: Draws, reference: Reference) -> Floats:
    """Standard errors of the distance, as observed and of every draw, (1 + m, e).

    By the delta method, for any distribution: the mean and the sd of the reference err together
    where it is skewed, and its sd errs by its kurtosis. NaN where the reference does not vary.
    """
    base = reference.draws
    distance = _stack(*documents.against(base))
    ours = np.square(ratio(_stack(documents.sd, documents.sds), _stack(base.sd, base.sds)))
    bend = distance * reference.skewness + np.square(distance) * (reference.kurtosis - 1.0) / 4.0
    theirs = np.maximum(1.0 + bend, 0.0)
    errors: Floats = np.sqrt(ours / (documents.n - 1) + theirs / (base.n - 1))
    return errors


def judge_distance(documents: Draws, reference: Reference, level: float = 0.95) -> Judged:
    """Distance of the documents' means from the reference's in its sd (e,): Glass's delta.

    The symmetric bootstrap-t (Hall 1988): how many of its errors a distance can be off is seen from
    the draws. Their percentiles would be too narrow for few texts of reference or heavy tails.
    p: the share of draws that are off by as many errors as the distance is from 0. NaN where the
    reference does not vary.
    """
    distance, drawn = documents.against(reference.draws)
    errors = distance_errors(documents, reference)
    off = np.abs(ratio(drawn - distance, errors[1:]))
    reach = np.quantile(off, level, axis=0) * errors[0]
    p = permutation_p((off >= np.abs(ratio(distance, errors[0]))).sum(axis=0), len(off))
    known = np.where(np.isnan(reach), np.nan, p)
    return Judged(distance, distance - reach, distance + reach, known)


def ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    found: Floats = above / np.where(below > 0.0, below, np.nan)
    return found


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


def judge_draws(values: Floats, drawn: Floats, level: float = 0.95) -> Judged:
    """Percentile intervals of values (e,) from draws (m, e), widened to hold the value; no p."""
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    nothing = np.full(len(values), np.nan)
    return Judged(values, np.minimum(low, values), np.maximum(high, values), nothing)


def rank_correlations(a: Floats, b: Floats) -> Floats:
    """Spearman rho (...) of each row of a with its row of b, both (..., e); NaN if one is flat."""
    x, y = (_standardised(rankdata(side, axis=-1)) for side in (a, b))
    rho: Floats = np.clip((x * y).sum(axis=-1), -1.0, 1.0)
    return rho


def angle_interval(rho: float, drawn: Floats, n: int, level: float = 0.95) -> tuple[float, float]:
    """Low and high of a rank correlation, from what it is in halves of the n rows, (m,).

    The delete-half jackknife's error (Shao and Wu 1989), against t with n - 1 degrees of freedom,
    laid off on the angle arcsin(rho): on Fisher's z it is without end where a half ranks all alike.
    NaN where a half has no value.
    """
    reach = float(stats.t.ppf((1.0 + level) / 2.0, n - 1) * np.arcsin(drawn).std())
    middle, end = np.arcsin(rho), np.pi / 2.0
    low, high = np.sin(np.clip([middle - reach, middle + reach], -end, end))
    return min(float(low), rho), max(float(high), rho)


def random_contrasts(centred: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Differences between random weightings of documents (n, e), own-centred: (draws, e).

    How probes differ together where texts differ by chance: they go with their neighbours, so two
    such contrasts agree more, and disagree more, than probes in random orders.
    """
    contrasts = np.empty((draws, centred.shape[1]))
    at_once = max(1, DRAWN_AT_ONCE // len(centred))
    for first in range(0, draws, at_once):
        part = contrasts[first : first + at_once]
        np.matmul(rng.normal(size=(len(part), len(centred))), centred, out=part)
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


def _draw_powers(scores: Floats, rng: np.random.Generator, resamples: int, degree: int) -> Floats:
    """Means of the centred scores' first powers in draws of rows, (degree, resamples, e)."""
    n, e = scores.shape
    centred = scores - scores.mean(axis=0)  # or squares of a large offset would swallow the spread
    powers = np.hstack([np.power(centred, power) for power in range(1, degree + 1)])
    sums = np.empty((resamples, degree * e))
    at_once = max(1, DRAWN_AT_ONCE // n)
    for first in range(0, resamples, at_once):
        part = sums[first : first + at_once]
        np.matmul(_counts(n, rng, len(part)), powers, out=part)
    drawn: Floats = (sums / n).reshape(resamples, degree, e).swapaxes(0, 1)
    return drawn


def _moments(scores: Floats, powers: Floats) -> Draws:
    """From the means (2, m, e) of the centred scores and of their squares."""
    means, squares = powers
    sds = np.sqrt(np.maximum(squares - np.square(means), 0.0))
    centre = scores.mean(axis=0)
    return Draws(len(scores), centre, scores.std(axis=0), means + centre, sds)


def _stack(observed: Floats, drawn: Floats) -> Floats:
    return np.vstack([observed[None], drawn])


def _counts(n: int, rng: np.random.Generator, draws: int) -> Floats:
    """How often each of n rows is drawn, (draws, n)."""
    drawn = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n)
    return counts.astype(np.float64)


def _explained(means: Floats, sds: Floats) -> Floats:
    """Variance between the probes' means over all variance: (...) of (..., e)."""
    between = means.var(axis=-1)
    total = between + np.square(sds).mean(axis=-1)
    return ratio(between, total)


def _standardised(ranks: Floats) -> Floats:
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    return ratio(centred, np.linalg.norm(centred, axis=-1, keepdims=True))
