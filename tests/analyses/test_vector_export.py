"""Laws of exported vectors: read by plain libraries, bit for bit, and back again through a file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from analyses import geometry
from analyses.vector_export import ExportSummary, export_vectors
from analyses.vector_import import import_vectors
from analyses.vectors import build_vectors
from stores.database import Connection
from stores.errors import EngineError, NotReady, UsageError
from stores.results import Metric, open_run, publish
from stores.vectors import Variant, read_vectors, vector_layers
from stores.workspace import Workspace
from tests.analyses.foreign import (
    CORPUS,
    OURS,
    READER,
    D,
    Desk,
    centred,
    open_desk,
    write_stack,
)
from tests.analyses.lab import CORPUS as TEXTS
from tests.analyses.lab import READER as BUILT
from tests.analyses.lab import open_lab, story_plan, write_activations, write_texts
from tests.analyses.planted import planted_world

RAW = centred(seed=1)
DENOISED = centred(seed=2)


@pytest.fixture
def desk(conn: Connection, workspace: Workspace, tmp_path: Path) -> Desk:
    """Three layers of both variants, at 1, 2 and 3 of nine."""
    desk = open_desk(conn, workspace)
    arrays = {"raw": RAW, "denoised": DENOISED, "layers": np.array([1, 2, 3])}
    desk.take(write_stack(tmp_path / "theirs.npz", **arrays), n_layers=9, model="somebody/nine")
    return desk


def export(desk: Desk, path: Path, **asked: Any) -> ExportSummary:
    return export_vectors(desk.conn, desk.workspace, READER, CORPUS, path, **asked)


def test_an_npz_holds_every_layer_and_both_variants(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "out" / "vectors.npz"
    done = export(desk, path)
    assert (done.files, done.layers, done.variants) == ((path,), (1, 2, 3), ("raw", "denoised"))
    with np.load(path, allow_pickle=False) as exported:
        assert exported["emotions"].tolist() == list(OURS)
        assert exported["layers"].tolist() == [1, 2, 3]
        np.testing.assert_array_equal(exported["raw"], RAW)
        np.testing.assert_array_equal(exported["denoised"], DENOISED)


def test_layouts_of_one_variant_hold_the_denoised_one_or_the_one_chosen(
    desk: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "v.npz"
    assert export(desk, path, layout="named").variants == ("denoised",)
    with np.load(path) as named:
        np.testing.assert_array_equal(named["at ease"], DENOISED[:, 1])
    assert export(desk, path, layout="means", variant="raw").variants == ("raw",)
    with np.load(path) as means:
        np.testing.assert_array_equal(means["means"], RAW)


def test_chosen_layers_alone_are_written(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    assert export(desk, path, layers=[3, 1, 3], variant="raw").layers == (1, 3)
    np.testing.assert_array_equal(load_file(path)["raw"], RAW[[0, 2]])
    with pytest.raises(UsageError, match=r"at layers \[0, 4\]; it has \[1, 2, 3\]"):
        export(desk, path, layers=[0, 1, 4])


@pytest.mark.parametrize(
    ("name", "asked", "variants"),
    [
        ("v.npz", {}, ("raw", "denoised")),
        ("v.npz", {"variant": "denoised"}, ("denoised",)),
        ("v.npz", {"layout": "named", "variant": "raw"}, ("raw",)),
        ("v.npz", {"layout": "means", "variant": "raw"}, ("raw",)),
        ("v_layer_{layer}.npz", {}, ("raw", "denoised")),
        ("v_layer_{layer}.npz", {"layout": "named", "variant": "raw"}, ("raw",)),
        ("v.safetensors", {}, ("raw", "denoised")),
        ("v_layer_{layer}.safetensors", {"variant": "denoised"}, ("denoised",)),
    ],
    ids=str,
)
def test_what_is_exported_and_imported_again_is_the_same_bit_for_bit(
    desk: Desk, tmp_path: Path, name: str, asked: dict[str, Any], variants: tuple[Variant, ...]
) -> None:
    done = export(desk, tmp_path / name, **asked)
    desk.take(*done.files, reader="again", n_layers=9)
    assert vector_layers(desk.conn, "again", CORPUS) == [1, 2, 3]
    for layer in (1, 2, 3):
        for variant in variants:
            back = read_vectors(desk.conn, desk.workspace, "again", CORPUS, layer, variant)
            np.testing.assert_array_equal(back.vectors, desk.read(layer, variant))
            assert back.emotions == OURS


def tensors_of(path: Path) -> tuple[gguf.GGUFReader, dict[str, NDArray[Any]]]:
    reader = gguf.GGUFReader(path)
    return reader, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def test_a_control_vector_is_that_of_one_emotion_at_every_layer(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "ease.gguf"
    done = export(desk, path, emotions=["At_Ease"])
    reader, tensors = tensors_of(path)
    assert done.layers == (1, 2, 3)
    assert sorted(tensors) == ["direction.1", "direction.2", "direction.3"]
    for layer in (1, 2, 3):
        written = tensors[f"direction.{layer}"]
        np.testing.assert_array_equal(written, DENOISED[layer - 1, 1].astype(np.float32))
        assert written.shape == (D,)
    hint = reader.fields["controlvector.model_hint"]
    assert bytes(hint.parts[hint.data[0]]).decode() == "somebody/nine"


def test_a_layer_that_a_control_vector_cannot_hold_is_left_out_with_a_word(
    desk: Desk, tmp_path: Path
) -> None:
    desk.take(write_stack(tmp_path / "first.npz", vectors=RAW))
    done = export(desk, tmp_path / "joy.gguf", emotions=["joyful"])
    assert done.layers == (1, 2)
    assert done.notes == ("layers [0] were left out: the format has no place for them",)
    assert export(desk, tmp_path / "joy.safetensors", emotions=["joyful"]).layers == (0, 1, 2)


def test_each_emotion_has_a_file_of_its_own(desk: Desk, tmp_path: Path) -> None:
    done = export(desk, tmp_path / "{emotion}.gguf", variant="raw")
    names = ["joyful.gguf", "at-ease.gguf", "grief-stricken.gguf", "wistful.gguf"]
    assert [file.name for file in done.files] == names
    _, tensors = tensors_of(tmp_path / "wistful.gguf")
    np.testing.assert_array_equal(tensors["direction.2"], RAW[1, 3].astype(np.float32))
    done = export(desk, tmp_path / "{emotion}.safetensors", emotions=["wistful", "joyful"])
    assert [file.name for file in done.files] == ["wistful.safetensors", "joyful.safetensors"]
    written = load_file(tmp_path / "joyful.safetensors")["layer_3"]
    np.testing.assert_array_equal(written, DENOISED[2, 0].astype(np.float32))


def test_the_strength_of_a_control_vector_is_told_where_residuals_are_known(
    desk: Desk, tmp_path: Path
) -> None:
    rows = [Metric("mean_norm", 4.0, layer) for layer in (1, 2, 3)]
    publish(desk.conn, open_run(desk.conn, "", {}), READER, CORPUS, "vectors", rows)
    done = export(desk, tmp_path / "joy.gguf", emotions=["joyful"])
    strengths = np.linalg.norm(DENOISED[:, 0], axis=1) / 4.0
    assert f"{strengths.min():.3f} to {strengths.max():.3f}" in done.notes[0]


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("v.pt", {}, ".npz, .safetensors, .gguf"),
        ("v", {}, ".npz, .safetensors, .gguf"),
        ("v.gguf", {}, "--emotions"),
        ("{emotion}/v.gguf", {}, "the file itself"),
        ("{layer}/v_layer_{layer}.npz", {}, "the file itself"),
        ("v.gguf", {"emotions": ["joyful", "wistful"]}, "{emotion}"),
        ("v.gguf", {"emotions": ["joyfull"]}, "'joyfull', but of joyful"),
        ("v_{layer}.gguf", {"emotions": ["joyful"]}, "leave {layer} out"),
        ("v.npz", {"emotions": ["joyful"]}, "every emotion"),
        ("v.safetensors", {"layout": "named"}, "one of .npz"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused_in_one_line(
    desk: Desk, tmp_path: Path, name: str, asked: dict[str, Any], words: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EngineError) as caught:
        export(desk, tmp_path / name, **asked)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_emotions_that_make_the_same_file_name_are_refused(desk: Desk, tmp_path: Path) -> None:
    names = np.array(["at/ease", "at ease", "../up", "calm"])
    desk.take(write_stack(tmp_path / "v.npz", vectors=RAW, emotions=names))
    export(desk, tmp_path / "up.gguf", emotions=["../up"])
    with pytest.raises(UsageError, match=r"v-.*: 'at/ease', 'at ease' do not make"):
        export(desk, tmp_path / "v-{emotion}.gguf", emotions=["at/ease", "at ease", "calm"])
    with pytest.raises(UsageError, match="different names of files"):
        export(desk, tmp_path / "{emotion}.gguf")
    done = export(desk, tmp_path / "{emotion}.gguf", emotions=["../up"])
    assert done.files == (tmp_path / "up.gguf",)


def test_a_name_without_letters_needs_a_file_name_that_somebody_chose(
    desk: Desk, tmp_path: Path
) -> None:
    names = np.array(["\U0001f600", "..", "a", "b"])
    desk.take(write_stack(tmp_path / "v.npz", vectors=RAW, emotions=names))
    with pytest.raises(UsageError, match="different names of files"):
        export(desk, tmp_path / "{emotion}.gguf", emotions=[".."])
    assert export(desk, tmp_path / "up.gguf", emotions=[".."]).files == (tmp_path / "up.gguf",)


def test_a_direction_that_vanishes_in_float32_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.take(write_stack(tmp_path / "v.npz", vectors=RAW * 1e-60))
    with pytest.raises(UsageError, match="fit in float32"):
        export(desk, tmp_path / "joy.gguf", emotions=["joyful"])


def test_a_variant_that_is_not_there_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.take(write_stack(tmp_path / "v.npz", vectors=RAW))
    with pytest.raises(UsageError, match="are raw ones, not denoised"):
        export(desk, tmp_path / "out.npz", variant="denoised")
    assert export(desk, tmp_path / "out.npz").variants == ("raw",)


def test_there_must_be_vectors_to_export(desk: Desk, tmp_path: Path) -> None:
    place = (desk.conn, desk.workspace, "nobody", CORPUS, tmp_path / "v.npz")
    with pytest.raises(NotReady, match="vectors build --reader nobody"):
        export_vectors(*place)


def test_an_exported_set_has_the_same_geometry_under_another_name(
    conn: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    world = planted_world(e=12, d=8, families=3)
    lab = open_lab(conn, workspace, world)
    names = lab.protocol.names
    write_texts(lab, "stories", story_plan(names))
    layers = {
        layer: lambda row, layer=layer: world.vectors[names.index(row.emotion)] + layer
        for layer in (2, 5)
    }
    write_activations(lab, "stories", layers, d_model=8)
    place = (conn, workspace, lab.protocol)
    build_vectors(*place, BUILT, TEXTS, (2, 5), denoise=0)
    done = export_vectors(conn, workspace, BUILT, TEXTS, tmp_path / "v.npz")
    import_vectors(*place, "again", TEXTS, done.files, n_layers=9)
    ours, theirs = (
        geometry.ANALYSIS.run(lab.inputs(2, 5, reader=reader, permutations=19)).metrics
        for reader in (BUILT, "again")
    )
    assert ours == theirs
    assert {row.layer for row in ours} >= {2, 5}
