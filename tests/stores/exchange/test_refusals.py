"""Files that are refused: one line with the file, the array and the next step."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from stores.errors import UsageError
from stores.exchange.layouts import read_vector_files
from tests.stores.exchange.arranged import (
    EMOTIONS,
    D,
    member,
    numbers,
    raw_safetensors,
    save_members,
    savez,
)

E = len(EMOTIONS)
NAN = np.where(np.arange(E * D).reshape(E, D) == D, np.nan, 1.0)
INF = np.where(np.arange(2 * E * D).reshape(2, E, D) == E * D, -np.inf, 1.0)


def refused(*paths: Path, layer: int | None = None) -> str:
    """The line with which these files are refused; what was wrong; and what to do, after `;`."""
    with pytest.raises(UsageError) as caught:
        read_vector_files(paths, layer=layer)
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line
    assert not paths or str(paths[-1]) in line
    return line


class Trap:
    """Unpickling this leaves a folder behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def stacked(**arrays: object) -> dict[str, object]:
    return {"emotions": list(EMOTIONS)} | arrays


@pytest.mark.parametrize("name", ["joy", "emotions", "layers", "means", "extra"])
def test_a_pickle_in_an_npz_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "sprung"
    good = stacked(means=numbers(1, E, D), layers=[3])
    arrays = {**good, name: np.array([Trap(trap)], dtype=object)}
    members = [(f"{key}.npy", member(np.asarray(values))) for key, values in arrays.items()]
    line = refused(save_members(tmp_path / "x.npz", members))
    assert f"'{name}' is a pickle" in line
    assert "array of floats" in line
    assert not trap.exists()


def test_a_pickle_in_place_of_an_array_is_refused_and_never_opened(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = save_members(tmp_path / "x.npz", [("joy.npy", pickle.dumps(Trap(trap)))])
    assert "'joy' is not a NumPy array" in refused(path)
    bare = tmp_path / "y.npz"
    bare.write_bytes(pickle.dumps(Trap(trap)))
    assert "not a whole .npz" in refused(bare)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("v.pt", "pickle"),
        ("v.PTH", "pickle"),
        ("v.bin", "pickle"),
        ("v.pkl", "pickle"),
        ("v.npy", "whose vectors"),
        ("v.gguf", "one emotion alone"),
        ("v.csv", "not read"),
        ("vectors", "not read"),
    ],
)
def test_other_kinds_of_files_are_refused_by_name(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps([1]))
    line = refused(tmp_path / name)
    assert why in line
    assert "save it as .npz or .safetensors" in line


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_that_is_missing_a_folder_or_nothing_is_refused(tmp_path: Path, suffix: str) -> None:
    assert "No such file" in refused(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    assert "directory" in refused(tmp_path / f"folder{suffix}")
    (tmp_path / f"empty{suffix}").touch()
    assert f"not a whole {suffix}" in refused(tmp_path / f"empty{suffix}")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert "not a file" in refused(tmp_path / f"pipe{suffix}")


def test_an_accent_put_together_in_another_way_makes_no_other_emotion(tmp_path: Path) -> None:
    arrays = stacked(emotions=["caf\u00e9", "cafe\u0301"], raw=numbers(2, D))
    savez(tmp_path / "x_layer_0.npz", arrays)
    assert "one and the same" in refused(tmp_path / "x_layer_0.npz")


def test_no_file_at_all_is_refused() -> None:
    assert "no file" in refused()


def test_a_file_torn_anywhere_is_refused(tmp_path: Path) -> None:
    whole = savez(tmp_path / "w_layer_0.npz", {"joy": numbers(D), "calm": numbers(D)}).read_bytes()
    save_file({"joy": numbers(D)}, tmp_path / "w_layer_0.safetensors")
    tensors = (tmp_path / "w_layer_0.safetensors").read_bytes()
    for suffix, payload in ((".npz", whole), (".safetensors", tensors)):
        path = tmp_path / f"torn_layer_0{suffix}"
        for end in range(0, len(payload), 7):
            path.write_bytes(payload[:end])
            refused(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_byte_changed_anywhere_raises_nothing_but_a_refusal(tmp_path: Path, suffix: str) -> None:
    good = savez(tmp_path / "w_layer_0.npz", {"joy": numbers(D), "чувство": numbers(D, seed=1)})
    if suffix == ".safetensors":
        good = good.with_suffix(suffix)
        save_file({"joy": numbers(D), "чувство": numbers(D)}, good, {"layers": "[0]"})
    payload = good.read_bytes()
    for at in range(len(payload)):
        good.write_bytes(payload[:at] + bytes([payload[at] ^ 0x80]) + payload[at + 1 :])
        with suppress(UsageError):
            read_vector_files([good])


def test_a_flipped_byte_of_an_array_is_refused(tmp_path: Path) -> None:
    path = savez(tmp_path / "w_layer_0.npz", {"joy": numbers(D)})
    payload = bytearray(path.read_bytes())
    at = payload.index(numbers(D).tobytes())
    payload[at + 3] ^= 1
    path.write_bytes(payload)
    assert "CRC" in refused(path)


@pytest.mark.parametrize("field", [6, 8])
def test_a_locked_or_strangely_compressed_archive_is_refused(tmp_path: Path, field: int) -> None:
    path = savez(tmp_path / "w_layer_0.npz", {"joy": numbers(D)})
    payload = bytearray(path.read_bytes())
    # Flags (1: a password) or the method (no such one), in the entry and in the list of entries.
    for at in (payload.index(b"PK\x03\x04") + field, payload.index(b"PK\x01\x02") + field + 2):
        payload[at] = 1 if field == 6 else 77
    path.write_bytes(payload)
    assert "not a whole .npz" in refused(path)


@pytest.mark.parametrize("shape", ["(8,)", "(6,)", "(1000000000000,)", "(7, 7)"])
def test_an_array_whose_header_lies_is_refused(tmp_path: Path, shape: str) -> None:
    lie = member(numbers(D)).replace(b"(7,), }", f"{shape}, }}".encode())
    lie = lie.replace(b" " * (len(shape) - 4) + b"\n", b"\n", 1)
    line = refused(save_members(tmp_path / "x_layer_0.npz", [("joy.npy", lie)]))
    assert "'joy'" in line


def test_an_array_of_a_version_that_is_not_known_is_refused(tmp_path: Path) -> None:
    strange = member(numbers(D)).replace(b"NUMPY\x01", b"NUMPY\x09")
    path = save_members(tmp_path / "x_layer_0.npz", [("joy.npy", strange)])
    assert "'joy' is not a NumPy array" in refused(path)


def test_an_emotion_with_another_dimension_is_refused_by_name(tmp_path: Path) -> None:
    arrays = {"joy": numbers(D), "calm": numbers(D), "fear": numbers(D + 1)}
    line = refused(savez(tmp_path / "x_layer_0.npz", arrays))
    assert "'fear' is [8], 'joy' is [7]" in line


def test_an_emotion_with_other_layers_is_refused_by_name(tmp_path: Path) -> None:
    arrays = {"joy": numbers(3, D), "calm": numbers(2, D)}
    assert "'calm' is [2, 7], 'joy' is [3, 7]" in refused(savez(tmp_path / "x.npz", arrays))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (stacked(means=numbers(2, E, D), layers=[4, 4]), "does not number layers"),
        (stacked(means=numbers(2, E, D), layers=[-1, 0]), "does not number layers"),
        (stacked(means=numbers(2, E, D), layers=[0.0, 1.0]), "does not number layers"),
        (stacked(means=numbers(2, E, D), layers=[0, 1, 2]), "names 3 layers, the vectors have 2"),
        (stacked(means=numbers(2, E, D), layers=[]), "does not number layers"),
        (stacked(means=numbers(2, E, D), layers=np.array([], int)), "names 0 layers"),
        (stacked(means=numbers(2, D, E)), "is [2, 7, 5] for 5 emotions"),
        (stacked(means=numbers(E, 2, D)), "emotions first"),
        (stacked(means=numbers(E, E, D)), "could be [layers, emotions, d_model] or the other"),
        (stacked(means=numbers(E - 1, D)), "is [4, 7] for 5 emotions"),
        (stacked(means=numbers(D)), "is [7] for 5 emotions"),
        (stacked(means=numbers(1, 2, E, D)), "is [1, 2, 5, 7] for 5 emotions"),
        (stacked(means=numbers(0, E, D)), "'means' is empty"),
        (stacked(means=numbers(E, D).astype(int)), "'means' holds int64"),
        (stacked(means=numbers(E, D).astype(np.longdouble)), "'means' holds float128"),
        (stacked(means=numbers(E, D).astype(complex)), "'means' holds complex128"),
        (stacked(means=numbers(E, D), vectors=numbers(E, D)), "'vectors' and 'means'"),
        (stacked(means=numbers(E, D), raw=numbers(E, D)), "'raw' and 'means'"),
        (stacked(raw=numbers(E, D), denoised=numbers(E, D + 1)), "differ in shape"),
        (stacked(raw=numbers(E, D), denoised=numbers(1, E, D + 1)), "differ in shape"),
        (stacked(stories=numbers(E, D)), "none of 'raw', 'denoised', 'vectors' and 'means'"),
        (stacked(means=NAN), "means of 'at ease' at layer 9 has numbers that are not finite"),
        (stacked(denoised=INF, raw=numbers(2, E, D)), "at layer 1 has numbers that are not finite"),
        ({"emotions": list(range(E)), "means": numbers(E, D)}, "'emotions' is int64 [5], not a"),
        ({"emotions": "joy", "means": numbers(1, D)}, "not a list of names"),
        ({"emotions": [["joy"]], "means": numbers(1, D)}, "not a list of names"),
        ({"emotions": [b"\xff", b"joy"], "means": numbers(2, D)}, "is no name of an emotion"),
        ({"emotions": ["joy", " "], "means": numbers(2, D)}, "is no name of an emotion"),
        ({"emotions": ["joy", "a\nb"], "means": numbers(2, D)}, "is no name of an emotion"),
        ({"emotions": np.array([], str), "means": numbers(0, D)}, "holds no emotion"),
        ({"emotions": ["joy", "calm", "joy"], "means": numbers(3, D)}, "'joy' and 'joy' are one"),
        ({"emotions": ["at ease", "At-Ease"], "means": numbers(2, D)}, "'At-Ease' are one"),
        ({"at_ease": numbers(D), "at  ease": numbers(D)}, "'at_ease' and 'at  ease' are one"),
        ({"means": numbers(E, D)}, "it has 'means' but no 'emotions'"),
        ({"joy": numbers(D), "d_model": np.int64(D)}, "'d_model' holds int64"),
        ({"joy": np.float64(1.0)}, "'joy' is []"),
        ({"joy": numbers(2, 3, D)}, "'joy' is [2, 3, 7]"),
        ({"layer_0": numbers(D), "layer_1": numbers(D)}, "'layer_0' is a layer, not an emotion"),
        ({"layers": [0]}, "holds no emotion"),
        ({}, "holds no emotion"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, arrays: Mapping[str, object], said: str
) -> None:
    layered = any(np.asarray(values).ndim > 2 for values in arrays.values())
    path = savez(tmp_path / ("x.npz" if layered else "x_layer_9.npz"), arrays)
    assert said in refused(path)


@pytest.mark.parametrize(
    ("name", "layers", "given", "said"),
    [
        ("x", None, None, "nothing says which layer it is; give --layer N"),
        ("x_layer_twelve", None, None, "nothing says which layer it is"),
        ("multilayer_3b", None, None, "nothing says which layer it is"),
        ("x_layer_3", None, 4, "--layer says 4, its name says 3"),
        ("x_layer_3", [5], None, "its name says 3, its 'layers' says 5"),
        ("x", [5], 4, "--layer says 4, its 'layers' says 5"),
    ],
)
def test_one_layer_must_have_one_number(
    tmp_path: Path, name: str, layers: list[int] | None, given: int | None, said: str
) -> None:
    arrays = stacked(means=numbers(E, D), **({"layers": layers} if layers else {}))
    assert said in refused(savez(tmp_path / f"{name}.npz", arrays), layer=given)


def test_many_layers_cannot_be_called_one(tmp_path: Path) -> None:
    arrays = stacked(means=numbers(2, E, D))
    assert "holds 2 layers, not only layer 7" in refused(savez(tmp_path / "x_layer_7.npz", arrays))
    assert "not only layer 3" in refused(savez(tmp_path / "x.npz", arrays), layer=3)
    numbered = savez(tmp_path / "y.npz", {**arrays, "layers": [3, 4]})
    assert "not only layer 3" in refused(numbered, layer=3)


def test_an_emotion_twice_in_the_archive_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = save_members(
            tmp_path / "x_layer_0.npz", [("joy.npy", member(numbers(D, seed=at))) for at in (0, 1)]
        )
    assert "'joy' is there twice" in refused(path)


def test_a_layer_twice_over_the_files_is_refused(tmp_path: Path) -> None:
    first = savez(tmp_path / "a.npz", stacked(means=numbers(2, E, D), layers=[3, 4]))
    second = savez(tmp_path / "b_layer_4.npz", stacked(means=numbers(E, D)))
    assert "layer 4 is also in a.npz" in refused(first, second)
    assert "layer 3 is also in a.npz" in refused(first, first)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"joy": numbers(D), "fear": numbers(D)}, "'calm' is in one only"),
        ({"joy": numbers(D), "calm": numbers(D), "fear": numbers(D)}, "'fear' is in one only"),
        ({"joy": numbers(D), "Calm": numbers(D)}, "'Calm' is in one only"),
        (
            {"joy": numbers(D + 1), "calm": numbers(D + 1)},
            "raw of dimension 8, but a_layer_0.npz holds raw of dimension 7",
        ),
        (
            {"emotions": ["joy", "calm"], "means": numbers(2, D)},
            "means of dimension 7, but a_layer_0.npz holds raw",
        ),
        (
            {"emotions": ["joy", "calm"], "raw": numbers(2, D), "denoised": numbers(2, D)},
            "holds denoised and raw of dimension 7, but a_layer_0.npz holds raw",
        ),
    ],
)
def test_files_that_disagree_are_refused(
    tmp_path: Path, other: Mapping[str, object], said: str
) -> None:
    first = savez(tmp_path / "a_layer_0.npz", {"joy": numbers(D), "calm": numbers(D)})
    assert said in refused(first, savez(tmp_path / "a_layer_1.npz", other))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"emotions": "joy, calm"}, "'emotions' is not a JSON list of str"),
        ({"emotions": '{"joy": 0}'}, "'emotions' is not a JSON list of str"),
        ({"emotions": '["joy", 1]'}, "'emotions' is not a JSON list of str"),
        ({"emotions": '["joy", "calm"]', "layers": "[1.0]"}, "'layers' is not a JSON list of int"),
        ({"emotions": '["joy", "calm"]', "layers": "[true]"}, "'layers' is not a JSON list of int"),
        ({"emotions": '["joy", "calm"]', "layers": "[-3]"}, "does not number layers"),
        ({"emotions": '["joy", "calm"]', "layers": f"[{2**80}]"}, "does not number layers"),
        ({"layers": "[3]"}, "it has 'raw' but no 'emotions'"),
        (None, "it has 'raw' but no 'emotions'"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None, said: str
) -> None:
    save_file({"raw": numbers(1, 2, D)}, tmp_path / "x.safetensors", metadata)
    assert said in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.int8, torch.int64, torch.bool, torch.complex64]
)
def test_tensors_of_other_numbers_are_refused(tmp_path: Path, dtype: Any) -> None:
    save_torch({"joy": torch.ones(D).to(dtype)}, tmp_path / "x_layer_0.safetensors")
    assert "'joy' holds" in refused(tmp_path / "x_layer_0.safetensors")


def test_not_finite_numbers_in_bfloat16_are_refused(tmp_path: Path) -> None:
    broken = torch.tensor([1.0, torch.inf], dtype=torch.bfloat16)
    save_torch(
        {"joy": broken, "calm": torch.ones(2).bfloat16()}, tmp_path / "x_layer_0.safetensors"
    )
    assert "not finite" in refused(tmp_path / "x_layer_0.safetensors")


def test_a_tensor_twice_in_the_header_is_refused(tmp_path: Path) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    path = tmp_path / "x_layer_0.safetensors"
    raw_safetensors(path, f'{{"joy": {entry}, "joy": {entry}}}', bytes(4))
    assert "'joy' is there twice" in refused(path)


def test_metadata_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    save_file({"raw": numbers(E, D)}, tmp_path / "x.safetensors", {"emotions": "[" * 9999})
    assert "not a JSON list" in refused(tmp_path / "x.safetensors")


def test_a_model_is_not_taken_for_vectors(tmp_path: Path) -> None:
    weights = {"model.embed_tokens.weight": numbers(9, D), "lm_head.weight": numbers(4, D)}
    save_file(weights, tmp_path / "model.safetensors")
    assert "save every emotion as" in refused(tmp_path / "model.safetensors")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "'readme.txt' is not a NumPy array" in refused(path)
