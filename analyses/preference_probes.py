"""V8 and V9: does what the model feels about an activity go with how it rates the activity?

The probe of each emotion, read on the activities' own tokens, against their Elo. The emotions' r
are correlated with each other, so the null of their count is wide: it is drawn, not assumed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.criteria import ALPHA
from analyses.methods import resampling, scoring, statistics
from stores.results import Metric, Table

Floats = NDArray[np.float64]

AT_ENDS, CLEAR, MANY = 2, 0.3, 5
"""Bars: emotions of the right sign at an end (V8), abs r that counts and how many do (V9)."""
END = 3
COLUMNS = ("emotion", "valence", "r", "ci_low", "ci_high", "p", "p_max", "q")


@dataclass(frozen=True, slots=True)
class Probed:
    """Probes on the activities: projections (a, e) of `emotions` with labels valence (e,)."""

    layer: int
    emotions: Sequence[str]
    valence: Floats
    projections: Floats


def score_probes(
    probed: Probed, elo: Floats, permutations: int, rng: np.random.Generator
) -> Result:
    """V8, V9 and the r of every emotion with elo (a,).

    Where all activities are rated alike there is no r: the values are None, and nothing passes.
    """
    if not varies(elo):
        return _without_r(probed)
    correlated = statistics.correlate(probed.projections, elo, rng, permutations=permutations)
    drawn = statistics.resampled_correlations(probed.projections, elo, rng)
    shuffled = statistics.shuffled_correlations(probed.projections, elo, rng, permutations)
    rates = statistics.benjamini_hochberg(correlated.test.p)
    by_label = _judge_valence(probed, correlated.r, permutations, rng)
    metrics = (
        *_judge_ends(probed, correlated.r, drawn),
        *_judge_count(probed, correlated.r, drawn, shuffled, by_label),
        *_emotion_rows(probed, correlated, rates),
        by_label,
    )
    test = correlated.test
    numbers = (probed.valence, correlated.r, correlated.low, correlated.high, test.p, test.p_max)
    rows = tuple(zip(probed.emotions, *numbers, rates, strict=True))
    return Result(metrics, (Table("emotions", COLUMNS, rows),))


def varies(values: Floats) -> bool:
    """Whether values (n,) differ by more than rounding: else nothing correlates with them."""
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))


def _without_r(probed: Probed) -> Result:
    n = len(probed.emotions)
    bars = {"V8": AT_ENDS, "V8.controlled": AT_ENDS, "V9": MANY, "V9.controlled": MANY}
    metrics = tuple(
        Metric(name, None, probed.layer, n=n, passed=False, threshold=bar)
        for name, bar in bars.items()
    )
    return Result(metrics, (Table("emotions", COLUMNS, ()),))


def _judge_ends(probed: Probed, r: Floats, drawn: Floats) -> Iterator[Metric]:
    """V8: chance and p are exact, for valence labels permuted; the interval is over activities."""
    n, valence = len(r), probed.valence
    positive, negative = int((valence > 0).sum()), int((valence < 0).sum())
    ends = scoring.end_valence(r, valence, END)
    high, low = count_ends(drawn, valence)
    reached = [statistics.both_ends_p(n, positive, negative, END, k) for k in range(1, END + 1)]
    readings = {
        "V8": (ends.worse, np.minimum(high, low), sum(reached)),
        "V8.top": (ends.top, high, END * positive / n),
        "V8.bottom": (ends.bottom, low, END * negative / n),
    }
    for metric, (value, resampled, chance) in readings.items():
        lowest, highest = map(float, resampling.percentile_interval(resampled))
        p = ends.p if metric == "V8" else None
        row = (probed.layer, None, n, chance, lowest, highest, p)
        passed = value >= AT_ENDS
        yield Metric(metric, value, *row, passed, AT_ENDS)
        if metric == "V8":
            yield Metric("V8.controlled", value, *row, passed and ends.p <= ALPHA, AT_ENDS)


def count_ends(r: Floats, valence: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positive labels among the END highest, and negative ones among the END lowest r (..., e)."""
    signs = np.sign(valence)[np.argsort(r, axis=-1, kind="stable")]
    return (signs[..., -END:] > 0).sum(axis=-1), (signs[..., :END] < 0).sum(axis=-1)


def _judge_count(
    probed: Probed, r: Floats, drawn: Floats, shuffled: Floats, by_label: Metric
) -> Iterator[Metric]:
    """V9: chance and p with Elo permuted over the activities; the interval is over activities.

    Probes of anything go with what texts have in common, those of a random model too. So the
    controlled reading also asks that r rise with the labels; its p is the larger of the two.
    """
    count, by_chance = clear(r), clear(shuffled)
    chance = resampling.against_chance(count, by_chance)
    low, high = resampling.percentile_interval(clear(drawn))
    p, passed = float(chance.p), bool(count >= MANY)
    row = (probed.layer, None, len(r), float(chance.mean), float(low), float(high), p)
    yield Metric("V9", float(count), *row, passed, MANY)
    rises = (by_label.value or 0.0) > 0.0
    both = max(p, 1.0 if by_label.p_value is None else by_label.p_value)
    trusted = passed and rises and both <= ALPHA
    yield Metric("V9.controlled", float(count), *row[:-1], both, trusted, MANY)


def clear(r: Floats) -> Floats:
    """How many emotions (...) have an abs r (..., e) above CLEAR."""
    count: Floats = (np.abs(r) > CLEAR).sum(axis=-1).astype(np.float64)
    return count


def _emotion_rows(probed: Probed, found: statistics.Correlated, rates: Floats) -> Iterator[Metric]:
    test = found.test
    for i, name in enumerate(probed.emotions):
        r, place = found.r[i], (probed.layer, name, found.n)
        interval = (found.low[i], found.high[i])
        yield Metric("preference_r", r, *place, test.chance[i], *interval, p_value=test.p[i])
        for kind, p, bar in (("max", test.p_max[i], test.max_threshold), ("fdr", rates[i], ALPHA)):
            passed = bool(p <= ALPHA)
            yield Metric(f"preference_r_{kind}", r, *place, p_value=p, passed=passed, threshold=bar)


def _judge_valence(
    probed: Probed, r: Floats, permutations: int, rng: np.random.Generator
) -> Metric:
    found = statistics.correlate(r[:, None], probed.valence, rng, permutations=permutations)
    test, interval = found.test, (found.low[0], found.high[0])
    return Metric("preference_r.valence", found.r[0], probed.layer, None, found.n, test.chance[0],
                  *interval, test.p[0])  # fmt: skip
