"""What scikit-learn and scipy, called plainly, say of the same vectors: a yardstick for the bench.

Not how the analyses compute: nothing of this module is published. Knows nothing of emotions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlainGeometry:
    """Components, cosines, groups and likeness of l layers of vectors (e, d)."""

    shares: Floats
    """(l, k) of the variance."""
    cosines: Floats
    """(l, e, e)."""
    spearman: Floats
    """(l, l) of the cosines above the diagonals."""
    silhouettes: Floats
    """(l,) by cosine, of the groups of an average-linkage tree."""
    stability: Floats
    """(l,) mean adjusted Rand index between runs of k-means from different seeds."""


def plain_geometry(
    layers: Iterable[NDArray[np.floating]],
    *,
    components: int,
    kmeans_groups: int,
    tree_groups: int,
    runs: int = 5,
    starts: int = 4,
) -> PlainGeometry:
    """Every layer (e, d) by the libraries' own functions, as one would call them in a notebook.

    ValueError unless there are more vectors than groups, and at least `components` of either axis.
    """
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import cosine_similarity

    shares, cosines, silhouettes, stability = [], [], [], []
    for vectors in layers:
        # The solver it would choose by itself at this size is a random approximation.
        fitted = PCA(n_components=components, svd_solver="full").fit(vectors)
        shares.append(fitted.explained_variance_ratio_)
        cosines.append(cosine_similarity(vectors))
        labels = _cut_tree(vectors, tree_groups)
        silhouettes.append(silhouette_score(vectors, labels, metric="cosine"))
        stability.append(_kmeans_stability(vectors, kmeans_groups, runs, starts))
    return PlainGeometry(
        np.array(shares),
        np.stack(cosines),
        _spearman(cosines),
        np.array(silhouettes),
        np.array(stability),
    )


def _cut_tree(vectors: NDArray[np.floating], groups: int) -> NDArray[np.integer]:
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(vectors, method="average", metric="cosine")
    labels: NDArray[np.integer] = fcluster(tree, groups, criterion="maxclust")
    return labels


def _kmeans_stability(vectors: NDArray[np.floating], groups: int, runs: int, starts: int) -> float:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from sklearn.preprocessing import normalize

    directions = normalize(vectors)
    found = [
        KMeans(groups, n_init=starts, random_state=seed).fit_predict(directions)
        for seed in range(runs)
    ]
    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(found, 2)]))


def _spearman(cosines: Iterable[Floats]) -> Floats:
    from scipy.stats import spearmanr

    triangles = [matrix[np.triu_indices(len(matrix), 1)] for matrix in cosines]
    matrix = [[spearmanr(a, b).statistic for a in triangles] for b in triangles]
    return np.array(matrix)
