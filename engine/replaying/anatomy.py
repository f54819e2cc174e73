"""How the upper blocks of a model are called, seen in passes and tried out; never known by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache

from engine.memory import is_out_of_memory
from engine.models import PROBE, Model
from engine.replaying.calls import Call, Cut, UnfitError, cut_call, cut_shared, find_axes
from engine.replaying.keys import Keys, KeysKnownError
from engine.replaying.reading import Pass, run_plain
from engine.tokens import encode_raw

FAULTS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, UnfitError)
"""What code from elsewhere raises when it is called in a way that it does not know."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The blocks from `first` on: the `axes` of their calls, and the `places` of their caches.

    `keyed` are those that make keys of their own instead of looking up another's. Where caches are
    unknown, `places` and `keyed` are empty and `reason` says why.
    """

    first: int
    axes: tuple[Call, ...]
    places: tuple[int | str, ...] = ()
    keyed: frozenset[int] = frozenset()
    reason: str | None = None


def study(model: Model, first: int) -> Anatomy:
    """The anatomy above layer `first` - 1. Raises UnfitError for blocks that cannot run alone."""
    ids = encode_raw(model, PROBE).ids
    sizes = ((2, len(ids) - 2), (3, len(ids)))
    counted = [(rows + 1, tokens) for rows, tokens in sizes]
    try:
        small, large = (
            run_plain(model, [ids[:tokens]] * rows, (first - 1,), first) for rows, tokens in sizes
        )
        axes = tuple(map(find_axes, small.calls, large.calls, [counted] * len(small.calls)))
    except FAULTS as error:
        raise UnfitError(describe_fault(error)) from error
    try:
        cached = run_plain(model, [ids], (), first, cache=True)
        places = tuple(_find_cache(call) for call in cached.calls)
        keyed = _find_keyed(model, first, large, axes, places)
    except FAULTS as error:
        reason = f"its blocks keep more than keys, or none ({describe_fault(error)})"
        return Anatomy(first, axes, reason=reason)
    return Anatomy(first, axes, places, keyed)


def describe_fault(error: Exception) -> str:
    """An error as half a sentence; that memory ran short is no fault, and is raised again."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        raise error
    first_line = str(error).partition("\n")[0]
    return first_line if isinstance(error, UnfitError) else f"{type(error).__name__}: {first_line}"


def _find_cache(call: Call) -> int | str:
    """Where in a call the library's cache is."""
    named = [name for name, each in call.named.items() if isinstance(each, Cache)]
    given = [i for i, each in enumerate(call.given) if isinstance(each, Cache)]
    if len(named) + len(given) != 1:
        raise UnfitError("its blocks are given no cache")
    return (named + given)[0]


def _find_keyed(
    model: Model, first: int, run: Pass, axes: Sequence[Call], places: Sequence[int | str]
) -> frozenset[int]:
    """The blocks that make keys of their own, by asking each for them."""
    states = run.states[first - 1]
    rows, tokens = states.shape[:2]
    cut = Cut(torch.arange(rows), slice(0, tokens), tokens, runs=1)
    keyed = set()
    for i, call in enumerate(run.calls):
        keys = Keys(0, 1, stop=True)
        shared = cut_shared(call, axes[i], cut)
        part = cut_call(call, axes[i], cut, shared).with_cache(places[i], keys)
        if _makes_keys(model.blocks[first + i], part, states, keys):
            keyed.add(first + i)
    return frozenset(keyed)


def _makes_keys(block: nn.Module, call: Call, states: torch.Tensor, keys: Keys) -> bool:
    try:
        call.run(block, states)
    except KeysKnownError:
        for each in keys.known or ():
            if each.dim() != 4 or (each.shape[0], each.shape[2]) != states.shape[:2]:
                raise UnfitError("its blocks keep keys of an unknown shape") from None
        return True
    return False
