"""The geometry of emotion vectors: components, their labels, groups, pairs, likeness of layers.

Groups and cosines are those of directions: the length of a vector plays no part in them. Knows
nothing of models.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.figures import draw_heatmap, draw_lines, draw_scatter, draw_variance
from analyses.groups import find_groups
from analyses.labels import LABELS, Labels, component_names, correlate_labels
from analyses.methods import clustering, geometry
from analyses.spaces import Space, open_spaces
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]

TESTED, REPORTED = 5, 10
"""Components that are tested against labels, and whose variance is reported."""
PAIRS, ENDS = 15, 5


def run(inputs: Inputs) -> Result:
    """Everything for every layer; single answers are about the analysis layer."""
    spaces, labels = open_spaces(inputs)
    tested = {space.layer: space.found.scores[:, :TESTED] for space in spaces}
    label_rng, group_rng = np.random.default_rng(inputs.seed).spawn(2)
    return (
        describe_settings(inputs, spaces)
        + describe_components(spaces, labels, inputs.layer)
        + correlate_labels(tested, labels, inputs.permutations, label_rng)
        + find_groups(spaces, labels.families, inputs.permutations, group_rng)
        + find_pairs(spaces, inputs.layer)
        + compare_layers(spaces, inputs.layer)
    )


def describe_settings(inputs: Inputs, spaces: Sequence[Space]) -> Result:
    """What the figures must say, as a table: they are drawn from rows alone."""
    n = len(spaces[0].emotions)
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "concept": inputs.protocol.concept,
        "labels": inputs.protocol.labels,
        "layer": inputs.layer,
        "vectors": "denoised",
        "seed": inputs.seed,
        "permutations": inputs.permutations,
    }
    table = Table("settings", ("setting", "value"), tuple(settings.items()))
    return Result((Metric("emotions", n, n=n),), (table,))


def describe_components(spaces: Sequence[Space], labels: Labels, layer: int) -> Result:
    """pc_variance by component, pc<i>_score by emotion (at the analysis layer), and two tables:
    the scores of every emotion with its labels, and the emotions at both ends of a component."""
    metrics, scores, ends = [], [], []
    for space in spaces:
        n, table = len(space.emotions), space.found.scores[:, :TESTED]
        metrics += [
            Metric("pc_variance", share, space.layer, f"PC{i}", n=n)
            for i, share in enumerate(space.found.share[:REPORTED], 1)
        ]
        scores += _score_rows(space, table, labels)
        ends += _end_rows(space, table)
        if space.layer == layer:
            metrics += [
                Metric(f"pc{i}_score", score, layer, name, n=n)
                for i, column in enumerate(table.T, 1)
                for name, score in zip(space.emotions, column, strict=True)
            ]
    named = ("layer", "emotion", *LABELS, "family", *(f"PC{i + 1}" for i in range(TESTED)))
    tables = (
        Table("scores", named, tuple(scores)),
        Table("ends", ("layer", "component", "end", "rank", "emotion", "score"), tuple(ends)),
    )
    return Result(tuple(metrics), tables)


def _score_rows(space: Space, scores: Floats, labels: Labels) -> list[tuple[Cell, ...]]:
    nothing = np.full(len(scores), np.nan)
    columns = [labels.values.get(label, nothing) for label in LABELS]
    families = labels.families or (None,) * len(scores)
    padded = [*scores.T, *[nothing] * (TESTED - scores.shape[1])]
    rows = zip(space.emotions, *columns, families, *padded, strict=True)
    return [(space.layer, *row) for row in rows]


def _end_rows(space: Space, scores: Floats) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for component, column in zip(component_names(scores), scores.T, strict=True):
        order = np.argsort(-column, kind="stable")
        for end, members in (("top", order[:ENDS]), ("bottom", order[::-1][:ENDS])):
            rows += [
                (space.layer, component, end, rank, space.emotions[i], column[i])
                for rank, i in enumerate(members, 1)
            ]
    return rows


def find_pairs(spaces: Sequence[Space], layer: int) -> Result:
    """The closest and the most opposite pairs of every layer; all cosines of the analysis layer,
    in the order in which neighbours in the tree stand side by side."""
    tables = []
    for name, closest in (("closest", True), ("opposite", False)):
        rows = [
            (space.layer, space.emotions[i], space.emotions[j], cosine)
            for space in spaces
            for i, j, cosine in geometry.extreme_pairs(space.cosines, PAIRS, closest=closest)
        ]
        tables.append(Table(name, ("layer", "emotion", "other", "cosine"), tuple(rows)))
    home = next(space for space in spaces if space.layer == layer)
    order = clustering.leaf_order(home.directions)
    names = tuple(home.emotions[i] for i in order)
    cosines = home.cosines[np.ix_(order, order)].round(6).tolist()
    matrix = tuple((name, *row) for name, row in zip(names, cosines, strict=True))
    return Result(tables=(*tables, Table("cosines", ("emotion", *names), matrix, layer)))


def compare_layers(spaces: Sequence[Space], layer: int) -> Result:
    """How alike the cosines of two layers are, and those of raw and denoised vectors.

    rsa_<kind>: likeness of a layer with the analysis layer (its cosine has a high floor);
    denoised_cosine: mean cosine of raw with denoised vectors; denoised_rsa: Spearman's r of the
    cosines among the ones with those among the others.
    """
    alike = geometry.representational_similarity(_triangles(s.cosines for s in spaces))
    kinds = {"cosine": alike.cosine, "pearson": alike.pearson, "spearman": alike.spearman}
    layers, n = [space.layer for space in spaces], len(spaces[0].emotions)
    home = layers.index(layer)
    metrics = [
        Metric(f"rsa_{kind}", matrix[i, home], here, f"layer {layer}", n=n)
        for kind, matrix in kinds.items()
        for i, here in enumerate(layers)
    ]
    for space in spaces:
        raw = geometry.cosine_matrix(space.raw)
        same = geometry.representational_similarity(_triangles([space.cosines, raw])).spearman[0, 1]
        cosine = np.einsum("ed,ed->e", space.directions, geometry.unit(space.raw)).mean()
        metrics.append(Metric("denoised_cosine", cosine, space.layer, n=n))
        metrics.append(Metric("denoised_rsa", same, space.layer, n=n))
    rows = tuple(
        (a, b, *(matrix[i, j] for matrix in kinds.values()))
        for i, a in enumerate(layers)
        for j, b in enumerate(layers)
    )
    return Result(tuple(metrics), (Table("layers", ("layer", "other", *kinds), rows),))


def _triangles(matrices: Iterable[Floats]) -> Floats:
    return np.stack([geometry.upper_triangle(matrix) for matrix in matrices])


def draw(rows: Rows) -> dict[str, Figure]:
    """The emotions on PC1 and PC2, all cosines, and by layer: variance, labels, likeness."""
    settings = rows.settings
    layer = int(settings["layer"])
    place = f"reader {settings['reader']}, corpus {settings['corpus']}"
    here = f"{place}, layer {layer}, {settings['vectors']} vectors"
    concept = str(settings["concept"])
    layers = sorted({row.layer for row in rows.metrics if row.layer is not None})
    figures = {
        "cosines": _draw_cosines(rows, layer, concept, here),
        "variance": _draw_variance(rows, layers, place),
    }
    if len(rows.select("pc_variance", layer)) > 1:
        figures["components"] = _draw_components(rows, layer, concept, here)
    if rows.select("r_valence") and rows.select("r_arousal"):
        figures["labels"] = _draw_labels(rows, layers, place)
    if len(layers) > 1:
        figures["layers"] = _draw_layers(rows, layers, place)
    return figures


def _draw_components(rows: Rows, layer: int, concept: str, here: str) -> Figure:
    shares = [row.value or 0.0 for row in rows.select("pc_variance", layer)]
    chosen = [row for row in rows.records("scores") if row["layer"] == layer]
    valence = [row["valence"] for row in chosen]
    source = rows.settings["labels"]
    return draw_scatter(
        np.array([(row["PC1"], row["PC2"]) for row in chosen], np.float64),
        [str(row["emotion"]) for row in chosen],
        title=f"{concept.capitalize()} vectors on their first two principal components",
        subtitle=f"{here}; {len(chosen)} vectors; labels: {source}",
        axis_names=(f"PC1 ({shares[0]:.1%} of variance)", f"PC2 ({shares[1]:.1%} of variance)"),
        values=None if None in valence else np.array(valence, np.float64),
        values_name=f"valence label ({source})",
    )


def _draw_cosines(rows: Rows, layer: int, concept: str, here: str) -> Figure:
    table = rows.table("cosines", layer)
    return draw_heatmap(
        np.array([row[1:] for row in table.rows], dtype=np.float64),
        table.columns[1:],
        title=f"Cosines between {concept} vectors",
        subtitle=f"{here}; in the order of an average-linkage tree",
        values_name="cosine",
    )


def _draw_variance(rows: Rows, layers: Sequence[int], place: str) -> Figure:
    shares = [[row.value or 0.0 for row in rows.select("pc_variance", at)] for at in layers]
    width = max(len(row) for row in shares)
    padded = np.array([row + [0.0] * (width - len(row)) for row in shares])
    return draw_variance(
        padded, layers, title="Variance along the first components", subtitle=place
    )


def _draw_labels(rows: Rows, layers: Sequence[int], place: str) -> Figure:
    lines = {}
    for component, label in (("PC1", "valence"), ("PC2", "arousal")):
        found = [row for row in rows.select(f"r_{label}") if row.subject == component]
        ends = [(row.value, row.ci_low, row.ci_high) for row in found]
        lines[f"{component} with {label}"] = np.array(ends, dtype=np.float64).T
    limits = [row.threshold or 0.0 for row in rows.metrics if row.metric.endswith("_max")]
    return draw_lines(
        layers,
        lines,
        title="Do the first components follow the labels?",
        subtitle=f"{place}; labels: {rows.settings['labels']}; bands: 95% bootstrap interval",
        value_name="Pearson r",
        chance=max(limits),
    )


def _draw_layers(rows: Rows, layers: Sequence[int], place: str) -> Figure:
    spearman = np.array([row["spearman"] for row in rows.records("layers")], np.float64)
    return draw_heatmap(
        spearman.reshape(len(layers), len(layers)),
        [f"layer {layer}" for layer in layers],
        title="Likeness of the layers",
        subtitle=f"{place}; Spearman's r between their cosines",
        values_name="Spearman's r",
    )


ANALYSIS = Analysis(
    name="geometry",
    question="Which directions do the vectors spread along, and do they follow the labels?",
    needs=("vectors",),
    run=run,
    draw=draw,
)
