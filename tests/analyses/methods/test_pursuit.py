"""Laws of rebuilding vectors from few rows."""

import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from analyses.methods.pursuit import BLOCK, rebuild
from tests.analyses.planted import Floats, frozen


def _rows(f: int, d: int, seed: int = 0) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(f, d))
    return frozen(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize(("f", "d"), [(60, 25), (20, 40), (200, 12)])
def test_it_equals_the_matching_pursuit_of_sklearn(f: int, d: int) -> None:
    rows, targets = _rows(f, d), frozen(np.random.default_rng(1).normal(size=(7, d)) * 5.0)
    found = rebuild(targets, rows, 9)
    for k in range(1, 10):
        weights = orthogonal_mp(rows.T, targets.T, n_nonzero_coefs=k)
        missed = np.square(targets.T - rows.T @ weights).sum(axis=0)
        expected = 1.0 - missed / np.square(targets).sum(axis=1)
        np.testing.assert_allclose(found.explained[:, k - 1], expected, atol=1e-12)
        for chosen, own in zip(found.chosen[:, :k], weights.T, strict=True):
            assert sorted(chosen) == np.flatnonzero(own).tolist()


def test_more_rows_never_explain_less_and_no_row_is_taken_twice() -> None:
    found = rebuild(np.random.default_rng(2).normal(size=(6, 30)), _rows(300, 30), 30)
    assert (np.diff(found.explained, axis=1) >= 0.0).all()
    assert ((found.explained > 0.0) & (found.explained <= 1.0)).all()
    for chosen in found.chosen:
        taken = chosen[chosen >= 0]
        assert len(set(taken)) == len(taken)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_what_is_made_of_k_rows_is_all_explained_by_them_and_then_none_is_taken(
    k: int, kind: str
) -> None:
    rows, rng = _rows(500, 200).astype(kind), np.random.default_rng(k)
    planted = np.stack([rng.permutation(500)[:k] for _ in range(8)])
    signs = rng.choice((-1.0, 1.0), size=(8, k))
    weights = signs * np.geomspace(8.0, 2.0, k)
    targets = np.einsum("ek,ekd->ed", weights, rows.astype(np.float64)[planted])
    found = rebuild(targets, rows, 8)
    np.testing.assert_array_equal(found.chosen[:, :k], planted)
    np.testing.assert_allclose(found.explained[:, k - 1 :], 1.0, atol=1e-12)
    assert (found.explained[:, : k - 1] < 0.999).all()
    assert (found.chosen[:, k:] == -1).all()


def test_lengths_signs_and_order_of_rows_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    rows, targets = _rows(2 * BLOCK + 7, 10), rng.normal(size=(5, 10))
    order = rng.permutation(len(rows))
    changed = rows[order] * rng.choice((-1.0, 1.0), size=(len(rows), 1))
    changed *= rng.uniform(0.01, 100.0, size=(len(rows), 1))
    found, again = rebuild(targets, rows, 4), rebuild(targets * 9.0, changed, 4)
    np.testing.assert_allclose(again.explained, found.explained, atol=1e-12)
    np.testing.assert_array_equal(order[again.chosen], found.chosen)


def test_copies_of_rows_and_rows_without_length_add_nothing() -> None:
    rows = np.vstack([np.zeros((3, 9)), _rows(4, 9), _rows(4, 9) * -2.3])
    target = np.random.default_rng(8).normal(size=(1, 9))
    found, plain = rebuild(target, rows, 9), rebuild(target, rows[3:7], 4)
    np.testing.assert_array_equal(found.chosen[:, 4:], -1)
    np.testing.assert_allclose(found.explained[:, :4], plain.explained, atol=1e-12)
    np.testing.assert_allclose(found.explained[:, 4:], plain.explained[0, 3], atol=1e-12)


def test_rows_that_are_almost_copies_still_explain_what_least_squares_does() -> None:
    rng = np.random.default_rng(9)
    rows = np.vstack([_rows(5, 20), _rows(5, 20) + 1e-4 * rng.normal(size=(5, 20))])
    targets = rng.normal(size=(6, 10)) @ rows + 0.1 * rng.normal(size=(6, 20))
    found = rebuild(targets, rows, 10)
    for target, explained in zip(targets, found.explained, strict=True):
        missed = np.linalg.lstsq(rows.T, target)[1][0]
        assert explained[-1] == pytest.approx(1.0 - missed / (target @ target), abs=1e-9)


def test_fewer_rows_than_steps_are_all_taken() -> None:
    found = rebuild(np.ones((1, 5)), np.eye(5)[:2], 4)
    assert sorted(found.chosen[0]) == [-1, -1, 0, 1]
    np.testing.assert_allclose(found.explained, [[0.2, 0.4, 0.4, 0.4]])


def test_random_rows_explain_more_of_a_vector_the_more_of_them_there_are() -> None:
    """Why a control of the same size stands beside every curve."""
    targets = np.random.default_rng(5).normal(size=(20, 30))
    few, many = (rebuild(targets, _rows(f, 30, f), 4).explained[:, 3].mean() for f in (30, 3000))
    assert many > few + 0.2


def test_a_vector_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1\] have length zero"):
        rebuild(np.array([[1.0, 0.0], [0.0, 0.0]]), np.eye(2), 1)
