"""V10 and V11: does adding an emotion's vector to an activity change how it is preferred?

Half of each category's activities are steered on their own tokens, the others are controls; Elo is
computed anew under every arm. Rows at the analysis layer: V10 (.spread .clear .valence .controlled
.category .random .band .opposite .opposite_sum .mean_direction .zero), V11 (.spread .controlled),
steering_elo by emotion, random_elo by random direction, dose (Elo per unit of strength). Tables:
settings, prompts, arms, categories, doses, exemplars.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.choices import (
    Choices,
    ask_all,
    ask_feelings,
    describe_sweep,
    open_choices,
    read_feelings,
    show_prompts,
    valence_labels,
)
from analyses.figures.canvas import GREY, SERIES
from analyses.figures.ratings import Cloud, Panel, draw_clouds, draw_doses, draw_groups
from analyses.methods import rating, statistics
from analyses.preference_probes import varies
from analyses.reading import (
    Probes,
    mean_direction,
    middle_band,
    open_probes,
    steering_norms,
)
from analyses.steering_arms import (
    MEAN,
    Key,
    plan_arms,
    random_directions,
    random_name,
    require_reach,
    select_emotions,
)
from analyses.steering_effects import Steering, score_steering, without_effects
from analyses.steering_tables import arm_table, category_table, exemplar_table, score_doses
from stores.results import Cell, Metric

if TYPE_CHECKING:
    from engine.sweep import Arm, SweepSummary

Floats = NDArray[np.float64]


def run(inputs: Inputs) -> Result:
    """Choose the emotions by their r, steer, rate anew, and hold effects against random ones.

    Where all activities are rated alike there is no r to choose by: nothing is steered or passes.
    """
    from engine.sweep import BASELINE

    band = middle_band(inputs) or (inputs.layer,)
    probes = open_probes(inputs, sorted({inputs.layer, *band}))
    choices = open_choices(inputs)
    require_reach(choices.model, (inputs.layer, *band))
    ordered, sweep = ask_all(inputs, choices, [BASELINE])
    (before,) = rating.elo(rating.soft_wins(ordered), inputs.seed)
    if not varies(before):
        told = Result(tables=(describe_sweep(inputs, choices, sweep),))
        return told + without_effects(inputs.layer)
    return steer(inputs, choices, probes, band, before)


def steer(
    inputs: Inputs, choices: Choices, probes: Probes, band: Sequence[int], before: Floats
) -> Result:
    """Everything that follows from Elo (a,) before steering."""
    control_rng, score_rng = np.random.default_rng(inputs.seed).spawn(2)
    controls = open_controls(inputs, control_rng)
    feelings = ask_feelings(inputs, choices)
    states = read_feelings(inputs, choices, feelings, inputs.layer)
    r = statistics.correlations(states @ probes.directions[inputs.layer].T, before)
    by_chance = statistics.correlations(states @ np.stack(list(controls.values())).T, before)
    chosen = select_emotions(r, inputs.suite.steered, inputs.suite.band_emotions)
    norms = steering_norms(inputs, sorted(probes.directions))
    arms = plan_arms(inputs, chosen, probes, controls, norms, band)
    after, unmoved, sweep = rate_arms(inputs, choices, arms)
    found = Steering(
        layer=inputs.layer,
        strength=inputs.suite.strength,
        emotions=probes.emotions,
        r=r,
        random_r=by_chance[:-1],
        valence=valence_labels(inputs, probes.emotions),
        selections=chosen,
        randoms=[name for name in controls if name != MEAN],
        keys={key: i for i, key in enumerate(arms)},
        ratings=after,
        baseline=before,
        steered=choices.steered,
        categories=choices.categories,
    )
    known = dict(zip((*probes.emotions, *controls), (*r, *by_chance), strict=True))
    tables = (
        describe_sweep(inputs, choices, sweep),
        show_prompts(choices, feelings),
        arm_table(found, arms, known),
        category_table(found),
        exemplar_table(found, [activity.name for activity in choices.activities]),
    )
    zero = float(found.effect(unmoved))
    return (
        Result((Metric("V10.zero", zero, inputs.layer, n=len(before), chance=0.0),), tables)
        + score_steering(found, inputs.permutations, score_rng)
        + score_doses(found, inputs.suite.doses)
    )


def rate_arms(
    inputs: Inputs, choices: Choices, arms: Mapping[Key, "Arm"]
) -> tuple[Floats, Floats, "SweepSummary"]:
    """Elo (arms, a) under every arm, and (a,) when nothing is added, replayed like the others."""
    from engine.sweep import zero_arm

    nothing = zero_arm([inputs.layer], choices.model.d_model)
    ordered, sweep = ask_all(inputs, choices, [*arms.values(), nothing])
    ratings = rating.elo(rating.soft_wins(ordered), inputs.seed)
    return ratings[:-1], ratings[-1], sweep


def open_controls(inputs: Inputs, rng: np.random.Generator) -> dict[str, Floats]:
    """Directions (d,) of length 1 by name: random ones, then what all emotions share."""
    shared = mean_direction(inputs, inputs.layer)
    drawn = random_directions(inputs.suite.randoms, len(shared), rng)
    return {random_name(i): direction for i, direction in enumerate(drawn)} | {MEAN: shared}


def draw(rows: Rows) -> Mapping[str, Figure]:
    """r and change of Elo; Elo before and after for two exemplars; the effect by strength."""
    if not rows.select("steering_elo"):
        return {}
    settings = rows.settings
    place = f"reader {settings['reader']}, corpus {settings['corpus']}, layer {settings['layer']}"
    return {
        "effects": _draw_effects(rows, place, str(settings["labels"])),
        "exemplars": _draw_exemplars(rows, place),
        "doses": _draw_doses(rows, place),
    }


def _draw_effects(rows: Rows, place: str, labels: str) -> Figure:
    arms = rows.records("arms")
    spread = [row for row in arms if row["kind"] == "emotion" and row["spread"]]
    groups = {
        f"positive valence ({labels})": [row for row in spread if _valence(row) > 0],
        f"negative valence ({labels})": [row for row in spread if _valence(row) < 0],
        "no valence": [row for row in spread if _valence(row) == 0],
        "random direction": [row for row in arms if row["kind"] == "random"],
    }
    clouds = [
        Cloud(
            label,
            _points(own),
            colour,
            [] if colour == GREY else [str(row["who"]) for row in own],
            marker="D" if colour == GREY else "o",
            filled=colour != GREY,
        )
        for (label, own), colour in zip(groups.items(), (*SERIES[:3], GREY), strict=True)
        if own
    ]
    points = _points(spread)
    slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
    found, distinct = rows.select("V10.spread")[0], rows.select("V10.clear")[0]
    strength = spread[0]["strength"]
    return draw_clouds(
        clouds,
        title="Does adding an emotion to an activity move its Elo as its probe foretells?",
        subtitle=f"{place}; strength {strength:g}; {found.n} emotions evenly spaced in rank of r; "
        f"sd {_shown(distinct)} times that of random directions",
        axis_names=("Pearson r of probe and Elo, before steering", "mean change of steered Elo"),
        line=(float(slope), float(intercept)),
        line_name=f"least squares, r {_shown(found)}",
    )


def _valence(row: Mapping[str, Cell]) -> float:
    return float(row["valence"] or 0.0)


def _points(rows: Sequence[Mapping[str, Cell]]) -> Floats:
    return np.array([(row["r"], row["mean_change"]) for row in rows], np.float64)


def _shown(row: Metric) -> str:
    return "undefined" if row.value is None else f"{row.value:.2f} (p {row.p_value:.2g})"


def _draw_exemplars(rows: Rows, place: str) -> Figure:
    points = rows.records("exemplars")
    names = list(dict.fromkeys(str(row["emotion"]) for row in points))
    of = {name: [row for row in points if row["emotion"] == name] for name in names}
    panels = [
        Panel(
            f"{name}, effect {of[name][0]['effect']:+.1f}",
            np.array([(row["before"], row["after"]) for row in of[name]], np.float64),
        )
        for name in names
    ]
    first = of[names[0]]
    return draw_groups(
        panels,
        [str(row["category"]) for row in first],
        title="Elo before and after steering, for the emotions of the highest and the lowest r",
        subtitle=f"{place}; filled: steered, hollow: control; line: y = x",
        axis_names=("Elo before", "Elo after"),
        hollow=np.array([not row["steered"] for row in first]),
        diagonal=True,
    )


def _draw_doses(rows: Rows, place: str) -> Figure:
    points = rows.records("doses")
    names = list(dict.fromkeys(str(row["who"]) for row in points))
    curves = {
        name: np.array(
            [(0.0, 0.0)]
            + [(row["strength"], row["effect"]) for row in points if row["who"] == name],
            np.float64,
        )
        for name in names
    }
    order = np.argsort(curves[names[0]][:, 0])
    *emotions, control = names
    return draw_doses(
        curves[names[0]][order, 0].tolist(),
        {name: curves[name][order, 1] for name in emotions},
        {control: curves[control][order, 1]},
        title="The effect by strength",
        subtitle=f"{place}; emotions of the highest and the lowest r",
        value_name="change of Elo, steered less control",
    )


ANALYSIS = Analysis(
    name="preference_steering",
    question="Does adding an emotion's vector change what the model prefers? (V10 V11)",
    needs=("vectors", "model"),
    run=run,
    draw=draw,
)
