"""A small preference sweep: does a feature's decoder row steer as the emotion's vector does?

Asked as for V10 and with its strength. X is whose directions are added, named as for the criteria;
an effect is the mean change of Elo of the steered activities less that of the others. Rows at the
compared layer: steer.X by emotion (its effect), steer.X (r of effects with the r of the emotions'
probes and Elo), steer.X.gain (how much further than the control the way r foretells: the verdict),
steer.X.alike (r with the vectors' effects), steer.X.size (mean size less that of random ones),
steer.random by direction and with its own r, steer.zero. Tables: steering, steering_settings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs, Result
from analyses.choices import (
    Choices,
    ask_all,
    ask_feelings,
    describe_sweep,
    open_choices,
    read_feelings,
)
from analyses.criteria import ALPHA, settings_table
from analyses.features.criteria import (
    BANK_OF,
    CONTROL,
    NEAREST,
    VECTOR,
    chosen_directions,
    with_nearest,
)
from analyses.features.reading import Crosscheck, Floats, Ints
from analyses.methods import rating, resampling, scoring, statistics
from analyses.preference_probes import varies
from analyses.preference_steering import rate_arms
from analyses.reading import steering_norms
from analyses.steering_arms import Key, arm_at, random_directions, random_name, require_reach
from analyses.steering_effects import Judge
from stores.errors import BadValue, ModelError, NotReady
from stores.results import Cell, Metric, Table

if TYPE_CHECKING:
    from engine.sweep import Arm, ArmKind

CHOICES = (VECTOR, *BANK_OF)
RANDOM = "random"
KIND: dict[str, "ArmKind"] = {VECTOR: "emotion", RANDOM: "random"}
RIVAL = {VECTOR: NEAREST, "auc": CONTROL, "cosine": NEAREST}
"""Of the control's features, those that were chosen alike."""
FEWEST = 3
"""Emotions: a correlation needs as many."""


def require_steered(steered: int) -> None:
    """BadValue for too few emotions to correlate; 0 is allowed and steers nothing."""
    if steered != 0 and steered < FEWEST:
        raise BadValue(
            f"{steered} steered emotions: a correlation needs at least {FEWEST}; 0 steers nothing"
        )


def steer_features(found: Crosscheck, chosen: dict[str, Ints], steered: int) -> Result:
    """Effects on Elo of vectors, of features [e] by name (as `score_features`) and of random
    directions, at the same strength, for a few emotions spread over r.

    Where protocol or model has nothing to choose between, or what is added cannot reach an answer,
    the rows have no value and the settings say why. Raises Stopped; answers are kept.
    """
    from engine.sweep import BASELINE

    require_steered(steered)
    if steered == 0:
        return Result()
    inputs = found.inputs
    try:
        choices = open_choices(inputs)
        require_reach(choices.model, (found.layer,))
    except (BadValue, ModelError, NotReady) as refusal:
        return _without_effects(inputs, str(refusal))
    ordered, _ = ask_all(inputs, choices, [BASELINE])
    (before,) = rating.elo(rating.soft_wins(ordered), inputs.seed)
    if not varies(before):
        return _without_effects(inputs, "all activities are rated alike")
    return _steer(found, with_nearest(found, chosen), steered, choices, before)


@dataclass(frozen=True, slots=True)
class Steered:
    """What was added for k emotions, and what each arm did to Elo."""

    layer: int
    activities: int
    emotions: tuple[str, ...]
    r: Floats
    """(k,) of each emotion's probe and Elo."""
    random_r: Floats
    """The same of the random directions."""
    keys: Mapping[str, list[Key]]
    """The k arms of each choice, and the random ones."""
    effect: Mapping[Key, float]
    ends: Mapping[Key, tuple[float, float]]
    """Of the effect's interval, by bootstrap over activities."""

    def effects(self, choice: str) -> Floats:
        """Of its arms, in the order of the emotions."""
        return np.array([self.effect[key] for key in self.keys[choice]])


def _steer(
    found: Crosscheck, chosen: Mapping[str, Ints], steered: int, choices: Choices, before: Floats
) -> Result:
    """Everything that follows from Elo (a,) before steering. The random directions are V10's."""
    inputs = found.inputs
    control_rng, rng = np.random.default_rng(inputs.seed).spawn(2)
    randoms = random_directions(inputs.suite.randoms, found.directions.shape[1], control_rng)
    feelings = ask_feelings(inputs, choices)
    states = read_feelings(inputs, choices, feelings, found.layer)
    r = statistics.correlations(states @ found.directions.T, before)
    own = scoring.spread(r, steered)
    keys, arms = _plan(found, chosen, own, randoms)
    after, unmoved, sweep = rate_arms(inputs, choices, arms)
    low, high = _intervals(after - before, choices.steered, rng)
    effects = scoring.steering_effect(after, before, choices.steered)
    moved = Steered(
        layer=found.layer,
        activities=len(before),
        emotions=tuple(found.emotions[i] for i in own),
        r=r[own],
        random_r=statistics.correlations(states @ randoms.T, before),
        keys=keys,
        effect=dict(zip(arms, effects.tolist(), strict=True)),
        ends=dict(zip(arms, zip(low.tolist(), high.tolist(), strict=True), strict=True)),
    )
    zero = float(scoring.steering_effect(unmoved, before, choices.steered))
    told = replace(describe_sweep(inputs, choices, sweep), name="steering_settings")
    metrics = (
        *_emotion_rows(moved),
        *relation_rows(moved, Judge(found.layer, inputs.permutations, rng)),
        Metric("steer.zero", zero, found.layer, n=len(before), chance=0.0),
    )
    return Result(
        metrics, (_table(moved, {name: rows[own] for name, rows in chosen.items()}), told)
    )


def _plan(
    found: Crosscheck, chosen: Mapping[str, Ints], own: Ints, randoms: Floats
) -> tuple[dict[str, list[Key]], dict[Key, "Arm"]]:
    """The arms of each choice by key; emotions that share a feature share its arm."""
    suite, layer, name = found.inputs.suite, found.layer, found.encoding.name
    norm = steering_norms(found.inputs, [layer])[layer]
    who = {VECTOR: [found.emotions[i] for i in own]}
    for choice, bank in BANK_OF.items():
        who[choice] = [f"{name} {bank} feature {feature}" for feature in chosen[choice][own]]
    who[RANDOM] = [random_name(i) for i in range(len(randoms))]
    keys = {choice: [Key(each, suite.strength) for each in names] for choice, names in who.items()}
    directions = {
        choice: rows[own] for choice, rows in chosen_directions(found, chosen).items()
    } | {RANDOM: randoms}
    arms: dict[Key, Arm] = {}
    for choice, rows in directions.items():
        kind: ArmKind = KIND.get(choice, "feature")
        for key, direction in zip(keys[choice], rows, strict=True):
            arms[key] = arm_at(layer, norm, key, kind, direction)
    return keys, arms


def _intervals(
    change: Floats, steered: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Low and high (arms,) of effects, from changes (arms, a) of activities drawn anew."""
    weighed = np.where(steered, 1.0 / steered.sum(), -1.0 / (~steered).sum())
    drawn = resampling.draw_within(steered, rng)
    sums = np.stack([row[drawn].sum(axis=1) for row in change * weighed], axis=1)
    return resampling.percentile_interval(sums)


def _emotion_rows(moved: Steered) -> Iterator[Metric]:
    """Effects one by one; p says how many random directions do as much, either way."""
    by_chance = moved.effects(RANDOM)
    middle = float(by_chance.mean())
    around = np.abs(by_chance - middle)[:, None]
    drawn = tuple(random_name(i) for i in range(len(by_chance)))
    for choice, subjects in {**dict.fromkeys(CHOICES, moved.emotions), RANDOM: drawn}.items():
        effects = moved.effects(choice)
        p = resampling.against_chance(np.abs(effects - middle), around).p
        for subject, key, effect, own_p in zip(
            subjects, moved.keys[choice], effects, p, strict=True
        ):
            shown = None if choice == RANDOM else float(own_p)
            place = (moved.layer, subject, moved.activities, middle, *moved.ends[key])
            yield Metric(f"steer.{choice}", float(effect), *place, p_value=shown)


def relation_rows(moved: Steered, judge: Judge) -> Iterator[Metric]:
    """Whether effects go with r and with the vectors', and further than a control's or random ones.

    Random directions too follow their own probes, and a control's follow the vectors that they were
    chosen for: a correlation proves nothing alone, so it has no bar here.
    """
    for choice in CHOICES:
        effects = moved.effects(choice)
        yield _correlate(judge, f"steer.{choice}", effects, moved.r)
        if choice != VECTOR:
            yield _correlate(judge, f"steer.{choice}.alike", effects, moved.effects(VECTOR))
        if choice in RIVAL:
            yield _gain(moved, choice, judge)
        yield _size(moved, choice, judge)
    yield _correlate(judge, "steer.random", moved.effects(RANDOM), moved.random_r)


def _correlate(judge: Judge, metric: str, effects: Floats, others: Floats) -> Metric:
    return replace(judge.correlate(metric, effects, others), passed=None, threshold=None)


def _gain(moved: Steered, choice: str, judge: Judge) -> Metric:
    """Mean of effects less its rival's, counted the way r points; p: signs drawn at random."""
    ahead = np.sign(moved.r) * (moved.effects(choice) - moved.effects(RIVAL[choice]))
    k, value = len(ahead), float(ahead.mean())
    flipped = ahead * judge.rng.choice((-1.0, 1.0), size=(judge.permutations, k))
    p = float(resampling.against_chance(value, flipped.mean(axis=1)).p)
    drawn = ahead[resampling.draw_rows(k, judge.rng)].mean(axis=1)
    low, high = resampling.percentile_interval(drawn)
    place = (moved.layer, None, k, 0.0, float(low), float(high))
    return Metric(f"steer.{choice}.gain", value, *place, p, value > 0.0 and p <= ALPHA, 0.0)


def _size(moved: Steered, choice: str, judge: Judge) -> Metric:
    """Mean size of distinct directions' effects less that of random ones; p: whose is whose."""
    own = np.array([abs(moved.effect[key]) for key in dict.fromkeys(moved.keys[choice])])
    by_chance = np.abs(moved.effects(RANDOM))
    k, pooled = len(own), np.concatenate([own, by_chance])
    value = float(own.mean() - by_chance.mean())
    shuffled = pooled[resampling.draw_orders(len(pooled), judge.rng, judge.permutations)]
    drawn = shuffled[:, :k].mean(axis=1) - shuffled[:, k:].mean(axis=1)
    p = float(resampling.against_chance(value, drawn).p)
    rows = [sizes[resampling.draw_rows(len(sizes), judge.rng)] for sizes in (own, by_chance)]
    low, high = resampling.percentile_interval(rows[0].mean(axis=1) - rows[1].mean(axis=1))
    place = (moved.layer, None, k, 0.0, float(low), float(high))
    return Metric(f"steer.{choice}.size", value, *place, p_value=p)


def _table(moved: Steered, features: Mapping[str, Ints]) -> Table:
    """Every steered emotion with its r, its features, and the effect of each direction."""
    rows: list[tuple[Cell, ...]] = []
    for i, (emotion, r) in enumerate(zip(moved.emotions, moved.r, strict=True)):
        cells: list[Cell] = [emotion, float(r), float(moved.effects(VECTOR)[i])]
        for choice in BANK_OF:
            cells += [int(features[choice][i]), float(moved.effects(choice)[i])]
        rows.append(tuple(cells))
    columns = [name for choice in BANK_OF for name in (f"{choice}_feature", choice)]
    return Table("steering", ("emotion", "r", VECTOR, *columns), tuple(rows), moved.layer)


def _without_effects(inputs: Inputs, reason: str) -> Result:
    """Where nothing could be steered: no value, nothing passes, and why."""
    relations = [Metric(f"steer.{choice}", None, inputs.layer) for choice in CHOICES]
    gains = [
        Metric(f"steer.{choice}.gain", None, inputs.layer, passed=False, threshold=0.0)
        for choice in RIVAL
    ]
    told = replace(settings_table(inputs, not_steered=reason), name="steering_settings")
    return Result((*relations, *gains), (told,))
