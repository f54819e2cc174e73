"""Laws of correlations, intervals, permutation tests, corrections and exact tests."""

from itertools import permutations
from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import pearsonr, t

from analyses.methods.statistics import (
    benjamini_hochberg,
    binomial_p,
    both_ends_p,
    component_intervals,
    correlate,
    correlate_components,
    correlation_intervals,
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


def test_intervals_have_the_error_of_the_bootstrap() -> None:
    """On Fisher's z; with Student's t and n - 3 where the bootstrap knows of neither."""
    columns, labels = _columns(n=200)
    low, high = correlation_intervals(columns, labels)
    drawn = resampled_correlations(columns, labels, np.random.default_rng(0), 20_000)
    errors = np.arctanh(drawn).std(axis=0) * t.ppf(0.975, 198) * np.sqrt(200 / 197)
    np.testing.assert_allclose((np.arctanh(high) - np.arctanh(low)) / 2.0, errors, rtol=0.03)
    r = correlations(columns, labels)
    np.testing.assert_allclose((np.arctanh(high) + np.arctanh(low)) / 2.0, np.arctanh(r))


def test_intervals_are_those_of_the_infinitesimal_jackknife() -> None:
    """What r gains per weight that a row is given, measured; and the corrections for few rows."""
    columns, labels = _columns(n=12, k=2)
    r, step, gains = correlations(columns, labels)[0], 1e-6, []
    for row in range(12):
        weights = np.full(12, (1.0 - step) / 12) + step * (np.arange(12) == row)
        shared = np.cov(columns[:, 0], labels, aweights=weights, ddof=0)
        gains.append((shared[0, 1] / np.sqrt(shared[0, 0] * shared[1, 1]) - r) / step / 12)
    error = np.linalg.norm(gains) / (1.0 - r**2) * np.sqrt(12 / 9) * t.ppf(0.975, 10)
    low, high = correlation_intervals(columns, labels)
    middle = np.arctanh(r)
    np.testing.assert_allclose(np.arctanh(low)[0], middle - error, rtol=1e-4)
    np.testing.assert_allclose(np.arctanh(high)[0], middle + error, rtol=1e-4)


def test_intervals_of_normal_columns_are_those_of_fisher() -> None:
    columns, labels = np.random.default_rng(2).normal(size=(2, 4000))
    low, high = correlation_intervals(columns[:, None], labels)
    expected = pearsonr(columns, labels).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_intervals_of_columns_that_are_not_fitted_cover_in_93_to_97_percent() -> None:
    hits = []
    for seed in range(400):
        for n, weight in ((171, 0.5), (45, 1.5), (45, 4.0)):
            rng = np.random.default_rng(seed)
            labels, noise = rng.uniform(-1.0, 1.0, n), rng.normal(size=n)
            low, high = correlation_intervals((weight * labels + noise)[:, None], labels)
            truth = weight / sqrt(weight**2 + 3.0)
            hits.append(low[0] <= truth <= high[0])
    assert 0.93 <= np.mean(hits) <= 0.97


def test_an_interval_holds_a_perfect_correlation_and_three_rows_tell_nothing() -> None:
    labels = np.array([1.0, -1.0, -1.0, -1.0])
    low, high = correlation_intervals(labels[:, None], labels)
    assert (low[0], high[0]) == (pytest.approx(1.0), 1.0)
    assert np.ravel(correlation_intervals(labels[:3, None], labels[:3])).tolist() == [-1.0, 1.0]


def _fitted(e: int = 60, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores (e, 6) of a PCA, and labels that follow the first two components."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(e, 6)) * np.sqrt([26.0, 15.0, 6.0, 4.0, 2.0, 1.0])
    labels = rows[:, 0] / 5.0 + rows[:, 1] / 10.0 + 0.4 * rng.normal(size=e)
    left, sizes, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    scores = left * sizes * np.sign(left[0])
    return frozen(scores), frozen(labels)


@pytest.mark.parametrize("some", [False, True])
def test_component_intervals_have_the_error_of_leaving_out_each_row_and_fitting_again(
    some: bool,
) -> None:
    """Also a row without a label turns the components; those who have one need not be like all."""
    scores, labels = _fitted(e=300)
    if some:
        labels = np.where(scores[:, 0] * scores[:, 1] > -4.0, labels, np.nan)
    low, high = component_intervals(scores, labels, tested=3)
    without = []
    for row in range(300):
        rest, few = np.delete(scores, row, axis=0), np.delete(labels, row)
        left = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)[0][:, :3]
        left *= np.sign(np.einsum("ek,ek->k", left, rest[:, :3]))
        known = np.isfinite(few)
        without.append(np.arcsin(correlations(left[known], few[known])))
    error = np.std(without, axis=0) * np.sqrt(299)
    reach = (np.arcsin(high) - np.arcsin(low)) / 2.0
    np.testing.assert_allclose(reach / t.ppf(0.975, known.sum() - 2), error, rtol=0.025)


def test_components_that_turn_are_less_certain_than_components_held_still() -> None:
    scores, labels = _fitted(e=300)
    turning = np.subtract(*component_intervals(scores, labels, tested=2)[::-1])
    still = np.subtract(*correlation_intervals(scores[:, :2], labels)[::-1])
    assert (turning > 1.3 * still).all()


def test_component_intervals_do_not_depend_on_units_signs_or_where_the_zero_is() -> None:
    scores, labels = _fitted()
    expected = component_intervals(scores, labels, tested=2)
    found = component_intervals(scores * 1e-6 + 1.0, labels * 50.0 - 7.0, tested=2)
    mirrored = component_intervals(-scores, labels, tested=2)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(np.negative(mirrored[::-1]), expected, atol=1e-12)


def test_a_component_that_is_the_label_is_certain_but_for_its_turning() -> None:
    scores, labels = _fitted()
    alone = np.column_stack([scores[:, 0], 1e-3 * scores[:, 1]])
    low, high = component_intervals(alone, scores[:, 0] + 1e-6 * labels, tested=1)
    assert 0.999 < low[0] < high[0] <= 1.0
    near = scores[:, 0] + 0.01 * scores[:, 1]
    low, high = component_intervals(scores, near, tested=1)
    assert 0.7 < low[0] < 0.99 < high[0] <= 1.0


def test_components_of_equal_variance_have_any_correlation() -> None:
    """Which of two is first is then arbitrary, and the interval says so."""
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    scores = np.tile(corners, (5, 1)) + 0.0
    labels = scores @ [1.0, 0.5] + np.random.default_rng(0).normal(size=20)
    low, high = component_intervals(scores, labels)
    np.testing.assert_allclose([low, high], [[-1.0, -1.0], [1.0, 1.0]])


def test_correlate_components_sets_the_components_of_every_fit_side_by_side() -> None:
    (first, labels), (second, _) = _fitted(), _fitted(seed=1)
    partial = np.where(np.arange(60) < 40, labels, np.nan)
    rngs = [np.random.default_rng(0) for _ in range(2)]
    found = correlate_components([first, second], partial, rngs[0], permutations=99, tested=2)
    columns = np.hstack([first[:, :2], second[:, :2]])
    plain = correlate(columns, partial, rngs[1], permutations=99)
    assert found.n == plain.n == 40
    np.testing.assert_array_equal(found.r, plain.r)
    np.testing.assert_array_equal(found.test.p_max, plain.test.p_max)
    np.testing.assert_array_equal(found.high[2:], component_intervals(second, partial, tested=2)[1])
    every = correlate_components([first], partial, rngs[0], permutations=9)
    assert len(every.r) == 6


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
