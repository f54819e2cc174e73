"""Emotion vectors into files that NumPy, safetensors and llama.cpp read.

The same vectors give the same bytes. Knows nothing of which vectors are chosen, nor why.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stores.errors import FingerprintMismatch
from stores.exchange.layouts import LayerSet
from stores.exchange.naming import layer_in_name, refusal
from stores.exchange.npz import npz_bytes
from stores.exchange.stacks import LIKE_A_LAYER, MEANS, NAMES, NUMBERS, RESERVED
from stores.exchange.tensors import tensor_bytes
from stores.files import write_file_atomically
from stores.vectors import VARIANTS

Layout = Literal["full", "named", "means"]
Arrays = dict[str, NDArray[np.generic]]

SERIES = "{layer}"
ARCHITECTURE = "controlvector"
LAYER_TENSOR = "layer_"


def write_npz(path: Path, sets: Sequence[LayerSet], layout: Layout = "full") -> tuple[Path, ...]:
    """Write `sets` as one .npz, or as one for each layer where `path` ends with `_layer_{layer}`.

    `full`: emotions [e], layers [l], raw and denoised [l, e, d] (`means` where the sets are means).
    `named`: one array per emotion [l, d] and layers [l]. `means`: means [l, e, d], emotions [e] and
    layers [l]. These two take sets of one variant; in their series arrays have no layer axis and
    files no `layers`. All numbers are float64. Returns the files written.

    Raises UsageError when the layout cannot say what the sets hold, FingerprintMismatch when they
    differ in emotions.
    """
    arrange = {"full": _full, "named": _named, "means": _means}[layout]

    def payload(file: Path, part: Sequence[LayerSet]) -> memoryview:
        arrays = arrange(file, part)
        if file != path and layout != "full":
            del arrays[NUMBERS]
            arrays = {
                name: values if name == NAMES else values[0] for name, values in arrays.items()
            }
        return npz_bytes(arrays)

    return _write(path, sets, payload)


def write_safetensors(path: Path, sets: Sequence[LayerSet]) -> tuple[Path, ...]:
    """Write raw and denoised (or means) [l, e, d] float64 as one .safetensors, or as a series.

    `emotions` and `layers` stand in the metadata as JSON. Returns the files written. Raises
    FingerprintMismatch when the sets differ in emotions.
    """

    def payload(file: Path, part: Sequence[LayerSet]) -> bytes:
        arrays = _full(file, part)
        metadata = {name: json.dumps(arrays.pop(name).tolist()) for name in (NAMES, NUMBERS)}
        return tensor_bytes(arrays, metadata)

    return _write(path, sets, payload)


def write_control_vector(
    path: Path, directions: Mapping[int, NDArray[np.floating]], *, model_hint: str, name: str
) -> tuple[int, ...]:
    """Write {layer: [d]} as a GGUF control vector in float32; returns the layers that it holds.

    llama.cpp adds tensor `direction.N` to the output of block N, counted from 0 as here, and has no
    place for one at block 0: that layer is left out. Layers in between may be missing. `model_hint`
    and `name` are for people. Source: common_control_vector_load in llama.cpp's common/common.cpp
    and llama_adapter_cvec in its src/llama-adapter.cpp.

    Raises UsageError when no other layer remains, when layers differ in dimension and when numbers
    do not fit in float32.
    """
    tensors = _float32(path, {layer: found for layer, found in directions.items() if layer > 0})
    if not tensors:
        problem = "a control vector has no place for layer 0, and no other layer was chosen"
        raise refusal(path, problem, "choose a layer from 1 on")
    write_file_atomically(path, _gguf_bytes(tensors, model_hint, name))
    return tuple(tensors)


def write_directions(
    path: Path, directions: Mapping[int, NDArray[np.floating]], *, model_hint: str, name: str
) -> tuple[int, ...]:
    """Write {layer: [d]} of one emotion as .safetensors: tensors `layer_{l}` [d] in float32.

    From these a SteeringVector of the package steering-vectors is made: engine/steering_objects.py.
    `model_hint` and `name` stand in the metadata. Returns the layers written. Raises UsageError as
    `write_control_vector` does.
    """
    tensors = _float32(path, directions)
    arrays = {f"{LAYER_TENSOR}{layer}": direction for layer, direction in tensors.items()}
    metadata = {"emotion": name, "model": model_hint}
    write_file_atomically(path, tensor_bytes(arrays, metadata))
    return tuple(tensors)


def _write(
    path: Path,
    sets: Sequence[LayerSet],
    payload: Callable[[Path, Sequence[LayerSet]], bytes | memoryview],
) -> tuple[Path, ...]:
    """One file of all sets, or one for each set where the name of `path` has `{layer}`."""
    if len({(found.emotions, found.means, *sorted(found.vectors)) for found in sets}) != 1:
        raise FingerprintMismatch(
            f"{path}: the layers have vectors of different emotions or kinds; build or import them "
            "again, all at once"
        )
    ordered = sorted(sets, key=lambda found: found.layer)
    if SERIES not in path.name:
        write_file_atomically(path, payload(path, ordered))
        return (path,)
    files = [path.with_name(path.name.replace(SERIES, str(one.layer))) for one in ordered]
    if [layer_in_name(file) for file in files] != [one.layer for one in ordered]:
        raise refusal(path, "such names do not say the layer", f"let it end with _layer_{SERIES}")
    for file, one in zip(files, ordered, strict=True):
        write_file_atomically(file, payload(file, [one]))
    return tuple(files)


def _full(path: Path, sets: Sequence[LayerSet]) -> Arrays:
    if sets[0].means:
        return _means(path, sets)
    arrays = _labels(sets)
    for variant in VARIANTS:
        if variant in sets[0].vectors:
            arrays[variant] = np.stack([found.vectors[variant] for found in sets])
    return arrays


def _means(path: Path, sets: Sequence[LayerSet]) -> Arrays:
    values = _only_variant(path, sets)
    if 1 < len(values) == values.shape[1]:
        problem = f"{len(values)} layers of as many emotions cannot be told apart as means"
        raise refusal(path, problem, f"write one file per layer: end the name with _layer_{SERIES}")
    return {**_labels(sets), MEANS: values}


def _named(path: Path, sets: Sequence[LayerSet]) -> Arrays:
    values = _only_variant(path, sets)
    for name in sets[0].emotions:
        if name in RESERVED or LIKE_A_LAYER.fullmatch(name):
            problem = f"an array cannot be named after the emotion {name!r}, which means more"
            raise refusal(path, problem, "write the layout `full`")
    named = {name: values[:, at] for at, name in enumerate(sets[0].emotions)}
    return {**named, NUMBERS: _labels(sets)[NUMBERS]}


def _labels(sets: Sequence[LayerSet]) -> Arrays:
    layers = np.array([found.layer for found in sets], np.int64)
    return {NAMES: np.array(sets[0].emotions, np.str_), NUMBERS: layers}


def _only_variant(path: Path, sets: Sequence[LayerSet]) -> NDArray[np.float64]:
    """The vectors [l, e, d] of sets that hold one variant."""
    if len(sets[0].vectors) > 1:
        raise refusal(path, "this layout holds one variant, not two", "choose raw or denoised")
    return np.stack([next(iter(found.vectors.values())) for found in sets])


def _float32(
    path: Path, directions: Mapping[int, NDArray[np.floating]]
) -> dict[int, NDArray[np.float32]]:
    """{layer: [d]} rounded to float32, in the order of layers."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = {
            layer: np.ascontiguousarray(directions[layer], np.float32)
            for layer in sorted(directions)
        }
    for layer, direction in rounded.items():
        if not np.isfinite(direction).all() or not direction.any():
            problem = f"the direction of layer {layer} does not fit in float32"
            raise refusal(path, problem, "choose another layer or scale it down")
    if len({direction.shape for direction in rounded.values()}) > 1:
        raise refusal(path, "its layers differ in dimension", "choose those of one model")
    return rounded


def _gguf_bytes(tensors: Mapping[int, NDArray[np.float32]], model_hint: str, name: str) -> bytes:
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "directions.gguf"
        writer = gguf.GGUFWriter(file, ARCHITECTURE)
        writer.add_name(name)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
        writer.add_int32(f"{ARCHITECTURE}.layer_count", len(tensors))
        for layer, direction in tensors.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()
