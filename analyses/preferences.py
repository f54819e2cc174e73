"""V7 to V9: what the model prefers, and whether what it feels about an activity goes with that.

Rows at the analysis layer: V7 (.range .hard .bradley_terry .bradley_terry_hard .order_a_first
.controlled), elo by category, V8 (.top .bottom .controlled), V9 (.controlled), preference_r by
emotion (_max, _fdr), preference_r.valence. Tables: settings, prompts, activities, orders, emotions,
exemplars. Knows nothing of steering.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from analyses.criteria import ALPHA
from analyses.figures.ratings import Panel, draw_bars, draw_groups
from analyses.methods import rating, resampling, scoring, statistics
from analyses.preference_probes import CLEAR, Probed, score_probes, varies
from analyses.reading import open_probes
from stores.results import Metric, Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GAP = 200.0
"""The bar of V7, in points of Elo."""
ORDERS = 20
"""Orders of play over which the gap is compared."""


def run(inputs: Inputs) -> Result:
    """Ask every ordered pair of activities, rate them, and read the probes on each activity."""
    from engine.sweep import BASELINE

    probes = open_probes(inputs)
    choices = open_choices(inputs)
    ordered, sweep = ask_all(inputs, choices, [BASELINE])
    feelings = ask_feelings(inputs, choices)
    states = read_feelings(inputs, choices, feelings, inputs.layer)
    probed = Probed(
        inputs.layer,
        probes.emotions,
        valence_labels(inputs, probes.emotions),
        states @ probes.directions[inputs.layer].T,
    )
    gap_rng, probe_rng = np.random.default_rng(inputs.seed).spawn(2)
    rated = rate_activities(ordered[0], inputs.seed)
    return (
        Result(tables=(describe_sweep(inputs, choices, sweep), show_prompts(choices, feelings)))
        + score_categories(inputs, choices, ordered[0], rated, gap_rng)
        + score_probes(probed, rated.elo, inputs.permutations, probe_rng)
        + show_exemplars(probed, choices, rated.elo)
    )


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings (a,) of the activities from the same answers, both orders averaged."""

    elo: Floats
    hard: Floats
    bradley_terry: Floats
    bradley_terry_hard: Floats


def rate_activities(ordered: Floats, seed: int) -> Ratings:
    """Rate from P(A) (a, a): soft wins, and hard ones where the likelier answer takes all."""
    wins = np.stack([rating.soft_wins(ordered), rating.hard_wins(ordered)])
    return Ratings(*rating.elo(wins, seed), *rating.bradley_terry(wins))


def score_categories(
    inputs: Inputs, choices: Choices, ordered: Floats, rated: Ratings, rng: np.random.Generator
) -> Result:
    """V7 in every reading, Elo by category, and how much standing first helps.

    Chance and p: categories permuted over the activities. Interval: a bootstrap of the activities
    within their categories.
    """
    names = list(dict.fromkeys(choices.categories))
    codes = np.array([names.index(category) for category in choices.categories])
    orders = resampling.draw_orders(len(codes), rng, inputs.permutations)
    draws = resampling.draw_within(codes, rng)

    def judge(metric: str, ratings: Floats) -> Metric:
        gap = float(scoring.category_gap(ratings, codes))
        chance = resampling.against_chance(gap, scoring.category_gap(ratings[orders], codes))
        low, high = resampling.percentile_interval(scoring.category_gap(ratings[draws], codes))
        place = (inputs.layer, None, len(codes))
        interval = (float(low), float(high))
        p, passed = float(chance.p), gap > GAP
        return Metric(metric, gap, *place, float(chance.mean), *interval, p, passed, GAP)

    fitted = judge("V7.bradley_terry", rated.bradley_terry)
    trusted = fitted.passed and (fitted.p_value or 0.0) <= ALPHA
    played = [(seed, _gap(ordered, seed, codes)) for seed in _seeds(inputs.seed)]
    gaps = [gap for _, gap in played]
    metrics = (
        judge("V7", rated.elo),
        replace(fitted, metric="V7.controlled", passed=trusted),
        judge("V7.hard", rated.hard),
        fitted,
        judge("V7.bradley_terry_hard", rated.bradley_terry_hard),
        Metric("V7.range", max(gaps) - min(gaps), inputs.layer, n=len(gaps)),
        _judge_order(ordered, inputs.layer, rng),
        *_category_rows(inputs.layer, names, codes, rated.elo, draws),
    )
    return Result(metrics, (_activity_table(choices, rated), _order_table(played)))


def _seeds(first: int) -> range:
    return range(first, first + ORDERS)


def _gap(ordered: Floats, seed: int, codes: Ints) -> float:
    return float(scoring.category_gap(rating.elo(rating.soft_wins(ordered), seed), codes))


def _judge_order(ordered: Floats, layer: int, rng: np.random.Generator) -> Metric:
    """Mean P(A) less 1/2; its interval from a bootstrap of the activities."""
    asked = ~np.eye(len(ordered), dtype=bool)
    answers = np.where(asked, ordered, 0.0)
    weights = rng.multinomial(len(ordered), np.full(len(ordered), 1.0 / len(ordered)), size=1000)
    drawn = ((weights @ answers) * weights).sum(axis=1) / ((weights @ asked) * weights).sum(axis=1)
    low, high = resampling.percentile_interval(drawn - 0.5)
    bias, n = float(rating.position_bias(ordered)), int(asked.sum())
    return Metric("V7.order_a_first", bias, layer, None, n, 0.0, float(low), float(high))


def _category_rows(
    layer: int, names: Sequence[str], codes: Ints, elo: Floats, draws: Ints
) -> list[Metric]:
    means = scoring.category_means(elo, codes)
    low, high = resampling.percentile_interval(scoring.category_means(elo[draws], codes))
    sizes = np.bincount(codes)
    return [
        Metric("elo", mean, layer, name, int(n), rating.START, *interval)
        for name, mean, n, *interval in zip(names, means, sizes, low, high, strict=True)
    ]


def _activity_table(choices: Choices, rated: Ratings) -> Table:
    columns = ("activity", "category", "steered", "elo", "elo_hard")
    rows = tuple(
        (activity.name, activity.category, int(steered), *numbers)
        for activity, steered, *numbers in zip(
            choices.activities,
            choices.steered,
            rated.elo,
            rated.hard,
            rated.bradley_terry,
            rated.bradley_terry_hard,
            strict=True,
        )
    )
    return Table("activities", (*columns, "bradley_terry", "bradley_terry_hard"), rows)


def _order_table(played: Sequence[tuple[int, float]]) -> Table:
    return Table("orders", ("seed", "gap"), tuple(played))


def show_exemplars(probed: Probed, choices: Choices, elo: Floats) -> Result:
    """The probes of the emotions with the highest and the lowest r on every activity."""
    if not varies(elo):
        return Result()
    r = statistics.correlations(probed.projections, elo)
    rows = [
        (probed.emotions[i], r[i], activity.name, activity.category, projection, rated)
        for i in (int(r.argmax()), int(r.argmin()))
        for activity, projection, rated in zip(
            choices.activities, probed.projections[:, i], elo, strict=True
        )
    ]
    columns = ("emotion", "r", "activity", "category", "projection", "elo")
    return Result(tables=(Table("exemplars", columns, tuple(rows)),))


def draw(rows: Rows) -> Mapping[str, Figure]:
    """Bars of all emotions by r; probe against Elo for a positive and a negative exemplar.

    Nothing where all activities are rated alike.
    """
    emotions = rows.records("emotions")
    if not emotions:
        return {}
    settings = rows.settings
    place = (
        f"reader {settings['reader']}, corpus {settings['corpus']}, layer {settings['layer']}, "
        f"{settings['form']} prompts, {settings['activities']} activities"
    )
    (count,) = rows.select("V9")
    bars = draw_bars(
        np.array([row["r"] for row in emotions], np.float64),
        [str(row["emotion"]) for row in emotions],
        title="Does what the model feels about an activity go with preferring it?",
        subtitle=f"{place}; {count.value:.0f} of {count.n} above {CLEAR} in size "
        f"(chance {count.chance:.0f}, p {count.p_value:.2g})",
        value_name="Pearson r of probe and Elo",
        shades=np.array([row["valence"] for row in emotions], np.float64),
        shades_name=f"valence label ({settings['labels']})",
        bars=(-CLEAR, CLEAR),
    )
    return {"emotions": bars, "exemplars": _draw_exemplars(rows, place)}


def _draw_exemplars(rows: Rows, place: str) -> Figure:
    points = rows.records("exemplars")
    names = list(dict.fromkeys(str(row["emotion"]) for row in points))
    of = {name: [row for row in points if row["emotion"] == name] for name in names}
    panels = [
        Panel(
            f"{name}, r {of[name][0]['r']:.2f}",
            np.array([(row["projection"], row["elo"]) for row in of[name]], np.float64),
        )
        for name in names
    ]
    return draw_groups(
        panels,
        [str(row["category"]) for row in of[names[0]]],
        title="Probe and Elo, for the emotions of the highest and the lowest r",
        subtitle=f"{place}; line: least squares",
        axis_names=("probe on the activity's own tokens", "Elo"),
    )


ANALYSIS = Analysis(
    name="preferences",
    question="What does the model prefer, and does what it feels go with that? (V7 V8 V9)",
    needs=("vectors", "model"),
    run=run,
    draw=draw,
)
