"""Groups of directions: k-means, a hierarchy, and how far a partition can be trusted.

Works on directions (vectors of length 1), so that a group is never one of mere size; making them
so is the caller's. Knows nothing of what the directions stand for.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_STEPS = 300
"""Steps after which a start of k-means stops whether or not it has settled."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Groups of e directions."""

    labels: Integers
    """(e,) group of each, 0 for the largest group."""
    silhouette: float | None
    """Mean silhouette by cosine distance, -1 to 1; None unless 2 <= groups < e."""
    stability: float | None
    """Mean adjusted Rand index between the runs; None where nothing is random."""


def kmeans(
    directions: Floats, k: int, rng: np.random.Generator, *, runs: int = 5, starts: int = 4
) -> Partition:
    """k-means of directions (e, d) into at most k groups, started by k-means++.

    Each run keeps the tightest of its starts; the stability is the agreement of the runs, and the
    tightest of them is the partition.
    """
    if not 1 <= k <= len(directions):
        raise ValueError(f"{len(directions)} directions cannot form {k} groups")
    # The same distances in min(e, d) coordinates: a wide model costs no more than a narrow one.
    points = np.linalg.qr(directions.T)[1].T
    found = [
        min((_lloyd(points, k, rng) for _ in range(starts)), key=lambda fit: fit[1])
        for _ in range(runs)
    ]
    indices = [
        float(_adjusted_rand(a, b[None])[0]) for (a, _), (b, _) in itertools.combinations(found, 2)
    ]
    best = min(found, key=lambda fit: fit[1])[0]
    return _partition(directions, best, float(np.mean(indices)) if indices else None)


def hierarchical(directions: Floats, groups: int) -> Partition:
    """At most `groups` groups of a tree of average linkage on cosine distance, (e, d)."""
    tree = linkage(directions, method="average", metric="cosine")
    return _partition(directions, fcluster(tree, groups, criterion="maxclust"), None)


def leaf_order(directions: Floats) -> Integers:
    """Order (e,) in which neighbours in the tree of `hierarchical` stand side by side."""
    distances = pdist(directions, metric="cosine")
    tree = optimal_leaf_ordering(linkage(distances, method="average"), distances)
    return np.asarray(leaves_list(tree), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class RandIndex:
    """Agreement of two partitions against shuffled ones."""

    value: float
    chance: float
    p: float


def rand_index(
    a: Integers, b: Integers, rng: np.random.Generator, *, permutations: int
) -> RandIndex:
    """Adjusted Rand index of two partitions (e,); chance is its mean with b shuffled."""
    codes_a, codes_b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    shuffled = rng.permuted(np.tile(codes_b, (permutations, 1)), axis=1)
    indices = _adjusted_rand(codes_a, np.vstack([codes_b, shuffled]))
    at_least = int((indices[1:] >= indices[0] - 1e-12).sum())
    return RandIndex(
        float(indices[0]), float(indices[1:].mean()), (at_least + 1) / (permutations + 1)
    )


def _adjusted_rand(a: Integers, partitions: Integers) -> Floats:
    """Adjusted Rand index of a (e,) with each row of partitions (p, e), codes from 0: (p,)."""
    width_a, width_b = int(a.max()) + 1, int(partitions.max()) + 1
    rows = np.arange(len(partitions))[:, None]
    cells = (rows * width_a + a) * width_b + partitions
    counts = np.bincount(cells.ravel(), minlength=len(partitions) * width_a * width_b)
    together = _pairs(counts.reshape(len(partitions), -1)).sum(axis=1)
    pairs_a = float(_pairs(np.bincount(a)).sum())
    pairs_b = float(_pairs(np.bincount(partitions[0])).sum())
    expected = pairs_a * pairs_b / float(_pairs(np.array([len(a)]))[0])
    ceiling = (pairs_a + pairs_b) / 2.0
    if ceiling == expected:
        return np.ones(len(partitions))
    indices: Floats = (together - expected) / (ceiling - expected)
    return indices


def _pairs(counts: NDArray[np.integer]) -> Floats:
    return counts * (counts - 1.0) / 2.0


def _lloyd(points: Floats, k: int, rng: np.random.Generator) -> tuple[Integers, float]:
    """One start of k-means: the group of each point (n, d), and the squared distances in all."""
    centres = _spread_centres(points, k, rng)
    labels = np.full(len(points), -1)
    for _ in range(MAX_STEPS):
        nearest = (np.square(centres).sum(axis=1) - 2.0 * points @ centres.T).argmin(axis=1)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        members = np.eye(k)[:, labels]
        counts = members.sum(axis=1, keepdims=True)
        # A group that lost all of its points keeps its centre and may win some back.
        centres = np.where(counts > 0.0, members @ points / np.maximum(counts, 1.0), centres)
    return labels, float(np.square(points - centres[labels]).sum())


def _spread_centres(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k-means++: each next centre is drawn with odds of its squared distance from those before."""
    chosen = [int(rng.integers(len(points)))]
    distances = np.square(points - points[chosen[0]]).sum(axis=1)
    for _ in range(k - 1):
        odds = distances / distances.sum() if distances.any() else None
        chosen.append(int(rng.choice(len(points), p=odds)))
        distances = np.minimum(distances, np.square(points - points[chosen[-1]]).sum(axis=1))
    return points[chosen]


def _partition(directions: Floats, raw: NDArray[np.integer], stability: float | None) -> Partition:
    """Number the groups by size, ties by their first member."""
    codes = np.unique(raw, return_inverse=True)[1]
    sizes = np.bincount(codes)
    firsts = [int(np.flatnonzero(codes == group)[0]) for group in range(len(sizes))]
    order = sorted(range(len(sizes)), key=lambda group: (-int(sizes[group]), firsts[group]))
    labels = np.argsort(order)[codes].astype(np.int64)
    # Rounding makes the distance of equal directions slightly negative.
    distances = np.clip(1.0 - directions @ directions.T, 0.0, 2.0)
    return Partition(labels, _silhouette(distances, labels), stability)


def _silhouette(distances: Floats, labels: Integers) -> float | None:
    """Mean over points of (b - a) / max(a, b): a to the own group, b to the nearest other one."""
    members = np.eye(int(labels.max()) + 1)[labels]
    sizes = members.sum(axis=0)
    if not 2 <= len(sizes) < len(labels):
        return None
    own, place = sizes[labels], np.arange(len(labels))
    sums = distances @ members
    a = sums[place, labels] / np.maximum(own - 1.0, 1.0)
    others = sums / sizes
    others[place, labels] = np.inf
    b = others.min(axis=1)
    scale = np.maximum(np.maximum(a, b), np.finfo(np.float64).tiny)
    return float(np.where(own > 1.0, (b - a) / scale, 0.0).mean())
