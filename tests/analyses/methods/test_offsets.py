"""Laws of scores that share an offset: draws, centring, firsts and rank agreement."""

import numpy as np
import pytest
from scipy.stats import kurtosis, skew, spearmanr

from analyses.methods.offsets import (
    angle_interval,
    count_first,
    distance_errors,
    draw_moments,
    draw_reference,
    expected_largest,
    halve_moments,
    judge_distance,
    judge_draws,
    random_contrasts,
    rank_correlations,
    ranks_from_top,
    shares_of,
    standard_scores,
)
from analyses.methods.resampling import draw_halves, draw_rows
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


def test_halves_have_the_moments_of_their_rows() -> None:
    scores, halves = _scores(41), draw_halves(41, _rng(2), 20)
    found = halve_moments(scores, halves)
    rows = [scores[half == 1.0] for half in halves]
    np.testing.assert_allclose(found.means, [each.mean(axis=0) for each in rows])
    np.testing.assert_allclose(found.sds, [each.std(axis=0) for each in rows], rtol=1e-9)
    np.testing.assert_allclose(found.sd, scores.std(axis=0))


def test_against_a_reference_is_the_distance_of_the_means_in_its_standard_deviations() -> None:
    texts, neutral = _scores(seed=1), _scores(25, seed=2)
    value, drawn = draw_moments(texts, _rng(1), 30).against(draw_moments(neutral, _rng(2), 30))
    expected = (texts.mean(axis=0) - neutral.mean(axis=0)) / neutral.std(axis=0)
    np.testing.assert_allclose(value, expected)
    ours, theirs = texts[draw_rows(40, _rng(1), 30)], neutral[draw_rows(25, _rng(2), 30)]
    moved = (ours.mean(axis=1) - theirs.mean(axis=1)) / theirs.std(axis=1)
    np.testing.assert_allclose(drawn, moved, rtol=1e-6)


def test_what_some_documents_express_is_no_nearer_for_their_differing_in_it() -> None:
    """Half of the documents are far up on probe 0, all of them a little on probe 1."""
    neutral, texts = _rng(1).normal(size=(200, 3)), _rng(2).normal(size=(200, 3))
    texts[::2, 0] += 4.0
    texts[:, 1] += 1.0
    judged = judge_distance(draw_moments(texts, _rng(3)), draw_reference(neutral, _rng(4)))
    np.testing.assert_allclose(judged.values, [2.0, 1.0, 0.0], atol=0.35)
    by_own = texts.mean(axis=0) / texts.std(axis=0)
    assert by_own[0] < by_own[1] + 0.2


def test_a_reference_has_the_shape_of_each_of_its_draws() -> None:
    scores = np.exp(_rng(1).normal(size=(30, 4))) + 1e3
    found = draw_reference(scores, _rng(3), 20)
    drawn = [scores, *scores[draw_rows(30, _rng(3), 20)]]
    np.testing.assert_allclose(found.skewness, [skew(each) for each in drawn], rtol=1e-7)
    expected = [kurtosis(each, fisher=False) for each in drawn]
    np.testing.assert_allclose(found.kurtosis, expected, rtol=1e-7)
    np.testing.assert_array_equal(found.draws.means, draw_moments(scores, _rng(3), 20).means)


@pytest.mark.parametrize("distance", [-2.0, 0.0, 3.0])
def test_the_error_of_a_distance_is_what_it_varies_by_from_sample_to_sample(
    distance: float,
) -> None:
    """400 samples of scores that are skewed, a column each."""
    rng = _rng(8)
    texts, neutral = rng.gamma(2.0, size=(500, 400)), rng.gamma(2.0, size=(300, 400))
    texts += distance * np.sqrt(2.0)
    documents, reference = draw_moments(texts, rng, 2), draw_reference(neutral, rng, 2)
    errors = distance_errors(documents, reference)[0]
    assert errors.mean() == pytest.approx(documents.against(reference.draws)[0].std(), rel=0.1)


# Of 2,000 intervals each: .94 to .96 of normal scores, .93 to .96 of heavy tails (t with 5 degrees
# of freedom), the fewer the farther off; percentiles of the draws .92 to .95 and .88 to .95.
@pytest.mark.parametrize(
    ("n", "texts", "truth"), [(50, 60, 0.0), (50, 100, 1.0), (300, 60, 1.0), (300, 100, 3.0)]
)
@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_intervals_against_a_reference_cover_the_truth_about_as_often_as_they_say(
    n: int, texts: int, truth: float, tails: str
) -> None:
    rng, hits = _rng(5), []
    for trial in range(12):
        ours = 100.0 + truth + _noise(rng, tails, (n, 40))
        theirs = 100.0 + _noise(rng, tails, (texts, 40))
        documents = draw_moments(ours, _rng(trial), 300)
        judged = judge_distance(documents, draw_reference(theirs, _rng(trial + 99), 300))
        hits.append((judged.low <= truth) & (judged.high >= truth))
    assert 0.9 <= np.mean(hits) <= 0.98


def _noise(rng: np.random.Generator, tails: str, shape: tuple[int, int]) -> Floats:
    """Of standard deviation 1."""
    if tails == "normal":
        return rng.normal(size=shape)
    heavy: Floats = rng.standard_t(5, size=shape) / np.sqrt(5.0 / 3.0)
    return heavy


def test_p_against_a_reference_is_as_often_low_as_it_says_where_there_is_nothing() -> None:
    rng, p = _rng(6), []
    for trial in range(12):
        ours, theirs = _noise(rng, "heavy", (60, 40)), 3.0 * _noise(rng, "heavy", (80, 40))
        reference = draw_reference(theirs, _rng(trial + 99), 300)
        p.append(judge_distance(draw_moments(ours, _rng(trial), 300), reference).p)
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=0.05)
    assert np.min(p) >= 1 / 301


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


def test_a_reference_that_never_varies_on_a_probe_is_no_unit_there() -> None:
    scores, flat = _scores(), _scores(25, seed=2)
    flat[:, 2] = 4.0
    judged = judge_distance(draw_moments(scores, _rng(), 50), draw_reference(flat, _rng(), 50))
    unknown = np.isnan([judged.values, judged.low, judged.high, judged.p])
    assert unknown[:, 2].all()
    assert not np.delete(unknown, 2, axis=1).any()


def test_an_interval_holds_the_value_even_where_draws_are_biased() -> None:
    judged = judge_draws(np.array([1.0]), np.linspace(0.2, 0.8, 99)[:, None])
    assert (judged.low[0], judged.high[0]) == (pytest.approx(0.215, abs=0.01), 1.0)
    assert np.isnan(judged.p).all()


def test_rank_correlations_are_spearmans_rho_with_ties() -> None:
    rng = _rng(2)
    a, b = rng.integers(5, size=(2, 7, 20)).astype(np.float64)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlations(a, b), expected)
    assert np.isnan(rank_correlations(a[0], np.ones(20)))


def test_intervals_on_the_angle_hold_what_samples_of_the_same_size_come_to() -> None:
    """Where percentiles of rows drawn again lie below: these blur few rows twice."""
    truth, rows = _rng(1).normal(size=20), []
    for trial in range(60):
        rng = _rng(trial)
        a, b = truth + 4.0 * rng.normal(size=(2, 40, 20))
        rho = float(rank_correlations(a.mean(axis=0), b.mean(axis=0)))
        halves = [halve_moments(each, draw_halves(40, rng)).means for each in (a, b)]
        drawn = [draw_moments(each, rng, 200).means for each in (a, b)]
        highest = np.quantile(rank_correlations(*drawn), 0.975)
        rows.append((rho, *angle_interval(rho, rank_correlations(*halves), 40), highest))
    values, low, high, highest = np.array(rows).T
    assert np.mean((low <= values.mean()) & (high >= values.mean())) >= 0.9
    assert np.mean(highest < values.mean()) > np.mean(high < values.mean())


def test_intervals_on_the_angle_end_at_one_and_hold_the_value() -> None:
    drawn = np.array([0.9, 1.0, 0.95, 1.0])
    np.testing.assert_allclose(angle_interval(1.0, np.ones(9), 30), 1.0)
    low, high = angle_interval(0.99, drawn, 30)
    assert 0.5 < low < 0.9
    assert high == 1.0
    assert np.isnan(angle_interval(0.5, np.array([0.4, np.nan]), 30)).all()


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
