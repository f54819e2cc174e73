"""Laws of what the criteria count, and the published numbers that they give on published data."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr

from analyses.methods.scoring import (
    category_gap,
    category_means,
    centre,
    end_valence,
    read_scenarios,
    score_intensity,
    score_own,
    signs_match,
    spread,
    steered_change,
    steering_effect,
    top,
    trend,
)
from analyses.methods.statistics import both_ends_p
from engine.demo import measures
from stores.protocol import load_protocol
from tests.analyses.planted import Floats, frozen

PUBLISHED = Path(__file__).parents[3] / "data" / "reference" / "published.tsv"
STATED = {
    "painkiller": {"afraid": 1, "calm": -1},
    "fasting": {"afraid": 1},
    "sister": {"sad": -1, "calm": 1, "happy": 1},
    "dog": {"sad": 1},
    "runway": {"afraid": -1, "sad": -1, "calm": 1},
    "exam": {"happy": 1, "afraid": -1},
}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def published(metric: str) -> dict[tuple[str, ...], float]:
    """The paper's values of metric[...], by what stands in the brackets."""
    with PUBLISHED.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return {
        tuple(row["metric"].removeprefix(metric).strip("[]").split(",")): float(row["value"])
        for row in rows
        if row["source"] == "paper" and row["metric"].startswith(f"{metric}[")
    }


def scalar(metric: str) -> float:
    with PUBLISHED.open(encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        found = [r["value"] for r in rows if r["source"] == "paper" and r["metric"] == metric]
    return float(found[0])


@pytest.fixture(scope="module")
def paper_cosines() -> Floats:
    """The paper's 12 probes down, 12 scenarios across."""
    values = published("scenario_cosine")
    names = list(dict.fromkeys(probe for probe, _ in values))
    assert len(values) == 144
    return frozen(np.array([[values[p, s] for s in names] for p in names]))


def test_the_paper_s_own_matrix_gives_its_published_scores(paper_cosines: Floats) -> None:
    found = read_scenarios(paper_cosines)
    assert np.trace(found.first) == scalar("V3") == 6
    assert np.trace(found.rank) / 12 == pytest.approx(scalar("V4"), abs=0.005)
    assert np.trace(found.rank) / 12 == pytest.approx(22 / 12)
    assert np.trace(found.rows) == scalar("V3.rows") == 9
    assert np.trace(found.top3) == scalar("V3.top3") == 11


def test_the_paper_s_matrix_centred_gives_its_published_scores(paper_cosines: Floats) -> None:
    found = read_scenarios(centre(paper_cosines))
    assert np.trace(found.first) == scalar("V3.centred") == 10
    assert np.trace(found.rank) / 12 == pytest.approx(scalar("V4.centred"), abs=0.005)
    assert np.trace(found.rank) / 12 == pytest.approx(16 / 12)


def test_the_paper_s_scores_are_clear_of_chance(paper_cosines: Floats) -> None:
    found = read_scenarios(paper_cosines)
    first = score_own(found.first, _rng(), 9999)
    rank = score_own(found.rank, _rng(), 9999, total="mean", better="low")
    assert (first.value, first.n, first.chance) == (6.0, 12, 1.0)
    assert rank.value == pytest.approx(22 / 12)
    assert rank.chance == pytest.approx(6.5)
    assert first.low < 6.0 < first.high
    assert max(first.p, rank.p) < 0.002


def test_the_paper_s_end_points_go_11_of_12_stated_ways() -> None:
    ends = published("intensity")
    found = {
        (template, emotion): trend(
            np.array([ends[template, emotion, end] for end in ("low", "high")]), [1.0, 2.0]
        )
        for template, signs in STATED.items()
        for emotion in signs
    }
    signs = [sign for expected in STATED.values() for sign in expected.values()]
    passed = score_intensity(np.array(list(found.values())), signs).signs
    missed = [pair for pair, good in zip(found, passed, strict=True) if not good]
    assert passed.sum() == scalar("V5.stated") == 11
    assert missed == [("runway", "sad")]


def test_the_protocol_marks_the_same_12_directions_as_stated() -> None:
    stated = {
        template.key: {name: d.sign for name, d in template.directions.items() if d.stated}
        for template in load_protocol().intensity
    }
    assert stated == STATED


def test_ranks_are_counted_by_a_plain_loop() -> None:
    cosines = _rng().normal(size=(9, 5))
    found = read_scenarios(cosines)
    for p in range(9):
        for s in range(5):
            above = sum(cosines[q, s] > cosines[p, s] for q in range(9))
            assert found.rank[p, s] == 1 + above
            assert found.first[p, s] == (above == 0)
            assert found.top3[p, s] == (above < 3)
            assert found.rows[p, s] == all(cosines[p, s] >= cosines[p, t] for t in range(5))


def test_probes_that_say_nothing_score_nothing() -> None:
    found = read_scenarios(np.zeros((12, 12)))
    assert np.trace(found.first) == np.trace(found.rows) == 0.0
    assert np.trace(found.rank) / 12 == 6.5


def test_a_probe_that_is_high_everywhere_is_stopped_by_centring() -> None:
    cosines = 0.05 * np.eye(12)
    cosines[3] += 0.2
    assert np.trace(read_scenarios(cosines).first) == 1.0
    assert np.trace(read_scenarios(centre(cosines)).first) == 12.0
    np.testing.assert_allclose(centre(cosines).mean(axis=1), 0.0, atol=1e-15)


def test_own_entries_are_scored_against_every_other_assignment() -> None:
    """Three rows, all six assignments by hand: the p of the best of them is about 1 in 6."""
    table = np.array([[9.0, 1.0, 2.0], [3.0, 8.0, 1.0], [0.0, 2.0, 7.0]])
    found = score_own(table, _rng(), 20_000)
    assert (found.value, found.n) == (24.0, 3)
    assert found.chance == pytest.approx(table.sum() / 3)
    assert found.p == pytest.approx(1 / 6, abs=0.01)
    worst = score_own(table, _rng(), 20_000, own=[1, 0, 0])
    assert worst.value == 3.0 + 1.0 + 2.0
    mean = score_own(table, _rng(), 99, total="mean")
    assert mean.value == 8.0
    assert mean.chance == pytest.approx(table.sum() / 9)
    assert score_own(-table, _rng(), 999, better="low").p == score_own(table, _rng(), 999).p


def test_wordings_of_one_emotion_stay_together_by_chance_and_in_the_interval() -> None:
    """Two copies of every scenario double the score but are no more evidence."""
    hits = np.zeros((12, 12))
    hits[:3, :3] = np.eye(3)
    once = score_own(hits, _rng(), 5000)
    twice = score_own(np.hstack([hits, hits]), _rng(), 5000, own=np.tile(np.arange(12), 2))
    assert (twice.value, twice.n) == (6.0, 24)
    assert twice.chance == pytest.approx(2 * once.chance)
    assert twice.p == once.p
    assert (twice.low, twice.high) == (2 * once.low, 2 * once.high)


def test_shuffled_assignments_have_uniform_p() -> None:
    rng = _rng()
    p = []
    for _ in range(200):
        table = rng.normal(size=(12, 12))
        p.append(score_own(table, rng, 199).p)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.array(p) <= 0.05) <= 0.10


def test_a_column_without_an_own_row_is_refused() -> None:
    for own in ([0, 1], [0, 1, 3], [0, -1, 2]):
        with pytest.raises(ValueError, match="each of 3 columns must have one of 3 rows"):
            score_own(np.eye(3), _rng(), 9, own=own)


def test_trend_is_the_spearman_of_scipy_with_ties() -> None:
    curves = _rng().normal(size=(5, 4, 7)).round(0)
    values = np.array([0.0, 2.0, 4.0, 8.0, 12.0, 24.0, 96.0])
    found = trend(curves, values)
    assert found.shape == (5, 4)
    expected = [[spearmanr(curve, values).statistic for curve in rows] for rows in curves]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_trend_sees_order_only() -> None:
    values = np.array([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_allclose(trend(np.exp(values / 500.0), values), 1.0)
    np.testing.assert_allclose(trend(-np.log(values), values), -1.0)
    np.testing.assert_allclose(trend(values[::-1].copy(), values[::-1]), 1.0)


def test_a_flat_curve_has_no_trend_and_passes_nothing() -> None:
    rho = trend(np.array([[0.2, 0.2, 0.2], [0.1, 0.2, 0.3]]), [1.0, 2.0, 3.0])
    assert np.isnan(rho[0])
    found = score_intensity(rho, [-1, 1])
    assert found.signs.tolist() == found.strong.tolist() == found.signed.tolist() == [False, True]


def test_strong_and_expected_are_told_apart() -> None:
    rho = np.array([[0.9, -0.9], [0.5, 0.71]])
    found = score_intensity(rho, [[1, 1], [1, -1]])
    assert found.signs.tolist() == [[True, False], [True, False]]
    assert found.strong.tolist() == [[True, True], [False, True]]
    assert found.signed.tolist() == [[True, False], [False, False]]
    assert score_intensity(-rho, [[1, 1], [1, -1]]).signed.tolist() == [
        [False, True],
        [False, True],
    ]
    edge = score_intensity(np.array([0.7, 0.0]), [1, 1])
    assert edge.signs.tolist() == [True, False]
    assert not edge.strong.any()


def test_random_curves_of_seven_points_are_strong_far_more_often_than_a_score_should_be() -> None:
    """A smooth drift of seven points has |rho| > .7: strength alone cannot say no."""
    drift = _rng().normal(size=(4000, 7)).cumsum(axis=1)
    noise = _rng(1).normal(size=(4000, 7))
    values = np.arange(7.0)
    strong = [np.mean(np.abs(trend(curves, values)) > 0.7) for curves in (drift, noise)]
    assert strong[0] > 0.4
    assert strong[1] < 0.12


def test_trends_without_two_values_or_a_sign_are_refused() -> None:
    for values in ([1.0], [2.0, 2.0]):
        with pytest.raises(ValueError, match="at least two different values"):
            trend(np.zeros((3, len(values))), values)
    with pytest.raises(ValueError, match=r"must be \+1 or -1"):
        score_intensity(np.zeros(2), [1, 0])


def test_category_means_and_gap_by_hand() -> None:
    ratings = np.array([[10.0, 20.0, 60.0, 0.0, 30.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    codes = [2, 0, 0, 1, 2]
    assert category_means(ratings, codes).tolist() == [[40.0, 0.0, 20.0], [1.0, 1.0, 1.0]]
    assert category_gap(ratings, codes).tolist() == [40.0, 0.0]


def test_an_empty_category_is_refused() -> None:
    with pytest.raises(ValueError, match="category 1 has no item"):
        category_means(np.zeros(3), [0, 2, 2])


def test_top_takes_the_largest_by_size_and_spread_covers_the_ranks() -> None:
    r = np.array([0.1, -0.9, 0.5, 0.8, -0.2, 0.0, 0.9])
    assert top(r, 3).tolist() == [1, 6, 3]
    assert spread(r, 3).tolist() == [1, 0, 6]
    assert spread(r, 7).tolist() == np.argsort(r).tolist() == spread(r, 99).tolist()


def test_spread_is_that_of_the_scorecard_and_even_in_rank() -> None:
    values = _rng().normal(size=171)
    chosen = spread(values, 35)
    assert chosen.tolist() == measures.spread(values, 35)
    steps = np.diff(rankdata(values)[chosen])
    assert steps.min() == steps.max() == 5.0
    assert rankdata(values)[chosen[[0, -1]]].tolist() == [1.0, 171.0]


def test_end_valence_by_hand() -> None:
    r = np.array([0.9, 0.8, 0.7, 0.1, -0.1, -0.7, -0.8, -0.9])
    valence = np.array([1.0, 0.3, -1.0, 1.0, -1.0, -0.2, 0.0, -1.0])
    found = end_valence(r, valence)
    assert (found.top, found.bottom, found.worse) == (2, 2, 2)
    assert found.p == both_ends_p(8, 3, 4, 3, 2)
    turned = end_valence(-r, valence)
    assert (turned.top, turned.bottom, turned.worse) == (0, 1, 0)
    uneven = end_valence(r, np.array([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 1.0]))
    assert (uneven.top, uneven.bottom, uneven.worse) == (3, 1, 1)
    assert uneven.p == both_ends_p(8, 5, 2, 3, 1)


def test_the_p_of_end_valence_is_the_share_of_shuffled_labels_that_do_as_well() -> None:
    rng = _rng()
    r, valence = np.linspace(-1.0, 1.0, 40), np.where(np.arange(40) < 24, -1.0, 1.0)
    worse = [end_valence(r, rng.permutation(valence)).worse for _ in range(4000)]
    assert end_valence(r, -valence).worse == 0
    assert end_valence(r, valence).worse == 3
    share = np.mean(np.array(worse) >= 3)
    assert end_valence(r, valence).p == pytest.approx(share, abs=0.01)


def test_ends_that_overlap_or_have_no_label_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6 emotions, not 5"):
        end_valence(np.arange(5.0), np.ones(5))
    labels = np.ones(6)
    labels[2] = np.nan
    with pytest.raises(ValueError, match="the valence labels: 1 of 6"):
        end_valence(np.arange(6.0), labels)


def test_change_and_effect_by_hand() -> None:
    baseline = np.array([1000.0, 1100.0, 900.0, 1000.0])
    ratings = baseline + np.array([[10.0, 30.0, -25.0, -15.0], [0.0, 0.0, 0.0, 0.0]])
    steered = np.array([True, True, False, False])
    assert steered_change(ratings, baseline, steered).tolist() == [20.0, 0.0]
    assert steering_effect(ratings, baseline, steered).tolist() == [40.0, 0.0]
    one = np.array([0, 2])  # a category alone: not zero-sum
    assert steering_effect(ratings[:, one], baseline[one], steered[one]).tolist() == [35.0, 0.0]


def test_a_drop_that_every_direction_causes_is_taken_out_by_the_random_mean() -> None:
    """Pearson r does not see a common drop; signs do, until the random directions' mean is off."""
    true = np.linspace(-20.0, 20.0, 35)
    valence, common = np.sign(true + 0.1), -59.0
    effects, by_chance = true + common, _rng().normal(common, 3.0, 8)
    assert signs_match(effects, valence).sum() == (valence < 0).sum()
    assert signs_match(effects - by_chance.mean(), valence).sum() >= 33
    assert pearsonr(effects, true).statistic == pytest.approx(1.0)


def test_zero_matches_no_sign() -> None:
    values, labels = np.array([1.0, -1.0, 0.0, 2.0, 2.0]), np.array([2.0, -1.0, 1.0, -1.0, 0.0])
    assert signs_match(values, labels).tolist() == [True, True, False, False, False]


def test_a_mask_must_divide() -> None:
    for mask in (np.ones(3, dtype=bool), np.zeros(3, dtype=bool), np.array([1, 0, 1])):
        with pytest.raises(ValueError, match="a mask with steered items and others"):
            steering_effect(np.zeros(3), np.zeros(3), mask)


def test_nothing_that_was_not_measured_is_counted() -> None:
    hole = np.eye(3)
    hole[0, 1] = np.nan
    mask = np.array([True, False, False])
    for score in (
        lambda: read_scenarios(hole),
        lambda: centre(hole),
        lambda: score_own(hole, _rng(), 9),
        lambda: trend(hole, [1.0, 2.0, 3.0]),
        lambda: category_means(hole, [0, 0, 1]),
        lambda: top(hole[0], 1),
        lambda: spread(hole[0], 2),
        lambda: steered_change(hole, np.zeros(3), mask),
        lambda: steering_effect(np.zeros((1, 3)), hole[0], mask),
        lambda: signs_match(hole[0], np.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"1 of [39] values are NaN or infinite"):
            score()
