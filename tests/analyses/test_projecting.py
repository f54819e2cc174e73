"""Laws of the directions that texts of others are projected on."""

from pathlib import Path

import numpy as np
import pytest

from analyses.projecting import open_directions
from engine.loading import LazyModel
from stores.database import Connection
from stores.errors import FingerprintMismatch, NotReady, UsageError
from stores.vectors import read_vectors
from stores.workspace import Workspace
from tests.analyses.lab import (
    CORPUS,
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
def model(tmp_path: Path) -> LazyModel:
    return LazyModel(name=str(save_checkpoint(tmp_path / "llama")), device="cpu")


@pytest.fixture
def lab(conn: Connection, workspace: Workspace, model: LazyModel) -> Lab:
    """A reader with that model's weights, with vectors at two layers."""
    made = open_lab(conn, workspace, WORLD)
    write_texts(made, "stories", story_plan(made.protocol.names, 1))
    write_activations(made, "stories", {0: lambda _: np.ones(4)}, d_model=4)
    sha = model.checkpoint.weights_sha
    conn.execute("UPDATE arrays SET settings = json_set(settings, '$.weights_sha', ?)", (sha,))
    store_vectors(made, {0: WORLD.vectors, 1: 3.0 * WORLD.vectors})
    return made


def test_directions_are_the_denoised_vectors_at_length_one_with_their_digests(
    lab: Lab, model: LazyModel
) -> None:
    found = open_directions(lab.inputs(0, 1, model=model))
    assert found.emotions == lab.protocol.names
    assert set(found.directions) == {0, 1}
    for layer, directions in found.directions.items():
        stored = read_vectors(lab.conn, lab.workspace, READER, CORPUS, layer, "denoised")
        lengths = np.linalg.norm(stored.vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(directions, stored.vectors / lengths)
        assert found.vectors[layer] == stored.sha256
    assert set(open_directions(lab.inputs(0, 1, model=model), (1,)).directions) == {1}


def test_emotions_are_those_that_have_vectors_and_not_all_of_the_protocol(
    lab: Lab, model: LazyModel
) -> None:
    store_vectors(lab, {0: WORLD.vectors[:3]}, lab.protocol.names[:3])
    assert open_directions(lab.inputs(0, model=model)).emotions == lab.protocol.names[:3]
    with pytest.raises(FingerprintMismatch, match=r"layers 0 and 1 .* of different emotions"):
        open_directions(lab.inputs(0, 1, model=model))


def test_another_model_than_the_readers_is_refused_before_it_is_loaded(
    lab: Lab, model: LazyModel
) -> None:
    with pytest.raises(NotReady, match="name it with --model"):
        open_directions(lab.inputs(0))
    half = LazyModel(name=model.name, device="cpu", dtype="bfloat16")
    with pytest.raises(FingerprintMismatch, match="dtype float32 is bfloat16"):
        open_directions(lab.inputs(0, model=half))
    open_directions(lab.inputs(0, model=model))
    assert "loaded" not in vars(model)


def test_layers_without_vectors_and_vectors_without_length_are_named(
    lab: Lab, model: LazyModel
) -> None:
    with pytest.raises(NotReady, match="no denoised vectors of layer 2"):
        open_directions(lab.inputs(0, 2, model=model))
    store_vectors(lab, {0: np.vstack([WORLD.vectors[:5], np.zeros(4)])})
    with pytest.raises(UsageError, match=r"layer 0 has no direction .* vectors \[5\] have length"):
        open_directions(lab.inputs(0, model=model))
