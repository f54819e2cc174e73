"""Laws of scores that share an offset: draws, centring, firsts and rank agreement."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from analyses.methods.offsets import (
    count_first,
    draw_moments,
    expected_largest,
    judge_draws,
    random_contrasts,
    rank_correlations,
    ranks_from_top,
    shares_of,
    shuffled_agreement,
    standard_scores,
)
from analyses.methods.resampling import draw_rows
from analyses.methods.statistics import wilson_interval
from tests.analyses.planted import Floats


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _scores(n: int = 40, e: int = 6, offset: float = 1e4, seed: int = 0) -> Floats:
    rng = _rng(seed)
    return rng.normal(size=(n, e)) * rng.uniform(0.5, 2.0, e) + offset * rng.normal(size=e)


def test_draws_are_the_moments_of_rows_drawn_with_replacement_to_the_last_digits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = _scores()
    rows = draw_rows(len(scores), _rng(3), 50)
    for at_once in (1, 7 * len(scores), 10**9):
        monkeypatch.setattr("analyses.methods.offsets.DRAWN_AT_ONCE", at_once)
        found = draw_moments(scores, _rng(3), 50)
        np.testing.assert_allclose(found.means, scores[rows].mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(found.sds, scores[rows].std(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.mean, scores.mean(axis=0))
    np.testing.assert_allclose(found.sd, scores.std(axis=0), rtol=1e-9)


def test_against_a_reference_is_the_distance_of_the_means_in_standard_deviations() -> None:
    texts, neutral = _scores(seed=1), _scores(25, seed=2)
    value, drawn = draw_moments(texts, _rng(1), 30).against(draw_moments(neutral, _rng(2), 30))
    expected = (texts.mean(axis=0) - neutral.mean(axis=0)) / texts.std(axis=0)
    np.testing.assert_allclose(value, expected)
    ours, theirs = texts[draw_rows(40, _rng(1), 30)], neutral[draw_rows(25, _rng(2), 30)]
    moved = (ours.mean(axis=1) - theirs.mean(axis=1)) / ours.std(axis=1)
    np.testing.assert_allclose(drawn, moved, rtol=1e-6)


def test_intervals_against_a_reference_cover_the_truth_about_as_often_as_they_say() -> None:
    """Truth 0: both kinds of texts are drawn alike, under an offset of their own per probe."""
    rng, hits, p_low = _rng(5), [], []
    offset = 100.0 * rng.normal(size=5)
    for trial in range(120):
        ours, theirs = (rng.normal(size=(n, 5)) + offset for n in (60, 45))
        draws = (draw_moments(ours, _rng(trial), 400), draw_moments(theirs, _rng(trial + 1), 400))
        judged = judge_draws(*draws[0].against(draws[1]))
        hits.append((judged.low <= 0.0) & (judged.high >= 0.0))
        p_low.append(judged.p <= 0.05)
    assert 0.91 <= np.mean(hits) <= 0.98
    assert 0.02 <= np.mean(p_low) <= 0.09


def test_own_centring_is_blind_to_any_offset_and_scale_of_a_probe() -> None:
    scores = _scores(offset=0.0)
    moved = scores * np.array([1.0, 7.0, 0.1, 3.0, 2.0, 9.0]) + 1000.0 * _rng(1).normal(size=6)
    np.testing.assert_allclose(standard_scores(scores), standard_scores(moved), atol=1e-8)
    assert count_first(standard_scores(scores)).tolist() == [
        int((standard_scores(scores).argmax(axis=1) == probe).sum()) for probe in range(6)
    ]
    flat = np.column_stack([scores, np.full(len(scores), 3.0)])
    assert not standard_scores(flat)[:, -1].any()


def test_offset_share_is_the_analysis_of_variance_of_probes_over_all() -> None:
    scores = _scores(offset=0.7)
    share, drawn = draw_moments(scores, _rng(), 200).offset_share()
    grand = scores.mean()
    between = len(scores) * np.square(scores.mean(axis=0) - grand).sum()
    assert share == pytest.approx(between / np.square(scores - grand).sum())
    assert np.quantile(drawn, 0.025) < share < np.quantile(drawn, 0.975)
    assert draw_moments(_scores(offset=1e5), _rng(), 5).offset_share()[0] > 0.9999


def test_a_probe_that_never_varies_has_no_standardised_value_and_no_interval() -> None:
    scores = _scores()
    scores[:, 2] = 4.0
    draws = draw_moments(scores, _rng(), 50)
    judged = judge_draws(*draws.against())
    unknown = np.isnan([judged.values, judged.low, judged.high, judged.p])
    assert unknown[:, 2].all()
    assert not np.delete(unknown, 2, axis=1).any()


def test_p_counts_draws_beyond_chance_twice_and_is_never_zero() -> None:
    drawn = np.column_stack([np.arange(1.0, 100.0), np.arange(-2.0, 97.0), np.zeros(99)])
    judged = judge_draws(np.array([50.0, 47.0, 0.0]), drawn)
    np.testing.assert_allclose(judged.p, [2 / 100, 2 * 4 / 100, 1.0])


def test_an_interval_holds_the_value_even_where_draws_are_biased() -> None:
    judged = judge_draws(np.array([1.0]), np.linspace(0.2, 0.8, 99)[:, None])
    assert (judged.low[0], judged.high[0]) == (pytest.approx(0.215, abs=0.01), 1.0)


def test_rank_correlations_are_spearmans_rho_with_ties() -> None:
    rng = _rng(2)
    a, b = rng.integers(5, size=(2, 7, 20)).astype(np.float64)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlations(a, b), expected)
    assert np.isnan(rank_correlations(a[0], np.ones(20)))


def test_shuffled_emotions_agree_by_chance_alone_and_like_ones_do_not() -> None:
    rng = _rng(4)
    a = rng.normal(size=30)
    chance, p = shuffled_agreement(a, a + 0.1 * rng.normal(size=30), rng, 999)
    assert abs(chance) < 0.03
    assert p == pytest.approx(1 / 1000)
    found = [_by_chance(rng) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.1


def _by_chance(rng: np.random.Generator) -> float:
    a, b = rng.normal(size=(2, 30))
    return shuffled_agreement(a, b, rng, 99)[1]


def test_the_largest_share_by_chance_is_what_equal_emotions_reach() -> None:
    drawn = [np.bincount(_rng(i).integers(8, size=50), minlength=8).max() / 50 for i in range(2000)]
    assert expected_largest(50, 8, _rng(), 2000) == pytest.approx(np.mean(drawn), abs=0.004)
    assert expected_largest(10, 1, _rng()) == 1.0


def test_shares_have_the_intervals_of_wilson() -> None:
    judged = shares_of(np.array([0, 3, 17, 3]), 23)
    for i, count in enumerate((0, 3, 17, 3)):
        assert (judged.low[i], judged.high[i]) == wilson_interval(count, 23)
        assert judged.values[i] == count / 23
    assert np.isnan(judged.p).all()


def test_ranks_count_from_the_top_and_pass_over_what_is_unknown() -> None:
    found = ranks_from_top(np.array([0.5, 2.0, np.nan, 2.0, -1.0]))
    np.testing.assert_array_equal(found, [3.0, 1.0, np.nan, 1.0, 4.0])


def test_two_sources_centred_on_their_own_mean_would_disagree_by_construction() -> None:
    """Why nothing here centres on the mean of two sources."""
    a, b = (draw_moments(_scores(seed=seed), _rng(), 2).mean for seed in (1, 2))
    middle = (a + b) / 2.0
    assert rank_correlations(a - middle, b - middle) == pytest.approx(-1.0)


def test_random_contrasts_agree_as_probes_that_go_together_do() -> None:
    """Twenty probes that are two in truth: orders at random would call most of them alike."""
    rng = _rng(6)
    z = [standard_scores(np.repeat(rng.normal(size=(50, 2)), 10, axis=1)) for _ in range(2)]
    z = [each + 0.01 * rng.normal(size=each.shape) for each in z]
    rho = rank_correlations(*(random_contrasts(each, rng, 500) for each in z))
    assert abs(rho.mean()) < 0.15
    assert rho.std() > 0.5  # of twenty independent ones 0.23
