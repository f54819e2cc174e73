"""Cuts token sequences into batches under a token budget. Knows nothing of models or texts.

What is in a batch depends on the lengths given and the budget alone, so that the same chunk of
texts is always computed in the same batches and gives the same bits.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Batching = Literal["packed", "padded", "alone"]
"""How texts share a pass: end to end in one row, side by side in rows, or not at all."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One text's tokens, and which of them are averaged."""

    ids: tuple[int, ...]
    pooled: slice


def pack(
    lengths: Sequence[int], token_budget: int, *, padded: bool = True
) -> list[tuple[int, ...]]:
    """Batches of positions in `lengths`, longest first, similar lengths together; each once.

    A batch's size stays within `token_budget`: rows times longest row where rows are `padded`, else
    the sum of its lengths; a sequence longer than the budget is a batch of its own. As few batches
    as that allows, with the tokens spread evenly over them. Raises ValueError for a budget below 1.
    """
    if token_budget < 1:
        raise ValueError(f"token budget {token_budget}: at least one token is needed")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    ordered = [max(lengths[i], 1) for i in order]
    before = [0, *accumulate(ordered)]
    reach = _reach_padded if padded else _reach_packed
    farthest = [reach(ordered, before, i, token_budget) for i in range(len(order))]
    return [tuple(order[start:stop]) for start, stop in _cut_evenly(before, farthest)]


def _reach_padded(ordered: list[int], _before: list[int], start: int, budget: int) -> int:
    return min(start + max(budget // ordered[start], 1), len(ordered))


def _reach_packed(_ordered: list[int], before: list[int], start: int, budget: int) -> int:
    return max(bisect_right(before, before[start] + budget) - 1, start + 1)


def _cut_evenly(before: list[int], farthest: list[int]) -> list[tuple[int, int]]:
    """(start, stop) of each batch; none goes beyond the `farthest` stop of its start."""
    needed = [0] * len(before)
    for i in reversed(range(len(farthest))):
        needed[i] = 1 + needed[farthest[i]]
    cuts: list[tuple[int, int]] = []
    start = 0
    for left in range(needed[0], 0, -1):
        fair = before[start] + (before[-1] - before[start]) / left
        stop = _nearest(before, fair)
        # Not less than the batches after this one can carry, nor more than fits into this one.
        while needed[stop] > left - 1:
            stop += 1
        stop = max(min(stop, farthest[start]), start + 1)
        cuts.append((start, stop))
        start = stop
    return cuts


def _nearest(before: list[int], tokens: float) -> int:
    """The position in `before` whose count is nearest to `tokens`."""
    above = min(bisect_right(before, tokens), len(before) - 1)
    return above if before[above] - tokens < tokens - before[above - 1] else above - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch as the model takes it, and where the pooled tokens of each text lie in it.

    `ids` is [b, t]. `bounds` are the n + 1 edges of texts that lie end to end, with `positions`
    [1, t] that start again at 0 at each; both are None for texts side by side, whose positions are
    their columns. `index` [n, w] counts through the b * t tokens; where `spare` [n, w] is true, it
    repeats a token of the same text that counts already.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    bounds: NDArray[np.int32] | None
    index: NDArray[np.int64]
    spare: NDArray[np.bool_]


def lay_side_by_side(segments: Sequence[Segment]) -> Layout:
    """One text a row, starting in the first column.

    The padding behind a text repeats its last token: an embedding that is sure to be trained, and
    one that the library does not take for forgotten padding.
    """
    lengths = [len(segment.ids) for segment in segments]
    ids = np.empty((len(segments), max(lengths)), dtype=np.int64)
    for row, segment in zip(ids, segments, strict=True):
        row[: len(segment.ids)] = segment.ids
        row[len(segment.ids) :] = segment.ids[-1]
    firsts = np.arange(len(segments)) * ids.shape[1]
    return Layout(ids, None, None, *_index_pooled(segments, firsts))


def lay_end_to_end(segments: Sequence[Segment]) -> Layout:
    """All texts in one row, without padding."""
    lengths = [len(segment.ids) for segment in segments]
    bounds = np.cumsum([0, *lengths], dtype=np.int32)
    ids = np.concatenate([np.asarray(segment.ids, dtype=np.int64) for segment in segments])
    positions = np.concatenate([np.arange(length) for length in lengths])
    index, spare = _index_pooled(segments, bounds[:-1].astype(np.int64))
    return Layout(ids[None], positions[None], bounds, index, spare)


def _index_pooled(
    segments: Sequence[Segment], firsts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    spans = [segment.pooled.indices(len(segment.ids)) for segment in segments]
    starts, stops = (np.asarray(edge)[:, None] for edge in list(zip(*spans, strict=True))[:2])
    columns = starts + np.arange(max(int((stops - starts).max()), 1))
    index = firsts[:, None] + np.minimum(columns, np.maximum(stops - 1, 0))
    return index, columns >= stops


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ids, mask), both [b, t]: mask is 1 on tokens and 0 on padding."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place] = row
        mask[i, place] = 1
    return ids, mask
