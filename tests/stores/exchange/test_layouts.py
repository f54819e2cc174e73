"""Reading vectors out of files that other people saved."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from stores.exchange.layouts import LayerSet, read_vector_files
from stores.exchange.writing import write_npz
from tests.stores.exchange.arranged import EMOTIONS, D, layer_sets, numbers, same, savez

Floats = NDArray[np.floating[Any]]


def raw(found: LayerSet) -> Floats:
    assert list(found.vectors) == ["raw"]
    return found.vectors["raw"]


def test_one_array_per_emotion_and_layer_is_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    arrays = {name: numbers(3, D, seed=at) for at, name in enumerate(EMOTIONS)}
    sets = read_vector_files([savez(tmp_path / "named.npz", arrays)])
    assert [found.layer for found in sets] == [0, 1, 2]
    for found in sets:
        assert found.emotions == EMOTIONS
        assert not found.means
        assert found.source == "named.npz"
        assert np.array_equal(raw(found), [arrays[name][found.layer] for name in EMOTIONS])


def test_an_array_layers_numbers_the_layers_and_sets_come_in_their_order(tmp_path: Path) -> None:
    joy, calm = numbers(3, D, seed=1), numbers(3, D, seed=2)
    path = savez(tmp_path / "some.npz", {"joy": joy, "calm": calm, "layers": [14, 2, 9]})
    sets = read_vector_files([path])
    assert [found.layer for found in sets] == [2, 9, 14]
    assert np.array_equal(raw(sets[0]), [joy[1], calm[1]])
    assert np.array_equal(raw(sets[2]), [joy[0], calm[0]])


@pytest.mark.parametrize("name", ["joy_layer_12", "layer_12", "Qwen-layer-12", "x.layer12"])
def test_a_file_of_one_layer_is_numbered_by_the_end_of_its_name(tmp_path: Path, name: str) -> None:
    path = savez(tmp_path / f"{name}.npz", {"joy": numbers(D), "calm": numbers(D, seed=1)})
    (found,) = read_vector_files([path])
    assert found.layer == 12
    assert raw(found).shape == (2, D)


def test_a_file_of_one_layer_is_numbered_by_the_user(tmp_path: Path) -> None:
    path = savez(tmp_path / "vectors.npz", {"joy": numbers(1, D), "calm": numbers(1, D, seed=1)})
    (found,) = read_vector_files([path], layer=4)
    assert found.layer == 4


@pytest.mark.parametrize("with_layers", [True, False])
def test_means_of_every_layer_are_read_and_called_means(tmp_path: Path, with_layers: bool) -> None:
    means = numbers(3, len(EMOTIONS), D)
    layers = {"layers": [5, 6, 7]} if with_layers else {}
    path = savez(tmp_path / "m.npz", {"emotions": list(EMOTIONS), "means": means, **layers})
    sets = read_vector_files([path])
    assert [found.layer for found in sets] == ([5, 6, 7] if with_layers else [0, 1, 2])
    assert all(found.means and found.emotions == EMOTIONS for found in sets)
    assert np.array_equal([raw(found) for found in sets], means)


def test_vectors_under_that_name_are_taken_as_they_are(tmp_path: Path) -> None:
    values = numbers(len(EMOTIONS), D)
    path = savez(tmp_path / "v_layer_3.npz", {"emotions": list(EMOTIONS), "vectors": values})
    (found,) = read_vector_files([path])
    assert not found.means
    assert np.array_equal(raw(found), values)


def test_names_saved_as_bytes_are_read_as_utf_8(tmp_path: Path) -> None:
    names = np.array([name.encode() for name in EMOTIONS])
    arrays = {"emotions": names, "means": numbers(len(EMOTIONS), D)}
    (found,) = read_vector_files([savez(tmp_path / "b.npz", arrays)], layer=0)
    assert found.emotions == EMOTIONS


def test_a_series_of_files_is_one_set_in_the_order_of_layers(tmp_path: Path) -> None:
    wanted = layer_sets(0, 3, 10)
    for found in wanted:
        arrays = dict(zip(EMOTIONS, found.vectors["raw"], strict=True))
        savez(tmp_path / f"set_layer_{found.layer}.npz", arrays)
    # As a shell sorts them: 10 before 3.
    sets = read_vector_files(sorted(tmp_path.glob("*.npz")))
    assert same(sets, wanted)
    assert [found.source for found in sets] == [f"set_layer_{layer}.npz" for layer in (0, 3, 10)]


def test_files_with_the_same_emotions_in_another_order_are_brought_into_one(tmp_path: Path) -> None:
    first, second = layer_sets(0, 1)
    for found, step in ((first, 1), (second, -1)):
        pairs = list(zip(EMOTIONS, found.vectors["raw"], strict=True))[::step]
        savez(tmp_path / f"set_layer_{found.layer}.npz", dict(pairs))
    assert same(read_vector_files(sorted(tmp_path.iterdir())), [first, second])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_of_every_width_are_widened_exactly(tmp_path: Path, dtype: str) -> None:
    values = numbers(len(EMOTIONS), D).astype(dtype)
    path = savez(tmp_path / "w_layer_0.npz", {"emotions": list(EMOTIONS), "vectors": values})
    (found,) = read_vector_files([path])
    assert raw(found).dtype == np.float64
    assert np.array_equal(raw(found), values.astype(np.float64))


@pytest.mark.parametrize("order", ["C", "F"])
def test_compressed_and_column_major_arrays_are_read_alike(tmp_path: Path, order: Any) -> None:
    values = np.array(numbers(2, len(EMOTIONS), D), order=order)
    path = tmp_path / "c.npz"
    np.savez_compressed(path, emotions=np.array(EMOTIONS), raw=values)
    assert np.array_equal([raw(found) for found in read_vector_files([path])], values)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_of_one_emotion_each_are_read_as_torch_has_them(tmp_path: Path, dtype: str) -> None:
    tensors = {
        name: torch.from_numpy(numbers(D, seed=at)).to(getattr(torch, dtype))
        for at, name in enumerate(EMOTIONS)
    }
    save_torch(tensors, tmp_path / "t_layer_2.safetensors")
    (found,) = read_vector_files([tmp_path / "t_layer_2.safetensors"])
    assert found.layer == 2
    for name, row in zip(found.emotions, raw(found), strict=True):
        assert np.array_equal(row, tensors[name].double().numpy())


def test_every_bfloat16_is_widened_as_torch_widens_it(tmp_path: Path) -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    every = bits.view(torch.bfloat16)
    joy, calm = every[torch.isfinite(every)].reshape(2, -1)
    save_torch({"joy": joy, "calm": calm}, tmp_path / "all.safetensors")
    (found,) = read_vector_files([tmp_path / "all.safetensors"], layer=0)
    assert found.emotions == ("calm", "joy")
    # Equal bytes: -0.0 stays what it is.
    assert raw(found).tobytes() == torch.stack([calm, joy]).double().numpy().tobytes()


def test_stacked_tensors_take_names_and_layers_from_the_metadata(tmp_path: Path) -> None:
    stacks = {
        "raw": numbers(2, len(EMOTIONS), D),
        "denoised": numbers(2, len(EMOTIONS), D, seed=1),
    }
    metadata = {"emotions": json.dumps(EMOTIONS), "layers": "[4, 1]"}
    save_file(stacks, tmp_path / "s.safetensors", metadata)
    sets = read_vector_files([tmp_path / "s.safetensors"])
    assert [found.layer for found in sets] == [1, 4]
    assert all(found.emotions == EMOTIONS for found in sets)
    for variant in ("raw", "denoised"):
        assert np.array_equal([s.vectors[variant] for s in sets], stacks[variant][::-1])


def test_layers_of_a_series_may_come_from_either_format(tmp_path: Path) -> None:
    wanted = layer_sets(0, 1)
    write_npz(tmp_path / "x_layer_0.npz", wanted[:1])
    save_file(
        {"raw": wanted[1].vectors["raw"]},
        tmp_path / "x_layer_1.safetensors",
        {"emotions": json.dumps(EMOTIONS)},
    )
    assert same(read_vector_files(sorted(tmp_path.iterdir())), wanted)


def test_reading_leaves_torch_alone() -> None:
    script = (
        "import sys, stores.exchange.layouts, stores.exchange.writing; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'safetensors', 'gguf')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
