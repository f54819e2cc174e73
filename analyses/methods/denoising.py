"""Directions that neutral text varies along, and vectors without them.

Takes one pooled mean per neutral text: components of single tokens are another, far larger set.
Knows nothing of where the texts came from.
"""

from dataclasses import dataclass, field

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


@dataclass(slots=True)
class NeutralScatter:
    """How neutral texts scatter about their mean; they are added block by block.

    Keeps the texts themselves while they are no more than their dimensions, and from then on only
    the products of dimensions: never more than (d, d) numbers, however many texts there are.
    """

    n: int = 0
    _origin: Floats | None = None
    _sum: Floats | float = 0.0
    _rows: list[Floats] = field(default_factory=list)
    _products: Floats | None = None

    def add(self, block: NDArray[np.floating]) -> None:
        """Add texts: block (n, d)."""
        rows = np.asarray(block, dtype=np.float64)
        if self._origin is None:
            # What all texts share is far larger than what tells them apart: its square would
            # cost the digits of the products.
            self._origin = rows.mean(axis=0)
        rows = rows - self._origin
        self.n += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._rows.append(rows)
        if self.n > rows.shape[1]:
            self._fold()

    def _fold(self) -> None:
        for rows in self._rows:
            products = rows.T @ rows
            self._products = products if self._products is None else self._products + products
        self._rows.clear()

    def components(self, share: float) -> NeutralComponents:
        """The fewest components that explain `share` of the variance; share 0 gives none.

        ValueError for fewer than two texts, no variance, or a share outside 0..1.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share of variance must lie in 0..1, not {share}")
        if self.n < 2:
            raise ValueError(f"components need at least 2 neutral texts, not {self.n}")
        mean = self._sum / self.n
        if self._products is None:
            rows = np.concatenate(self._rows) - mean
            basis, explained = _leading(rows @ rows.T, share)
            # the same directions, seen from the texts; their lengths differ, which qr mends
            basis = np.linalg.qr(rows.T @ basis)[0]
        else:
            basis, explained = _leading(self._products - self.n * np.outer(mean, mean), share)
        return NeutralComponents(np.ascontiguousarray(basis.T), explained, self.n)


def neutral_components(neutral: NDArray[np.floating], share: float) -> NeutralComponents:
    """The components of neutral (n, d) at once; see `NeutralScatter.components`."""
    scatter = NeutralScatter()
    scatter.add(neutral)
    return scatter.components(share)


def _leading(products: Floats, share: float) -> tuple[Floats, float]:
    """The leading eigenvectors (m, k) that explain `share`, and the share they do explain."""
    variances, basis = np.linalg.eigh(products)
    variances = variances[::-1].clip(min=0.0)
    total = float(variances.sum())
    if not total > 0.0:
        raise ValueError("the neutral texts do not vary: there is nothing to project out")
    explained = np.concatenate([[0.0], np.cumsum(variances) / total])
    # Rounding may leave the last sum just under 1: share 1.0 must still be reached.
    k = min(int(np.searchsorted(explained, share - 1e-12)), len(variances))
    return basis[:, ::-1][:, :k], float(explained[k])


def project_out(vectors: Floats, components: Floats) -> Floats:
    """vectors (e, d) less their part along the orthonormal components (k, d); a new array."""
    rest: Floats = vectors - (vectors @ components.T) @ components
    return rest
