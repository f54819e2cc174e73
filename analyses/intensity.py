"""V5 and V6: do probes follow a number in a prompt, and in the direction that is expected?

Rows at the analysis layer: V5 (.stated .binomial .labels .controlled), V6 (.signed .controlled).
Tables: settings, prompts, templates, curves, trends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.criteria import Question, judge, read_ends, settings_table
from analyses.figures.canvas import SERIES
from analyses.figures.panels import Line, Panel, draw_curves
from analyses.methods.geometry import unit
from analyses.methods.resampling import against_chance, draw_rows, percentile_interval
from analyses.methods.scoring import Intensity, Scored, score_intensity, trend
from analyses.methods.statistics import binomial_p, wilson_interval
from analyses.reading import open_probes
from stores.errors import NotReady
from stores.protocol import Direction, IntensityTemplate
from stores.results import Cell, Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Record = dict[str, Cell]

V5_BAR, V6_BAR = 17, 12
COLOURS = {"afraid": "#b2182b", "happy": "#1b7837", "sad": "#e08214", "calm": "#2166ac"}
ARROWS = {1: "\N{UPWARDS ARROW}", -1: "\N{DOWNWARDS ARROW}"}
TITLE_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Stimuli:
    """Templates with the states they were read in, and the k (template, emotion) pairs judged."""

    templates: tuple[IntensityTemplate, ...]
    states: tuple[Floats, ...]
    """(x, d) of each template, one state of length 1 for each of its values."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """Every emotion of a pair, once."""
        return tuple(dict.fromkeys(name for each in self.templates for name in each.directions))

    @property
    def pairs(self) -> list[tuple[int, int, Direction]]:
        """Place of the template, place of the emotion, and what is expected, of every pair."""
        names = self.emotions
        return [
            (t, names.index(name), direction)
            for t, template in enumerate(self.templates)
            for name, direction in template.directions.items()
        ]

    def trends(self, directions: Floats) -> Floats:
        """Spearman's rho (..., t, e) of the numbers with directions (..., e, d); NaN where flat."""
        found = [
            trend(directions @ states.T, template.values)
            for template, states in zip(self.templates, self.states, strict=True)
        ]
        return np.stack(found, axis=-2)

    def random_trends(self, m: int, rng: np.random.Generator) -> Floats:
        """`trends` (m, t, e) of m sets of isotropic random directions in place of the probes.

        Only their components along the states matter, and those are as isotropic: they are drawn
        in an orthonormal basis of the states, which may be far fewer than the dimensions.
        """
        coordinates = np.linalg.qr(np.concatenate(self.states).T)[1].T
        ends = np.cumsum([len(states) for states in self.states])[:-1]
        flat = replace(self, states=tuple(np.split(coordinates, ends)))
        return flat.trends(rng.normal(size=(m, len(self.emotions), coordinates.shape[1])))


def run(inputs: Inputs) -> Result:
    """Read the last prompt token of every template at every value; rank it along each probe.

    NotReady for a protocol without templates.
    """
    templates, layer = inputs.protocol.intensity, inputs.layer
    if not templates:
        raise NotReady(f"{inputs.protocol.root}: no intensity.tsv, which V5 and V6 read; add it")
    probes = open_probes(inputs)
    states, prompts = read_ends(inputs, "intensity", _questions(templates))
    ends = np.cumsum([len(template.values) for template in templates])[:-1]
    stimuli = Stimuli(templates, tuple(np.split(unit(states), ends)))
    own, every = probes.rows(stimuli.emotions), probes.directions[layer]
    rng = np.random.default_rng(inputs.seed)
    tables = (
        settings_table(inputs),
        prompts,
        list_templates(templates),
        list_curves(stimuli, every[own], layer),
        list_trends(stimuli, every[own], layer),
    )
    return Result(tables=tables) + score(stimuli, every, own, layer, inputs.permutations, rng)


def score(
    stimuli: Stimuli,
    directions: Floats,
    own: Sequence[int],
    layer: int,
    permutations: int,
    rng: np.random.Generator,
) -> Result:
    """V5 and V6 of directions (e, d); those of the stimuli's emotions are in rows `own`.

    Chance and p: as many random directions in place of the probes. The templates share them, so
    their signs are not independent, and V5.binomial, the p of as many coins, is too kind. V5.labels
    puts other emotions in their place. Intervals: a bootstrap over templates.
    """
    random_rng, label_rng, draw_rng = rng.spawn(3)
    rows = draw_rows(len(stimuli.templates), draw_rng)
    trends = stimuli.trends(directions)
    found = _read(stimuli, trends[:, own])
    chance = _read(stimuli, stimuli.random_trends(permutations, random_rng))
    signs = _count(stimuli, found.signs, chance.signs, rows)
    strong = _count(stimuli, found.strong, chance.strong, rows)
    signed = _count(stimuli, found.signed, chance.signed, rows)
    metrics = [
        judge("V5", signs, layer, at_least=V5_BAR),
        judge("V5.controlled", signs, layer, at_least=V5_BAR),
        judge("V5.binomial", _coins(signs), layer),
        judge("V6", strong, layer, at_least=V6_BAR),
        judge("V6.signed", signed, layer, at_least=V6_BAR),
        judge("V6.controlled", signed, layer, at_least=V6_BAR),
    ]
    stated = np.array([direction.stated for _, _, direction in stimuli.pairs])
    if stated.any():
        counted = _count(stimuli, found.signs, chance.signs, rows, stated)
        metrics.append(judge("V5.stated", counted, layer))
    others = np.delete(np.arange(len(directions)), own)
    if len(others) >= len(own):
        chosen = label_rng.random((permutations, len(others))).argsort(axis=1)[:, : len(own)]
        drawn = _read(stimuli, np.moveaxis(trends[:, others[chosen]], 0, 1))
        metrics.append(judge("V5.labels", _count(stimuli, found.signs, drawn.signs, rows), layer))
    return Result(tuple(metrics))


def _read(stimuli: Stimuli, trends: Floats) -> Intensity:
    """Which of the pairs (..., k) pass, from trends (..., t, e)."""
    template, emotion, direction = zip(*stimuli.pairs, strict=True)
    return score_intensity(trends[..., template, emotion], [each.sign for each in direction])


def _count(
    stimuli: Stimuli, passed: Bools, drawn: Bools, rows: Ints, among: Bools | None = None
) -> Scored:
    """How many of `passed` (k,) there are, against `drawn` (m, k); `rows` resample templates.

    Only the pairs `among` (k,) count, where given. Resampled templates may hold more or fewer of
    them, so that the interval is one of the share that passes, times their number.
    """
    among = np.ones(len(passed), np.bool_) if among is None else among
    value, n = float(passed[among].sum()), int(among.sum())
    chance = against_chance(value, drawn[:, among].sum(axis=1, dtype=np.float64))
    templates = [template for template, _, _ in stimuli.pairs]
    hits, held = (
        np.bincount(templates, which, len(stimuli.templates))[rows].sum(axis=1)
        for which in (passed & among, among)
    )
    low, high = percentile_interval(n * hits[held > 0] / held[held > 0])
    return Scored(value, n, float(chance.mean), float(low), float(high), float(chance.p))


def _coins(signs: Scored) -> Scored:
    """The same count as if every sign were a coin of its own."""
    count, n = int(signs.value), signs.n
    low, high = wilson_interval(count, n)
    return Scored(signs.value, n, n / 2, n * low, n * high, binomial_p(count, n, 0.5))


def list_templates(templates: Sequence[IntensityTemplate]) -> Table:
    """The templates as they are written."""
    rows = tuple((each.key, each.prompt, each.source) for each in templates)
    return Table("templates", ("template", "prompt", "source"), rows)


def list_curves(stimuli: Stimuli, directions: Floats, layer: int) -> Table:
    """Cosine of the emotions' directions (e, d) with every state."""
    rows = tuple(
        (template.key, name, x, float(cosine))
        for template, states in zip(stimuli.templates, stimuli.states, strict=True)
        for name, curve in zip(stimuli.emotions, directions @ states.T, strict=True)
        if name in template.directions
        for x, cosine in zip(template.values, curve, strict=True)
    )
    return Table("curves", ("template", "emotion", "x", "cosine"), rows, layer)


def list_trends(stimuli: Stimuli, directions: Floats, layer: int) -> Table:
    """Spearman's rho of every pair beside the direction that is expected; none where flat."""
    trends = stimuli.trends(directions)
    rows = tuple(
        (
            stimuli.templates[template].key,
            stimuli.emotions[emotion],
            None if np.isnan(rho) else float(rho),
            direction.sign,
            int(direction.stated),
            int(rho * direction.sign > 0.0),
        )
        for template, emotion, direction in stimuli.pairs
        for rho in [trends[template, emotion]]
    )
    columns = ("template", "emotion", "rho", "expected", "stated", "as_expected")
    return Table("trends", columns, rows, layer)


def _questions(templates: Sequence[IntensityTemplate]) -> list[Question]:
    return [
        Question(f"{each.key} {x}", each.prompt.format(x=x), each.source)
        for each in templates
        for x in each.values
    ]


def draw(rows: Rows) -> dict[str, Figure]:
    """A grid of the templates: cosine of each probe against the number in the prompt."""
    settings = rows.settings
    layer = int(settings["layer"])
    trends, curves = rows.records("trends", layer), rows.records("curves", layer)
    colours = _choose_colours(list(dict.fromkeys(str(row["emotion"]) for row in trends)))
    panels = []
    for template in rows.records("templates"):
        own = [row for row in trends if row["template"] == template["template"]]
        panels.append(_panel(template, own, curves, colours))
    place = f"reader {settings['reader']}, corpus {settings['corpus']}, layer {layer}"
    lines = "solid: a direction that the paper states, dashed: one that is a choice"
    return {
        "curves": draw_curves(
            panels,
            title="Do the probes follow the number?",
            subtitle=f"{place}; arrow: expected; number: Spearman's rho; {lines}",
            axis_names=("number in the prompt, as written", "cosine at the last prompt token"),
        )
    }


def _choose_colours(emotions: Sequence[str]) -> dict[str, str]:
    """The suite's colours for its own four emotions, others for others."""
    free = [colour for colour in SERIES if colour not in COLOURS.values()]
    others = [name for name in emotions if name not in COLOURS]
    return COLOURS | {name: free[i % len(free)] for i, name in enumerate(others)}


def _panel(
    template: Record, trends: Sequence[Record], curves: Sequence[Record], colours: dict[str, str]
) -> Panel:
    key = str(template["template"])
    lines, places = [], list[str]()
    for found in trends:
        name = str(found["emotion"])
        curve = [row for row in curves if (row["template"], row["emotion"]) == (key, name)]
        places = [str(row["x"]) for row in curve]
        values = np.array([row["cosine"] for row in curve], dtype=np.float64)
        lines.append(Line(values, colours[name], _note(found), not found["stated"]))
    return Panel(fill(f"{key}: {template['prompt']}", TITLE_WIDTH), tuple(places), tuple(lines))


def _note(row: Record) -> str:
    rho = "flat" if row["rho"] is None else f"{row['rho']:+.2f}"
    arrow = ARROWS[int(row["expected"] or 0)]
    return f"{row['emotion']} {arrow} {rho}{'' if row['as_expected'] else '  against'}"


ANALYSIS = Analysis(
    name="intensity",
    question="Do probes follow a number in a prompt that makes it better or worse?",
    needs=("vectors", "model"),
    run=run,
    draw=draw,
)
