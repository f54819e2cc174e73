"""V3 and V4: does the probe of the emotion that a scenario implies stand out at its end?

Rows at the analysis layer: V3 (.centred .rows .rows_centred .top3 .alternates
.alternates_centred .controlled), V4 (.centred .alternates .alternates_centred .controlled).
Tables: settings, prompts, cosines (probe by scenario), scenarios, alternates, published.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.criteria import Question, judge, read_ends, settings_table
from analyses.figures.panels import draw_matrices
from analyses.methods.geometry import unit
from analyses.methods.scoring import centre, read_scenarios, score_own
from analyses.reading import open_probes
from stores.errors import NotReady
from stores.protocol import Protocol, Scenario
from stores.published import load_published, read_published
from stores.results import Cell, Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

V3_BAR, V4_BAR = 8, 3.0
PAPER, PAPER_COSINE = "paper", "scenario_cosine["


def run(inputs: Inputs) -> Result:
    """Read the last prompt token of every scenario and rank the probes there.

    The further wordings, of which an emotion may have several, are scored together as a set of
    their own. NotReady for a protocol without scenarios.
    """
    protocol, layer = inputs.protocol, inputs.layer
    if not protocol.scenarios:
        raise NotReady(f"{protocol.root}: no scenarios.tsv, which V3 and V4 read; add the file")
    probes, names = open_probes(inputs), scenario_emotions(protocol)
    states, prompts = read_ends(inputs, "scenario", ask_scenarios(protocol))
    cosines = probes.directions[layer][probes.rows(names)] @ unit(states).T
    first, further = cosines[:, : len(names)], cosines[:, len(names) :]
    tables = [
        settings_table(inputs),
        prompts,
        _matrix("cosines", names, first, layer),
        list_scenarios("scenarios", names, protocol.scenarios, first, layer),
        read_paper(inputs, names),
    ]
    if protocol.alternates:
        tables.append(list_scenarios("alternates", names, protocol.alternates, further, layer))
    return Result(tables=tuple(tables)) + score_readings(inputs, cosines)


def scenario_emotions(protocol: Protocol) -> tuple[str, ...]:
    """The emotions whose probes are read, p of them: one for each scenario."""
    return tuple(each.emotion for each in protocol.scenarios)


def ask_scenarios(protocol: Protocol) -> list[Question]:
    """The scenarios, then their further wordings: s prompts."""
    return [
        Question(f"{each.emotion} {each.variant}", each.prompt, each.source)
        for each in (*protocol.scenarios, *protocol.alternates)
    ]


def score_readings(inputs: Inputs, readings: Floats) -> Result:
    """V3 and V4 of what the probe of each scenario's emotion reads at each prompt, (p, s)."""
    protocol, layer, permutations = inputs.protocol, inputs.layer, inputs.permutations
    names = scenario_emotions(protocol)
    rng, further_rng = np.random.default_rng(inputs.seed).spawn(2)
    scored = score_scenarios(readings[:, : len(names)], layer, permutations, rng)
    if not protocol.alternates:
        return scored
    own = np.array([names.index(each.emotion) for each in protocol.alternates])
    further = readings[:, len(names) :]
    return scored + score_alternates(further, own, layer, permutations, further_rng)


def score_scenarios(
    cosines: Floats, layer: int, permutations: int, rng: np.random.Generator
) -> Result:
    """V3 and V4 of cosines (p, p): probe i belongs to scenario i.

    Centred: each probe less its mean over the scenarios, so that one that is high everywhere
    stands out nowhere. Rows: the scenario that is highest for a probe; centred there, each
    scenario less its mean over the probes. Chance and p: which scenario is whose, permuted.
    """
    raw, centred = read_scenarios(cosines), read_scenarios(centre(cosines))
    rows_centred = read_scenarios(centre(cosines.T).T).rows
    hits = {
        "V3": raw.first,
        "V3.centred": centred.first,
        "V3.rows": raw.rows,
        "V3.rows_centred": rows_centred,
    }
    ranks = {"V4": raw.rank, "V4.centred": centred.rank}
    counted = {name: score_own(table, rng, permutations) for name, table in hits.items()}
    ranked = {
        name: score_own(table, rng, permutations, total="mean", better="low")
        for name, table in ranks.items()
    }
    counted["V3.controlled"] = counted["V3.centred"]
    ranked["V4.controlled"] = ranked["V4.centred"]
    top3 = judge("V3.top3", score_own(raw.top3, rng, permutations), layer)
    return Result(
        (
            *(judge(name, scored, layer, at_least=V3_BAR) for name, scored in counted.items()),
            *(judge(name, scored, layer, at_most=V4_BAR) for name, scored in ranked.items()),
            top3,
        )
    )


def score_alternates(
    cosines: Floats, own: Ints, layer: int, permutations: int, rng: np.random.Generator
) -> Result:
    """V3 and V4 of further wordings: cosines (p, s), where scenario j belongs to probe own[j].

    All wordings are one set: n is their number, and the count has no bar of the report.
    """
    metrics = []
    for suffix, table in (("alternates", cosines), ("alternates_centred", centre(cosines))):
        found = read_scenarios(table)
        counted = score_own(found.first, rng, permutations, own=own)
        ranked = score_own(found.rank, rng, permutations, own=own, total="mean", better="low")
        metrics.append(judge(f"V3.{suffix}", counted, layer))
        metrics.append(judge(f"V4.{suffix}", ranked, layer, at_most=V4_BAR))
    return Result(tuple(metrics))


def list_scenarios(
    table: str, names: Sequence[str], scenarios: Sequence[Scenario], cosines: Floats, layer: int
) -> Table:
    """What every scenario's own probe reads, its rank, and the probe that is highest there."""
    ranks = read_scenarios(cosines).rank, read_scenarios(centre(cosines)).rank
    rows: list[tuple[Cell, ...]] = []
    for j, scenario in enumerate(scenarios):
        i, highest = names.index(scenario.emotion), names[int(cosines[:, j].argmax())]
        numbers = (cosines[i, j], *(rank[i, j] for rank in ranks))
        rows.append((scenario.emotion, scenario.variant, *map(float, numbers), highest))
    columns = ("emotion", "variant", "cosine", "rank", "rank_centred", "highest")
    return Table(table, columns, tuple(rows), layer)


def read_paper(inputs: Inputs, names: Sequence[str]) -> Table:
    """The paper's cosines (Fig. 2) of these emotions, as far as it has them."""
    load_published(inputs.conn)
    rows = []
    for number in read_published(inputs.conn):
        if number.source == PAPER and number.metric.startswith(PAPER_COSINE):
            probe, scenario = number.metric.removeprefix(PAPER_COSINE).strip("]").split(",")
            if {probe, scenario} <= set(names):
                rows.append((number.source, number.model, probe, scenario, number.value))
    return Table("published", ("source", "model", "probe", "scenario", "cosine"), tuple(rows))


def _matrix(table: str, names: Sequence[str], cosines: Floats, layer: int) -> Table:
    rows = zip(names, *cosines.round(6).T.tolist(), strict=True)
    return Table(table, ("probe", *names), tuple(rows), layer)


def draw(rows: Rows) -> dict[str, Figure]:
    """Cosines of probes (down) with scenarios (across), beside the paper's on the same scale.

    Once as they are and once centred, which is the reading that can be trusted.
    """
    settings = rows.settings
    table = rows.table("cosines", int(settings["layer"]))
    names = table.columns[1:]
    panels = {f"{settings['reader']}, layer {settings['layer']}": _numbers(table)}
    panels |= _paper_panel(rows, names)
    place = f"corpus {settings['corpus']}, {settings['vectors']} vectors"
    centred = {name: centre(matrix) for name, matrix in panels.items()}
    return {
        "cosines": _draw(panels, names, place, "cosine"),
        "centred": _draw(centred, names, f"{place}; each probe less its mean", "centred cosine"),
    }


def _draw(panels: Mapping[str, Floats], names: Sequence[str], place: str, value: str) -> Figure:
    return draw_matrices(
        {f"{name}\n{_scores(matrix)}": matrix for name, matrix in panels.items()},
        names,
        names,
        title="Which probe stands out where a scenario ends?",
        subtitle=f"{place}; framed: the scenario's own probe; bold: the scenario's highest",
        axis_names=("probe", "scenario"),
        values_name=value,
    )


def _numbers(table: Table) -> Floats:
    return np.array([row[1:] for row in table.rows], dtype=np.float64)


def _paper_panel(rows: Rows, names: Sequence[str]) -> dict[str, Floats]:
    """The paper's matrix under its source's name; nothing unless it has all these emotions."""
    found = {(row["probe"], row["scenario"]): row for row in rows.records("published")}
    if len(found) < len(names) ** 2:
        return {}
    source, model = (next(iter(found.values()))[key] for key in ("source", "model"))
    values = [[found[probe, scenario]["cosine"] for scenario in names] for probe in names]
    return {f"{model} ({source}, digitised)": np.array(values, dtype=np.float64)}


def _scores(matrix: Floats) -> str:
    found = read_scenarios(matrix)
    return (
        f"V3 {np.trace(found.first):.0f} of {len(matrix)}, V4 {np.diagonal(found.rank).mean():.2f}"
    )


ANALYSIS = Analysis(
    name="scenarios",
    question="Does a scenario raise the probe of the emotion that it implies without naming it?",
    needs=("vectors", "model"),
    run=run,
    draw=draw,
)
