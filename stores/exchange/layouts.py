"""Emotion vectors out of other people's files, layer by layer.

A file is either *named* (one array per emotion, [d] or [l, d]) or *stacked* (the names in
`emotions`; `raw`, `denoised`, `vectors` or `means`, [e, d] or [l, e, d]). `layers` [l] numbers the
layers; without it they are those from 0 on, and a single one is named by the file's name or by the
user. Knows nothing of readers, of the protocol's emotions or of where a model's layers begin.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.errors import UsageError
from stores.exchange.naming import refusal
from stores.exchange.npz import read_npz
from stores.exchange.stacks import NAMES, NUMBERS, stack_arrays
from stores.exchange.tensors import read_tensors
from stores.vectors import Variant


@dataclass(frozen=True, slots=True, eq=False)
class LayerSet:
    """The vectors of one layer: row i of each array, float64 [e, d], is that of `emotions[i]`."""

    layer: int
    """The number that the file gives the layer: 0- or 1-based is for the importer to say."""
    emotions: tuple[str, ...]
    vectors: Mapping[Variant, NDArray[np.float64]]
    """`raw`, `denoised` or both; a file that does not say which gives `raw`."""
    means: bool
    """The file calls them means: their common part has not been taken off."""
    source: str
    """Name of the file."""


def read_vector_files(paths: Sequence[Path], *, layer: int | None = None) -> tuple[LayerSet, ...]:
    """The vectors in `paths`, one set per layer, in the order of layers.

    `layer` is that of a file which names none. Float16, bfloat16 and float32 are widened, which is
    exact. Emotions stand in the order of the first file.

    Raises UsageError naming the file, the array and the next step when a file is not understood,
    not finite, not safe to open or contradicts another.
    """
    found: dict[int, LayerSet] = {}
    first: LayerSet | None = None
    for path in paths:
        for one in _read_file(path, layer):
            first = first or one
            if one.layer in found:
                problem = f"layer {one.layer} is also in {found[one.layer].source}"
                raise refusal(path, problem, "give one file per layer")
            found[one.layer] = _like_first(path, one, first)
    if first is None:
        raise UsageError("no file of vectors was named; give .npz or .safetensors files")
    return tuple(found[number] for number in sorted(found))


def _read_file(path: Path, layer: int | None) -> Iterator[LayerSet]:
    stacks = stack_arrays(path, _open_file(path), layer)
    for at, number in enumerate(stacks.layers):
        vectors = {
            variant: np.array(stack[at], np.float64, order="C")
            for variant, stack in stacks.variants.items()
        }
        found = LayerSet(number, stacks.emotions, vectors, stacks.means, path.name)
        _require_finite(path, found)
        yield found


def _open_file(path: Path) -> Mapping[str, NDArray[np.generic]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        problem = UNREAD.get(path.suffix.lower(), "files of this kind are not read")
        raise refusal(path, problem, "save it as .npz or .safetensors")
    return reader(path)


def _read_safetensors(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The tensors of a file; `emotions` and `layers`, JSON in its metadata, stand beside them."""
    arrays, metadata = read_tensors(path)
    for name, kind in ((NAMES, str), (NUMBERS, int)):
        if name in metadata:
            arrays[name] = np.array(_parse_list(path, name, metadata[name], kind))
    return arrays


def _parse_list(path: Path, name: str, text: str, kind: type) -> list[Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        problem = f"its metadata {name!r} is not a JSON list of {kind.__name__}"
        raise refusal(path, problem, "save it with json.dumps")
    return values


def _require_finite(path: Path, found: LayerSet) -> None:
    for variant, values in found.vectors.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            kind = "means" if found.means else variant
            problem = (
                f"{kind} of {found.emotions[bad[0]]!r} at layer {found.layer} has numbers that are "
                f"not finite (so have {len(bad)} of {len(values)} emotions)"
            )
            raise refusal(path, problem, "leave these emotions out or compute them again")


def _like_first(path: Path, found: LayerSet, first: LayerSet) -> LayerSet:
    """`found` with the emotions in the order of `first`, when it is of the same kind."""
    if sorted(found.emotions) != sorted(first.emotions):
        odd = sorted(set(found.emotions) ^ set(first.emotions))
        problem = f"its emotions are not those of {first.source}: {odd[0]!r} is in one only"
        raise refusal(path, problem, "import these files under two readers")
    kinds = [(set(one.vectors), one.means, _width(one)) for one in (found, first)]
    if kinds[0] != kinds[1]:
        problem = f"it holds {_describe(found)}, but {first.source} holds {_describe(first)}"
        raise refusal(path, problem, "import these files under two readers")
    if found.emotions == first.emotions:
        return found
    rows = [found.emotions.index(name) for name in first.emotions]
    vectors = {variant: values[rows] for variant, values in found.vectors.items()}
    return replace(found, emotions=first.emotions, vectors=vectors)


def _width(found: LayerSet) -> int:
    return int(next(iter(found.vectors.values())).shape[1])


def _describe(found: LayerSet) -> str:
    kind = "means" if found.means else " and ".join(sorted(found.vectors))
    return f"{kind} of dimension {_width(found)}"


READERS: Mapping[str, Callable[[Path], Mapping[str, NDArray[np.generic]]]] = {
    ".npz": read_npz,
    ".safetensors": _read_safetensors,
}
UNREAD = {
    ".npy": "one array does not say whose vectors it holds",
    ".gguf": "a control vector holds one emotion alone",
    **dict.fromkeys(
        (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib"),
        "it is a pickle, which can run code when it is opened",
    ),
}
