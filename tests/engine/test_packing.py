"""Batches hold every row once, within their budget, evenly, and the same rows every time."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.packing import Segment, lay_end_to_end, lay_side_by_side, pack, pad

LENGTHS = st.lists(st.integers(1, 60), max_size=80)
BUDGETS = st.integers(1, 300)
SEGMENTS = st.lists(
    st.integers(1, 12).flatmap(
        lambda n: st.builds(
            lambda ids, start, stop: Segment(tuple(ids), slice(start, stop)),
            st.lists(st.integers(0, 99), min_size=n, max_size=n),
            st.integers(0, n),
            st.one_of(st.none(), st.integers(0, n)),
        )
    ),
    min_size=1,
    max_size=6,
)


def size(lengths: list[int], batch: tuple[int, ...], *, padded: bool) -> int:
    members = [lengths[i] for i in batch]
    return len(members) * max(members) if padded else sum(members)


@given(LENGTHS, BUDGETS, st.booleans())
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, padded: bool) -> None:
    batches = pack(lengths, budget, padded=padded)
    assert sorted(i for batch in batches for i in batch) == [*range(len(lengths))]


@given(LENGTHS, BUDGETS, st.booleans())
def test_no_batch_exceeds_the_budget_unless_one_row_does(
    lengths: list[int], budget: int, padded: bool
) -> None:
    for batch in pack(lengths, budget, padded=padded):
        assert size(lengths, batch, padded=padded) <= budget or len(batch) == 1


@given(LENGTHS, BUDGETS, st.booleans())
def test_the_longest_come_first_and_similar_lengths_together(
    lengths: list[int], budget: int, padded: bool
) -> None:
    in_order = [lengths[i] for batch in pack(lengths, budget, padded=padded) for i in batch]
    assert in_order == sorted(lengths, reverse=True)


@given(LENGTHS, BUDGETS, st.booleans())
def test_there_are_as_few_batches_as_filling_each_up_would_make(
    lengths: list[int], budget: int, padded: bool
) -> None:
    filled: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        full = [*(filled[-1] if filled else []), length]
        if not filled or (len(full) * max(full) if padded else sum(full)) > budget:
            filled.append([])
        filled[-1].append(length)
    assert len(pack(lengths, budget, padded=padded)) == len(filled)


@pytest.mark.parametrize("padded", [True, False])
@given(rows=st.integers(1, 60), length=st.integers(1, 20), budget=st.integers(20, 200))
def test_rows_of_one_length_are_spread_evenly(
    padded: bool, rows: int, length: int, budget: int
) -> None:
    counts = [len(batch) for batch in pack([length] * rows, budget, padded=padded)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("budget", "waste"), [(1024, 0.01), (2048, 0.015), (4096, 0.02)])
def test_512_ordinary_texts_are_padded_little(budget: int, waste: float) -> None:
    rng = random.Random(0)
    lengths = [rng.randint(100, 200) for _ in range(512)]
    batches = pack(lengths, budget)
    assert sum(size(lengths, b, padded=True) for b in batches) <= (1 + waste) * sum(lengths)
    totals = [sum(lengths[i] for i in batch) for batch in batches]
    assert min(totals) > 0.7 * max(totals)


def test_the_same_lengths_make_the_same_batches() -> None:
    lengths = [random.Random(1).randint(1, 9) for _ in range(50)]
    assert pack(lengths, 30) == pack(list(lengths), 30)
    # Rows of one length keep their order.
    assert pack([3, 3, 3, 3], 6) == [(0, 1), (2, 3)]


def test_a_row_longer_than_the_budget_is_alone() -> None:
    assert pack([2, 50, 3], 10) == [(1,), (2, 0)]
    assert pack([2, 50, 3], 10, padded=False) == [(1,), (2, 0)]


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="token budget 0"):
        pack([3], 0)


@given(SEGMENTS)
def test_both_layouts_hold_every_token_and_point_at_what_is_pooled(
    segments: list[Segment],
) -> None:
    for layout in (lay_side_by_side(segments), lay_end_to_end(segments)):
        tokens = layout.ids.ravel()
        for segment, index, spare in zip(segments, layout.index, layout.spare, strict=True):
            assert tuple(tokens[index[~spare]]) == segment.ids[segment.pooled]


@given(SEGMENTS)
def test_side_by_side_texts_begin_in_the_first_column_and_repeat_their_last_token(
    segments: list[Segment],
) -> None:
    layout = lay_side_by_side(segments)
    for row, segment in zip(layout.ids, segments, strict=True):
        assert tuple(row[: len(segment.ids)]) == segment.ids
        assert set(row[len(segment.ids) :]) <= {segment.ids[-1]}


@given(SEGMENTS)
def test_what_is_spare_repeats_a_token_of_the_same_text(segments: list[Segment]) -> None:
    for layout in (lay_side_by_side(segments), lay_end_to_end(segments)):
        for index, spare in zip(layout.index, layout.spare, strict=True):
            assert spare.all() or set(index[spare]) <= set(index[~spare])


@given(SEGMENTS)
def test_end_to_end_positions_start_again_at_every_edge(segments: list[Segment]) -> None:
    layout = lay_end_to_end(segments)
    assert layout.positions is not None
    assert layout.bounds is not None
    assert tuple(layout.ids[0]) == tuple(i for segment in segments for i in segment.ids)
    assert np.flatnonzero(layout.positions[0] == 0).tolist() == layout.bounds[:-1].tolist()
    assert np.diff(layout.bounds).tolist() == [len(segment.ids) for segment in segments]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mask_marks_the_tokens(side: str) -> None:
    rows = [[5, 6, 7], [8]]
    ids, mask = pad(rows, 0, "left" if side == "left" else "right")
    assert [ids[i][mask[i] == 1].tolist() for i in range(2)] == rows
    assert np.array_equal(mask[1], [0, 0, 1] if side == "left" else [1, 0, 0])
