"""What a decoder block is called with, and how to cut that to other rows and tokens.

Which axis of an argument counts rows or tokens is not known by its name: it is seen from two passes
of different sizes. Knows nothing of steering.
"""

from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.models import residual

Role = Literal["row", "token", "key", "none"]
"""What an axis counts: rows of the batch, tokens that ask, tokens that are asked, neither."""

STATES = "hidden_states"


class UnfitError(Exception):
    """A block cannot be run outside of its model; the message is half a sentence."""


@dataclass(frozen=True, slots=True)
class Axes:
    """The roles of a tensor's axes."""

    roles: tuple[Role, ...]

    @property
    def is_mask(self) -> bool:
        """Whether it says which tokens may know of which."""
        return "token" in self.roles and "key" in self.roles


@dataclass(frozen=True, slots=True)
class Call:
    """A block's arguments but for its states: by position, by name, and those that blocks hand on
    to each other, as they were before the block ran."""

    given: tuple[Any, ...]
    named: dict[str, Any]
    shared: dict[str, UserDict[Any, Any]]
    by_name: bool

    def run(self, block: nn.Module, states: Tensor) -> Tensor:
        """The block's resid_post for these states."""
        named = self.named | self.shared
        if self.by_name:
            return residual(block(*self.given, **named, **{STATES: states}))
        return residual(block(states, *self.given, **named))

    def with_cache(self, place: int | str, cache: object) -> "Call":
        """The same call with a cache in its place."""
        if isinstance(place, str):
            return replace(self, named=self.named | {place: cache})
        return replace(self, given=(*self.given[:place], cache, *self.given[place + 1 :]))


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a pass: these rows, the tokens that ask, and how many tokens are asked.

    Each row comes `runs` times, all rows of a run after one another.
    """

    rows: Tensor
    tokens: slice
    keys: int
    runs: int

    def take(self, leaf: Any, axes: Axes | None) -> Any:
        """This part of one argument."""
        if axes is None:
            return leaf
        for axis, role in enumerate(axes.roles):
            if role == "token":
                leaf = leaf.narrow(axis, self.tokens.start, self.tokens.stop - self.tokens.start)
            elif role == "key":
                leaf = leaf.narrow(axis, 0, self.keys)
            # One row stands for all, such as a mask that is the same for all.
            elif role == "row" and leaf.shape[axis] > 1:
                leaf = leaf.index_select(axis, self.rows.repeat(self.runs).to(leaf.device))
        return leaf


@contextmanager
def recorded(blocks: Sequence[nn.Module]) -> Iterator[list[Call]]:
    """The calls of these blocks, in order; hooks are removed on leaving.

    Raises UnfitError for a block that is not given its states.
    """
    calls: list[Call] = []

    def note(_block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not given and STATES not in named:
            raise UnfitError("its blocks are called without states")
        shared = {name: each.copy() for name, each in named.items() if isinstance(each, UserDict)}
        kept = {n: each for n, each in named.items() if n != STATES and n not in shared}
        calls.append(Call(given[1:], kept, shared, by_name=not given))

    with ExitStack() as hooks:
        for block in blocks:
            hook = block.register_forward_pre_hook(note, with_kwargs=True)
            hooks.callback(hook.remove)
        yield calls


def find_axes(one: Call, other: Call, sizes: Sequence[tuple[int, int]]) -> Call:
    """A call with Axes in place of tensors, from two passes of (rows, tokens) `sizes`.

    Raises UnfitError for arguments that differ in anything else.
    """

    def compare(first: Any, second: Any) -> Any:
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return _compare(first.shape, second.shape, sizes)
        if first is second or (_is_plain(first) and first == second):
            return None
        raise UnfitError(f"its blocks are given a {type(first).__name__} that changes")

    def keys_only(axes: Axes) -> Axes:
        return Axes(tuple("key" if role == "token" else role for role in axes.roles))

    given, named, shared = (
        _map(compare, first, second)
        for first, second in (
            (one.given, other.given),
            (one.named, other.named),
            (one.shared, other.shared),
        )
    )
    return Call(given, named, _map(keys_only, shared), one.by_name)


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _compare(first: torch.Size, second: torch.Size, sizes: Sequence[tuple[int, int]]) -> Axes:
    rows, tokens = zip(*sizes, strict=True)
    roles: list[Role] = []
    for pair in zip(first, second, strict=False):
        if pair == tokens:
            roles.append("key" if "token" in roles else "token")
        elif pair == rows and "row" not in roles:
            roles.append("row")
        elif pair[0] == pair[1]:
            roles.append("none")
        else:
            raise UnfitError(f"its blocks are given tensors {tuple(first)} of no known axes")
    if len(first) != len(second):
        raise UnfitError("its blocks are given tensors of changing shape")
    return Axes(tuple(roles))


def cut_call(call: Call, axes: Call, cut: Cut, shared: dict[str, UserDict[Any, Any]]) -> Call:
    """A call for a part of the pass that it was recorded in, with what blocks there share."""
    given = _map(cut.take, call.given, axes.given)
    return Call(given, _map(cut.take, call.named, axes.named), shared, call.by_name)


def cut_shared(call: Call, axes: Call, cut: Cut) -> dict[str, UserDict[Any, Any]]:
    """What blocks hand on to each other in a part of a pass, as it is before this call."""
    shared: dict[str, UserDict[Any, Any]] = _map(cut.take, call.shared, axes.shared)
    return shared


def merge_masks(calls: Sequence[Call], axes: Sequence[Call], lengths: Tensor) -> list[Call]:
    """Calls whose masks have one row for all prompts, where these differ in padding alone.

    `lengths` [b] are those of the rows, whose tokens come first.
    """
    seen: dict[int, Tensor] = {}

    def merge(leaf: Any, roles: Any) -> Any:
        if roles is None or not roles.is_mask:
            return leaf
        if id(leaf) not in seen:
            seen[id(leaf)] = _merge(leaf, roles, lengths)
        return seen[id(leaf)]

    return [
        replace(
            call, given=_map(merge, call.given, own.given), named=_map(merge, call.named, own.named)
        )
        for call, own in zip(calls, axes, strict=True)
    ]


def _merge(mask: Tensor, axes: Axes, lengths: Tensor) -> Tensor:
    """The row of the longest prompt, if all others agree with it on their own tokens."""
    if axes.roles[0] != "row":
        return mask
    longest = mask[int(lengths.argmax())][None]
    own = torch.ones((), dtype=torch.bool, device=mask.device)
    for axis, role in enumerate(axes.roles):
        if role in ("token", "key"):
            columns = torch.arange(mask.shape[axis], device=mask.device)
            inside = columns < lengths.to(mask.device)[:, None]
            own = own & inside.reshape(len(mask), *_at(axis - 1, mask.dim() - 1, mask.shape[axis]))
    return mask if bool(((mask != longest) & own).any()) else longest


def _at(axis: int, dims: int, size: int) -> list[int]:
    """A shape of ones but for one axis."""
    return [size if each == axis else 1 for each in range(dims)]


def _map(leaf: Callable[..., Any], value: Any, *others: Any) -> Any:
    """Call `leaf` on what values of the same shape hold. Raises UnfitError where shapes differ."""
    kinds = {type(each) for each in (value, *others)}
    if len(kinds) == 1 and isinstance(value, tuple | list):
        if any(len(each) != len(value) for each in others):
            raise UnfitError("its blocks are given sequences of changing length")
        return type(value)([_map(leaf, *each) for each in zip(value, *others, strict=True)])
    if len(kinds) == 1 and isinstance(value, dict | UserDict):
        if any(each.keys() != value.keys() for each in others):
            raise UnfitError("its blocks are given other arguments from pass to pass")
        return type(value)(
            {name: _map(leaf, value[name], *(each[name] for each in others)) for name in value}
        )
    return leaf(value, *others)
