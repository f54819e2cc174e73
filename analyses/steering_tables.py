"""What every arm of the preference experiment did to Elo, as tables. Judges nothing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analyses.base import Result
from analyses.steering_arms import Key
from analyses.steering_effects import Steering
from stores.results import Cell, Metric, Table

if TYPE_CHECKING:
    from engine.sweep import Arm


def arm_table(found: Steering, arms: Mapping[Key, "Arm"], r: Mapping[str, float]) -> Table:
    """Every arm: what was added where, and what that did to Elo."""
    label = dict(zip(found.emotions, found.valence, strict=True))
    top, spread = (set(found.names(c)) for c in (found.selections.top, found.selections.spread))
    by_chance = found.random_effects.mean()
    rows: list[tuple[Cell, ...]] = []
    for (key, arm), change, effect in zip(
        arms.items(), found.change(found.ratings), found.effect(found.ratings), strict=True
    ):
        lengths = [f"{np.linalg.norm(vector):.4g}" for vector in arm.vectors.values()]
        rows.append(
            (
                *(str(key), arm.kind, key.who, key.strength),
                *(" ".join(map(str, arm.vectors)), " ".join(lengths)),
                *(r[key.who], label.get(key.who), int(key.who in top), int(key.who in spread)),
                *(float(change), float(effect), float(effect - by_chance)),
            )
        )
    columns = (
        *("arm", "kind", "who", "strength", "layers", "lengths", "r", "valence"),
        *("top", "spread", "mean_change", "effect", "controlled"),
    )
    return Table("arms", columns, tuple(rows))


def category_table(found: Steering) -> Table:
    """The effect of every emotion and random direction on each category, and less the random."""
    rows: list[tuple[Cell, ...]] = []
    names = [*found.names(found.selections.all), *found.randoms]
    for category in dict.fromkeys(found.categories):
        effects = found.effect_within(found.rated(names), category)
        by_chance = effects[-len(found.randoms) :].mean()
        rows += [
            (category, name, effect, effect - by_chance)
            for name, effect in zip(names, effects, strict=True)
        ]
    return Table("categories", ("category", "who", "effect", "controlled"), tuple(rows))


def exemplar_table(found: Steering, activities: Sequence[str]) -> Table:
    """Elo before and after steering with the emotions of the highest and of the lowest r."""
    names = found.names(found.selections.exemplars)
    rated = found.rated(names)
    effects = found.effect(rated)
    place = (activities, found.categories, found.steered.tolist(), found.baseline)
    rows = tuple(
        (name, effect, activity, category, int(steered), before, after)
        for name, effect, ratings in zip(names, effects, rated, strict=True)
        for activity, category, steered, before, after in zip(*place, ratings, strict=True)
    )
    columns = ("emotion", "effect", "activity", "category", "steered", "before", "after")
    return Table("exemplars", columns, rows)


def score_doses(found: Steering, doses: Sequence[float]) -> Result:
    """The effect at every strength, and its slope through nothing at strength 0."""
    strengths = sorted({*doses, found.strength})
    metrics, rows = [], []
    for name in (*found.names(found.selections.exemplars), found.randoms[0]):
        rated = np.stack([found.rated([name], strength)[0] for strength in strengths])
        effects = found.effect(rated)
        slope = float(np.dot(strengths, effects) / np.dot(strengths, strengths))
        metrics.append(Metric("dose", slope, found.layer, name, n=len(strengths)))
        changes = found.change(rated)
        rows += [(name, *row) for row in zip(strengths, effects, changes, strict=True)]
    table = Table("doses", ("who", "strength", "effect", "mean_change"), tuple(rows))
    return Result(tuple(metrics), (table,))
