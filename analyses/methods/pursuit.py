"""Vectors rebuilt from few rows of a dictionary: orthogonal matching pursuit (Pati et al. 1993).

Knows nothing of SAEs: any rows will do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 4096
NOTHING = 1e-12
"""Share of a squared length below which only rounding is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """e targets, up to k rows each."""

    explained: Floats
    """[e, k]: share of the target's squared length explained by its first 1 ... k rows."""
    chosen: Ints
    """[e, k]: rows in the order in which they were taken; -1 once nothing is left to explain."""


def rebuild(targets: Floats, rows: NDArray[np.floating], steps: int) -> Rebuilt:
    """Each of `targets` [e, d] by least squares on the rows [f, d] that correlate most with what is
    left, one more at a time, with any sign.

    Rows are compared as they are stored, at their length 1; all else is float64. ValueError for a
    target without length.
    """
    lengths = np.linalg.norm(targets, axis=1, keepdims=True)
    if not (lengths > 0.0).all():
        raise ValueError(f"vectors {np.flatnonzero(lengths == 0.0).tolist()} have length zero")
    left = targets / lengths
    chosen = np.full((len(targets), steps), -1, dtype=np.int64)
    explained = np.ones(chosen.shape)
    bases = np.zeros((len(targets), steps, targets.shape[1]))
    scales = _inverse_lengths(rows)
    for step in range(steps):
        candidates = _most_alike(left, rows, scales)
        fresh = _orthogonal(rows[candidates] * scales[candidates, None], bases[:, :step])
        useful = (np.square(left).sum(axis=1) > NOTHING) & fresh.any(axis=1)
        chosen[useful, step] = candidates[useful]
        bases[useful, step] = fresh[useful]
        left -= bases[:, step] * (bases[:, step] * left).sum(axis=1, keepdims=True)
        explained[:, step] = 1.0 - np.square(left).sum(axis=1)
    return Rebuilt(np.maximum.accumulate(explained, axis=1), chosen)


def _most_alike(left: Floats, rows: NDArray[np.floating], scales: Floats) -> Ints:
    """[e] The row of highest absolute cosine with what is left [e, d]: none that was taken."""
    best, owner = np.full(len(left), -1.0), np.zeros(len(left), dtype=np.int64)
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    wanted = (left / np.where(lengths > 0.0, lengths, 1.0)).astype(rows.dtype)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        alike = np.abs(wanted @ block.T) * scales[start : start + BLOCK].astype(rows.dtype)
        winner = alike.argmax(axis=1)
        highest = alike[np.arange(len(left)), winner]
        owner = np.where(highest > best, start + winner, owner)
        best = np.maximum(best, highest)
    return owner


def _orthogonal(rows: Floats, bases: Floats) -> Floats:
    """[e, d] What rows [e, d] of length 1 have beyond orthonormal bases [e, k, d], at length 1.

    Zero where only rounding is left.
    """
    shared = np.matmul(bases, rows[:, :, None])
    rows = rows - np.matmul(shared.transpose(0, 2, 1), bases)[:, 0]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    fresh: Floats = np.where(lengths > NOTHING**0.5, rows / np.where(lengths > 0, lengths, 1), 0.0)
    return fresh


def _inverse_lengths(rows: NDArray[np.floating]) -> Floats:
    """[f] 1 / length of each row; 0 for one without."""
    squares = np.concatenate(
        [
            np.square(rows[start : start + BLOCK], dtype=np.float64).sum(axis=1)
            for start in range(0, len(rows), BLOCK)
        ]
    )
    scales: Floats = np.where(squares > 0.0, 1.0 / np.sqrt(np.where(squares > 0.0, squares, 1)), 0)
    return scales
