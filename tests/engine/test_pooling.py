"""Memory that runs short costs time, never a row: batches are halved and read again."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from engine.budget import ExtractionBudget
from engine.models import Model
from engine.packing import Batching, Segment
from engine.pooling import ChunkPooler, Pools
from engine.tokens import encode_raw
from tests.engine.tiny import text_of

LAYERS = (1, 3)
BUDGET = 160
TOLERANCE = 1e-5


def segments_of(model: Model) -> list[Segment]:
    texts = [text_of(words, start=words) for words in (40, 12, 33, 8, 25, 50, 17, 29, 21, 36)]
    every = [encode_raw(model, text) for text in texts]
    return [Segment(text.ids, slice(4, text.content.stop)) for text in every]


def pooler_of(model: Model, batching: Batching = "padded") -> ChunkPooler:
    return ChunkPooler(model, batching, ExtractionBudget(BUDGET), threading.Event())


def pool(pooler: ChunkPooler, segments: list[Segment], told: Any = lambda *_: None) -> Pools:
    pools = pooler.pool(segments, range(len(segments)), LAYERS, told)
    assert pools is not None
    return pools


def same(found: Pools, expected: Pools) -> bool:
    norms = np.linalg.norm(expected.means, axis=-1, keepdims=True)
    return bool((np.abs(found.means - expected.means) <= TOLERANCE * norms).all())


@contextmanager
def short_of_memory(model: Model, too_much: Any) -> Iterator[list[int]]:
    """Passes whose number and token count are `too_much` fail; gives the sizes of all."""
    sizes: list[int] = []

    def refuse(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        sizes.append(inputs["input_ids"].numel())
        if too_much(len(sizes), sizes[-1]):
            raise torch.OutOfMemoryError("simulated")

    hook = model.backbone.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


@pytest.mark.parametrize("batching", ["packed", "padded", "alone"])
def test_memory_that_runs_short_once_costs_no_row(tiny: Model, batching: Batching) -> None:
    segments = segments_of(tiny)
    expected = pool(pooler_of(tiny), segments)
    with short_of_memory(tiny, lambda *_: False) as sizes:
        pool(pooler_of(tiny, batching), segments)
    for nth in range(1, len(sizes) + 1):
        pooler = pooler_of(tiny, batching)
        with short_of_memory(tiny, lambda count, _size, nth=nth: count == nth):
            found = pool(pooler, segments)
        assert same(found, expected)
        assert found.too_large == set()


def test_batches_are_halved_until_they_fit(tiny: Model) -> None:
    segments = segments_of(tiny)
    longest = max(len(segment.ids) for segment in segments)
    pooler = pooler_of(tiny)
    with short_of_memory(tiny, lambda _count, size: size > longest) as sizes:
        found = pool(pooler, segments)
    assert same(found, pool(pooler_of(tiny), segments))
    assert pooler.budget.shrunk
    assert max(sizes[-3:]) <= longest < max(sizes)


def test_a_text_that_does_not_fit_alone_is_named_and_the_others_are_read(tiny: Model) -> None:
    segments = segments_of(tiny)
    lengths = [len(segment.ids) for segment in segments]
    longest = int(np.argmax(lengths))
    told: list[int] = []
    with short_of_memory(tiny, lambda _count, size: size >= max(lengths)):
        found = pool(pooler_of(tiny), segments, lambda rows, _tokens: told.append(rows))
    assert found.too_large == {longest}
    assert np.isnan(found.means[longest]).all()
    assert np.isfinite(np.delete(found.means, longest, axis=0)).all()
    assert sum(told) == len(segments)


def test_other_errors_pass_through_and_leave_no_hook(tiny: Model) -> None:
    def fail(*_: Any) -> bool:
        raise RuntimeError("a kernel failed")

    before = [len(block._forward_hooks) for block in tiny.blocks]
    with short_of_memory(tiny, fail), pytest.raises(RuntimeError, match="a kernel failed"):
        pool(pooler_of(tiny), segments_of(tiny))
    assert [len(block._forward_hooks) for block in tiny.blocks] == before


def test_after_a_stop_there_is_no_result(tiny: Model) -> None:
    pooler = pooler_of(tiny)
    pooler.stop.set()
    assert pooler.pool(segments_of(tiny), range(10), LAYERS, lambda *_: None) is None


def test_rows_that_are_not_wanted_stay_unread(tiny: Model) -> None:
    segments = segments_of(tiny)
    pools = pooler_of(tiny).pool(segments, [1, 4], LAYERS, lambda *_: None)
    assert pools is not None
    read = np.isfinite(pools.means).all(axis=(1, 2))
    assert np.flatnonzero(read).tolist() == [1, 4]
    assert np.flatnonzero(np.isfinite(pools.norms).all(axis=1)).tolist() == [1, 4]


def test_the_same_texts_are_cut_the_same_way_every_time(tiny: Model) -> None:
    segments = segments_of(tiny)
    first, second = (pool(pooler_of(tiny), segments) for _ in range(2))
    assert first.means.tobytes() == second.means.tobytes()
    assert first.norms.tobytes() == second.norms.tobytes()
