"""V10 and V11 from ratings: what each arm did to Elo, held against random directions.

An effect is the mean change of the steered activities less that of the controls; a controlled
effect is that less the mean effect of the random directions. Knows nothing of models or prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.criteria import ALPHA
from analyses.methods import resampling, scoring, statistics
from analyses.preference_probes import varies
from analyses.steering_arms import BAND, MEAN, Key, Selections
from stores.results import Metric

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STRONG = 0.4
"""The bar of V10, an abs r."""
SIGNS = 25 / 35
"""The bar of V11, as a share of the emotions that are steered."""


@dataclass(frozen=True, slots=True)
class Steering:
    """Elo (arms, a) after steering, `baseline` (a,) before, and what the arms are judged by."""

    layer: int
    strength: float
    emotions: Sequence[str]
    r: Floats
    """(e,) of probe and Elo, from before anything was steered."""
    valence: Floats
    """(e,) labels."""
    selections: Selections
    randoms: Sequence[str]
    random_r: Floats
    """r of the random directions' probes."""
    keys: Mapping[Key, int]
    """Row of `ratings` by arm."""
    ratings: Floats
    baseline: Floats
    steered: Bools
    categories: tuple[str, ...]

    def rated(
        self, who: Sequence[str], strength: float | None = None, where: str = "layer"
    ) -> Floats:
        """Ratings (k, a) under these arms, at the suite's strength where none is given."""
        asked = self.strength if strength is None else strength
        return self.ratings[[self.keys[Key(name, asked, where)] for name in who]]

    def names(self, chosen: Sequence[int]) -> list[str]:
        """The emotions of these rows."""
        return [self.emotions[i] for i in chosen]

    def change(self, ratings: Floats) -> Floats:
        """Mean change (...) of the steered activities' ratings (..., a)."""
        return scoring.steered_change(ratings, self.baseline, self.steered)

    def effect(self, ratings: Floats) -> Floats:
        """Mean change (...) of the steered activities less that of the controls."""
        return scoring.steering_effect(ratings, self.baseline, self.steered)

    def effect_within(self, ratings: Floats, category: str) -> Floats:
        """The effect (...) on the activities of one category alone."""
        own = np.array([each == category for each in self.categories])
        return scoring.steering_effect(ratings[..., own], self.baseline[own], self.steered[own])

    def controlled(self, who: Sequence[str]) -> Floats:
        """Effects (k,) of these arms less the mean effect of the random directions."""
        controlled: Floats = self.effect(self.rated(who)) - self.random_effects.mean()
        return controlled

    @property
    def random_effects(self) -> Floats:
        return self.effect(self.rated(self.randoms))


def without_effects(layer: int) -> Result:
    """V10 and V11 where nothing could be steered: no value, and nothing passes."""
    metrics = tuple(
        Metric(name, None, layer, passed=False, threshold=bar)
        for criterion, bar in (("V10", STRONG), ("V11", None))
        for name in (criterion, f"{criterion}.spread", f"{criterion}.controlled")
    )
    return Result(metrics)


def score_steering(found: Steering, permutations: int, rng: np.random.Generator) -> Result:
    """V10 and V11 in every reading, and the change of Elo under every emotion."""
    judge = Judge(found.layer, permutations, rng)
    spread = found.names(found.selections.spread)
    metrics = (
        *_judge_relation(found, judge),
        *_judge_signs(found),
        *_judge_categories(found, judge, spread),
        *_judge_band(found, judge),
        *_judge_opposite(found, judge),
        *_judge_controls(found, judge),
        *_change_rows(found, rng),
    )
    return Result(metrics)


@dataclass(frozen=True, slots=True)
class Judge:
    """Correlates effects with r over the emotions of a selection."""

    layer: int
    permutations: int
    rng: np.random.Generator

    def correlate(
        self, metric: str, effects: Floats, r: Floats, subject: str | None = None
    ) -> Metric:
        """Signed: passes above STRONG. None, and not passed, where nothing varies."""
        place = (self.layer, subject, len(r))
        if not (varies(effects) and varies(r)):
            return Metric(metric, None, *place, passed=False, threshold=STRONG)
        found = statistics.correlate(effects[:, None], r, self.rng, permutations=self.permutations)
        value, interval, p = float(found.r[0]), (found.low[0], found.high[0]), found.test.p[0]
        chance, passed = found.test.chance[0], value > STRONG
        return Metric(metric, value, *place, chance, *interval, p, passed, STRONG)


def _judge_relation(found: Steering, judge: Judge) -> Iterator[Metric]:
    """V10: the report's selection and either sign; then the spread one, signed and controlled.

    Any directions whose effects vary follow their own probes, those of mislabelled stories too. So
    the controlled reading also asks that the effects be clear of random ones and follow the labels;
    its p is the largest of the three.
    """
    top, spread = (list(chosen) for chosen in (found.selections.top, found.selections.spread))
    changes = found.change(found.rated(found.names(top)))
    reported = judge.correlate("V10", changes, found.r[top])
    yield replace(reported, passed=abs(reported.value or 0.0) > STRONG)
    names, r = found.names(spread), found.r[spread]
    yield judge.correlate("V10.spread", found.change(found.rated(names)), r)
    distinct = _judge_clear(found, names)
    effects = found.controlled(names)
    labelled = judge.correlate("V10.valence", effects, found.valence[spread])
    controlled = judge.correlate("V10.controlled", effects, r)
    asked = (distinct, labelled, controlled)
    p = max(1.0 if row.p_value is None else row.p_value for row in asked)
    passed = all(bool(row.passed) for row in asked) and p <= ALPHA
    yield from (distinct, labelled, replace(controlled, p_value=p, passed=passed))


def _judge_clear(found: Steering, names: Sequence[str]) -> Metric:
    """Sd of the emotions' effects over that of the random directions', one-sided F test."""
    effects, by_chance = found.effect(found.rated(names)), found.random_effects
    if not varies(by_chance):
        return Metric("V10.clear", None, found.layer, n=len(names), passed=False)
    ratio, p = statistics.variance_ratio(effects, by_chance)
    value, passed = float(np.sqrt(ratio)), p <= ALPHA
    return Metric("V10.clear", value, found.layer, None, len(names), 1.0, p_value=p, passed=passed)


def _judge_signs(found: Steering) -> Iterator[Metric]:
    """V11: the report's selection; then the spread one, as it is and controlled.

    Labels and signs are seldom half and half, and a general drop is right about every negative
    label: the controlled reading is held against what both margins give by chance (Fisher).
    """
    top, spread = (list(chosen) for chosen in (found.selections.top, found.selections.spread))
    names = found.names(spread)
    readings = {
        "V11": (found.change(found.rated(found.names(top))), top),
        "V11.spread": (found.change(found.rated(names)), spread),
        "V11.controlled": (found.controlled(names), spread),
    }
    for metric, (effects, chosen) in readings.items():
        right = int(scoring.signs_match(effects, found.valence[chosen]).sum())
        n = len(chosen)
        low, high = (n * share for share in statistics.wilson_interval(right, n))
        chance, p, bar = n / 2, statistics.binomial_p(right, n, 0.5), ceil(SIGNS * n)
        if metric == "V11.controlled":
            table = _signs_by_label(effects, found.valence[chosen])
            chance = float((table.sum(axis=0) * table.sum(axis=1)).sum() / max(table.sum(), 1))
            p = statistics.fisher_p(table, "greater")
        passed = right >= bar and (metric != "V11.controlled" or p <= ALPHA)
        yield Metric(metric, right, found.layer, None, n, chance, low, high, p, passed, bar)


def _signs_by_label(effects: Floats, labels: Floats) -> NDArray[np.int64]:
    """(2, 2) counts: positive and negative labels by effects that rise and fall."""
    rows = [[((labels * a > 0) & (effects * b > 0)).sum() for b in (1, -1)] for a in (1, -1)]
    return np.array(rows, dtype=np.int64)


def _judge_categories(found: Steering, judge: Judge, spread: Sequence[str]) -> Iterator[Metric]:
    """The controlled effect on the activities of each category, against r."""
    r = found.r[list(found.selections.spread)]
    for category in dict.fromkeys(found.categories):
        effects = found.effect_within(found.rated(spread), category)
        by_chance = found.effect_within(found.rated(found.randoms), category)
        yield judge.correlate("V10.category", effects - by_chance.mean(), r, category)


def _judge_band(found: Steering, judge: Judge) -> Iterator[Metric]:
    some = found.selections.some
    effects = found.effect(found.rated(found.names(some), where=BAND))
    yield judge.correlate("V10.band", effects, found.r[list(some)])


def _judge_opposite(found: Steering, judge: Judge) -> Iterator[Metric]:
    """What was added, taken away: its effects against those of adding, and the sum of both."""
    names = found.names(found.selections.some)
    added = found.effect(found.rated(names))
    removed = found.effect(found.rated(names, -found.strength))
    row = judge.correlate("V10.opposite", removed, added)
    yield replace(row, passed=row.value is not None and row.value < -STRONG, threshold=-STRONG)
    both = added + removed
    drawn = both[resampling.draw_rows(len(both), judge.rng)].mean(axis=1)
    low, high = resampling.percentile_interval(drawn)
    total = float(both.mean())
    yield Metric(
        "V10.opposite_sum", total, found.layer, None, len(both), 0.0, float(low), float(high)
    )


def _judge_controls(found: Steering, judge: Judge) -> Iterator[Metric]:
    """What random directions do of the same kind, and the direction that all emotions share."""
    by_chance = found.random_effects
    (effect,) = found.effect(found.rated([MEAN]))
    middle = by_chance.mean()
    p = resampling.against_chance(abs(effect - middle), np.abs(by_chance - middle)).p
    n = len(found.baseline)
    relation = judge.correlate("V10.random", by_chance, found.random_r)
    yield replace(relation, passed=None, threshold=None)
    yield Metric("V10.mean_direction", effect, found.layer, None, n, middle, p_value=float(p))


def _change_rows(found: Steering, rng: np.random.Generator) -> Iterator[Metric]:
    """Mean change of the steered activities, with an interval over them; chance: the randoms'."""
    members = np.flatnonzero(found.steered)
    draws = members[resampling.draw_rows(len(members), rng)]
    chance = float(found.change(found.rated(found.randoms)).mean())
    groups = {"steering_elo": found.names(found.selections.all), "random_elo": found.randoms}
    for metric, names in groups.items():
        for name, rated in zip(names, found.rated(names), strict=True):
            moved = rated - found.baseline
            low, high = resampling.percentile_interval(moved[draws].mean(axis=1))
            value, n = moved[members].mean(), len(members)
            yield Metric(metric, value, found.layer, name, n, chance, float(low), float(high))
