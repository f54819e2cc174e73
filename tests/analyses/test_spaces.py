"""Laws of opening vectors: oriented by labels, all layers of the same emotions."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from analyses.spaces import open_spaces
from stores.database import Connection
from stores.errors import FingerprintMismatch
from stores.workspace import Workspace
from tests.analyses.lab import Lab, open_lab, store_vectors
from tests.analyses.planted import planted_world

WORLD = planted_world(e=30, d=12)


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return open_lab(conn, workspace, WORLD)


def test_components_rise_with_their_labels_whatever_the_sign_of_the_vectors(lab: Lab) -> None:
    store_vectors(lab, {0: WORLD.vectors, 1: -WORLD.vectors})
    spaces, labels = open_spaces(lab.inputs(0, 1))
    for space in spaces:
        assert pearsonr(space.found.scores[:, 0], labels.values["valence"])[0] > 0.95
        assert pearsonr(space.found.scores[:, 1], labels.values["arousal"])[0] > 0.95
    np.testing.assert_allclose(spaces[0].found.scores[:, :2], spaces[1].found.scores[:, :2])


def test_everything_but_raw_is_of_the_denoised_vectors(lab: Lab) -> None:
    store_vectors(lab, {0: WORLD.vectors})
    (space,), _ = open_spaces(lab.inputs(0))
    np.testing.assert_array_equal(space.vectors, WORLD.vectors)
    assert not np.array_equal(space.raw, space.vectors)
    np.testing.assert_allclose(space.directions @ space.directions.T, space.cosines, atol=1e-12)


def test_layers_of_different_emotions_are_refused(lab: Lab) -> None:
    store_vectors(lab, {0: WORLD.vectors})
    store_vectors(lab, {3: WORLD.vectors[:9]}, names=lab.protocol.names[:9])
    with pytest.raises(FingerprintMismatch, match="layers 0 and 3"):
        open_spaces(lab.inputs(0, 3))


def test_labels_of_some_emotions_only_still_orient(lab: Lab) -> None:
    names = [*lab.protocol.names[:20], *(f"new {i}" for i in range(10))]
    store_vectors(lab, {0: -WORLD.vectors}, names=names)
    (space,), labels = open_spaces(lab.inputs(0))
    known = np.isfinite(labels.values["valence"])
    assert known.sum() == 20
    scores = space.found.scores[known, 0]
    assert pearsonr(scores, labels.values["valence"][known])[0] > 0.9
