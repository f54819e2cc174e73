"""Laws of principal components, cosines and representational similarity."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from analyses.methods.geometry import (
    cosine_matrix,
    extreme_pairs,
    orient,
    principal_components,
    representational_similarity,
    unit,
    upper_triangle,
)
from tests.analyses.planted import Floats, frozen, planted_world


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(("e", "d"), [(12, 30), (30, 12), (9, 9)])
def test_components_equal_those_of_sklearn(e: int, d: int, kind: str) -> None:
    vectors = frozen(_vectors(e, d, kind))
    found = principal_components(vectors)
    k = min(e - 1, d)
    plain = vectors.astype(np.float64)
    reference = PCA(n_components=k).fit(plain)
    assert found.scores.shape == (e, k)
    np.testing.assert_allclose(found.share, reference.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_allclose(np.abs(found.scores), np.abs(reference.transform(plain)), atol=1e-9)
    np.testing.assert_allclose(
        found.scores @ found.loadings, plain - plain.mean(axis=0), atol=1e-12
    )


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("e", "d"), [(12, 300), (30, 12)])
def test_cosines_and_likeness_equal_those_of_sklearn_and_scipy(e: int, d: int, kind: str) -> None:
    shapes = [_vectors(e, d, kind), _vectors(e, d, kind, seed=1)]
    cosines = [cosine_matrix(shape) for shape in shapes]
    triangles = []
    for found, shape in zip(cosines, shapes, strict=True):
        plain = cosine_similarity(shape.astype(np.float64))
        np.testing.assert_allclose(found, plain, atol=1e-12)
        triangles.append(plain[np.triu_indices(e, 1)])
    alike = representational_similarity(np.stack([upper_triangle(c) for c in cosines]))
    assert alike.pearson[0, 1] == pytest.approx(pearsonr(*triangles)[0], abs=1e-9)
    assert alike.spearman[0, 1] == pytest.approx(spearmanr(*triangles)[0], abs=1e-6)
    assert alike.cosine[0, 1] == pytest.approx(cosine_similarity(triangles)[0, 1], abs=1e-9)


def _vectors(e: int, d: int, kind: str, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    held = np.random.default_rng(e).normal(size=(e, 3))
    rows = held @ rng.normal(size=(3, d)) + rng.normal(size=(e, d)) + 2.0
    return rows.astype(kind)


def test_directions_without_variance_are_no_components() -> None:
    plane = np.random.default_rng(0).normal(size=(10, 2)) @ np.eye(2, 7)
    assert principal_components(frozen(plane)).share.shape == (2,)


@pytest.mark.parametrize("e", range(1, 12))
def test_equal_vectors_have_no_components_however_their_mean_is_rounded(e: int) -> None:
    one = np.random.default_rng(1).normal(size=9)
    with pytest.raises(ValueError, match="the same"):
        principal_components(np.tile(one, (e, 1)))
    nearly = np.tile(one, (max(e, 2), 1))
    nearly[0] += 1e-9
    assert principal_components(nearly).share.shape == (1,)


def test_orientation_follows_the_labels_and_not_the_signs_it_was_given() -> None:
    world = planted_world()
    labels = {0: world.valence, 1: world.arousal}
    found = orient(principal_components(world.vectors), labels)
    mirrored = orient(
        principal_components(-world.vectors), {i: -label for i, label in labels.items()}
    )
    assert pearsonr(found.scores[:, 0], world.valence)[0] > 0.95
    assert pearsonr(found.scores[:, 1], world.arousal)[0] > 0.95
    np.testing.assert_allclose(found.scores[:, :2], -mirrored.scores[:, :2], atol=1e-9)
    np.testing.assert_allclose(
        found.scores @ found.loadings, world.vectors - world.vectors.mean(axis=0), atol=1e-9
    )


def test_orientation_without_labels_is_the_same_every_time() -> None:
    found = orient(principal_components(planted_world().vectors), {})
    again = orient(found, {})
    np.testing.assert_array_equal(again.scores, found.scores)
    assert (found.loadings[np.arange(3), np.abs(found.loadings[:3]).argmax(axis=1)] > 0).all()


def test_more_references_than_components_is_no_error() -> None:
    line = np.outer(np.arange(4.0), [1.0, 2.0])
    found = orient(principal_components(line), {0: -np.arange(4.0), 1: np.arange(4.0)})
    assert found.scores[0, 0] > 0.0


def test_cosines_are_dot_products_of_directions() -> None:
    vectors = frozen(np.random.default_rng(0).normal(size=(7, 4)) * 50.0)
    cosines = cosine_matrix(vectors)
    a, b = vectors[2], vectors[5]
    assert cosines[2, 5] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_array_equal(cosines, cosines.T)
    np.testing.assert_array_equal(np.diag(cosines), 1.0)


def test_a_vector_of_length_zero_has_no_direction() -> None:
    with pytest.raises(ValueError, match=r"\[1\] have length zero"):
        unit(np.array([[1.0, 0.0], [0.0, 0.0]]))


def test_extreme_pairs_are_the_ends_of_the_sorted_triangle() -> None:
    cosines = cosine_matrix(np.random.default_rng(4).normal(size=(9, 3)))
    ordered = np.sort(upper_triangle(cosines))
    closest = extreme_pairs(cosines, 4, closest=True)
    opposite = extreme_pairs(cosines, 4, closest=False)
    np.testing.assert_array_equal([value for *_, value in closest], ordered[::-1][:4])
    np.testing.assert_array_equal([value for *_, value in opposite], ordered[:4])
    assert all(i < j and cosines[i, j] == value for i, j, value in closest + opposite)


def test_similarities_equal_those_of_scipy() -> None:
    triangles = frozen(np.random.default_rng(5).normal(size=(3, 40)).round(1) + 1.0)
    found = representational_similarity(triangles)
    a, b = triangles[0], triangles[2]
    assert found.pearson[0, 2] == pytest.approx(pearsonr(a, b)[0])
    assert found.spearman[0, 2] == pytest.approx(spearmanr(a, b)[0])
    assert found.cosine[0, 2] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_rotated_shape_is_the_same_shape() -> None:
    vectors = planted_world().vectors
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    triangles = [upper_triangle(cosine_matrix(v)) for v in (vectors, vectors @ rotation)]
    found = representational_similarity(np.stack(triangles))
    assert found.spearman[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_two_vectors_have_no_shape_to_compare() -> None:
    found = representational_similarity(np.array([[-0.5], [0.3]]))
    np.testing.assert_array_equal(found.cosine, [[1.0, -1.0], [-1.0, 1.0]])
    assert np.isnan(found.pearson).all()
    assert np.isnan(found.spearman).all()
