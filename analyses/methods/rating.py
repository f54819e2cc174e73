"""Ratings from pairwise preferences: Elo as the report defines it, and Bradley-Terry.

Every function takes any leading axes, so that many arms (directions, strengths) are rated at
once. Knows nothing of activities, prompts or models: an item is an index. (a items.)
"""

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from analyses.methods.statistics import require_finite

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

START, K, PASSES, STILL = 1000.0, 32.0, 10, 1.0
"""Elo: where all start, points at stake in a game, most passes, a pass that moves less ends it."""

POINTS = 400.0 / np.log(10.0)
"""Points per unit of log odds: 400 points are odds of 10 to 1 (Elo 1978)."""

PRIOR = 0.01
"""Bradley-Terry: precision of the normal prior on a log strength; its sd is 10, or 1737 points."""

NEWTON_STEPS, CONVERGED = 200, 1e-9


def choose_first(logits: Floats) -> Floats:
    """P(A) = sigmoid(logit A - logit B) of logits (..., 2)."""
    return np.asarray(expit(logits[..., 0] - logits[..., 1]), dtype=np.float64)


def arrange(chosen: Floats, first: Sequence[int], second: Sequence[int], items: int) -> Floats:
    """P(A) of every question (..., q) as a table (..., a, a): row shown first, column second.

    The diagonal is NaN. ValueError unless every ordered pair was asked once and has an answer.
    """
    pairs = list(zip(first, second, strict=True))
    if sorted(pairs) != [(i, j) for i in range(items) for j in range(items) if i != j]:
        raise ValueError(f"the questions are not every ordered pair of {items} items, each once")
    require_finite("the answers", chosen)
    ordered = np.full((*chosen.shape[:-1], items, items), np.nan)
    ordered[..., np.asarray(first), np.asarray(second)] = chosen
    return ordered


def soft_wins(ordered: Floats) -> Floats:
    """Share of a win of row over column, mean of both orders; ordered (..., a, a) = `arrange`.

    w_ij = (P(A | i first, j second) + 1 - P(A | j first, i second)) / 2; the diagonal is 1/2.
    """
    wins = (ordered + (1.0 - ordered.swapaxes(-1, -2))) / 2.0
    return _with_diagonal(wins, 0.5)


def hard_wins(ordered: Floats) -> Floats:
    """As `soft_wins`, but each answer counts as 1, 0, or 1/2 where P(A) is exactly 1/2."""
    return soft_wins(np.where(np.isnan(ordered), np.nan, (np.sign(ordered - 0.5) + 1.0) / 2.0))


def position_bias(ordered: Floats) -> Floats:
    """Mean P(A) over all ordered pairs less 1/2, (...): how much being shown first helps."""
    items = ordered.shape[-1]
    asked = ordered[..., ~np.eye(items, dtype=bool)]
    require_finite("the answers", asked)
    bias: Floats = np.asarray(asked.mean(axis=-1) - 0.5)
    return bias


def elo(wins: Floats, seed: int = 0) -> Floats:
    """Elo ratings (..., a) from wins (..., a, a), where w_ij + w_ji = 1.

    Every pair plays once per pass, in an order drawn anew for each pass from the seed: i gains
    32 (w_ij - 1 / (1 + 10 ** ((R_j - R_i) / 400))) and j loses it, so the sum never changes. All
    start at 1000; at most 10 passes, fewer when no rating moves by a point over a pass. The same
    seed plays the same order in every arm, so that changes between arms compare.
    """
    table = _require_wins(wins)
    if not np.allclose(table + table.swapaxes(-1, -2), 1.0, rtol=0.0, atol=1e-9):
        raise ValueError("the wins of a pair must add up to 1: a game is won, lost or shared")
    items = table.shape[-1]
    scores = np.ascontiguousarray(np.moveaxis(table.reshape(-1, items, items), 0, -1))
    ratings = np.full((items, scores.shape[-1]), START)
    playing = np.arange(scores.shape[-1])
    games, order = list(combinations(range(items), 2)), random.Random(seed)
    for _ in range(PASSES):
        order.shuffle(games)
        before = ratings[:, playing]
        after = _play(before.copy(), scores[:, :, playing], _rounds(games, items))
        ratings[:, playing] = after
        playing = playing[np.abs(after - before).max(axis=0) >= STILL]
        if not playing.size:
            break
    return ratings.T.reshape(table.shape[:-1])


def _rounds(games: Sequence[tuple[int, int]], items: int) -> list[tuple[Ints, Ints]]:
    """The games in rounds in which nobody plays twice: one after the other gives the same ratings.

    A game goes to the first round after the rounds of both players' earlier games.
    """
    played = [0] * items
    rounds: list[list[tuple[int, int]]] = []
    for i, j in games:
        turn = max(played[i], played[j])
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append((i, j))
        played[i] = played[j] = turn + 1
    return [(np.array([i for i, _ in r]), np.array([j for _, j in r])) for r in rounds]


def _play(ratings: Floats, scores: Floats, rounds: Sequence[tuple[Ints, Ints]]) -> Floats:
    """One pass over ratings (a, arms), in place; scores (a, a, arms)."""
    for i, j in rounds:
        gained = K * (scores[i, j] - expit((ratings[i] - ratings[j]) / POINTS))
        ratings[i] += gained
        ratings[j] -= gained
    return ratings


def bradley_terry(wins: Floats) -> Floats:
    """Bradley-Terry ratings (..., a) from wins (..., a, a) on Elo's scale, their mean 1000.

    The log strengths t maximise the sum over i != j of w_ij log(1 / (1 + exp(t_j - t_i))) (Bradley
    and Terry 1952) less PRIOR / 2 times the sum of t ** 2; rating = 1000 + 400 / ln 10 * t. The
    prior keeps an item that wins every game finite: then the prior, not the answers, says how far
    ahead the item is. With one game per pair of 64 items it takes half a percent of a range of 1200
    points.

    Newton's method to convergence. A step is shortened by log(1 + s) / s, s the most that it moves
    any pair: no curvature grows by more than exp(s) along it, and for that bound this length is
    best, so it always goes up.
    """
    table = _with_diagonal(_require_wins(wins), 0.0)
    played = table + table.swapaxes(-1, -2)
    strengths = np.zeros(table.shape[:-1])
    for _ in range(NEWTON_STEPS):
        step = _newton_step(table, played, strengths)
        moved = np.ptp(step, axis=-1, keepdims=True)
        strengths += step * np.where(moved > 0.0, np.log1p(moved) / np.maximum(moved, 1e-300), 1.0)
        if (moved < CONVERGED).all():
            return np.asarray(START + POINTS * strengths)
    raise ValueError(f"Bradley-Terry did not converge in {NEWTON_STEPS} steps")


def _newton_step(wins: Floats, played: Floats, strengths: Floats) -> Floats:
    chances = expit(strengths[..., :, None] - strengths[..., None, :])
    slope = (wins - played * chances).sum(axis=-1) - PRIOR * strengths
    pairs = played * chances * (1.0 - chances)
    own = pairs.sum(axis=-1) + PRIOR
    curvature = own[..., :, None] * np.eye(wins.shape[-1]) - pairs
    step: Floats = np.linalg.solve(curvature, slope[..., None])[..., 0]
    return step


def _require_wins(wins: Floats) -> Floats:
    """Wins with their diagonal, which nobody reads, at 1/2. ValueError on NaN or a negative one."""
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2] or wins.shape[-1] < 2:
        raise ValueError(f"wins must be a square table of at least 2 items, not {wins.shape}")
    table = _with_diagonal(wins, 0.5)
    require_finite("the wins", table)
    if (table < 0.0).any():
        raise ValueError("the wins must not be negative")
    return table


def _with_diagonal(table: Floats, value: float) -> Floats:
    return np.where(np.eye(table.shape[-1], dtype=bool), value, table)
