"""Laws of likeness: rotations are seen by directions alone, chance is what shuffling gives."""

import numpy as np
import pytest

from analyses.base import Result
from analyses.labels import Labels
from analyses.likeness import Shape, compare_layers, compare_raw, keep_shape
from analyses.spaces import Space, open_space
from stores.results import Metric
from stores.vectors import VectorSet
from tests.analyses.planted import Floats, planted_world

NO_LABELS = Labels("none", {}, None)


def _space(vectors: Floats, layer: int = 0, raw: Floats | None = None) -> Space:
    names = tuple(f"e{i:02d}" for i in range(len(vectors)))
    return open_space(VectorSet(names, vectors, layer, "denoised", ""), NO_LABELS, raw)


def _shape(vectors: Floats, layer: int = 0) -> Shape:
    return keep_shape(_space(vectors, layer))


def _one(result: Result, metric: str, layer: int, subject: str | None = None) -> Metric:
    rows = [row for row in result.metrics if (row.metric, row.layer) == (metric, layer)]
    return next(row for row in rows if row.subject == subject)


def _turned(vectors: Floats, angle: float) -> tuple[Floats, Floats]:
    """The vectors in every other dimension, and the same turned into those between by `angle`."""
    wide = np.zeros((len(vectors), 2 * vectors.shape[1]))
    turned = wide.copy()
    wide[:, ::2] = vectors
    turned[:, ::2], turned[:, 1::2] = np.cos(angle) * vectors, np.sin(angle) * vectors
    return wide, turned


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, np.pi / 2])
def test_a_rotation_shows_in_directions_by_its_angle_and_not_in_shape(angle: float) -> None:
    before, after = _turned(planted_world(e=30, d=12).vectors, angle)
    result = compare_layers([_shape(before, 3), _shape(after, 7)], 3)
    for kind in ("cosine", "pearson", "spearman"):
        assert _one(result, f"rsa_{kind}", 7, "layer 3").value == pytest.approx(1.0)
    assert _one(result, "vector_cosine", 7, "layer 3").value == pytest.approx(np.cos(angle))
    overlap = _one(result, "subspace_overlap", 7, "layer 3").value
    assert overlap == pytest.approx(np.cos(angle) ** 2)


@pytest.mark.parametrize("name", ["rsa_cosine", "rsa_pearson", "vector_cosine"])
def test_chance_is_the_mean_over_shuffled_emotions(name: str) -> None:
    """Of two layers that hold much in common, one of them not centred."""
    rng = np.random.default_rng(5)
    a = planted_world(e=24, d=10).vectors + 0.8
    b = a + 0.5 * rng.normal(size=a.shape)
    chance = _one(compare_layers([_shape(a), _shape(b, 1)], 0), name, 1, "layer 0").chance
    found = []
    for _ in range(400):
        shuffled = b[rng.permutation(len(b))]
        if name == "vector_cosine":  # of different emotions: none may stay in its place
            shuffled = np.roll(b[order := rng.permutation(len(b))], 1, axis=0)[np.argsort(order)]
        result = compare_layers([_shape(a), _shape(shuffled, 1)], 0)
        found.append(_one(result, name, 1, "layer 0").value or 0.0)
    error = np.std(found) / np.sqrt(len(found))
    assert chance == pytest.approx(np.mean(found), abs=4 * error)


def test_chance_of_an_overlap_is_that_of_random_planes() -> None:
    rng = np.random.default_rng(0)
    found, chance = [], None
    for _ in range(60):
        a, b = rng.normal(size=(2, 20, 40))
        row = _one(compare_layers([_shape(a), _shape(b, 1)], 0), "subspace_overlap", 1, "layer 0")
        found.append(row.value or 0.0)
        chance = row.chance
    assert chance == 5 / 40
    assert np.mean(found) == pytest.approx(chance, abs=4 * np.std(found) / np.sqrt(60))


def test_every_layer_is_compared_with_the_analysis_layer_and_the_one_before_once() -> None:
    rng = np.random.default_rng(1)
    result = compare_layers([_shape(rng.normal(size=(8, 6)), at) for at in (0, 2, 5, 6)], 2)
    pairs = [(row.layer, row.subject) for row in result.metrics if row.metric == "rsa_spearman"]
    assert pairs == [
        *((0, "layer 2"), (2, "layer 0"), (2, "layer 2"), (5, "layer 2")),
        *((6, "layer 2"), (6, "layer 5")),
    ]
    assert len({(row.metric, row.layer, row.subject) for row in result.metrics}) == 5 * len(pairs)
    assert {row.n for row in result.metrics} == {8}
    (table,) = result.tables
    assert [row[:2] for row in table.rows] == [(a, b) for a in (0, 2, 5, 6) for b in (0, 2, 5, 6)]
    matrix = np.array([row[2:] for row in table.rows], np.float64).reshape(4, 4, 5)
    np.testing.assert_allclose(matrix, matrix.transpose(1, 0, 2), atol=1e-12)
    np.testing.assert_allclose(matrix[range(4), range(4)], 1.0)


def test_what_denoising_took_away_shows_in_direction() -> None:
    """Raw vectors with one more axis, as long as they are times tan(0.3): that far they turn."""
    vectors = planted_world(e=30, d=12).vectors
    raw = np.hstack([vectors, np.linalg.norm(vectors, axis=1, keepdims=True) * np.tan(0.3)])
    kept = np.hstack([vectors, np.zeros((30, 1))])
    result = compare_raw(_space(kept, 4, raw))
    assert _one(result, "denoised_cosine", 4).value == pytest.approx(np.cos(0.3))
    assert (_one(result, "denoised_overlap", 4).value or 1.0) < 0.99
    # all cosines grow by one rule, so that their order stays
    assert _one(result, "denoised_rsa", 4).value == pytest.approx(1.0)
    same = compare_raw(_space(kept, 4, 3.0 * kept))
    for name in ("denoised_cosine", "denoised_overlap", "denoised_rsa"):
        assert _one(same, name, 4).value == pytest.approx(1.0)
        assert (_one(same, name, 4).chance or 0.0) < 0.5
    assert compare_raw(_space(kept, 4)) == Result()


def test_two_emotions_have_one_cosine_and_so_no_likeness_of_shape() -> None:
    pole = np.array([[1.0, 2.0, 0.5]])
    vectors = np.vstack([pole, -pole])
    result = compare_layers([_shape(vectors), _shape(vectors[:, ::-1], 1)], 0)
    assert np.isnan(_one(result, "rsa_pearson", 1, "layer 0").value or 0.0)
    assert _one(result, "rsa_cosine", 1, "layer 0").value == pytest.approx(1.0)
    assert _one(result, "vector_cosine", 0, "layer 0").value == pytest.approx(1.0)


def test_every_emotion_counts_the_same_in_the_mean_cosine() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 11, 6))
    b[8:] = a[8:]
    row = _one(compare_layers([_shape(a), _shape(b, 1)], 0), "vector_cosine", 1, "layer 0")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    assert row.value == pytest.approx(np.mean(np.sum(a * b, axis=1) / lengths))
