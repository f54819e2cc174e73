"""The figures of the analysis of texts of others, drawn from its rows alone. Knows no texts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from analyses.figures.ranked import Band, Ranked, draw_ranked
from analyses.keeping import Rows
from stores.results import Cell, Metric

Records = Sequence[Mapping[str, Cell]]

JUDGED = "judge."


def figures(rows: Rows) -> dict[str, Figure]:
    """How every source ranks the emotions; how often each is first; what judges say, if asked."""
    layer = next(table.layer for table in rows.tables if table.name == "ranking")
    records = rows.records("ranking", layer)
    judged = [row for row in rows.metrics if row.metric.startswith(JUDGED) and row.layer == layer]
    drawn = {
        "ranking": _draw_ranking(rows, layer, records),
        "first": _draw_first(rows, layer, records),
    }
    return drawn | ({"judge": _draw_judged(rows, layer, judged)} if judged else {})


def _draw_ranking(rows: Rows, layer: int | None, records: Records) -> Figure:
    """Raw above, against neutral texts below, where there are any."""
    known = any(record["neutral"] is not None for record in records)
    raw = Band(
        "Raw: with the offset that all text shares",
        "mean projection on the direction",
        _columns(records, "raw"),
    )
    neutral = Band(
        "Against the reader's neutral texts: without it",
        "distance in sd of the neutral texts",
        _columns(records, "neutral"),
    )
    return draw_ranked(
        [raw, neutral] if known else [raw],
        title=f"The highest and the lowest {rows.settings['concept']} vectors in texts of others",
        subtitle=_about(rows, layer),
        shades_name=_label(rows),
    )


def _draw_first(rows: Rows, layer: int | None, records: Records) -> Figure:
    emotions = {record["emotion"] for record in records}
    band = Band(
        "As distances from the mean of the source's documents",
        "share of documents",
        # Of many emotions most are never the first: no ones among them are the lowest.
        [replace(column, lowest=0) for column in _columns(records, "first")],
        chance=1.0 / len(emotions),
    )
    return draw_ranked(
        [band],
        title=f"How often each {rows.settings['concept']} is the highest in a document",
        subtitle=_about(rows, layer),
        shades_name=_label(rows),
    )


def _draw_judged(rows: Rows, layer: int | None, judged: Sequence[Metric]) -> Figure:
    """A column a source, a bar a judge."""
    concept, sources = rows.settings["concept"], dict.fromkeys(row.metric for row in judged)
    columns = [_verdicts([row for row in judged if row.metric == source]) for source in sources]
    return draw_ranked(
        [Band(f"A window's own {concept} less another one drawn by lot", "points of 10", columns)],
        title=f"Do judges find the {concept} in the windows?",
        subtitle=_about(rows, layer, over=f"{concept}s"),
        shades_name=_label(rows),
    )


def _verdicts(judged: Sequence[Metric]) -> Ranked:
    values, low, high = np.array(
        [(row.value, row.ci_low, row.ci_high) for row in judged], np.float64
    ).T
    names = [f"{row.subject} ({row.n} windows)" for row in judged]
    source = judged[0].metric.removeprefix(JUDGED)
    return Ranked(source, names, values, low, high, np.full(len(judged), np.nan))


def _about(rows: Rows, layer: int | None, over: str = "documents") -> str:
    settings = rows.settings
    place = f"reader {settings['reader']}, corpus {settings['corpus']}, layer {layer}"
    return f"{place}; {settings['vectors']} vectors; 95% intervals over {over}"


def _label(rows: Rows) -> str:
    return f"valence label ({rows.settings['labels']})"


def _columns(records: Records, key: str) -> list[Ranked]:
    """A column a source, in the order of the rows."""
    sources = dict.fromkeys(str(record["source"]) for record in records)
    return [
        _column(source, [record for record in records if record["source"] == source], key)
        for source in sources
    ]


def _column(source: str, records: Records, key: str) -> Ranked:
    values, low, high, shades = (
        np.array([record[name] for record in records], np.float64)
        for name in (key, f"{key}_low", f"{key}_high", "valence")
    )
    names = [str(record["emotion"]) for record in records]
    return Ranked(f"{source}, {records[0]['n']:,} documents", names, values, low, high, shades)
