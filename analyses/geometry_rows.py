"""What is said of one layer of the geometry: components, ends, pairs, and what figures need.

A part of the geometry. Knows nothing of other layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.labels import LABELS, TESTED, Labels, component_names
from analyses.methods import clustering, geometry
from analyses.spaces import Space
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]

REPORTED = 10
"""Components whose variance is reported; scores are shown of those that are tested."""
PAIRS, ENDS = 15, 5
DECIMALS = 6
"""Of the cosines in tables."""


def describe_components(space: Space, labels: Labels) -> Result:
    """pc_variance by component, and two tables: the scores of every emotion with its labels, and
    the emotions at both ends of a component."""
    n, scores = len(space.emotions), space.found.scores[:, :TESTED]
    metrics = [
        Metric("pc_variance", share, space.layer, f"PC{i}", n=n)
        for i, share in enumerate(space.found.share[:REPORTED], 1)
    ]
    named = ("layer", "emotion", *LABELS, "family", *(f"PC{i + 1}" for i in range(TESTED)))
    tables = (
        Table("scores", named, _score_rows(space, scores, labels)),
        Table(
            "ends",
            ("layer", "component", "end", "rank", "emotion", "score"),
            tuple(_end_rows(space, scores)),
        ),
    )
    return Result(tuple(metrics), tables)


def _score_rows(space: Space, scores: Floats, labels: Labels) -> tuple[tuple[Cell, ...], ...]:
    nothing = np.full(len(scores), np.nan)
    columns = [labels.values.get(label, nothing) for label in LABELS]
    families = labels.families or (None,) * len(scores)
    padded = [*scores.T, *[nothing] * (TESTED - scores.shape[1])]
    rows = zip(space.emotions, *columns, families, *padded, strict=True)
    return tuple((space.layer, *row) for row in rows)


def _end_rows(space: Space, scores: Floats) -> Iterable[tuple[Cell, ...]]:
    for component, column in zip(component_names(scores), scores.T, strict=True):
        order = np.argsort(-column, kind="stable")
        for end, members in (("top", order[:ENDS]), ("bottom", order[::-1][:ENDS])):
            for rank, i in enumerate(members, 1):
                yield space.layer, component, end, rank, space.emotions[i], column[i]


def find_pairs(space: Space) -> Result:
    """The closest and the most opposite pairs, the most extreme first."""
    tables = []
    for name, closest in (("closest", True), ("opposite", False)):
        rows = tuple(
            (space.layer, space.emotions[i], space.emotions[j], cosine)
            for i, j, cosine in geometry.extreme_pairs(space.cosines, PAIRS, closest=closest)
        )
        tables.append(Table(name, ("layer", "emotion", "other", "cosine"), rows))
    return Result(tables=tuple(tables))


def show_layer(space: Space) -> Result:
    """The single answers, and what is drawn, of the analysis layer.

    pc1_variance, pc2_variance: shares under the names that publications use; pc<i>_score by
    emotion. Tables: `loadings`, a row for each dimension of the vectors; `cosines`, all of them;
    `linkage`, the tree over the rows of `cosines`: what is joined (a row, counted from 0, or a join
    before, counted on), at which cosine distance, of how many.
    """
    n, scores = len(space.emotions), space.found.scores[:, :TESTED]
    metrics = [
        Metric(f"pc{i}_variance", share, space.layer, n=n)
        for i, share in enumerate(space.found.share[:2], 1)
    ]
    metrics += [
        Metric(f"pc{i}_score", score, space.layer, name, n=n)
        for i, column in enumerate(scores.T, 1)
        for name, score in zip(space.emotions, column, strict=True)
    ]
    loadings = space.found.loadings[:TESTED].T.tolist()
    cosines = space.cosines.round(DECIMALS).tolist()
    joins = clustering.tree_of(space.directions).tolist()
    tables = (
        ("loadings", ("dimension", *component_names(scores)), enumerate(loadings)),
        ("cosines", ("emotion", *space.emotions), zip(space.emotions, cosines, strict=True)),
    )
    return Result(
        tuple(metrics),
        (
            *(
                Table(name, columns, tuple((key, *row) for key, row in rows), space.layer)
                for name, columns, rows in tables
            ),
            Table(
                "linkage",
                ("first", "second", "height", "size"),
                tuple((int(a), int(b), height, int(size)) for a, b, height, size in joins),
                space.layer,
            ),
        ),
    )


def list_pairs(emotions: Sequence[str], triangles: Mapping[int, Floats]) -> Table:
    """The cosine of every two emotions, a column for each layer."""
    pairs = combinations(emotions, 2)
    cosines = np.stack(list(triangles.values()), axis=1).round(DECIMALS).tolist()
    named = ("emotion", "other", *(f"layer_{layer}" for layer in triangles))
    cells = ((*pair, *values) for pair, values in zip(pairs, cosines, strict=True))
    return Table("pairs", named, tuple(cells))


def joined(parts: Sequence[Result]) -> Result:
    """The parts as one: tables of one name and layer become one, in the order of the parts."""
    tables: dict[tuple[str, int | None], list[Table]] = {}
    for part in parts:
        for table in part.tables:
            tables.setdefault((table.name, table.layer), []).append(table)
    return Result(
        tuple(metric for part in parts for metric in part.metrics),
        tuple(
            Table(name, found[0].columns, tuple(row for each in found for row in each.rows), layer)
            for (name, layer), found in tables.items()
        ),
    )
