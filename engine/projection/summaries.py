"""What is kept of the tokens of a chunk, and what can be said of all of them afterwards.

The tokens of a chunk are put in order and cut into shares: a two-hundredth around each half
percentile, and what is left at either end halved towards it time and again. Kept is the middle
token of each share, which stands for the whole share. If j shares' middles are at or below x, then
at least as many tokens are as come up to the middle of share j, and at most as many as come before
the middle of share j + 1; so the count is off by half a share at most, whatever the values. Counts
add up over chunks, and so do their errors: see `rank_error`. Chunks of few tokens are kept whole
and add none.

Means and scatters are merged as by Chan, Golub and LeVeque (1979). Knows nothing of models, texts
or the ledger. Letters: e probes, t tokens, q questions, k kept.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.projections import TokenSummary

SHARES = 200
"""No share holds more of a chunk than one in so many."""
HALVINGS = 2
"""Of the half share at either end, so that the 99.9th percentile is a matter of 0.03 points."""
WINDOW = 30
"""Tokens of a snippet."""
IN_CACHE = 16_384
"""Numbers of a document whose windows are summed at a time: a fifth of the time of all at once."""

_END = 2 ** (HALVINGS + 1)
UNIT = 2 * SHARES * _END
"""Shares are counted in parts of a chunk so fine that their middles are whole numbers."""
_outer = 2 ** np.arange(1, HALVINGS + 1)
_inner = np.arange(_END, UNIT, 2 * _END)
EDGES = np.concatenate([[0], _outer, _inner, UNIT - _outer[::-1], [UNIT]])
WIDTHS = np.diff(EDGES)
MIDDLES = (EDGES[:-1] + EDGES[1:]) // 2
KEPT = len(WIDTHS)
"""Order statistics kept of a chunk; one of no more tokens is kept whole."""


def summarise_tokens(scores: NDArray[np.float32]) -> TokenSummary:
    """A chunk's tokens [e, t]. ValueError where there is none, or a number is not finite."""
    probes, tokens = scores.shape
    if not tokens:
        raise ValueError("a chunk without tokens has no summary")
    if not np.isfinite(scores).all():
        raise ValueError("a token's projection is not a finite number")
    ranks = np.arange(tokens) if tokens <= KEPT else MIDDLES * tokens // UNIT
    mean, scatter = np.empty(probes), np.empty(probes)
    quantiles = np.empty((probes, len(ranks)), dtype=np.float32)
    for probe, row in enumerate(scores):
        exact = row.astype(np.float64)
        mean[probe] = exact.mean()
        exact -= mean[probe]
        scatter[probe] = np.square(exact, out=exact).sum()
        quantiles[probe] = np.sort(row)[ranks]
    return TokenSummary(tokens, mean, scatter, quantiles)


def merge_moments(
    summaries: Sequence[TokenSummary],
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Tokens, mean [e] and standard deviation [e] (divided by t) of all chunks together."""
    counts = np.array([summary.tokens for summary in summaries])
    tokens = _total(summaries)
    means = np.stack([summary.mean for summary in summaries])
    mean = counts @ means / tokens
    within = np.sum([summary.scatter for summary in summaries], axis=0)
    between = counts @ np.square(means - mean)
    return tokens, mean, np.sqrt((within + between) / tokens)


def quantiles_at(
    summaries: Sequence[TokenSummary], probabilities: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """[e, q]: values at or below which these shares of the tokens lie, within `rank_error`.

    Each is the projection of a token that was read, never one in between.
    """
    wanted = np.asarray(probabilities, dtype=np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError("a probability lies outside 0 ... 1")
    values, weights = _kept(summaries)
    found = np.empty((len(values), len(wanted)))
    for probe, row in enumerate(values):
        order = np.argsort(row, kind="stable")
        below = np.cumsum(weights[order])
        found[probe] = row[order[np.searchsorted(below, wanted * below[-1])]]
    return found


def shares_below(
    summaries: Sequence[TokenSummary], values: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """[e, q]: the share of the tokens below each of `values` [e, q], within `rank_error`."""
    kept, weights = _kept(summaries)
    found = np.empty(values.shape)
    for probe, row in enumerate(kept):
        order = np.argsort(row, kind="stable")
        below = np.concatenate([[0], np.cumsum(weights[order])])
        found[probe] = below[np.searchsorted(row[order], values[probe])] / below[-1]
    return found


def rank_error(summaries: Sequence[TokenSummary]) -> float:
    """The most by which a share can be off: half a share of the tokens of chunks not kept whole.

    Never above 1 / (2 SHARES); nearer than 1 / SHARES to either end it is less.
    """
    cut = sum(summary.tokens for summary in summaries if summary.tokens > KEPT)
    return cut / _total(summaries) / (2 * SHARES)


def best_windows(
    scores: NDArray[np.float32], width: int = WINDOW
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """First token [e] and mean [e] of each probe's best window in a document [e, t].

    Of equals the earliest; None where the document is shorter than a window.
    """
    probes, tokens = scores.shape
    if tokens < width:
        return None
    firsts, means = np.empty(probes, np.int64), np.empty(probes)
    rows = max(1, IN_CACHE // tokens)
    for start in range(0, probes, rows):
        part = slice(start, start + rows)
        sums = _window_sums(scores[part].astype(np.float64), width)
        firsts[part] = sums.argmax(axis=1)
        means[part] = sums.max(axis=1) / width
    return firsts, means


def _window_sums(scores: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """[e, t - width + 1], put together from windows of 1, 2, 4, ... tokens.

    Equal windows have equal sums, to the bit: running totals would carry what came before.
    """
    windows = scores.shape[1] - width + 1
    total = np.zeros((len(scores), windows))
    doubled, size, start = scores, 1, 0
    while True:
        if width & size:
            total += doubled[:, start : start + windows]
            start += size
        if start == width:
            return total
        doubled = doubled[:, :-size] + doubled[:, size:]
        size *= 2


def _kept(summaries: Sequence[TokenSummary]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What is kept of all chunks [e, k], and how much each stands for [k], in parts of a token."""
    _total(summaries)
    values = np.concatenate([summary.quantiles for summary in summaries], axis=1)
    return values, np.concatenate([_weights(summary) for summary in summaries])


def _weights(summary: TokenSummary) -> NDArray[np.int64]:
    kept = summary.quantiles.shape[1]
    if kept != min(summary.tokens, KEPT):
        raise ValueError(f"{kept} order statistics of {summary.tokens} tokens, not {KEPT}")
    return np.full(kept, UNIT) if kept == summary.tokens else WIDTHS * summary.tokens


def _total(summaries: Sequence[TokenSummary]) -> int:
    if not summaries:
        raise ValueError("no tokens were summarised")
    return sum(summary.tokens for summary in summaries)
