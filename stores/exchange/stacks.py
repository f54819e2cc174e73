"""The arrays of one file brought into one shape: [l, e, d], with names and numbers of its layers.

Knows nothing of formats, and nothing of other files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stores.exchange.naming import check_emotions, layer_in_name, refusal
from stores.vectors import Variant

Arrays = Mapping[str, NDArray[np.generic]]

NAMES, NUMBERS = "emotions", "layers"
MEANS, VECTORS = "means", "vectors"
RESERVED = frozenset({NAMES, NUMBERS, MEANS, VECTORS, "raw", "denoised"})
LIKE_A_LAYER = re.compile(r"layer_?\d+")


@dataclass(frozen=True, slots=True, eq=False)
class Stacks:
    """What one file holds: each of `variants` is [l, e, d] of whatever float type it has there."""

    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    variants: Mapping[Variant, NDArray[np.floating]]
    means: bool


def stack_arrays(path: Path, arrays: Arrays, layer: int | None) -> Stacks:
    """Find emotions, layers and vectors among the arrays of a file; other arrays beside a stack
    are not read.

    `layer` is the user's word for a file of one layer. Raises UsageError.
    """
    numbers = _read_numbers(path, arrays.get(NUMBERS))
    if NAMES in arrays:
        emotions = _read_names(path, arrays[NAMES])
        check_emotions(path, emotions)
        kinds = _stacked_kinds(path, arrays)
        stacks = {kind: _require_stack(path, kind, arrays[kind], len(emotions)) for kind in kinds}
    else:
        named = {name: values for name, values in arrays.items() if name != NUMBERS}
        emotions = tuple(named)
        check_emotions(path, emotions)
        stacks = {VECTORS: _stack_named(path, named)}
    counts = {kind: stack.shape for kind, stack in stacks.items()}
    if len(set(counts.values())) > 1:
        raise refusal(path, f"its arrays differ in shape: {counts}", "save them from one set")
    layers = _number_layers(path, len(next(iter(stacks.values()))), numbers, layer)
    variants: dict[Variant, NDArray[np.floating]] = {
        "denoised" if kind == "denoised" else "raw": stack for kind, stack in stacks.items()
    }
    return Stacks(emotions, layers, variants, MEANS in stacks)


def _read_names(path: Path, names: NDArray[np.generic]) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "US":
        problem = f"array {NAMES!r} is {names.dtype} {list(names.shape)}, not a list of names"
        raise refusal(path, problem, "save it as np.array(names, dtype=str)")
    if names.dtype.kind == "S":
        # What is not UTF-8 becomes unprintable, which no name may be.
        names = np.char.decode(names.astype(np.bytes_), "utf-8", "surrogateescape")
    return tuple(names.tolist())


def _read_numbers(path: Path, numbers: NDArray[np.generic] | None) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    layers = tuple(numbers.ravel().tolist())
    if (
        numbers.dtype.kind not in "iu"
        or len(set(layers)) != len(layers)
        or min(layers, default=0) < 0
    ):
        problem = f"array {NUMBERS!r} does not number layers: {list(layers[:8])}"
        raise refusal(path, problem, "save whole numbers from 0 on, each one once")
    return layers


def _stacked_kinds(path: Path, arrays: Arrays) -> list[str]:
    """Which arrays hold the vectors: raw or denoised or both, or vectors alone, or means alone."""
    kinds = [kind for kind in ("raw", "denoised", VECTORS, MEANS) if kind in arrays]
    if not kinds:
        problem = f"beside {NAMES!r} it has none of 'raw', 'denoised', 'vectors' and 'means'"
        raise refusal(
            path, problem, "save the vectors [emotions, d_model] under one of these names"
        )
    if len(kinds) > 1 and kinds != ["raw", "denoised"]:
        problem = f"it has {' and '.join(map(repr, kinds))}, which are not one set"
        raise refusal(path, problem, "keep the one that is meant")
    return kinds


def _require_stack(
    path: Path, kind: str, values: NDArray[np.generic], count: int
) -> NDArray[np.floating]:
    """One array for all emotions as [l, e, d]."""
    stack = _require_floats(path, kind, values)
    shape = list(stack.shape)
    if stack.ndim == 2 and shape[0] == count:
        return stack[np.newaxis]
    if stack.ndim == 3 and shape[0] == shape[1] == count > 1 and kind in (VECTORS, MEANS):
        problem = f"array {kind!r} is {shape}: it could be [layers, emotions, d_model] or the other"
        raise refusal(path, problem, "save one file per layer, named ..._layer_0.npz and so on")
    if stack.ndim == 3 and shape[1] == count:
        return stack
    if stack.ndim == 3 and shape[0] == count:
        problem = f"array {kind!r} is {shape}, emotions first"
        raise refusal(path, problem, "swap the axes to [layers, emotions, d_model]")
    problem = f"array {kind!r} is {shape} for {count} emotions"
    raise refusal(path, problem, "save it as [emotions, d_model] or [layers, emotions, d_model]")


def _stack_named(path: Path, named: Arrays) -> NDArray[np.floating]:
    """One array per emotion, [d] or [l, d], as one [l, e, d]."""
    for name in named:
        if name in RESERVED:
            problem = f"it has {name!r} but no {NAMES!r}"
            raise refusal(path, problem, f"add the list of names, {NAMES!r}")
        if LIKE_A_LAYER.fullmatch(name):
            problem = f"{name!r} is a layer, not an emotion"
            raise refusal(path, problem, "give files with one array per emotion")
    parts = {name: _require_floats(path, name, values) for name, values in named.items()}
    first, model = next(iter(parts.items()))
    for name, part in parts.items():
        if part.ndim not in (1, 2) or part.shape != model.shape:
            problem = f"array {name!r} is {list(part.shape)}, {first!r} is {list(model.shape)}"
            raise refusal(path, problem, "save every emotion as [d_model] or as [layers, d_model]")
    stack = np.stack(list(parts.values()), axis=-2)
    return stack if stack.ndim == 3 else stack[np.newaxis]


def _require_floats(path: Path, name: str, values: NDArray[np.generic]) -> NDArray[np.floating]:
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        problem = f"array {name!r} holds {values.dtype}, not float16, float32 or float64"
        raise refusal(path, problem, "save vectors as float32 and nothing else among them")
    if values.size == 0:
        raise refusal(path, f"array {name!r} is empty", "save it again")
    return values  # type: ignore[return-value]


def _number_layers(
    path: Path, count: int, numbers: tuple[int, ...] | None, given: int | None
) -> tuple[int, ...]:
    """The numbers of `count` layers: what the file says, its name says and the user says agree."""
    if numbers is not None and len(numbers) != count:
        problem = f"array {NUMBERS!r} names {len(numbers)} layers, the vectors have {count}"
        raise refusal(path, problem, "save them from one set")
    if count > 1:
        ending = layer_in_name(path) if numbers is None else None
        if given is not None or ending is not None:
            one = given if given is not None else ending
            problem = f"it holds {count} layers, not only layer {one}"
            raise refusal(path, problem, f"number them in an array {NUMBERS!r}")
        return numbers or tuple(range(count))
    said = {
        "--layer": given,
        "its name": layer_in_name(path),
        f"its {NUMBERS!r}": numbers[0] if numbers else None,
    }
    heard = {word: number for word, number in said.items() if number is not None}
    if not heard:
        step = "give --layer N, or let its name end with _layer_N"
        raise refusal(path, "nothing says which layer it is", step)
    if len(set(heard.values())) > 1:
        words = ", ".join(f"{word} says {number}" for word, number in heard.items())
        raise refusal(path, f"which layer is it? {words}", "make them agree")
    return (next(iter(heard.values())),)
