"""A key-value cache whose rows may leave and join between any two steps.

All rows end at the same column. A shorter one has zeros at its left, which the caller masks. Every
layer keeps every column, also where a model looks back only so far: its own mask sees to that.
Knows nothing of tokens, requests or sampling.
"""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from engine.models import Model

SPARE_COLUMNS = 16
_ARGUMENTS = ("attention_mask", "position_ids", "past_key_values")
_JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [n, heads, columns, width] with room for columns to come.

    Writing them in place saves a copy of the whole cache at every step.
    """

    used = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns; returns all that are in use."""
        first, self.used = self.used, self.used + key_states.shape[2]
        self.keys = _append(self.keys, key_states, first)
        self.values = _append(self.values, value_states, first)
        self.is_initialized = True
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        """How many columns are in use."""
        return self.used

    def join(self, rows: Tensor, newcomers: "RoomyLayer | None", width: int) -> None:
        """Become the last `width` columns of `rows`, then of all rows of `newcomers`."""
        others = [] if newcomers is None else [newcomers.last(width)]
        keys, values = zip(self.last(width), *others, strict=True)
        self.keys, self.values = _stack(keys, rows, width), _stack(values, rows, width)
        self.used = width

    def last(self, width: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the last `width` columns in use."""
        columns = slice(max(self.used - width, 0), self.used)
        keys, values = cast("Tensor", self.keys), cast("Tensor", self.values)
        return keys[:, :, columns], values[:, :, columns]


class JoiningCache(Cache):
    """A `RoomyLayer` for each layer of a model that caches."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RoomyLayer)

    @property
    def width(self) -> int:
        """How many columns are in use."""
        return int(self.get_seq_length())

    def join(self, rows: Sequence[int], newcomers: "JoiningCache", width: int) -> None:
        """Become the last `width` columns of some of its rows, then of all of `newcomers`.

        Layer by layer, so that no more than one of them is in memory twice.
        """
        theirs: Sequence[Any] = newcomers.layers or [None] * len(self.layers)
        for mine, other in zip(cast("list[RoomyLayer]", self.layers), theirs, strict=True):
            if mine.keys is not None:
                mine.join(torch.tensor(rows, device=mine.keys.device), other, width)


def joining_obstacle(model: Model) -> str | None:
    """Why rows of this model cannot join each other's cache midway, in a few words; None: they can.

    They can where a token's past is its keys and values alone, and its position is an argument.
    """
    network: Any = model.model
    arguments = inspect.signature(network.forward).parameters
    missing = [name for name in _ARGUMENTS if name not in arguments]
    if missing:
        return f"its forward pass takes no {missing[0]}"
    layers = DynamicCache(config=network.config).layers
    other = [type(layer).__name__ for layer in layers if type(layer) not in _JOINABLE]
    return f"it keeps its past in a {other[0]}" if other else None


def _append(old: Tensor | None, new: Tensor, first: int) -> Tensor:
    """`old` with `new` from column `first` on, in place where there is room."""
    if old is None:
        return new
    end = first + new.shape[2]
    if end > old.shape[2]:
        wider = old.new_empty((*old.shape[:2], end + SPARE_COLUMNS, old.shape[3]))
        wider[:, :, :first] = old[:, :, :first]
        old = wider
    old[:, :, first:end] = new
    return old


def _stack(parts: Sequence[Tensor], rows: Tensor, width: int) -> Tensor:
    """`rows` of the first part, then all others; they end at `width`, before spare columns."""
    first, others = parts[0], parts[1:]
    count = len(rows) + sum(map(len, others))
    stacked = first.new_empty((count, first.shape[1], width + SPARE_COLUMNS, first.shape[3]))
    end = len(rows)
    torch.index_select(first, 0, rows, out=_place(stacked[:end], first, width))
    for part in others:
        begin, end = end, end + len(part)
        _place(stacked[begin:end], part, width).copy_(part)
    return stacked


def _place(stacked: Tensor, part: Tensor, width: int) -> Tensor:
    """Where the columns of `part` go; before them is nothing, which must not be read as NaN."""
    begin = width - part.shape[2]
    stacked[:, :, :begin] = 0
    return stacked[:, :, begin:width]
