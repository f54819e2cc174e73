"""Laws of opening vectors: oriented by labels, all layers of the same emotions, one at a time."""

import weakref

import numpy as np
import pytest
from scipy.stats import pearsonr

from analyses.spaces import open_spaces
from stores.database import Connection
from stores.errors import FingerprintMismatch, NotReady, UsageError
from stores.workspace import Workspace
from tests.analyses.lab import Lab, open_lab, store_vectors
from tests.analyses.planted import planted_world
from tests.analyses.sets import store_set

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
    a, b = (spaces.at(layer).found.scores[:, :2] for layer in (0, 1))
    np.testing.assert_allclose(a, b)


def test_everything_but_raw_is_of_the_denoised_vectors(lab: Lab) -> None:
    store_vectors(lab, {0: WORLD.vectors})
    spaces, _ = open_spaces(lab.inputs(0))
    (space,) = spaces
    assert (spaces.variant, spaces.both) == ("denoised", True)
    np.testing.assert_array_equal(space.vectors, WORLD.vectors)
    assert space.raw is not None
    assert not np.array_equal(space.raw, space.vectors)
    np.testing.assert_allclose(space.directions @ space.directions.T, space.cosines, atol=1e-12)


@pytest.mark.parametrize("variant", ["raw", "denoised"])
def test_a_set_of_one_variant_is_judged_by_that(lab: Lab, variant: str) -> None:
    store_set(lab, 0, **{variant: WORLD.vectors})  # type: ignore[arg-type]
    spaces, _ = open_spaces(lab.inputs(0))
    (space,) = spaces
    assert (spaces.variant, spaces.both) == (variant, False)
    np.testing.assert_array_equal(space.vectors, WORLD.vectors)
    assert space.raw is None


def test_one_layer_without_denoised_vectors_makes_the_set_raw(lab: Lab) -> None:
    """Layers side by side are of one kind; what is not there everywhere is used nowhere."""
    store_vectors(lab, {0: WORLD.vectors})
    store_set(lab, 1, raw=WORLD.vectors)
    spaces, _ = open_spaces(lab.inputs(0, 1))
    assert spaces.variant == "raw"
    assert [space.raw for space in spaces] == [None, None]
    assert not np.array_equal(spaces.at(0).vectors, WORLD.vectors)


def test_layers_are_opened_one_at_a_time_and_none_is_kept(lab: Lab) -> None:
    store_vectors(lab, dict.fromkeys(range(4), WORLD.vectors))
    spaces, _ = open_spaces(lab.inputs(0, 1, 2, 3))
    opened = iter(spaces)
    arrays = []
    for _ in spaces.layers:
        space = next(opened)
        arrays.append([weakref.ref(array) for array in (space.vectors, space.cosines, space.raw)])
    alive = [[array() is not None for array in each] for each in arrays]
    assert alive == [[False] * 3] * 3 + [[True] * 3]


def test_layers_of_different_emotions_are_refused(lab: Lab) -> None:
    store_vectors(lab, {0: WORLD.vectors})
    store_vectors(lab, {3: WORLD.vectors[:9]}, names=lab.protocol.names[:9])
    with pytest.raises(FingerprintMismatch, match="layers 0 and 3"):
        list(open_spaces(lab.inputs(0, 3))[0])


def test_without_vectors_the_command_that_makes_them_is_named(lab: Lab) -> None:
    with pytest.raises(NotReady, match="layer 2 of corpus main by reader toy"):
        open_spaces(lab.inputs(2))


@pytest.mark.parametrize("count", [1, 4])
def test_vectors_that_are_all_the_same_are_refused_in_a_line(lab: Lab, count: int) -> None:
    store_set(lab, 1, raw=np.tile(WORLD.vectors[0], (count, 1)), names="abcd"[:count])
    with pytest.raises(UsageError, match=r"layer 1 of toy/main has no geometry: .* same"):
        open_spaces(lab.inputs(1))[0].at(1)


def test_a_vector_without_length_is_refused_in_a_line(lab: Lab) -> None:
    vectors = WORLD.vectors.copy()
    vectors[4] = 0.0
    store_set(lab, 2, raw=vectors)
    with pytest.raises(UsageError, match=r"layer 2 of toy/main .*\[4\] have length zero"):
        open_spaces(lab.inputs(2))[0].at(2)


def test_labels_of_some_emotions_only_still_orient(lab: Lab) -> None:
    names = [*lab.protocol.names[:20], *(f"new {i}" for i in range(10))]
    store_vectors(lab, {0: -WORLD.vectors}, names=names)
    spaces, labels = open_spaces(lab.inputs(0))
    known = np.isfinite(labels.values["valence"])
    assert known.sum() == 20
    scores = spaces.at(0).found.scores[known, 0]
    assert pearsonr(scores, labels.values["valence"][known])[0] > 0.9
