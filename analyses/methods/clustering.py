"""Groups of directions: k-means, a hierarchy, and how far a partition can be trusted.

Works on directions (vectors of length 1), so that a group is never one of mere size; making them
so is the caller's. Knows nothing of what the directions stand for.
"""

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
    directions: NDArray[np.floating],
    k: int,
    rng: np.random.Generator,
    *,
    runs: int = 5,
    starts: int = 4,
) -> Partition:
    """k-means of directions (e, d) into at most k groups, started by k-means++ (scikit-learn).

    Each run keeps the tightest of its starts; the stability is the agreement of the runs, and the
    tightest of them is the partition.
    """
    if not 1 <= k <= len(directions):
        raise ValueError(f"{len(directions)} directions cannot form {k} groups")
    rows = np.asarray(directions, dtype=np.float64)
    # The same distances in min(e, d) coordinates: a wide model costs no more than a narrow one.
    points = np.linalg.qr(rows.T)[1].T
    found = [_fit(points, k, int(seed), starts) for seed in rng.integers(2**31, size=runs)]
    indices = [
        float(_adjusted_rand(a, b[None])[0]) for (a, _), (b, _) in itertools.combinations(found, 2)
    ]
    best = min(found, key=lambda fit: fit[1])[0]
    return _partition(rows, best, float(np.mean(indices)) if indices else None)


def hierarchical(directions: NDArray[np.floating], groups: int) -> Partition:
    """At most `groups` groups of a tree of average linkage on cosine distance, (e, d)."""
    rows = np.asarray(directions, dtype=np.float64)
    tree = linkage(rows, method="average", metric="cosine")
    return _partition(rows, fcluster(tree, groups, criterion="maxclust"), None)


def tree_of(directions: NDArray[np.floating]) -> Floats:
    """The tree of `hierarchical` as scipy's linkage (e - 1, 4): first, second, height, size.

    Its branches are turned so that neighbouring leaves are as near as they can be.
    """
    distances = pdist(np.asarray(directions, dtype=np.float64), metric="cosine")
    tree: Floats = optimal_leaf_ordering(linkage(distances, method="average"), distances)
    return tree


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


def _fit(points: Floats, k: int, seed: int, starts: int) -> tuple[Integers, float]:
    """The tightest of some starts: the group of each point (n, d), squared distances in all."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer distinct points than groups is no fault: the groups are "at most k".
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(k, n_init=starts, random_state=seed).fit(points)
    return fitted.labels_, float(fitted.inertia_)


def _partition(directions: Floats, raw: NDArray[np.integer], stability: float | None) -> Partition:
    """Number the groups by size, ties by their first member."""
    codes = np.unique(raw, return_inverse=True)[1]
    sizes = np.bincount(codes)
    firsts = [int(np.flatnonzero(codes == group)[0]) for group in range(len(sizes))]
    order = sorted(range(len(sizes)), key=lambda group: (-int(sizes[group]), firsts[group]))
    labels = np.argsort(order)[codes].astype(np.int64)
    return Partition(labels, _silhouette(directions, labels), stability)


def _silhouette(directions: Floats, labels: Integers) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 1 <= labels.max() < len(labels) - 1:
        return None
    return float(silhouette_score(directions, labels, metric="cosine"))
