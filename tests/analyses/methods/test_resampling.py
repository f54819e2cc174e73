"""Laws of draws, bootstrap intervals and permutation p values."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr, permutation_test, t

from analyses.methods.resampling import (
    against_chance,
    draw_clusters,
    draw_halves,
    draw_orders,
    draw_rows,
    draw_within,
    halves_interval,
    jackknife_interval,
    percentile_interval,
)
from tests.analyses.planted import Floats


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    values = _rng().exponential(size=40)
    low, high = percentile_interval(values[draw_rows(40, _rng(), 20_000)].mean(axis=1))
    expected = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=_rng(1)
    ).confidence_interval
    # Two random draws of the same quantile: they agree to about its sampling error.
    assert low == pytest.approx(expected.low, abs=0.01)
    assert high == pytest.approx(expected.high, abs=0.01)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = _rng(), 0
    for _ in range(300):
        values = rng.normal(size=40)
        low, high = percentile_interval(values[draw_rows(40, rng, 400)].mean(axis=1))
        hits += bool(low <= 0.0 <= high)
    assert 0.90 <= hits / 300 <= 0.98


def test_rows_of_a_cluster_that_say_the_same_do_not_narrow_the_interval() -> None:
    """Ten topics with five copies of one value each are ten values, not fifty."""
    topics = _rng().normal(size=10)
    rows, clusters = np.repeat(topics, 5), np.repeat(np.arange(10), 5)
    by_cluster = percentile_interval([rows[k].mean() for k in draw_clusters(clusters, _rng(1))])
    alone = percentile_interval(topics[draw_rows(10, _rng(1))].mean(axis=1))
    by_row = percentile_interval(rows[draw_rows(50, _rng(1))].mean(axis=1))
    np.testing.assert_allclose(by_cluster, alone)
    assert by_cluster[1] - by_cluster[0] > 1.5 * (by_row[1] - by_row[0])


def test_a_cluster_is_drawn_whole() -> None:
    clusters = np.array(["a", "b", "a", "c", "c", "c"])
    members = {"a": [0, 2], "b": [1], "c": [3, 4, 5]}
    for rows in draw_clusters(clusters, _rng(), 50):
        counts = np.bincount(rows, minlength=6)
        assert all(len(set(counts[places])) == 1 for places in members.values())
        assert sum(counts[places[0]] for places in members.values()) == 3


def test_draws_within_groups_keep_every_group_and_its_size() -> None:
    groups = np.array([2, 0, 0, 2, 1, 0])
    drawn = draw_within(groups, _rng(), 500)
    assert drawn.shape == (500, 6)
    assert (groups[drawn] == groups).all()
    assert set(drawn[:, 1]) == {1, 2, 5}


def test_orders_hold_every_row_once_and_are_all_equally_likely() -> None:
    orders = draw_orders(3, _rng(), 6000)
    counts = dict.fromkeys(permutations(range(3)), 0)
    for order in orders:
        counts[tuple(order.tolist())] += 1
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_permutation_p_is_that_of_scipy_and_of_all_orders() -> None:
    values, labels = _rng(1).normal(size=7), np.array([1, 1, 1, 0, 0, 0, 0]) == 1
    values[labels] += 1.0

    def gap(x: Floats) -> Floats:
        return np.asarray(x[..., labels].mean(axis=-1) - x[..., ~labels].mean(axis=-1))

    found = against_chance(gap(values), gap(values[draw_orders(7, _rng(), 20_000)]))
    every = np.array([gap(values[list(order)]) for order in permutations(range(7))])
    scipy_p = permutation_test(
        (values[labels], values[~labels]),
        lambda x, y: x.mean() - y.mean(),
        vectorized=False,
        alternative="greater",
    ).pvalue
    assert found.p == pytest.approx((every >= gap(values) - 1e-12).mean(), abs=0.006)
    assert found.p == pytest.approx(scipy_p, abs=0.006)
    assert found.mean == pytest.approx(0.0, abs=0.02)


def test_p_counts_the_observed_value_and_ties_as_chance_that_did_as_well() -> None:
    drawn = np.array([1.0, 2.0, 3.0, 3.0])
    assert against_chance(3.0, drawn).p == pytest.approx(3 / 5)
    assert against_chance(3.1, drawn).p == pytest.approx(1 / 5)
    assert against_chance(3.0 + 1e-15, drawn).p == pytest.approx(3 / 5)
    assert against_chance(1.0, drawn, "low").p == pytest.approx(2 / 5)
    assert against_chance(np.array([0.0, 9.0]), np.stack([drawn, drawn], 1)).p.tolist() == [
        1.0,
        0.2,
    ]


def test_the_jackknife_of_a_correlation_is_its_fisher_interval() -> None:
    """On normal rows; the textbook's error of z is 1 / sqrt(n - 3)."""
    x, noise = _rng(3).normal(size=(2, 2000))
    y = x + noise
    r = float(np.corrcoef(x, y)[0, 1])
    keep = ~np.eye(2000, dtype=bool)
    without = np.array([np.corrcoef(x[rows], y[rows])[0, 1] for rows in keep])
    expected = pearsonr(x, y).confidence_interval(0.95)
    assert jackknife_interval(r, without) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_the_jackknife_holds_the_value_and_says_nothing_of_too_few_rows() -> None:
    assert jackknife_interval(1.0, np.ones(9)) == pytest.approx((1.0, 1.0))
    low, high = jackknife_interval(0.5, np.array([0.4, 0.5, 0.6, 0.45, 0.55]))
    assert low < 0.5 < high
    assert np.isnan(jackknife_interval(0.5, np.full(4, 0.5))).all()
    assert np.isnan(jackknife_interval(0.5, np.array([0.5] * 8 + [np.nan]))).all()


def test_what_could_not_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="a resampled statistic: 1 of 2"):
        percentile_interval([0.0, np.nan])
    with pytest.raises(ValueError, match="the statistic: 1 of 1"):
        against_chance(np.nan, [0.0])
    with pytest.raises(ValueError, match="a shuffled statistic: 1 of 1"):
        against_chance(0.0, [np.inf])


def test_halves_give_a_mean_the_error_that_it_has() -> None:
    values = np.random.default_rng(5).normal(0.3, 0.05, size=60)
    halves = draw_halves(60, np.random.default_rng(0), 5000)
    assert (halves.sum(axis=1) == 30.0).all()
    low, high = halves_interval(values.mean(), halves @ values / 30.0, halves)
    reach = t.ppf(0.975, 59) * values.std(ddof=1) / np.sqrt(60)
    assert (high - low) / 2.0 == pytest.approx(reach, rel=0.04)


def test_halves_say_nothing_of_too_few_rows_or_of_a_value_that_is_not_defined() -> None:
    rng = np.random.default_rng(0)
    for n, lost in ((4, 0), (9, 1)):
        halves = draw_halves(n, rng)
        drawn = np.full(len(halves), 0.5)
        drawn[:lost] = np.nan
        assert np.isnan(halves_interval(0.5, drawn, halves)).all()
