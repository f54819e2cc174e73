"""Small worlds with known geometry: emotions on a plane of valence and arousal, in families."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Vectors (e, d) that vary along a valence axis, an arousal axis and their families."""

    vectors: Floats
    valence: Floats
    arousal: Floats
    families: NDArray[np.int64]


def planted_world(e: int = 60, d: int = 40, families: int = 6, seed: int = 0) -> World:
    """Valence along one axis, arousal along another at two thirds its size, families around."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0].T
    valence, arousal = _uncorrelated(*rng.uniform(-1.0, 1.0, size=(2, e)))
    groups = np.arange(e) % families
    centres = rng.normal(size=(families, d - 2)) * 0.08
    spread = (centres[groups] + rng.normal(size=(e, d - 2)) * 0.02) @ axes[2:]
    vectors = 3.0 * np.outer(valence, axes[0]) + 2.0 * np.outer(arousal, axes[1]) + spread
    return World(frozen(vectors - vectors.mean(axis=0)), valence, arousal, groups)


def _uncorrelated(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Two columns without a common part, so that components are the axes that were planted."""
    a, b = a - a.mean(), b - b.mean()
    b -= (a @ b) / (a @ a) * a
    return a / np.abs(a).max(), b / np.abs(b).max()


def frozen(array: Floats) -> Floats:
    """The same array, read-only: a method that writes to its input raises."""
    array.setflags(write=False)
    return array
