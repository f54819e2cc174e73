"""Directions that neutral text varies along, and vectors without them.

Takes one pooled mean per neutral text: components of single tokens are another, far larger set.
Knows nothing of where the texts came from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NeutralComponents:
    """Principal components of neutral texts."""

    components: Floats
    """(k, d), orthonormal rows, largest variance first."""
    explained: float
    """Share of the neutral variance along them, 0 to 1."""
    n: int
    """Neutral texts they were computed from."""

    @property
    def k(self) -> int:
        return len(self.components)


def neutral_components(neutral: NDArray[np.floating], share: float) -> NeutralComponents:
    """The fewest components of neutral (n, d) that explain `share` of its variance.

    share 0 gives none. ValueError for fewer than two texts, no variance, or a share outside 0..1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share of variance must lie in 0..1, not {share}")
    if len(neutral) < 2:
        raise ValueError(f"components need at least 2 neutral texts, not {len(neutral)}")
    rows = np.asarray(neutral, dtype=np.float64)
    _, singular, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    total = float((singular**2).sum())
    if not total > 0.0:
        raise ValueError("the neutral texts do not vary: there is nothing to project out")
    explained = np.concatenate([[0.0], np.cumsum(singular**2) / total])
    # Rounding may leave the last sum just under 1: share 1.0 must still be reached.
    k = min(int(np.searchsorted(explained, share - 1e-12)), len(singular))
    return NeutralComponents(directions[:k].copy(), float(explained[k]), len(rows))


def project_out(vectors: Floats, components: Floats) -> Floats:
    """vectors (e, d) less their part along the orthonormal components (k, d); a new array."""
    rest: Floats = vectors - (vectors @ components.T) @ components
    return rest
