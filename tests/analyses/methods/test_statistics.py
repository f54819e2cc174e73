"""Laws of correlations, intervals, permutation tests, corrections and exact tests."""

from itertools import permutations
from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr

from analyses.methods.statistics import (
    benjamini_hochberg,
    binomial_p,
    bootstrap_intervals,
    both_ends_p,
    correlations,
    fisher_p,
    permutation_p,
    permutation_test,
    require_finite,
    resampled_correlations,
    shuffled_correlations,
    spearman_brown,
    split_half_cosines,
    variance_ratio,
    wilson_interval,
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


def test_shuffled_correlations_are_those_of_labels_in_random_orders() -> None:
    columns, labels = _columns(n=4)
    found = shuffled_correlations(columns, labels, np.random.default_rng(0), 500)
    every = np.array([correlations(columns, labels[list(o)]) for o in permutations(range(4))])
    nearest = np.abs(found[:, None] - every[None]).max(axis=-1)
    assert (nearest.min(axis=1) < 1e-12).all()
    assert len(set(nearest.argmin(axis=1))) == 24


def test_resampled_correlations_are_those_of_rows_drawn_anew() -> None:
    columns, labels = _columns(n=20)
    drawn = resampled_correlations(columns, labels, np.random.default_rng(0), 3)
    times = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=3)
    for counts, found in zip(times, drawn, strict=True):
        rows = np.repeat(np.arange(20), counts)
        np.testing.assert_allclose(found, correlations(columns[rows], labels[rows]), atol=1e-9)


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


@pytest.mark.parametrize(("successes", "n", "published"), [(17, 24, 0.032), (25, 35, 0.008)])
def test_binomial_p_of_coins_is_the_sum_of_their_probabilities(
    successes: int, n: int, published: float
) -> None:
    plain = sum(comb(n, k) for k in range(successes, n + 1)) / 2**n
    assert binomial_p(successes, n, 0.5) == pytest.approx(plain)
    assert binomial_p(successes, n, 0.5) == pytest.approx(published, abs=5e-4)
    assert binomial_p(successes, n, 0.5, "two-sided") == pytest.approx(2.0 * plain)


def test_binomial_p_of_a_biased_coin() -> None:
    plain = sum(comb(5, k) * 0.4**k * 0.6 ** (5 - k) for k in (4, 5))
    assert binomial_p(4, 5, 0.4) == pytest.approx(plain)
    assert binomial_p(0, 5, 0.4) == pytest.approx(1.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (50, 100), (171, 171)])
def test_wilson_interval_solves_its_own_quadratic(successes: int, n: int) -> None:
    """Its ends are the shares whose distance from the observed one is 1.96 of their own errors."""
    z, share = 1.959963984540054, successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert wilson_interval(successes, n) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_wilson_interval_textbook_example() -> None:
    """81 of 263 (Newcombe 1998, Table I)."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_fisher_p_of_the_lady_tasting_tea() -> None:
    """Three of four cups right: 17 of the 70 ways to choose do as well (Fisher 1935)."""
    assert fisher_p([[3, 1], [1, 3]], "greater") == pytest.approx(17 / 70)
    assert fisher_p([[3, 1], [1, 3]]) == pytest.approx(34 / 70)


def test_fisher_p_is_the_sum_over_tables_with_the_same_margins() -> None:
    """18 of 50 against 11 of 50: one side, the other, and all tables no likelier than this one."""
    ways = {k: comb(50, k) * comb(50, 29 - k) / comb(100, 29) for k in range(30)}
    table = [[18, 32], [11, 39]]
    assert fisher_p(table, "greater") == pytest.approx(sum(ways[k] for k in ways if k >= 18))
    assert fisher_p(table, "less") == pytest.approx(sum(ways[k] for k in ways if k <= 18))
    rare = sum(p for p in ways.values() if p <= ways[18] * (1.0 + 1e-9))
    assert fisher_p(table) == pytest.approx(rare)


@pytest.mark.parametrize(
    "signs", [(1, 1, 1, -1, -1, -1), (1, 1, 0, -1, -1, 0), (1, -1, 1, 1, 1, 0)]
)
def test_both_ends_p_is_the_share_of_all_orders(signs: tuple[int, ...]) -> None:
    positive, negative = signs.count(1), signs.count(-1)
    for ends in (1, 2, 3):
        for at_least in range(ends + 1):
            good = [
                sum(s > 0 for s in order[:ends]) >= at_least
                and sum(s < 0 for s in order[-ends:]) >= at_least
                for order in permutations(signs)
            ]
            found = both_ends_p(6, positive, negative, ends, at_least)
            assert found == pytest.approx(np.mean(good)), (ends, at_least)


def test_both_ends_p_of_171_emotions_by_hand() -> None:
    top, bottom = 68 * 67 * 66 / (171 * 170 * 169), 103 * 102 * 101 / (168 * 167 * 166)
    assert both_ends_p(171, 68, 103, 3, 3) == pytest.approx(top * bottom)
    assert both_ends_p(171, 68, 103, 3, 2) > 0.2
    assert both_ends_p(171, 68, 103, 3, 0) == pytest.approx(1.0)


def test_both_ends_p_refuses_ends_that_overlap_and_signs_that_are_too_many() -> None:
    for numbers in ((5, 2, 3, 3, 2), (6, 4, 3, 3, 2)):
        with pytest.raises(ValueError, match="cannot have these signs"):
            both_ends_p(*numbers)


def test_variance_ratio_at_the_tabled_limit_of_f_has_p_of_one_in_twenty() -> None:
    """F(4, 10) exceeds 3.478 in 5% (any table of F)."""
    rng = np.random.default_rng(0)
    values, reference = rng.normal(size=5), rng.normal(size=11)
    values *= np.sqrt(3.478 * reference.var(ddof=1) / values.var(ddof=1))
    ratio, p = variance_ratio(values + 100.0, reference)
    assert ratio == pytest.approx(3.478)
    assert p == pytest.approx(0.05, abs=1e-4)


def test_variance_ratio_of_equal_spreads_is_significant_in_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    p = [variance_ratio(rng.normal(size=35), rng.normal(size=8))[1] for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_variance_ratio_refuses_what_has_no_variance() -> None:
    with pytest.raises(ValueError, match="at least 2 values, not 1"):
        variance_ratio(np.ones(1), np.arange(3.0))
    with pytest.raises(ValueError, match="does not vary"):
        variance_ratio(np.arange(3.0), np.ones(3))
    with pytest.raises(ValueError, match="reference: 1 of 2 values are NaN"):
        variance_ratio(np.arange(3.0), np.array([0.0, np.nan]))


def test_what_is_not_a_number_is_counted_and_refused() -> None:
    require_finite("the cosines", np.ones((2, 3)))
    with pytest.raises(ValueError, match="the cosines: 2 of 3 values are NaN or infinite"):
        require_finite("the cosines", np.array([np.nan, 1.0, -np.inf]))
