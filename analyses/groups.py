"""Groups of directions at a layer: who is in them, and how far they can be trusted.

A part of the geometry. Knows nothing of where the directions, or the families that groups are
compared with, come from.
"""

import numpy as np

from analyses.base import Result
from analyses.methods import clustering
from analyses.spaces import Space
from stores.results import Cell, Metric, Table

KMEANS_GROUPS, TREE_GROUPS = 10, 15
"""Groups that are asked for; of few emotions half as many, lest each be a group by itself."""
COLUMNS = ("layer", "group", "size", "centre", "members")


def find_groups(
    space: Space, families: tuple[str, ...] | None, permutations: int, rng: np.random.Generator
) -> Result:
    """Groups by k-means and by a tree, with their members, and both against the families.

    kmeans_silhouette and tree_silhouette by cosine; kmeans_stability is the agreement of its runs
    from different seeds; ari_families the adjusted Rand index with the given families, made of as
    many groups, with its chance level and p from shuffled families. Tables: `kmeans` and `tree`,
    a row for each group, and `groups`, a row for each emotion.
    """
    n = len(space.emotions)
    most = max(2, n // 2)
    means = clustering.kmeans(space.directions, min(KMEANS_GROUPS, most), rng)
    tree = clustering.hierarchical(space.directions, min(TREE_GROUPS, most))
    metrics = [
        Metric("kmeans_silhouette", means.silhouette, space.layer, n=n),
        Metric("kmeans_stability", means.stability, space.layer, n=n, chance=0.0),
        Metric("tree_silhouette", tree.silhouette, space.layer, n=n),
    ]
    if families:
        metrics += _compare_families(space, families, permutations, rng)
    both = zip(space.emotions, means.labels.tolist(), tree.labels.tolist(), strict=True)
    tables = (
        Table("kmeans", COLUMNS, _member_rows(space, means)),
        Table("tree", COLUMNS, _member_rows(space, tree)),
        Table(
            "groups",
            ("layer", "emotion", "kmeans", "tree"),
            tuple((space.layer, *row) for row in both),
        ),
    )
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


def _member_rows(space: Space, partition: clustering.Partition) -> tuple[tuple[Cell, ...], ...]:
    """Groups by size, members from the middle outwards: the first is nearest to their mean."""
    rows: list[tuple[Cell, ...]] = []
    for group in range(int(partition.labels.max()) + 1):
        members = np.flatnonzero(partition.labels == group)
        closeness = space.cosines[np.ix_(members, members)].sum(axis=1)
        names = [space.emotions[i] for i in members[np.argsort(-closeness, kind="stable")]]
        rows.append((space.layer, group, len(names), names[0], ", ".join(names)))
    return tuple(rows)
