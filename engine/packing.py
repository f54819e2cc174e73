"""Cuts token sequences into padded batches under a token budget. Knows nothing of models or texts.

What is in a batch depends on the lengths given and the budget alone, so that the same chunk of
texts is always computed in the same batches and gives the same bits.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def pack(lengths: Sequence[int], token_budget: int) -> list[tuple[int, ...]]:
    """Batches of positions in `lengths`, similar lengths together; every position once.

    A batch's padded size, rows times longest row, stays within `token_budget`; a sequence longer
    than the budget is a batch of its own. Raises ValueError for a budget below 1.
    """
    if token_budget < 1:
        raise ValueError(f"token budget {token_budget}: at least one token is needed")
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        room = token_budget // max(lengths[position], 1)
        if not batches or len(batches[-1]) >= room:
            batches.append([])
        batches[-1].append(position)
    return [tuple(batch) for batch in batches]


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
