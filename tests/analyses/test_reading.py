"""Laws of what the analyses that read a model start from."""

from pathlib import Path

import numpy as np
import pytest

from analyses.reading import (
    mean_direction,
    middle_band,
    open_model,
    open_probes,
    steering_norms,
)
from analyses.suite import Suite
from engine.loading import LazyModel, reader_model
from stores.database import Connection
from stores.errors import BadValue, FingerprintMismatch, NotReady, UsageError
from stores.workspace import Workspace
from tests.analyses.lab import (
    READER,
    Lab,
    open_lab,
    store_vectors,
    story_plan,
    write_activations,
    write_texts,
)
from tests.analyses.planted import planted_world
from tests.engine.tiny import save_checkpoint

WORLD = planted_world(e=6, d=4, families=2)


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    lab = open_lab(conn, workspace, WORLD)
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    rng = np.random.default_rng(0)
    write_activations(
        lab, "stories", {layer: lambda _: rng.normal(size=4) for layer in (3, 4, 5)}, d_model=4
    )
    return lab


@pytest.fixture
def model(tmp_path: Path) -> LazyModel:
    return LazyModel(name=str(save_checkpoint(tmp_path / "llama")), device="cpu")


def test_without_a_model_the_option_is_named(lab: Lab) -> None:
    with pytest.raises(NotReady, match="with the model of reader toy; name it with --model"):
        open_model(lab.inputs(3))


def test_a_model_with_other_weights_is_refused_with_both_named(lab: Lab, model: LazyModel) -> None:
    with pytest.raises(FingerprintMismatch, match=r"weights_sha w is sha256:[0-9a-f]{12}[,;]"):
        open_model(lab.inputs(3, model=model))


def test_a_model_in_another_type_is_refused_and_the_readers_own_is_loaded(
    lab: Lab, model: LazyModel
) -> None:
    sha = model.checkpoint.weights_sha
    lab.conn.execute("UPDATE arrays SET settings = json_set(settings, '$.weights_sha', ?)", (sha,))
    assert open_model(lab.inputs(3, model=model)).weights_sha == sha
    half = LazyModel(name=model.name, device="cpu", dtype="bfloat16")
    with pytest.raises(FingerprintMismatch, match="dtype float32 is bfloat16"):
        open_model(lab.inputs(3, model=half))


def test_a_model_is_found_where_its_reader_last_found_it_and_in_that_type(
    lab: Lab, model: LazyModel
) -> None:
    options = {"device": "cpu", "revision": None}
    set_array(lab, "revision", "local")
    assert reader_model(lab.conn, READER, name=None, dtype="auto", **options) is None
    set_array(lab, "dtype", "nf4+bfloat16")
    lab.conn.execute(
        "INSERT INTO runs (command, settings, code_version, reader, started_at) "
        "VALUES ('extract', json_object('source', ?), '', ?, '')",
        (model.source, READER),
    )
    found = reader_model(lab.conn, READER, name=None, dtype="auto", **options)
    assert found is not None
    assert (found.name, found.dtype, found.quantize) == (model.source, "bfloat16", "4bit")
    named = reader_model(lab.conn, READER, name="elsewhere", dtype="float32", **options)
    assert named is not None and (named.name, named.dtype) == ("elsewhere", "float32")


def test_a_model_of_the_hub_is_found_at_the_commit_that_was_read(lab: Lab) -> None:
    set_array(lab, "revision", "c0ffee")
    found = reader_model(lab.conn, READER, name=None, dtype="auto", device="cpu", revision=None)
    assert found is not None and (found.name, found.revision) == ("toy", "c0ffee")


def set_array(lab: Lab, key: str, value: str) -> None:
    lab.conn.execute(f"UPDATE arrays SET settings = json_set(settings, '$.{key}', ?)", (value,))


def test_probes_stand_in_the_protocols_order_and_have_length_one(lab: Lab) -> None:
    names = lab.protocol.names
    store_vectors(lab, {3: WORLD.vectors[::-1]}, names[::-1])
    probes = open_probes(lab.inputs(3))
    assert probes.emotions == names
    np.testing.assert_array_equal(probes.vectors[3], WORLD.vectors)
    np.testing.assert_allclose(np.linalg.norm(probes.directions[3], axis=1), 1.0)
    assert probes.rows(("e05", "e00")) == [5, 0]


def test_an_emotion_without_a_vector_is_named(lab: Lab) -> None:
    store_vectors(lab, {3: WORLD.vectors[:-1]}, lab.protocol.names[:-1])
    with pytest.raises(NotReady, match=r"1 of 6 emotions have no vector at layer 3 .*: e05;"):
        open_probes(lab.inputs(3))


def test_a_layer_without_vectors_is_named(lab: Lab) -> None:
    store_vectors(lab, {3: WORLD.vectors})
    with pytest.raises(NotReady, match="no denoised vectors of layer 4"):
        open_probes(lab.inputs(3, 4), (3, 4))


def test_the_band_is_what_is_extracted_from_half_depth_to_the_analysis_layer(lab: Lab) -> None:
    assert middle_band(lab.inputs(3, 4, 5)) == (4, 5)
    assert middle_band(lab.inputs(3, 4, 5, layer=4)) == (4,)
    assert middle_band(lab.inputs(3, 4, 5, suite=Suite(band=(3, 5)))) == (3, 5)
    with pytest.raises(UsageError, match=r"layers \[2\] are not extracted; there are \[3, 4, 5\]"):
        middle_band(lab.inputs(3, 4, 5, suite=Suite(band=(2, 5))))


def test_a_strength_is_a_fraction_of_the_mean_residual_norm_in_the_receipts(lab: Lab) -> None:
    assert steering_norms(lab.inputs(3, 4), (3, 4)) == {3: 1.0, 4: 1.0}


def test_the_mean_direction_is_that_of_the_mean_of_the_emotions_means(lab: Lab) -> None:
    rows = write_activations(lab, "stories", {}, d_model=4)
    values = {row.row: np.full(4, 1.0 + (row.emotion == "e00")) for row in rows}
    write_activations(lab, "stories", {6: lambda row: values[row.row]}, d_model=4)
    np.testing.assert_allclose(mean_direction(lab.inputs(6), 6), np.full(4, 0.5))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"strength": 0.0}, "strength 0.0"),
        ({"steered": 2}, "at least 3"),
        ({"randoms": 4}, "4 random directions: at least 5"),
        ({"doses": (0.5, 0.5)}, "each once"),
        ({"doses": (0.0,)}, "0 is always there"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(BadValue, match=told):
        Suite(**wrong)  # type: ignore[arg-type]
