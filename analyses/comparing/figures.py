"""The figures of a comparison, drawn from its rows alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.comparing.depths import LABELLED
from analyses.figures import DepthLine, draw_depths, draw_layers_matrix
from analyses.keeping import Rows
from stores.results import Cell

Floats = NDArray[np.float64]
Record = dict[str, Cell]
Pair = tuple[str, str]

MOST_PAIRS = 6
"""Pairs of sets that are drawn; the tables have all."""
MOST_BANDS = 3
"""Pairs whose intervals can be told apart in one figure."""
SHAPES = {
    "rsa_pearson": ("Do the sets arrange the emotions alike?", "Pearson r of cosines"),
    "procrustes": ("How much of one shape does the other explain?", "share explained"),
}


def draw(rows: Rows) -> dict[str, Figure]:
    """By depth: labels, variance, agreement; then the likeness of the sets and of all layers."""
    figures = {}
    for label in LABELLED:
        if _has(rows, f"{label}_r"):
            figures[label] = draw_labels(rows, label)
    if _has(rows, "pc1_variance"):
        figures["variance"] = draw_variance(rows)
    pairs = pairs_of(rows)[:MOST_PAIRS]
    if pairs:
        figures["sets"] = draw_sets(rows)
        figures |= {kind: draw_agreement(rows, kind, pairs) for kind in SHAPES}
    for i, pair in enumerate(pairs, 1):
        figures[f"layers_{i}"] = draw_all_layers(rows, pair)
    if any(row.metric == "matched_cosine" for row in rows.metrics):
        figures["matched"] = draw_matched(rows)
    return figures


def pairs_of(rows: Rows) -> list[Pair]:
    """The pairs of sets that share enough emotions to be compared."""
    if not any(table.name == "pairs" for table in rows.tables):
        return []
    found = [(str(row["set"]), str(row["other"])) for row in rows.records("pairs")]
    return list(dict.fromkeys(found))


def draw_labels(rows: Rows, label: str) -> Figure:
    """r of a label with its component by depth, a line for each set."""
    component = LABELLED[label]
    columns = (f"{label}_r", f"{label}_low", f"{label}_high")
    lines = []
    for name, records in _by_set(rows):
        if any(row[columns[0]] is not None for row in records):
            chance = _column(records, f"{label}_chance")
            whose = f"{name} ({records[0]['labels']})"
            limit = 0.0 if np.isnan(chance).all() else float(np.nanmax(chance))
            lines.append(_line(whose, records, columns, limit, _home(rows, name)))
    return draw_depths(
        lines,
        title=f"Does {component} follow {label}?",
        subtitle="whose labels in brackets; bands: 95% interval; "
        "chance: the largest |r| of all layers and components in 5% of shuffles",
        value_name=f"Pearson r of {component} with {label}",
    )


def draw_variance(rows: Rows) -> Figure:
    """The share of PC1 by depth, a line for each set."""
    lines = [
        _line(name, records, ("pc1_variance",), 0.0, _home(rows, name))
        for name, records in _by_set(rows)
        if any(row["pc1_variance"] is not None for row in records)
    ]
    return draw_depths(
        lines,
        title="How much of the variance lies along PC1?",
        subtitle="of all vectors of a set; the larger dot is its analysis layer",
        value_name="share of variance",
    )


def draw_sets(rows: Rows) -> Figure:
    """The likeness of every two sets at their analysis layers."""
    sets = rows.records("sets")
    names = [str(row["set"]) for row in sets]
    matrix = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    for row in rows.records("pairs"):
        if row["kind"] == "rsa_pearson":
            i, j = names.index(str(row["set"])), names.index(str(row["other"]))
            matrix[i, j] = matrix[j, i] = _number(row["value"])
    shown = [f"{row['set']} ({row['layer']})" for row in sets]
    return draw_layers_matrix(
        matrix,
        shown,
        shown,
        title="Likeness of the sets",
        subtitle="Pearson r of the cosines of shared emotions; analysis layers in brackets",
        values_name="Pearson r",
        limits=(min(0.0, float(np.nanmin(matrix))), 1.0),
    )


def draw_agreement(rows: Rows, kind: str, pairs: Sequence[Pair]) -> Figure:
    """Agreement of each pair at matched depth, with intervals while the lines are few."""
    title, value_name = SHAPES[kind]
    bands = len(pairs) <= MOST_BANDS
    columns = ("value", "ci_low", "ci_high") if bands else ("value",)
    lines, chances = [], []
    for pair in pairs:
        found = [row for row in _of_pair(rows, "by_depth", pair) if row["kind"] == kind]
        lines.append(_line(" & ".join(pair), found, columns, 0.0, None))
        chances.append(_column(found, "chance").max())
    intervals = "bands: 95% interval" if bands else "intervals: table by_depth"
    return draw_depths(
        lines,
        title=title,
        subtitle="layers of nearest depth, the emotions that both sets have; shuffled emotions "
        f"reach {round(max(chances), 2) + 0.0:.2f} on average; {intervals}",
        value_name=value_name,
    )


def draw_all_layers(rows: Rows, pair: Pair) -> Figure:
    """Likeness of every layer of one set with every layer of another."""
    found = _of_pair(rows, "rsa_layers", pair)
    here, there = (
        list(dict.fromkeys(row[key] for row in found)) for key in ("layer", "other_layer")
    )
    matrix = _column(found, "pearson").reshape(len(here), len(there))
    homes = {str(row["set"]): row["layer"] for row in rows.records("sets")}
    return draw_layers_matrix(
        matrix,
        [str(layer) for layer in here],
        [str(layer) for layer in there],
        title="Which layers are alike?",
        subtitle=f"{pair[0]} (rows) and {pair[1]} (columns); the analysis layers are framed",
        values_name="Pearson r of cosines",
        axis_names=(f"layer of {pair[0]}", f"layer of {pair[1]}"),
        marked=(here.index(homes[pair[0]]), there.index(homes[pair[1]])),
    )


def draw_matched(rows: Rows) -> Figure:
    """Mean cosine of the same emotion's vectors in two sets of one model, by depth."""
    depths = {(str(row["set"]), row["layer"]): row["depth"] for row in rows.records("depths")}
    found = [row for row in rows.metrics if row.metric == "matched_cosine"]
    lines = []
    for about in dict.fromkeys(str(row.subject) for row in found):
        here = [row for row in found if row.subject == about]
        records = [
            {
                "depth": depths[about.split(" & ")[0], row.layer],
                "value": row.value,
                "ci_low": row.ci_low,
                "ci_high": row.ci_high,
            }
            for row in here
        ]
        lines.append(_line(about, records, ("value", "ci_low", "ci_high"), 0.0, None))
    return draw_depths(
        lines[:MOST_PAIRS],
        title="Do two sets of one model have the same vectors?",
        subtitle="mean cosine of an emotion's vectors; bands: 95% interval; 0 is chance",
        value_name="cosine",
    )


def _by_set(rows: Rows) -> list[tuple[str, list[Record]]]:
    found: dict[str, list[Record]] = {}
    for row in rows.records("depths"):
        found.setdefault(str(row["set"]), []).append(row)
    return list(found.items())


def _of_pair(rows: Rows, table: str, pair: Pair) -> list[Record]:
    return [row for row in rows.records(table) if (row["set"], row["other"]) == pair]


def _line(
    name: str,
    records: Sequence[Mapping[str, Cell]],
    columns: Sequence[str],
    chance: float,
    home: Cell,
) -> DepthLine:
    """A line of these columns: values, then the ends of their intervals where there are any."""
    values = [_column(records, column) for column in columns]
    nothing = np.full(len(records), np.nan)
    low, high = values[1:] or (nothing, nothing)
    place = next((i for i, row in enumerate(records) if row.get("layer") == home), None)
    at = _column(records, "depth")
    return DepthLine(name, at, values[0], low, high, chance, None if home is None else place)


def _home(rows: Rows, name: str) -> Cell:
    return next(row["layer"] for row in rows.records("sets") if row["set"] == name)


def _has(rows: Rows, column: str) -> bool:
    return any(row[column] is not None for row in rows.records("depths"))


def _column(records: Sequence[Mapping[str, Cell]], column: str) -> Floats:
    return np.array([_number(row[column]) for row in records], np.float64)


def _number(cell: Cell) -> float:
    return float("nan") if cell is None else float(cell)
