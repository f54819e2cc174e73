"""Laws of the running means and of the difference of means."""

import numpy as np
import pytest

from analyses.methods.directions import TILE, EmotionMeans, difference_of_means
from tests.analyses.planted import frozen


def _texts(n: int = 57, e: int = 4, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = np.concatenate([np.arange(e), np.arange(e), rng.integers(0, e, n - 2 * e)])
    return rng.normal(size=(n, d)).astype(np.float32), labels.astype(np.int64)


def _added(rows: np.ndarray, labels: np.ndarray, cuts: list[int], e: int = 4) -> EmotionMeans:
    means = EmotionMeans(e)
    for block, codes in zip(np.split(rows, cuts), np.split(labels, cuts), strict=True):
        means.add(block, codes)
    return means


def test_means_are_those_of_each_emotions_texts() -> None:
    rows, labels = _texts()
    expected = np.stack([rows[labels == k].astype(np.float64).mean(axis=0) for k in range(4)])
    means = _added(rows, labels, [])
    np.testing.assert_allclose(means.means(), expected, atol=1e-12)
    assert means.totals.tolist() == np.bincount(labels).tolist()


@pytest.mark.parametrize("cuts", [[1, 2, 19, 20, 50], [], [TILE], [TILE + 1, 2 * TILE + 5]])
def test_where_blocks_end_changes_not_a_bit(cuts: list[int]) -> None:
    rows, labels = _texts(3 * TILE)
    one_by_one, cut = _added(rows, labels, list(range(1, len(rows)))), _added(rows, labels, cuts)
    np.testing.assert_array_equal(cut.means(), one_by_one.means())
    np.testing.assert_array_equal(cut.counts, one_by_one.counts)
    assert cut.mean_norm == one_by_one.mean_norm
    expected, found = one_by_one.half_means(), cut.half_means()
    assert expected is not None
    assert found is not None
    np.testing.assert_array_equal(found, expected)


def test_means_are_those_of_the_plain_formula_in_float64() -> None:
    rows, labels = _texts(40 * TILE)
    rows = rows + np.float32(300.0)  # what is common is large: float32 sums would show it
    expected = np.stack([rows[labels == k].astype(np.float64).mean(axis=0) for k in range(4)])
    found = _added(rows, labels, [512, 1024]).means()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0.0)


def test_halves_are_every_other_text_of_an_emotion() -> None:
    rows, labels = _texts()
    halves = _added(rows, labels, [7, 30]).half_means()
    assert halves is not None
    own = rows[labels == 2].astype(np.float64)
    np.testing.assert_allclose(halves[0][2], own[::2].mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(halves[1][2], own[1::2].mean(axis=0), atol=1e-12)


def test_an_emotion_with_one_text_has_no_halves() -> None:
    means = _added(np.eye(3, dtype=np.float32), np.array([0, 0, 1]), [], e=2)
    assert means.half_means() is None


def test_sums_of_many_large_float32_rows_do_not_lose_digits() -> None:
    rows = np.full((20_000, 2), 1000.1, dtype=np.float32)
    means = _added(rows, np.zeros(20_000, dtype=np.int64), [10_000], e=1).means()
    np.testing.assert_allclose(means, np.float64(np.float32(1000.1)), rtol=1e-13)


def test_mean_norm_is_that_of_the_rows() -> None:
    rows, labels = _texts()
    expected = np.linalg.norm(rows.astype(np.float64), axis=1).mean()
    assert _added(rows, labels, [5]).mean_norm == pytest.approx(expected)


def test_an_emotion_without_text_is_refused() -> None:
    means = _added(np.eye(2, dtype=np.float32), np.array([0, 2]), [], e=3)
    with pytest.raises(ValueError, match=r"no text for emotions \[1\]"):
        means.means()


def test_a_row_that_is_not_finite_is_refused() -> None:
    rows, labels = _texts()
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3 of the block is not finite"):
        _added(rows, labels, [])


def test_a_row_that_is_not_finite_is_refused_wherever_it_stands() -> None:
    for wrong in (np.nan, np.inf, -np.inf):
        rows, labels = _texts(2 * TILE)
        rows[TILE + 7, 5] = wrong
        with pytest.raises(ValueError, match=rf"row {TILE + 7} of the block is not finite \(1 "):
            _added(rows, labels, [])


def test_nothing_added_has_no_means() -> None:
    with pytest.raises(ValueError, match="no text"):
        EmotionMeans(2).means()


def test_a_block_that_does_not_fit_is_refused() -> None:
    means = _added(np.eye(3, dtype=np.float32), np.array([0, 0, 1]), [], e=2)
    with pytest.raises(ValueError, match="2 rows for 1 labels"):
        means.add(np.ones((2, 3), dtype=np.float32), np.array([0]))
    with pytest.raises(ValueError, match="shapes"):
        means.add(np.ones((1, 4), dtype=np.float32), np.array([0]))


def test_vectors_sum_to_zero_whatever_the_number_of_texts() -> None:
    """Emotions weigh the same: 90 texts of one do not pull the centre towards it."""
    means = frozen(np.array([[10.0, 0.0], [0.0, 4.0], [2.0, 2.0]]))
    vectors = difference_of_means(means)
    np.testing.assert_allclose(vectors.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(vectors, means - np.array([4.0, 2.0]))
