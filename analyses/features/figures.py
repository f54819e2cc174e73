"""The figures of an SAE beside the vectors, drawn from rows alone. Knows no codes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Rows
from analyses.figures.curves import draw_curve
from analyses.figures.dots import Dots, draw_dots
from analyses.figures.heat import draw_heat
from analyses.figures.planes import draw_planes
from stores.results import Cell, Metric

Floats = NDArray[np.float64]
Records = Sequence[Mapping[str, Cell]]

ALPHA = 0.05
PLANES = {
    "linear": "Vectors",
    "coded": "Codes of the SAE",
    "control": "Codes of its random control",
}
"""Columns of the table `components`, and what the points are."""


def figures(rows: Rows) -> dict[str, Figure]:
    """Best cosines and AUCs, vectors rebuilt, AUC by feature, emotions on two components."""
    emotions = _records(rows, "emotions")
    drawn = {
        "cosines": _draw_cosines(rows, emotions),
        "aucs": _draw_aucs(rows, emotions),
        "rebuild": _draw_rebuilt(rows),
        "features": _draw_features(rows, emotions),
    }
    points = _records(rows, "components")
    if all(point[f"{name}_2"] is not None for point in points for name in PLANES):
        drawn["components"] = _draw_components(rows, points)
    return drawn


def describe_comparison(rows: Rows) -> str:
    """Whose features beside whose vectors, and that these do not belong together where a user
    insisted."""
    settings = rows.settings
    place = f"reader {settings['reader']}, corpus {settings['corpus']}, layer {settings['layer']}"
    forced = f"; FORCED: {settings['differences']}" if settings["differences"] else ""
    return f"SAE {settings['name']} ({settings['features']:,} features), {place}{forced}"


def _draw_cosines(rows: Rows, emotions: Records) -> Figure:
    q = _column(emotions, "q")
    dots = Dots(
        _names(emotions),
        _column(emotions, "cosine"),
        _column(emotions, "control_cosine"),
        _column(emotions, "null_half"),
        _column(emotions, "null_high"),
        q < ALPHA,
    )
    return draw_dots(
        dots,
        title=f"How near the SAE's features come to the {rows.settings['concept']} vectors",
        subtitle=f"{describe_comparison(rows)}; {_count(dots)} of {len(emotions)} above the null",
        value_name="highest cosine of a decoder row",
        key=(
            "above the best of as many random rows (q < .05)",
            "not above it",
            "random control",
            "best of as many random rows: median to 95%",
        ),
    )


def _draw_aucs(rows: Rows, emotions: Records) -> Figure:
    dots = Dots(
        _names(emotions),
        _column(emotions, "auc"),
        _column(emotions, "control_auc"),
        _column(emotions, "auc_low"),
        _column(emotions, "auc_high"),
        _column(emotions, "auc_q") < ALPHA,
    )
    concept = rows.settings["concept"]
    return draw_dots(
        dots,
        title=f"How well one feature tells the stories of {_one(str(concept))} from the others",
        subtitle=f"{describe_comparison(rows)}; {_count(dots)} of {len(emotions)} above chance",
        value_name="AUC on topics the feature was not chosen on",
        key=("above chance (q < .05)", "not above it", "random control", "95% interval"),
        chance=0.5,
    )


def _draw_rebuilt(rows: Rows) -> Figure:
    # Every step is in the rows; the axis has room for those that double.
    records = [row for row in _records(rows, "rebuild") if int(str(row["k"])).bit_count() == 1]
    sizes = sorted({int(str(row["k"])) for row in records})
    curves: dict[str, Floats] = {}
    for row in records:
        whose = "features" if row["bank"] == "sae" else "rows of the random control"
        curve = curves.setdefault(
            f"{row['target']} vectors from {whose}", np.full((3, len(sizes)), np.nan)
        )
        cells = (row["explained"], row["low"], row["high"])
        curve[:, sizes.index(int(str(row["k"])))] = np.array(cells, np.float64)
    concept = rows.settings["concept"]
    return draw_curve(
        sizes,
        curves,
        title=f"The {concept} vectors rebuilt from few features",
        subtitle=f"{describe_comparison(rows)}; bands: 95% intervals over {concept}s",
        size_name="decoder rows taken (orthogonal matching pursuit)",
        value_name="share of squared length explained, mean",
    )


def _draw_features(rows: Rows, emotions: Records) -> Figure:
    table = next(table for table in rows.tables if table.name == "aucs")
    features, names = [str(row[0]) for row in table.rows], table.columns[1:]
    best = {str(row["emotion"]): str(row["auc_feature"]) for row in emotions}
    marked = [
        (i, features.index(best[name])) for i, name in enumerate(names) if best[name] in features
    ]
    concept = rows.settings["concept"]
    return draw_heat(
        np.array([row[1:] for row in table.rows], np.float64).T,
        names,
        features,
        title=f"What each feature tells of every {concept}",
        subtitle=f"{describe_comparison(rows)}; dots: the {concept}'s own best feature",
        axis_names=(concept, "feature"),
        values_name="AUC over all stories",
        middle=0.5,
        marked=marked,
    )


def _draw_components(rows: Rows, points: Records) -> Figure:
    valence = _column(points, "valence")
    known = bool(np.isfinite(valence).any())
    families = [str(point["family"] or "without family") for point in points]
    grouped = len(set(families)) > 1
    settings = rows.settings
    first = np.column_stack([_column(points, f"linear_{i}") for i in (1, 2)])
    return draw_planes(
        {title: _turned(points, name, first) for name, title in PLANES.items()},
        _names(points),
        title=f"The {settings['concept']}s by their vectors and by their codes",
        subtitle=f"{describe_comparison(rows)}; {_likeness(rows)}; signs as on the left",
        axis_names=("PC1", "PC2"),
        values=valence if known else None,
        values_name=f"valence label ({settings['labels']})",
        groups=families if grouped and not known else (),
    )


def _turned(points: Records, name: str, first: Floats) -> Floats:
    """Two components with the signs that make them rise with those of `first`."""
    plane = np.column_stack([_column(points, f"{name}_{i}") for i in (1, 2)])
    rises = ((plane - plane.mean(0)) * (first - first.mean(0))).sum(0) >= 0.0
    return np.asarray(plane * np.where(rises, 1.0, -1.0), np.float64)


def _likeness(rows: Rows) -> str:
    """RSA of both with the vectors, as far as it is there."""
    told = [
        f"{whose} {row.value:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})"
        for metric, whose in (("rsa", "codes"), ("rsa.control", "control"))
        for row in rows.select(metric)
        if _is_whole(row)
    ]
    return f"RSA with the vectors: {', '.join(told)}" if told else "RSA not known"


def _is_whole(row: Metric) -> bool:
    return None not in (row.value, row.ci_low, row.ci_high)


def _records(rows: Rows, name: str) -> Records:
    layer = next(table.layer for table in rows.tables if table.name == name)
    return rows.records(name, layer)


def _names(records: Records) -> list[str]:
    return [str(row["emotion"]) for row in records]


def _column(records: Records, name: str) -> Floats:
    return np.array([row[name] for row in records], np.float64)


def _count(dots: Dots) -> int:
    return int(dots.solid.sum())


def _one(concept: str) -> str:
    return f"{'an' if concept[0] in 'aeiou' else 'a'} {concept}"
