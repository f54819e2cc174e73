"""A cache keeps the columns of each row, whoever leaves and joins."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, Lfm2Config, Lfm2ForCausalLM

from engine.backends.joining import SPARE_COLUMNS, JoiningCache, joining_obstacle
from engine.models import Model


def columns(rows: int, count: int, start: float) -> Tensor:
    """Keys [rows, 1, count, 2] that tell row and column: start + 100 row + column."""
    row = torch.arange(rows).view(rows, 1, 1, 1) * 100.0
    return start + row + torch.arange(count).view(1, 1, count, 1).expand(rows, 1, count, 2)


def cache_of(*keys: Tensor) -> JoiningCache:
    """A cache of two layers, the second a thousand above the first; values are minus the keys."""
    cache = JoiningCache()
    for each in keys:
        cache.update(each, -each, 0)
        cache.update(1000 + each, -1000 - each, 1)
    return cache


def held(cache: JoiningCache, layer: int) -> Tensor:
    """The keys in use [n, columns]; values agree with them."""
    found: Any = cache.layers[layer]
    keys, values = found.keys[:, 0, : found.used, 0], found.values[:, 0, : found.used, 0]
    assert torch.equal(keys, -values)
    return torch.as_tensor(keys)


def test_columns_are_appended_in_place_and_beyond_the_spare_ones() -> None:
    whole = columns(2, 3 * SPARE_COLUMNS, 1.0)
    cuts = [0, 5, 6, 6 + SPARE_COLUMNS, 3 * SPARE_COLUMNS]
    cache = cache_of(*(whole[:, :, a:b] for a, b in pairwise(cuts)))
    assert cache.width == 3 * SPARE_COLUMNS
    assert torch.equal(held(cache, 0), whole[:, 0, :, 0])
    assert torch.equal(held(cache, 1), 1000 + whole[:, 0, :, 0])


@pytest.mark.parametrize("width", [3, 4, 6])
def test_rows_that_stay_and_rows_that_join_end_at_the_same_column(width: int) -> None:
    cache = cache_of(columns(3, 4, 1.0))
    cache.join([2, 0], cache_of(columns(2, 3, 500.0)), width)
    lines = [[201.0, 202, 203, 204], [1.0, 2, 3, 4], [500.0, 501, 502], [600.0, 601, 602]]
    expected = [[0.0] * (width - len(line)) + line[-width:] for line in lines]
    assert held(cache, 0).tolist() == expected
    assert held(cache, 1).tolist() == [[x and x + 1000 for x in line] for line in expected]


def test_rows_may_leave_when_none_joins() -> None:
    cache = cache_of(columns(3, 4, 1.0))
    cache.join([1], JoiningCache(), 2)
    assert held(cache, 0).tolist() == [[103, 104]]
    cache.update(columns(1, 1, 7.0), -columns(1, 1, 7.0), 0)
    assert held(cache, 0).tolist() == [[103, 104, 7]]


def test_rows_can_join_in_every_family_of_the_tests(tiny_family: Model) -> None:
    assert joining_obstacle(tiny_family) is None


def test_a_model_that_cannot_be_joined_midway_is_told_by_its_reason(tiny: Model) -> None:
    shape: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
    bloom = BloomForCausalLM(BloomConfig(n_head=2, **shape))
    assert joining_obstacle(replace(tiny, model=bloom)) == "its forward pass takes no position_ids"
    mixed = Lfm2Config(
        num_attention_heads=2, layer_types=["conv", "full_attention"], pad_token_id=0, **shape
    )
    reason = joining_obstacle(replace(tiny, model=Lfm2ForCausalLM(mixed)))
    assert reason == "it keeps its past in a LinearAttentionLayer"
