"""Batches hold every row once, within their budget, and the same rows every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.packing import pack, pad

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


@given(LENGTHS, st.integers(1, 300))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int) -> None:
    assert sorted(i for batch in pack(lengths, budget) for i in batch) == [*range(len(lengths))]


@given(LENGTHS, st.integers(1, 300))
def test_no_batch_exceeds_the_budget_unless_one_row_does(lengths: list[int], budget: int) -> None:
    for batch in pack(lengths, budget):
        assert len(batch) * max(lengths[i] for i in batch) <= budget or len(batch) == 1


@given(LENGTHS)
def test_similar_lengths_go_together(lengths: list[int]) -> None:
    in_order = [lengths[i] for batch in pack(lengths, 100) for i in batch]
    assert in_order == sorted(lengths)


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="token budget 0"):
        pack([3], 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mask_marks_the_tokens(side: str) -> None:
    rows = [[5, 6, 7], [8]]
    ids, mask = pad(rows, 0, "left" if side == "left" else "right")
    assert [ids[i][mask[i] == 1].tolist() for i in range(2)] == rows
    assert np.array_equal(mask[1], [0, 0, 1] if side == "left" else [1, 0, 0])
