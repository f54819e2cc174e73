"""The shape of a set of vectors: principal components, cosines, similarity of two such shapes.

Knows nothing of emotions: labels, where given, are plain numbers, one for each vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """PCA of (e, d) vectors, largest variance first; k <= min(e - 1, d)."""

    share: Floats
    """(k,) share of the variance, 0 to 1."""
    scores: Floats
    """(e, k) centred vectors along the components."""
    loadings: Floats
    """(k, d) orthonormal components."""


def principal_components(vectors: NDArray[np.floating]) -> PrincipalComponents:
    """PCA of vectors (e, d). Components without variance are left out; signs are arbitrary.

    ValueError if all vectors are the same.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    centred = rows - rows.mean(axis=0)
    left, singular, loadings = np.linalg.svd(centred, full_matrices=False)
    # The mean of equal vectors is rounded: what that leaves of them is no variance.
    rounding = np.finfo(np.float64).eps * max(rows.shape) * float(np.linalg.norm(rows))
    k = int((singular > rounding).sum())
    if k == 0:
        raise ValueError("all vectors are the same: they have no principal components")
    share = singular[:k] ** 2 / (singular**2).sum()
    return PrincipalComponents(share, left[:, :k] * singular[:k], loadings[:k])


def orient(found: PrincipalComponents, references: Mapping[int, Floats]) -> PrincipalComponents:
    """The same components with signs fixed: component i rises with references[i] (e,).

    A component without a reference gets its largest loading positive: arbitrary, but the same
    every time.
    """
    largest = np.abs(found.loadings).argmax(axis=1)
    signs = np.sign(found.loadings[np.arange(len(largest)), largest])
    for i, reference in references.items():
        if i < len(signs):
            rises = found.scores[:, i] @ (reference - reference.mean()) >= 0.0
            signs[i] = 1.0 if rises else -1.0
    return replace(found, scores=found.scores * signs, loadings=found.loadings * signs[:, None])


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Directions (e, d): vectors of length 1. ValueError if one has no length."""
    rows = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (norms > 0.0).all():
        raise ValueError(f"vectors {np.flatnonzero(norms == 0.0).tolist()} have length zero")
    directions: Floats = rows / norms
    return directions


def cosine_matrix(vectors: NDArray[np.floating]) -> Floats:
    """Cosines (e, e) of vectors (e, d), exactly symmetric, diagonal exactly 1."""
    directions = unit(vectors)
    cosines: Floats = np.clip(directions @ directions.T, -1.0, 1.0)
    cosines = (cosines + cosines.T) / 2.0
    np.fill_diagonal(cosines, 1.0)
    return cosines


def extreme_pairs(cosines: Floats, count: int, *, closest: bool) -> list[tuple[int, int, float]]:
    """The `count` pairs i < j of highest (closest) or lowest cosine, the most extreme first."""
    rows, columns = np.triu_indices(len(cosines), 1)
    values = cosines[rows, columns]
    order = np.argsort(-values if closest else values, kind="stable")[:count]
    return [(int(rows[i]), int(columns[i]), float(values[i])) for i in order]


def upper_triangle(matrix: Floats) -> Floats:
    """Entries above the diagonal of (e, e), row by row: (e * (e - 1) / 2,)."""
    triangle: Floats = matrix[np.triu_indices(len(matrix), 1)]
    return triangle


@dataclass(frozen=True, slots=True)
class Similarities:
    """How alike l shapes are; each array (l, l). The cosine has a high floor, so three are kept."""

    cosine: Floats
    pearson: Floats
    spearman: Floats


def representational_similarity(triangles: NDArray[np.floating]) -> Similarities:
    """Second-order similarity of l shapes, given as the upper triangles (l, m) of their cosines.

    NaN where a triangle does not vary, as with two vectors, which have one cosine.
    """
    entries = np.asarray(triangles, dtype=np.float64)
    ranks = rankdata(entries, axis=1)
    return Similarities(
        _row_cosines(entries),
        _row_cosines(entries - entries.mean(axis=1, keepdims=True)),
        _row_cosines(ranks - ranks.mean(axis=1, keepdims=True)),
    )


def _row_cosines(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = rows / np.where(norms > 0.0, norms, np.nan)
    return np.clip(directions @ directions.T, -1.0, 1.0)
