"""The numbers of every set side by side with those that others published.

All are read back from rows: where an analysis was not run, the board says so and names the command.
Knows nothing of vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyses.comparing.sets import OpenSet
from analyses.verification import MEASURES as CRITERIA
from stores.published import Published
from stores.results import Cell, Metric, Table

COLUMNS = (
    *("metric", "measure", "set", "source", "model", "value", "layer"),
    *("n", "chance", "ci_low", "ci_high", "p", "passed", "note"),
)
NOT_RUN, ABSENT, STALE = "not run", "none", "older than the vectors"
MISSING_COLUMNS = ("set", "analysis", "problem", "remedy")


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the board."""

    name: str
    """As published rows call it."""
    text: str
    analysis: str
    metric: str
    """As the analysis calls it."""
    subject: str | None = None


MEASURES = (
    Measure("n_emotions", "emotions", "geometry", "emotions"),
    Measure("pc1_variance", "share of variance along PC1", "geometry", "pc1_variance"),
    Measure("pc2_variance", "share of variance along PC2", "geometry", "pc2_variance"),
    Measure("r_pc1_valence", "r of PC1 and human valence", "norms", "r_pc1_valence"),
    Measure("r_pc2_arousal", "r of PC2 and human arousal", "norms", "r_pc2_arousal"),
    Measure("labels_valence", "r of PC1 and valence labels", "geometry", "r_valence", "PC1"),
    Measure("labels_arousal", "r of PC2 and arousal labels", "geometry", "r_arousal", "PC2"),
    Measure("reliability", "of a vector, random halves", "reliability", "reliability"),
    Measure("reliability.topics", "of a vector, topics apart", "reliability", "reliability.topics"),
    *(
        Measure(f"{name}{suffix}", words.format(text), analysis, f"{name}{suffix}")
        for name, (analysis, text) in CRITERIA.items()
        for suffix, words in {"": "{}", ".controlled": "the same, controlled for chance"}.items()
    ),
)


def board(sets: Sequence[OpenSet], published: Sequence[Published]) -> Table:
    """One row for each measure and set, then one for each published number of that name."""
    rows: list[tuple[Cell, ...]] = []
    for measure in (*MEASURES, *_shared(sets, published)):
        rows += [_own(measure, opened) for opened in sets]
        rows += [_others(measure, row) for row in published if row.metric == measure.name]
    return Table("board", COLUMNS, tuple(rows))


def _shared(sets: Sequence[OpenSet], published: Sequence[Published]) -> Iterator[Measure]:
    """What else a set has a number for under a published name."""
    known = {measure.name for measure in MEASURES}
    names = [row.metric for row in published if row.metric not in known]
    for name in dict.fromkeys(names):
        here = [_answering(name, opened) for opened in sets]
        if analysis := next((found for found in here if found), None):
            yield Measure(name, "as published", analysis, name)


def _answering(metric: str, opened: OpenSet) -> str | None:
    for analysis, rows in opened.metrics.items():
        if any(row.metric == metric and row.subject is None for row in rows):
            return analysis
    return None


def _own(measure: Measure, opened: OpenSet) -> tuple[Cell, ...]:
    about = (measure.name, measure.text, opened.name, measure.analysis, opened.model)
    rows = opened.metrics.get(measure.analysis)
    found = find(rows or (), measure.metric, measure.subject, opened.inputs.layer)
    if found is None:
        return (*about, *(None,) * 8, NOT_RUN if rows is None else ABSENT)
    interval = (found.ci_low, found.ci_high, found.p_value, found.passed)
    return (
        *about,
        found.value,
        found.layer,
        found.n,
        found.chance,
        *interval,
        _note(measure, opened, found.layer),
    )


def _note(measure: Measure, opened: OpenSet, layer: int | None) -> str:
    """Whose labels a correlation is with; whether the number is of another layer or out of date."""
    whose = {"norms": opened.labels, "geometry": opened.inputs.protocol.labels}
    told = [whose[measure.analysis]] if measure.metric.startswith("r_") else []
    if layer not in (None, opened.inputs.layer):
        told.append(f"layer {layer}")
    if measure.analysis in opened.stale:
        told.append(STALE)
    return ", ".join(told)


def _others(measure: Measure, row: Published) -> tuple[Cell, ...]:
    about = (measure.name, measure.text, None, row.source, row.model, row.value)
    return (*about, *(None,) * 7, row.note)


def find(rows: Sequence[Metric], metric: str, subject: str | None, layer: int) -> Metric | None:
    """The row of a metric at this layer, or the only one there is."""
    chosen = [row for row in rows if (row.metric, row.subject) == (metric, subject)]
    here = [row for row in chosen if row.layer in (None, layer)]
    if here:
        return here[0]
    return chosen[0] if len(chosen) == 1 else None


def missing(sets: Sequence[OpenSet]) -> Table:
    """The analyses that a set lacks or that are older than its vectors, with what to do."""
    needed = dict.fromkeys(measure.analysis for measure in MEASURES)
    rows: list[tuple[Cell, ...]] = []
    for opened in sets:
        absent = {name: NOT_RUN for name in needed if name not in opened.metrics}
        absent |= dict.fromkeys((name for name in opened.stale if name in needed), STALE)
        rows += [(opened.name, *row) for row in _remedies(opened, absent)]
    return Table("missing", MISSING_COLUMNS, tuple(rows))


def _remedies(opened: OpenSet, absent: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Analysis, problem and remedy; those of the suite have one command together."""
    of_the_suite = {analysis for analysis, _ in CRITERIA.values()}
    where = "--reader {} --corpus {}".format(*opened.place)
    for analysis, problem in absent.items():
        command = f"cli.py analyze {analysis} {where}"
        if analysis in of_the_suite:
            command = f"cli.py verify {where}"
        elif analysis == "norms":
            command += " --norms FILE"
        if opened.imported and analysis not in ("geometry", "norms"):
            command = ""
        yield analysis, problem, command
