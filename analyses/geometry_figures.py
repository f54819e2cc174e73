"""The figures of the geometry, drawn from its rows alone. Knows nothing of vectors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Rows
from analyses.figures import (
    DepthLine,
    draw_clustermap,
    draw_dendrogram,
    draw_depths,
    draw_layers_matrix,
    draw_scatter,
    draw_variance,
)

Floats = NDArray[np.float64]

MATRICES = (
    ("layers", "rsa_spearman", "Likeness of the layers", "Spearman's r of cosines"),
    ("rotation", "vector_cosine", "Do vectors keep their direction?", "mean cosine"),
    (
        "subspaces",
        "subspace_overlap",
        "Do the first components (at most 5) keep their span?",
        "mean squared cosine",
    ),
)
"""Figure, column of the table `layers`, title, what the values are."""


def draw(rows: Rows) -> dict[str, Figure]:
    """The emotions on PC1 and PC2, their cosines and tree, and by layer: variance, labels,
    likeness."""
    settings = rows.settings
    layer = int(settings["layer"])
    place = f"reader {settings['reader']}, corpus {settings['corpus']}"
    here = f"{place}, layer {layer}, {settings['vectors']} vectors"
    concept = str(settings["concept"])
    layers = [int(str(row["layer"])) for row in rows.records("layers_read")]
    figures = {
        "cosines": _draw_cosines(rows, layer, concept, here),
        "tree": _draw_tree(rows, layer, concept, here),
        "variance": _draw_variance(rows, layers, place),
    }
    if len(rows.select("pc_variance", layer)) > 1:
        figures["components"] = _draw_components(rows, layer, concept, here)
    if rows.select("r_valence") or rows.select("r_arousal"):
        figures["labels"] = _draw_labels(rows, layer, place)
    if len(layers) > 1:
        figures |= _draw_layers(rows, layers, layer, place)
    return figures


def _draw_components(rows: Rows, layer: int, concept: str, here: str) -> Figure:
    shares = [row.value or 0.0 for row in rows.select("pc_variance", layer)]
    chosen = [row for row in rows.records("scores") if row["layer"] == layer]
    values, about = _valence(rows, layer)
    labels = "" if values is None else f"; labels: {rows.settings['labels']}"
    return draw_scatter(
        np.array([(row["PC1"], row["PC2"]) for row in chosen], np.float64),
        [str(row["emotion"]) for row in chosen],
        title=f"{concept.capitalize()} vectors on their first two principal components",
        subtitle=f"{here}; {len(chosen)} vectors{labels}",
        axis_names=(f"PC1 ({shares[0]:.1%} of variance)", f"PC2 ({shares[1]:.1%} of variance)"),
        values=values,
        values_name=about,
    )


def _valence(rows: Rows, layer: int) -> tuple[Floats | None, str]:
    """The valence label of every emotion, NaN where unknown, and its name; None if all are."""
    chosen = [row["valence"] for row in rows.records("scores") if row["layer"] == layer]
    values = np.array(chosen, np.float64)
    known = bool(np.isfinite(values).any())
    return (values if known else None), f"valence label ({rows.settings['labels']})"


def _groups(rows: Rows, layer: int) -> NDArray[np.int64]:
    chosen = [row["tree"] for row in rows.records("groups") if row["layer"] == layer]
    return np.array(chosen, np.int64)


def _draw_cosines(rows: Rows, layer: int, concept: str, here: str) -> Figure:
    table, joins = rows.table("cosines", layer), rows.table("linkage", layer)
    values, about = _valence(rows, layer)
    return draw_clustermap(
        np.array([row[1:] for row in table.rows], np.float64),
        table.columns[1:],
        np.array(joins.rows, np.float64),
        _groups(rows, layer),
        title=f"Cosines between {concept} vectors",
        subtitle=f"{here}; average-linkage tree",
        values=values,
        values_name=about,
    )


def _draw_tree(rows: Rows, layer: int, concept: str, here: str) -> Figure:
    table, joins = rows.table("cosines", layer), rows.table("linkage", layer)
    groups, (values, about) = _groups(rows, layer), _valence(rows, layer)
    return draw_dendrogram(
        np.array(joins.rows, np.float64),
        table.columns[1:],
        groups,
        title=f"Tree of the {concept} vectors",
        subtitle=f"{here}; average linkage on cosine distance; {groups.max() + 1} groups",
        values=values,
        values_name=about,
    )


def _draw_variance(rows: Rows, layers: Sequence[int], place: str) -> Figure:
    shares = [[row.value or 0.0 for row in rows.select("pc_variance", at)] for at in layers]
    width = max(len(row) for row in shares)
    padded = np.array([row + [0.0] * (width - len(row)) for row in shares])
    vectors = f"{rows.settings['vectors']} vectors"
    return draw_variance(
        padded,
        layers,
        title="Variance along the first components",
        subtitle=f"{place}, {vectors}",
    )


def _draw_labels(rows: Rows, layer: int, place: str) -> Figure:
    depths = {row["layer"]: row["depth"] for row in rows.records("layers_read")}
    lines, counts = [], []
    for component, label in (("PC1", "valence"), ("PC2", "arousal")):
        found = [row for row in rows.select(f"r_{label}") if row.subject == component]
        limits = [row.threshold or 0.0 for row in rows.select(f"r_{label}_max")]
        if not found:
            continue
        line = DepthLine(
            name=f"{component} with {label}",
            depths=np.array([depths[row.layer] for row in found], np.float64),
            values=np.array([row.value for row in found], np.float64),
            low=np.array([row.ci_low for row in found], np.float64),
            high=np.array([row.ci_high for row in found], np.float64),
            chance=max(limits),
            home=[row.layer for row in found].index(layer),
        )
        lines.append(line)
        counts.append(f"{found[0].n} with {label}")
    labels = f"labels: {rows.settings['labels']}, {', '.join(counts)}"
    return draw_depths(
        lines,
        title="Do the first components follow the labels?",
        subtitle=f"{place}; {labels}; bands: 95% interval; large dots: layer {layer}",
        value_name="Pearson r",
    )


def _draw_layers(rows: Rows, layers: Sequence[int], layer: int, place: str) -> dict[str, Figure]:
    """A matrix for each likeness; one without any number is left out."""
    records, names = rows.records("layers"), [str(at) for at in layers]
    home = layers.index(layer)
    figures = {}
    for figure, column, title, about in MATRICES:
        matrix = np.array([row[column] for row in records], np.float64)
        if np.isfinite(matrix).any():
            figures[figure] = draw_layers_matrix(
                matrix.reshape(len(layers), len(layers)),
                names,
                names,
                title=title,
                subtitle=f"{place}, {rows.settings['vectors']} vectors; framed: layer {layer}",
                values_name=about,
                axis_names=("layer", "layer"),
                marked=(home, home),
            )
    return figures
