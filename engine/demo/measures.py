"""The few statistics that the scorecard needs, in numpy alone: axes, clusters, ranks, Elo.

Knows nothing of models or texts. (The experiments' own methods live in analyses/methods.)
"""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

ELO_START, ELO_K, ELO_PASSES, ELO_STILL = 1000.0, 32.0, 10, 1.0


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's r of two series; 0 where one of them is constant."""
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rho of two series without ties."""
    return correlation(_ranks(a), _ranks(b))


def _ranks(values: Floats) -> Floats:
    return np.argsort(np.argsort(values)).astype(np.float64)


def unit(vectors: Floats) -> Floats:
    """Rows scaled to length 1."""
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def center(rows: Floats) -> Floats:
    """Rows less their mean."""
    centered: Floats = rows - rows.mean(axis=0)
    return centered


def principal_axes(rows: Floats) -> tuple[Floats, Floats]:
    """Scores [n, k] of the centred rows [n, d] on their axes, and the variance shares [k]."""
    left, singular, _ = np.linalg.svd(center(rows), full_matrices=False)
    shares: Floats = singular**2 / (singular**2).sum()
    return left * singular, shares


def remove_common(vectors: Floats, neutral: Floats, share: float) -> Floats:
    """Vectors [e, d] less the fewest axes of `neutral` [n, d] that hold `share` of its variance."""
    _, singular, axes = np.linalg.svd(center(neutral), full_matrices=False)
    held = np.cumsum(singular**2) / (singular**2).sum()
    common = axes[: int(np.searchsorted(held, share)) + 1]
    kept: Floats = vectors - vectors @ common.T @ common
    return kept


def cluster(points: Floats, k: int, rng: np.random.Generator, restarts: int = 10) -> Labels:
    """k-means with k-means++ starts: the labels [n] of the restart with the least inertia."""
    attempts = [_k_means(points, k, rng) for _ in range(restarts)]
    return min(attempts, key=lambda attempt: attempt[0])[1]


def _k_means(points: Floats, k: int, rng: np.random.Generator) -> tuple[float, Labels]:
    centers = points[rng.integers(len(points), size=1)]
    while len(centers) < k:
        nearest = _distances(points, centers).min(axis=1)
        centers = np.vstack([centers, points[rng.choice(len(points), p=nearest / nearest.sum())]])
    labels = np.full(len(points), -1)
    while True:
        distances = _distances(points, centers)
        moved = distances.argmin(axis=1)
        if (moved == labels).all():
            return float(distances.min(axis=1).sum()), labels
        labels = moved
        for c in set(labels.tolist()):
            centers[c] = points[labels == c].mean(axis=0)


def _distances(points: Floats, centers: Floats) -> Floats:
    squares: Floats = ((points[:, None] - centers[None]) ** 2).sum(axis=2)
    return squares


def adjusted_rand(a: Labels, b: Labels) -> float:
    """Agreement of two partitions: 1 when equal, 0 on average by chance."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    together, rows, columns = (
        float((x * (x - 1) / 2).sum()) for x in (table, table.sum(axis=1), table.sum(axis=0))
    )
    expected = rows * columns / (len(a) * (len(a) - 1) / 2)
    highest = (rows + columns) / 2
    return (together - expected) / (highest - expected) if highest != expected else 1.0


def spread(values: Floats, n: int) -> list[int]:
    """Indices of n values (fewer if there are fewer) evenly spaced in rank."""
    places = np.linspace(0, len(values) - 1, min(n, len(values))).round().astype(int)
    return [int(index) for index in np.argsort(values)[places]]


def elo(preference: Floats, seed: int = 0) -> Floats:
    """Ratings [n] from preference[i, j], the probability that i is preferred to j.

    Every pair once per pass in seeded order, K = 32, from 1000; at most 10 passes, fewer when no
    rating moves by a point over a pass. The same seed plays the same order: changes compare.
    """
    rng = random.Random(seed)
    ratings = [ELO_START] * len(preference)
    games = [(i, j, float(preference[i, j])) for i, j in combinations(range(len(preference)), 2)]
    for _ in range(ELO_PASSES):
        before = list(ratings)
        rng.shuffle(games)
        for i, j, score in games:
            change = ELO_K * (score - 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400)))
            ratings[i] += change
            ratings[j] -= change
        if max(abs(new - old) for new, old in zip(ratings, before, strict=True)) < ELO_STILL:
            break
    return np.array(ratings)
