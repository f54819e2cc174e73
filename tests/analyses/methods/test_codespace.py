"""Laws of code space: sparse codes to vectors, and their geometry beside the linear one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array

from analyses.methods.codespace import (
    as_sparse,
    code_vectors,
    column_sums,
    compare_geometries,
    mean_codes,
)
from tests.analyses.planted import frozen, planted_world


def test_sparse_codes_are_the_rows_they_were_cut_into() -> None:
    bounds = np.array([0, 2, 2, 5])
    features = np.frombuffer(np.array([1, 4, 0, 2, 4], dtype="<i4").tobytes(), dtype="<i4")
    means = np.frombuffer(np.array([1, 2, 3, 4, 5], dtype="<f4").tobytes(), dtype="<f4")
    codes = as_sparse(bounds, features, means, 6)
    expected = [[0, 1, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0], [3, 0, 4, 0, 5, 0]]
    np.testing.assert_array_equal(codes.toarray(), expected)
    np.testing.assert_array_equal(column_sums(codes, np.array([2, 0])), [3, 1, 4, 0, 7, 0])


def test_mean_codes_are_the_means_of_dense_ones_and_of_no_text_nothing() -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((40, 9)) < 0.3, rng.random((40, 9)), 0.0).astype(np.float32)
    own = rng.integers(3, size=40)
    means = mean_codes(_sparse(dense), own, 4)
    for emotion in range(3):
        expected = dense[own == emotion].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(means[emotion], expected, rtol=1e-12)
    assert np.isnan(means[3]).all()


def test_code_vectors_add_up_to_nothing_and_an_emotion_without_texts_has_none() -> None:
    means = np.vstack([np.random.default_rng(0).random((4, 7)), np.full(7, np.nan)])
    vectors = code_vectors(frozen(means))
    np.testing.assert_allclose(vectors[:4].sum(axis=0), 0.0, atol=1e-12)
    assert np.isnan(vectors[4]).all()


def test_codes_that_keep_the_geometry_agree_with_it() -> None:
    vectors = planted_world(e=40).vectors
    turned = vectors @ np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    found = compare_geometries(vectors, turned * 3.0, permutations=200, rng=_rng())
    assert found.value == pytest.approx(1.0, abs=1e-6)
    assert found.p == pytest.approx(1 / 201)


def test_the_agreement_is_the_rank_correlation_of_pairwise_cosines() -> None:
    linear, coded = (np.random.default_rng(seed).normal(size=(9, 4)) for seed in (0, 1))
    triangles = []
    for vectors in (linear, coded):
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        triangles.append((units @ units.T)[np.triu_indices(9, 1)])
    found = compare_geometries(linear, coded, permutations=9, rng=_rng())
    assert found.value == pytest.approx(stats.spearmanr(*triangles).statistic, abs=1e-12)


def test_random_features_keep_geometry_too() -> None:
    """Why an RSA says nothing without that of a control (Johnson and Lindenstrauss 1984)."""
    vectors, rng = planted_world(e=40).vectors, np.random.default_rng(2)
    codes = np.maximum(vectors @ rng.normal(size=(40, 2000)), 0.0)
    found = compare_geometries(vectors, code_vectors(codes), permutations=200, rng=_rng())
    assert found.value > 0.8


def test_p_of_codes_that_know_nothing_is_uniform() -> None:
    vectors = planted_world(e=15).vectors
    found = [
        compare_geometries(
            vectors,
            np.random.default_rng(seed).normal(size=(15, 30)),
            permutations=99,
            rng=np.random.default_rng(seed),
        )
        for seed in range(200)
    ]
    assert stats.kstest([each.p for each in found], "uniform").pvalue > 0.001
    assert np.mean([each.chance for each in found]) == pytest.approx(0.0, abs=0.01)
    assert np.mean([each.value for each in found]) == pytest.approx(0.0, abs=0.05)


def test_a_vector_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        compare_geometries(np.eye(4), np.diag([1.0, 1.0, 1.0, 0.0]), permutations=9, rng=_rng())


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _sparse(dense: NDArray[np.float32]) -> csr_array:
    rows, features = np.nonzero(dense)
    bounds = np.searchsorted(rows, np.arange(len(dense) + 1))
    return as_sparse(bounds, features.astype(np.int32), dense[rows, features], dense.shape[1])
