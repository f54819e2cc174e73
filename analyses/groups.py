"""Groups of directions at every layer: who is in them, and how far they can be trusted.

A part of the geometry. Knows nothing of where the directions, or the families that groups are
compared with, come from.
"""

from collections.abc import Sequence

import numpy as np

from analyses.base import Result
from analyses.methods import clustering
from analyses.spaces import Space
from stores.results import Cell, Metric, Table

KMEANS_GROUPS, TREE_GROUPS = 10, 15
COLUMNS = ("layer", "group", "size", "centre", "members")


def find_groups(
    spaces: Sequence[Space],
    families: tuple[str, ...] | None,
    permutations: int,
    rng: np.random.Generator,
) -> Result:
    """Groups by k-means and by a tree, with their members, and both against the families.

    kmeans_silhouette and tree_silhouette by cosine; kmeans_stability is the agreement of its runs;
    ari_families the adjusted Rand index with the given families, made of as many groups, with its
    chance level and p from shuffled families.
    """
    metrics: list[Metric] = []
    members: dict[str, list[tuple[Cell, ...]]] = {"kmeans": [], "tree": []}
    for space in spaces:
        n = len(space.emotions)
        means = clustering.kmeans(space.directions, min(KMEANS_GROUPS, n), rng)
        tree = clustering.hierarchical(space.directions, min(TREE_GROUPS, n))
        metrics += [
            Metric("kmeans_silhouette", means.silhouette, space.layer, n=n),
            Metric("kmeans_stability", means.stability, space.layer, n=n, chance=0.0),
            Metric("tree_silhouette", tree.silhouette, space.layer, n=n),
        ]
        members["kmeans"] += _member_rows(space, means)
        members["tree"] += _member_rows(space, tree)
        if families:
            metrics += _compare_families(space, families, permutations, rng)
    tables = tuple(Table(name, COLUMNS, tuple(rows)) for name, rows in members.items())
    return Result(tuple(metrics), tables)


def _compare_families(
    space: Space,
    families: tuple[str, ...],
    permutations: int,
    rng: np.random.Generator,
) -> list[Metric]:
    names, codes = np.unique(families, return_inverse=True)
    found = {
        "k-means": clustering.kmeans(space.directions, len(names), rng),
        "tree": clustering.hierarchical(space.directions, len(names)),
    }
    rows = []
    for name, partition in found.items():
        index = clustering.rand_index(partition.labels, codes, rng, permutations=permutations)
        n = len(families)
        rows.append(
            Metric("ari_families", index.value, space.layer, name, n, index.chance, p_value=index.p)
        )
    return rows


def _member_rows(space: Space, partition: clustering.Partition) -> list[tuple[Cell, ...]]:
    """Groups by size, members from the middle outwards: the first is nearest to their mean."""
    rows: list[tuple[Cell, ...]] = []
    for group in range(int(partition.labels.max()) + 1):
        members = np.flatnonzero(partition.labels == group)
        closeness = space.cosines[np.ix_(members, members)].sum(axis=1)
        names = [space.emotions[i] for i in members[np.argsort(-closeness, kind="stable")]]
        rows.append((space.layer, group, len(names), names[0], ", ".join(names)))
    return rows
