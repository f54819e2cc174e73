"""Files of vectors as other programs read them, and as we read them back."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from stores.errors import EngineError, FingerprintMismatch, UsageError
from stores.exchange.layouts import LayerSet, read_vector_files
from stores.exchange.writing import (
    Layout,
    write_control_vector,
    write_directions,
    write_npz,
    write_safetensors,
)
from stores.vectors import Variant
from tests.stores.exchange.arranged import EMOTIONS, D, layer_sets, numbers, same

Write = Callable[[Path, Sequence[LayerSet]], tuple[Path, ...]]

E = len(EMOTIONS)
BOTH: tuple[Variant, Variant] = ("raw", "denoised")
# Numbers that a detour through decimals or float32 would not survive.
ODD = np.array([0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, 2.0**-1040, 1e-30])


def npz(layout: Layout) -> Write:
    return lambda path, sets: write_npz(path.with_suffix(".npz"), sets, layout)


def tensors(path: Path, sets: Sequence[LayerSet]) -> tuple[Path, ...]:
    return write_safetensors(path.with_suffix(".safetensors"), sets)


def stack(sets: Sequence[LayerSet], variant: Variant = "raw") -> NDArray[np.float64]:
    return np.stack([found.vectors[variant] for found in sets])


ROUND_TRIPS = [
    pytest.param(npz("full"), BOTH, False, id="full npz, both"),
    pytest.param(npz("full"), ("raw",), False, id="full npz, raw"),
    pytest.param(npz("full"), ("denoised",), False, id="full npz, denoised"),
    pytest.param(npz("full"), ("raw",), True, id="full npz of means"),
    pytest.param(npz("named"), ("raw",), False, id="named npz"),
    pytest.param(npz("means"), ("raw",), True, id="npz of means"),
    pytest.param(tensors, BOTH, False, id="safetensors, both"),
    pytest.param(tensors, ("denoised",), False, id="safetensors, denoised"),
    pytest.param(tensors, ("raw",), True, id="safetensors of means"),
]


@pytest.mark.parametrize("name", ["set", "set_layer_{layer}"])
@pytest.mark.parametrize("layers", [(7,), (0, 1, 2), (31, 4, 16, 5, 8, 9)])
@pytest.mark.parametrize(("write", "variants", "means"), ROUND_TRIPS)
def test_a_round_trip_keeps_every_bit(
    tmp_path: Path,
    write: Write,
    variants: Sequence[Variant],
    means: bool,
    layers: Sequence[int],
    name: str,
) -> None:
    sets = layer_sets(*layers, variants=variants, means=means)
    sets[0].vectors[variants[0]][1] = ODD
    files = write(tmp_path / name, sets)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert len(files) == (len(layers) if "{layer}" in name else 1)
    assert same(read_vector_files(files), sorted(sets, key=lambda found: found.layer))


@pytest.mark.parametrize(("write", "variants", "means"), ROUND_TRIPS)
def test_one_emotion_at_one_layer_makes_the_round_trip(
    tmp_path: Path, write: Write, variants: Sequence[Variant], means: bool
) -> None:
    sets = layer_sets(5, variants=variants, means=means, emotions=("joy",))
    assert same(read_vector_files(write(tmp_path / "set", sets)), sets)


@pytest.mark.parametrize(("write", "variants", "means"), ROUND_TRIPS)
def test_the_same_vectors_give_the_same_bytes_each_time(
    tmp_path: Path, write: Write, variants: Sequence[Variant], means: bool
) -> None:
    sets = layer_sets(3, 4, variants=variants, means=means)
    # A writer that leaves an order to chance, as safetensors' own does, agrees now and then.
    files = [write(tmp_path / str(time), sets[:: (-1) ** time])[0] for time in range(12)]
    assert len({file.read_bytes() for file in files}) == 1


def test_np_load_reads_a_full_npz(tmp_path: Path) -> None:
    sets = layer_sets(3, 8, variants=BOTH)
    write_npz(tmp_path / "v.npz", sets)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert found.files == ["emotions", "layers", "raw", "denoised"]
        assert found["emotions"].tolist() == list(EMOTIONS)
        assert found["layers"].tolist() == [3, 8]
        for variant in BOTH:
            assert found[variant].shape == (2, E, D)
            assert np.array_equal(found[variant], stack(sets, variant))


def test_np_load_reads_one_array_per_emotion(tmp_path: Path) -> None:
    # A name that np.savez itself cannot write: its own arguments are called so.
    sets = layer_sets(3, 8, emotions=("file", "joy", "allow_pickle"))
    write_npz(tmp_path / "v.npz", sets, "named")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert found.files == ["file", "joy", "allow_pickle", "layers"]
        assert found["joy"].shape == (2, D)
        assert np.array_equal(found["joy"], stack(sets)[:, 1])


def test_np_load_reads_means(tmp_path: Path) -> None:
    sets = layer_sets(3, 8)
    write_npz(tmp_path / "v.npz", sets, "means")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["emotions", "layers", "means"]
        assert np.array_equal(found["means"], stack(sets))


@pytest.mark.parametrize(
    ("layout", "names", "shape"),
    [
        ("full", {"emotions", "layers", "raw"}, (1, E, D)),
        ("named", set(EMOTIONS), (D,)),
        ("means", {"emotions", "means"}, (E, D)),
    ],
)
def test_a_series_has_one_layer_a_file(
    tmp_path: Path, layout: Layout, names: set[str], shape: tuple[int, ...]
) -> None:
    files = write_npz(tmp_path / "v_layer_{layer}.npz", layer_sets(3, 8), layout)
    assert [file.name for file in files] == ["v_layer_3.npz", "v_layer_8.npz"]
    for file in files:
        with np.load(file, allow_pickle=False) as found:
            assert set(found.files) == names
            assert shape in {found[name].shape for name in names}


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    sets = layer_sets(3, 8, variants=BOTH)
    write_safetensors(tmp_path / "v.safetensors", sets)
    found = load_file(tmp_path / "v.safetensors")
    assert sorted(found) == ["denoised", "raw"]
    for variant in BOTH:
        assert found[variant].dtype == np.float64
        assert np.array_equal(found[variant], stack(sets, variant))
    with safe_open(tmp_path / "v.safetensors", "np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["emotions"]) == list(EMOTIONS)
    assert json.loads(metadata["layers"]) == [3, 8]


def control_vector(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Fields and tensors as the package gguf reads them."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == [D]
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def test_a_control_vector_is_float32_rounding_exactly(tmp_path: Path) -> None:
    directions = {layer: numbers(D, seed=layer) * 10.0 ** (layer - 4) for layer in (9, 1, 4)}
    held = write_control_vector(
        tmp_path / "joy.gguf", directions, model_hint="gemma3", name="at ease"
    )
    fields, found = control_vector(tmp_path / "joy.gguf")
    assert held == (1, 4, 9)
    assert list(found) == ["direction.1", "direction.4", "direction.9"]
    for layer, direction in directions.items():
        assert found[f"direction.{layer}"].tobytes() == direction.astype(np.float32).tobytes()
    assert fields["general.architecture"] == "controlvector"
    assert fields["general.name"] == "at ease"
    assert fields["controlvector.model_hint"] == "gemma3"
    assert fields["controlvector.layer_count"] == 3


def blocks_of(found: Mapping[str, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
    """Which block gets what, by llama.cpp's two steps.

    Loading puts tensor N at row N - 1 of a zeroed buffer and refuses N = 0; block b > 0 is then
    given row b - 1, and adds it to its output.
    """
    layers = {int(name.removeprefix("direction.")): values for name, values in found.items()}
    assert min(layers) > 0
    rows = np.zeros((max(layers), D), np.float32)
    for number, values in layers.items():
        rows[number - 1] += values
    return {block: rows[block - 1] for block in range(1, max(layers) + 1)}


def test_each_block_of_llama_cpp_gets_the_direction_of_the_layer_of_its_number(
    tmp_path: Path,
) -> None:
    directions = {layer: numbers(D, seed=layer).astype(np.float32) for layer in (0, 2, 3, 6)}
    held = write_control_vector(tmp_path / "j.gguf", directions, model_hint="", name="joy")
    added = blocks_of(control_vector(tmp_path / "j.gguf")[1])
    assert held == (2, 3, 6)
    for block, row in added.items():
        wanted = directions[block] if block in held else np.zeros(D, np.float32)
        assert np.array_equal(row, wanted)


def test_a_control_vector_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    directions = {layer: numbers(D, seed=layer) for layer in (3, 1)}
    for name in ("a", "b"):
        write_control_vector(tmp_path / name, directions, model_hint="m", name="joy")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_layer_0_alone_is_refused_not_shifted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no place for layer 0.*; choose a layer from 1 on"):
        write_control_vector(tmp_path / "j.gguf", {0: numbers(D)}, model_hint="m", name="joy")
    assert list(tmp_path.iterdir()) == []


def test_directions_are_tensors_named_by_their_layers(tmp_path: Path) -> None:
    directions = {layer: numbers(D, seed=layer) for layer in (10, 0, 3)}
    path = tmp_path / "joy.safetensors"
    assert write_directions(path, directions, model_hint="m", name="joy") == (0, 3, 10)
    found = load_file(path)
    assert set(found) == {"layer_0", "layer_3", "layer_10"}
    for layer, direction in directions.items():
        assert found[f"layer_{layer}"].tobytes() == direction.astype(np.float32).tobytes()
    with pytest.raises(UsageError, match="is a layer, not an emotion"):
        read_vector_files([path])


@pytest.mark.parametrize("write", [write_control_vector, write_directions])
@pytest.mark.parametrize(
    ("directions", "said"),
    [
        ({1: np.full(D, 1e39)}, "layer 1 does not fit in float32"),
        ({1: np.full(D, np.nan)}, "layer 1 does not fit in float32"),
        ({1: numbers(D), 2: numbers(D + 1)}, "its layers differ in dimension"),
    ],
)
def test_directions_that_another_program_would_refuse_are_not_written(
    tmp_path: Path, write: Callable[..., object], directions: object, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        write(tmp_path / "j", directions, model_hint="m", name="joy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["named", "means"])
def test_a_layout_for_one_variant_refuses_two(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(UsageError, match="choose raw or denoised"):
        write_npz(tmp_path / "v.npz", layer_sets(1, variants=BOTH), layout)


@pytest.mark.parametrize("name", ["layers", "emotions", "means", "raw", "layer_3"])
def test_an_emotion_named_like_an_array_of_ours_is_not_written_as_one(
    tmp_path: Path, name: str
) -> None:
    sets = layer_sets(1, 2, emotions=("joy", name))
    with pytest.raises(UsageError, match="write the layout `full`"):
        write_npz(tmp_path / "v.npz", sets, "named")
    assert same(read_vector_files(write_npz(tmp_path / "v.npz", sets)), sets)


def test_means_of_as_many_layers_as_emotions_are_only_written_as_a_series(tmp_path: Path) -> None:
    sets = layer_sets(*range(E), means=True)
    for write in (npz("means"), npz("full"), tensors):
        with pytest.raises(UsageError, match=r"cannot be told apart.*_layer_{layer}"):
            write(tmp_path / "v", sets)
        assert same(read_vector_files(write(tmp_path / "v_layer_{layer}", sets)), sets)


def test_as_many_layers_as_emotions_make_no_odds_in_our_own_layout(tmp_path: Path) -> None:
    sets = layer_sets(*range(E), variants=BOTH)
    for write in (npz("full"), tensors):
        assert same(read_vector_files(write(tmp_path / "v", sets)), sets)


@pytest.mark.parametrize("name", ["v{layer}", "{layer}_v", "v_layer_1{layer}"])
def test_a_series_whose_names_would_not_say_the_layer_is_refused(tmp_path: Path, name: str) -> None:
    for write in (npz("full"), tensors):
        with pytest.raises(UsageError, match=r"let it end with _layer_{layer}"):
            write(tmp_path / name, layer_sets(1, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [npz("full"), tensors])
def test_layers_of_different_emotions_or_kinds_are_refused(tmp_path: Path, write: Write) -> None:
    first, second = layer_sets(0, 1)
    others = [
        replace(second, emotions=EMOTIONS[::-1]),
        replace(second, means=True),
        layer_sets(1, variants=BOTH)[0],
    ]
    for other in others:
        with pytest.raises(FingerprintMismatch, match="different emotions or kinds"):
            write(tmp_path / "v", [first, other])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [npz("full"), npz("named"), tensors])
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, write: Write) -> None:
    (path,) = write(tmp_path / "v", layer_sets(1))
    before = path.read_bytes()
    path.with_name("block").touch()
    with pytest.raises(EngineError):
        write(path.with_name("block") / "v", layer_sets(1))
    with pytest.raises(FingerprintMismatch):
        write(path, [*layer_sets(1), *layer_sets(2, means=True)])
    assert path.read_bytes() == before
