"""Laws of correlations, intervals, permutation tests and corrections."""

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr

from analyses.methods.statistics import (
    benjamini_hochberg,
    bootstrap_intervals,
    correlations,
    permutation_p,
    permutation_test,
    spearman_brown,
    split_half_cosines,
)
from tests.analyses.planted import Floats, frozen


def _columns(n: int = 50, k: int = 4, seed: int = 0) -> tuple[Floats, Floats]:
    """Column 0 follows the labels closely, column 1 loosely and downwards, the others not."""
    rng = np.random.default_rng(seed)
    labels, columns = rng.uniform(-1.0, 1.0, n), rng.normal(size=(n, k))
    columns[:, 0] += 4.0 * labels
    columns[:, 1] -= 0.8 * labels
    return frozen(columns * 1e3), frozen(labels)


def test_correlations_equal_those_of_scipy() -> None:
    columns, labels = _columns()
    expected = [pearsonr(column, labels)[0] for column in columns.T]
    np.testing.assert_allclose(correlations(columns, labels), expected, atol=1e-12)


def test_a_constant_has_no_correlation() -> None:
    columns, labels = _columns()
    with pytest.raises(ValueError, match="labels does not vary"):
        correlations(columns, np.full_like(labels, 0.1))
    with pytest.raises(ValueError, match="a column does not vary"):
        correlations(np.full_like(columns, 0.1), labels)
    with pytest.raises(ValueError, match="at least 3"):
        correlations(columns[:2], labels[:2])


def test_bootstrap_intervals_are_those_of_scipy() -> None:
    columns, labels = _columns()
    low, high = bootstrap_intervals(columns, labels, np.random.default_rng(0), resamples=4000)
    reference = bootstrap(
        (columns[:, 1], labels),
        lambda x, y: pearsonr(x, y)[0],
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    # Two random draws of the same quantile: they agree to about its sampling error.
    assert low[1] == pytest.approx(reference.low, abs=0.04)
    assert high[1] == pytest.approx(reference.high, abs=0.04)
    assert (low <= correlations(columns, labels)).all()
    assert (correlations(columns, labels) <= high).all()


def test_bootstrap_of_two_valued_labels_survives_draws_of_one_value() -> None:
    labels = np.array([1.0, -1.0, -1.0, -1.0])
    low, high = bootstrap_intervals(labels[:, None], labels, np.random.default_rng(0))
    assert np.isfinite(low).all()
    assert high[0] == pytest.approx(1.0)


def test_permutation_p_equals_that_of_scipy() -> None:
    columns, labels = _columns(n=30)
    found = permutation_test(columns, labels, np.random.default_rng(0), permutations=20_000)
    expected = [pearsonr(column, labels).pvalue for column in columns.T]
    np.testing.assert_allclose(found.p, expected, atol=0.015)


def test_p_is_never_below_one_in_m_plus_one() -> None:
    columns, labels = _columns()
    found = permutation_test(columns, labels, np.random.default_rng(0), permutations=99)
    assert found.p[0] == found.p_max[0] == pytest.approx(1 / 100)
    assert permutation_p(np.array([0, 99]), 99).tolist() == [0.01, 1.0]


def test_looking_at_more_columns_costs() -> None:
    columns, labels = _columns(k=40)
    found = permutation_test(columns, labels, np.random.default_rng(0), permutations=999)
    alone = permutation_test(columns[:, 1:2], labels, np.random.default_rng(0), permutations=999)
    assert (found.p_max >= found.p).all()
    assert alone.p_max[0] == alone.p[0]
    assert found.p_max[1] > found.p[1]


def test_signs_of_columns_do_not_matter() -> None:
    columns, labels = _columns()
    found = permutation_test(columns, labels, np.random.default_rng(0), permutations=99)
    flipped = permutation_test(-columns, labels, np.random.default_rng(0), permutations=99)
    np.testing.assert_array_equal(found.p, flipped.p)
    np.testing.assert_array_equal(found.p_max, flipped.p_max)


def test_shuffled_labels_find_nothing() -> None:
    """The largest of 30 columns looks striking; its corrected p is uniform over the seeds."""
    smallest, naive = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        columns, labels = rng.normal(size=(40, 30)), rng.normal(size=40)
        found = permutation_test(columns, labels, rng, permutations=199)
        smallest.append(found.p_max.min())
        naive.append(found.p.min())
    assert np.mean(np.array(smallest) <= 0.05) <= 0.15
    assert 0.35 < np.mean(smallest) < 0.65
    assert np.mean(np.array(naive) <= 0.05) > 0.5


def test_max_threshold_is_what_the_largest_r_reaches_by_chance() -> None:
    rng = np.random.default_rng(0)
    columns, labels = rng.normal(size=(171, 15)), rng.normal(size=171)
    found = permutation_test(columns, labels, rng, permutations=2000)
    # 15 independent looks: each |r| must stay below the two-sided 0.05 / 15 point of N(0, 1/n).
    assert found.max_threshold == pytest.approx(2.93 / np.sqrt(170), abs=0.02)
    assert found.chance == pytest.approx(np.sqrt(2 / np.pi / 170), rel=0.1)


def test_benjamini_hochberg_textbook_example() -> None:
    p = np.array([[0.01, 0.04], [0.03, 0.005]])
    np.testing.assert_allclose(benjamini_hochberg(p), [[0.02, 0.04], [0.04, 0.02]])


def test_split_half_cosine_and_its_step_up() -> None:
    even, odd = np.array([[1.0, 0.0], [2.0, 2.0]]), np.array([[2.0, 0.0], [0.0, 5.0]])
    cosines = split_half_cosines(frozen(even), frozen(odd))
    np.testing.assert_allclose(cosines, [1.0, np.sqrt(0.5)])
    np.testing.assert_allclose(
        spearman_brown(np.array([0.5, 1.0, -0.4, -1.0])), [2 / 3, 1.0, -0.4, -1.0]
    )


def test_spearman_brown_predicts_the_reliability_of_the_whole() -> None:
    """Truth plus noise: the stepped-up half correlation is the correlation of two full sets."""
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(200, 100)), rng.normal(size=(4, 200, 100))
    halves = split_half_cosines(truth + noise[0], truth + noise[1])
    wholes = split_half_cosines(
        truth + (noise[0] + noise[1]) / 2, truth + (noise[2] + noise[3]) / 2
    )
    assert spearman_brown(halves).mean() == pytest.approx(wholes.mean(), abs=0.02)
