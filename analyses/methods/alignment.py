"""How near the rows of a dictionary come to directions, and how near random rows would come.

A random row is normal with the covariance of the activations: real activations fill few of their
dimensions, so that rows spread evenly, or shuffled, are far too easy a null. Knows nothing of SAEs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

Floats = NDArray[np.float64]

BLOCK = 4096
"""Rows that are looked at together."""
_NODES, _STEPS = np.polynomial.legendre.leggauss(64)
ANGLES, ANGLE_STEPS = (_NODES + 1.0) * np.pi / 4.0, _STEPS * np.pi / 4.0
"""Gauss-Legendre from 0 to a right angle: nine digits of a tail, four where it is nearly 1/2."""
LEAST = float(np.log(np.finfo(np.float64).tiny))
"""Log of the smallest probability that is told apart: none is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Principal axes of random rows: found once, because at d = 4096 that takes half a minute."""

    variances: Floats
    """[d], their mean 1: no cosine depends on the scale. 0 where only rounding is left."""
    loadings: Floats
    """[d, d], a column for each axis."""


def principal_axes(covariance: Floats) -> Axes:
    """Of covariance [d, d]. ValueError if nothing varies."""
    variances, loadings = np.linalg.eigh(covariance)
    variances[variances <= variances.max() * len(variances) * np.finfo(np.float64).eps] = 0.0
    if not variances.any():
        raise ValueError("the covariance is zero: random rows have no direction")
    return Axes(variances / variances.mean(), loadings)


def best_cosines(
    directions: Floats, rows: NDArray[np.floating]
) -> tuple[Floats, NDArray[np.int64]]:
    """The highest cosine of each direction [e, d] with rows [f, d], and whose it is: [e], [e].

    A row without length is nobody's. ValueError if no row has length.
    """
    directions = _unit(directions)
    best, owner = np.full(len(directions), -np.inf), np.zeros(len(directions), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float64)
        cosines = _block_cosines(directions, block)
        winner = cosines.argmax(axis=1)
        highest = cosines[np.arange(len(best)), winner]
        owner = np.where(highest > best, start + winner, owner)
        best = np.maximum(best, highest)
    if not np.isfinite(best).all():
        raise ValueError(f"none of {len(rows)} rows has length: they have no cosines")
    return np.clip(best, -1.0, 1.0), owner


def nearest_rows(
    directions: Floats, banks: Sequence[NDArray[np.floating]], kept: int
) -> tuple[Floats, NDArray[np.int64]]:
    """The highest cosines of each direction [e, d] with the rows [*, d] of all banks, and which
    rows they are, counted through: [e, kept] each, in any order."""
    directions = _unit(directions)
    cosines, owners = np.empty((len(directions), 0)), np.empty((len(directions), 0), np.int64)
    first = 0
    for rows in banks:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK].astype(np.float64)
            alike = _block_cosines(directions, block)
            own = np.broadcast_to(np.arange(first, first + len(block)), alike.shape)
            cosines, owners = np.hstack([cosines, alike]), np.hstack([owners, own])
            if cosines.shape[1] > kept:
                best = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
                cosines = np.take_along_axis(cosines, best, axis=1)
                owners = np.take_along_axis(owners, best, axis=1)
            first += len(block)
    return cosines, owners


def _block_cosines(directions: Floats, block: Floats) -> Floats:
    """[e, b] of directions [e, d] of length 1; a row without length is nobody's."""
    norms = np.linalg.norm(block, axis=1)
    alike = directions @ block.T / np.where(norms > 0.0, norms, 1.0)
    cosines: Floats = np.where(norms > 0.0, alike, -np.inf)
    return cosines


def row_tail(cosines: Floats, directions: Floats, axes: Axes) -> Floats:
    """[e] P(cos(direction, g) >= cosine) for a random row g: exact, far into the tail.

    With g = sqrt(D) z along its axes and w the direction there, a cosine of at least c > 0 is half
    of the event that z' A z >= 0, A = sqrt(D) (w w' - c^2) sqrt(D). A has a single positive
    eigenvalue, so that this is a normal's tail averaged over the other terms; by the formula of
    Craig (1991) it is one integral of products, whose terms are all positive.
    """
    weights = np.square(_unit(directions) @ axes.loadings)
    logs = [_log_tail(abs(c), w, axes.variances) for c, w in zip(cosines, weights, strict=True)]
    upper = np.exp(np.maximum(logs, LEAST))
    return np.where(cosines >= 0.0, upper, 1.0 - upper)


def best_tail(tails: Floats, rows: int) -> Floats:
    """P(the best of `rows` independent random rows >= it): 1 - (1 - tail)^rows, without losing
    digits."""
    with np.errstate(divide="ignore"):
        p: Floats = -np.expm1(rows * np.log1p(-tails))
    return p


def expected_best(directions: Floats, axes: Axes, rows: int, probability: float) -> Floats:
    """[e] The cosine that the best of `rows` random rows stays below with this probability."""
    weights = np.square(_unit(directions) @ axes.loadings)
    tail = -np.expm1(np.log(probability) / rows)
    sign, upper = (1.0, tail) if tail <= 0.5 else (-1.0, 1.0 - tail)
    return sign * np.array([_cosine_at(upper, own, axes.variances) for own in weights])


def _cosine_at(tail: float, weights: Floats, variances: Floats) -> float:
    """The cosine c >= 0 that a random row reaches with probability `tail`, at most 1/2."""

    def excess(c: float) -> float:
        return max(_log_tail(c, weights, variances), LEAST) - float(np.log(tail))

    return float(brentq(excess, 0.0, 1.0, xtol=1e-12)) if excess(0.0) > 0.0 else 0.0


def _log_tail(c: float, weights: Floats, variances: Floats) -> float:
    """Log P(cosine >= c) for c >= 0, by squared weights [d] of the direction on the axes.

    With t the inverse of A's positive eigenvalue, times c^2: at each of Craig's angles the product
    is det(1 + t D / sin^2) without the factor that vanishes at the pole.
    """
    if c == 0.0:
        return float(np.log(0.5))
    if c**2 >= min(float(weights[variances > 0.0].sum()), 1.0):
        return -np.inf
    t = _pole(c, weights, variances)
    grown = 1.0 + (t / np.sin(ANGLES) ** 2)[:, None] * variances
    rest = (t / c**2) * (weights * variances / (1.0 + t * variances) / grown).sum(axis=1)
    logs = -0.5 * (np.log(grown).sum(axis=1) + np.log(rest))
    return float(logsumexp(logs, b=ANGLE_STEPS / np.pi))


def _pole(c: float, weights: Floats, variances: Floats) -> float:
    """t > 0 with sum(weights / (1 + t variances)) = 1 - c^2: Newton on the inverse, from below."""
    t = 0.0
    for _ in range(200):
        shares = weights / (1.0 + t * variances)
        missing = c**2 - t * (shares * variances).sum()
        slope = (shares * variances / (1.0 + t * variances)).sum()
        step = missing * shares.sum() / ((1.0 - c**2) * slope)
        t += step
        if step <= 1e-13 * t:
            break
    return t


def _unit(directions: Floats) -> Floats:
    unit: Floats = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return unit
