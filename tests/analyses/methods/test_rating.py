"""Laws of Elo, Bradley-Terry, wins and position bias."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import spearmanr

from analyses.methods import rating
from analyses.methods.rating import (
    POINTS,
    PRIOR,
    arrange,
    bradley_terry,
    choose_first,
    elo,
    hard_wins,
    position_bias,
    soft_wins,
)
from analyses.methods.scoring import steered_change, steering_effect
from engine.demo import measures
from tests.analyses.planted import Floats, frozen


def planted(strengths: Floats, bias: float = 0.0) -> Floats:
    """P(A) (a, a) of a chooser with these strengths in points, leaning to what is shown first."""
    logits = (strengths[:, None] - strengths[None, :]) / POINTS + bias
    ordered = 1.0 / (1.0 + np.exp(-logits))
    np.fill_diagonal(ordered, np.nan)
    return frozen(ordered)


def random_ordered(*shape: int, seed: int = 0) -> Floats:
    """P(A) of arms that answer at random, so that no two pairs agree."""
    ordered = np.random.default_rng(seed).uniform(0.02, 0.98, (*shape, shape[-1]))
    ordered[..., np.eye(shape[-1], dtype=bool)] = np.nan
    return frozen(ordered)


def test_choice_is_the_sigmoid_of_the_difference_of_the_two_logits() -> None:
    logits = np.array([[2.0, 2.0], [np.log(3.0), 0.0], [-900.0, 900.0]])
    np.testing.assert_allclose(choose_first(logits), [0.5, 0.75, 0.0], atol=1e-15)


def test_answers_are_arranged_by_what_was_shown_first() -> None:
    chosen = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    ordered = arrange(chosen, [2, 0, 1, 1, 0, 2], [0, 1, 2, 0, 2, 1], 3)
    assert ordered.shape == (1, 3, 3)
    assert ordered[0, 2, 0] == 0.1
    assert ordered[0, 0, 2] == 0.5
    assert np.isnan(np.diagonal(ordered[0])).all()


def test_a_missing_repeated_or_unanswered_question_is_refused() -> None:
    with pytest.raises(ValueError, match="every ordered pair of 3 items"):
        arrange(np.full(5, 0.5), [0, 1, 2, 0, 1], [1, 2, 0, 2, 0], 3)
    with pytest.raises(ValueError, match="every ordered pair of 2 items"):
        arrange(np.full(3, 0.5), [0, 1, 1], [1, 0, 0], 2)
    with pytest.raises(ValueError, match="the answers: 1 of 2 values are NaN"):
        arrange(np.array([0.5, np.nan]), [0, 1], [1, 0], 2)


def test_soft_wins_average_both_orders_and_hard_wins_count_answers() -> None:
    ordered = np.full((3, 3), np.nan)
    ordered[0, 1], ordered[1, 0] = 0.9, 0.3  # 0 is chosen in both orders
    ordered[0, 2], ordered[2, 0] = 0.9, 0.6  # whichever is first is chosen: a draw
    ordered[1, 2], ordered[2, 1] = 0.5, 0.8  # one undecided answer, one for 2
    np.testing.assert_allclose(
        soft_wins(ordered), [[0.5, 0.8, 0.65], [0.2, 0.5, 0.35], [0.35, 0.65, 0.5]]
    )
    assert hard_wins(ordered).tolist() == [[0.5, 1.0, 0.5], [0.0, 0.5, 0.25], [0.5, 0.75, 0.5]]


def test_two_orders_of_a_pair_share_one_win_exactly() -> None:
    ordered = random_ordered(5, 20)
    for wins in (soft_wins(ordered), hard_wins(ordered)):
        np.testing.assert_allclose(wins + wins.swapaxes(-1, -2), 1.0, rtol=0.0, atol=1e-15)


def test_always_a_is_position_bias_and_no_preference() -> None:
    for certainty in (0.6, 0.9, 0.999999):
        ordered = planted(np.zeros(64), bias=np.log(certainty / (1.0 - certainty)))
        assert position_bias(ordered) == pytest.approx(certainty - 0.5)
        for wins in (soft_wins(ordered), hard_wins(ordered)):
            np.testing.assert_allclose(elo(wins), 1000.0, atol=1e-9)
            np.testing.assert_allclose(bradley_terry(wins), 1000.0, atol=1e-9)


def test_a_preference_without_lean_has_no_position_bias() -> None:
    strengths = np.random.default_rng(0).normal(scale=300.0, size=64)
    assert position_bias(planted(strengths)) == pytest.approx(0.0, abs=1e-12)
    assert position_bias(planted(strengths, bias=-0.5)) < -0.05


def test_a_game_between_equals_moves_half_of_k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rating, "PASSES", 1)
    assert elo(np.array([[0.5, 1.0], [0.0, 0.5]])).tolist() == [1016.0, 984.0]
    assert elo(np.array([[0.5, 0.75], [0.25, 0.5]])).tolist() == [1008.0, 992.0]


def test_a_second_win_moves_less_by_the_textbook_expectation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rating, "PASSES", 2)
    expected = 1.0 / (1.0 + 10.0 ** (-32.0 / 400.0))
    found = elo(np.array([[0.5, 1.0], [0.0, 0.5]]))
    np.testing.assert_allclose(
        found, [1016.0 + 32.0 * (1.0 - expected), 984.0 - 32.0 * (1.0 - expected)]
    )


def test_elo_is_that_of_a_plain_loop_game_by_game() -> None:
    """All arms at once, rounds at once, against one arm, one game after the other.

    Nearly indifferent arms stop after a pass or two, the others go on: each as if it were alone.
    """
    lean = np.array([0.0, 0.003, 0.02, 0.1, 1.0])[:, None, None]
    wins = soft_wins(0.5 + lean * (random_ordered(5, 24) - 0.5))
    for seed in (0, 7):
        expected = [measures.elo(arm, seed) for arm in wins]
        np.testing.assert_allclose(elo(wins, seed), expected, rtol=0.0, atol=1e-9)


def test_an_arm_is_rated_as_if_it_were_alone() -> None:
    wins = soft_wins(random_ordered(2, 3, 16))
    together = elo(wins, seed=3)
    assert together.shape == (2, 3, 16)
    np.testing.assert_array_equal(together[1, 2], elo(wins[1, 2], seed=3))
    np.testing.assert_allclose(bradley_terry(wins)[1, 2], bradley_terry(wins[1, 2]), atol=1e-8)


def test_elo_is_zero_sum_whatever_is_steered() -> None:
    wins = soft_wins(random_ordered(6, 64))
    ratings = elo(wins)
    np.testing.assert_allclose(ratings.sum(axis=-1), 64 * 1000.0, rtol=0.0, atol=1e-8)
    steered = np.arange(64) % 2 == 0
    change = steered_change(ratings[1:], ratings[0], steered)
    lost = steered_change(ratings[1:], ratings[0], ~steered)
    np.testing.assert_allclose(change + lost, 0.0, atol=1e-9)
    np.testing.assert_allclose(
        steering_effect(ratings[1:], ratings[0], steered), 2 * change, atol=1e-9
    )


def test_elo_depends_on_the_order_of_games_and_bradley_terry_does_not() -> None:
    wins = soft_wins(random_ordered(30))
    assert np.abs(elo(wins, seed=0) - elo(wins, seed=1)).max() > 0.1
    order = np.random.default_rng(0).permutation(30)
    mixed = bradley_terry(wins[order][:, order])
    np.testing.assert_allclose(mixed, bradley_terry(wins)[order], atol=1e-6)


def test_elo_and_bradley_terry_agree_and_recover_planted_strengths() -> None:
    strengths = np.random.default_rng(0).normal(scale=250.0, size=64)
    strengths -= strengths.mean()
    for bias in (0.0, 0.4):
        wins = soft_wins(planted(strengths, bias))
        by_elo, by_fit = elo(wins), bradley_terry(wins)
        # A lean to the first option squeezes every share a little towards a half.
        np.testing.assert_allclose(by_fit, 1000.0 + strengths, atol=4.0 if bias == 0.0 else 50.0)
        np.testing.assert_allclose(by_elo, by_fit, atol=12.0)
        assert spearmanr(by_elo, by_fit).statistic > 0.999
        assert np.corrcoef(by_elo, strengths)[0, 1] > 0.999


def test_hard_wins_of_noisy_answers_recover_planted_strengths() -> None:
    rng = np.random.default_rng(0)
    strengths = rng.normal(scale=250.0, size=64)
    answers = np.where(rng.random((64, 64)) < np.nan_to_num(planted(strengths)), 1.0, 0.0)
    found = bradley_terry(hard_wins(answers))
    assert np.corrcoef(found, strengths)[0, 1] > 0.97
    assert np.polyfit(strengths, found, 1)[0] == pytest.approx(1.0, abs=0.1)


def test_bradley_terry_of_seven_baseball_teams_is_the_textbook_fit() -> None:
    """American League, 1987 (Agresti, Categorical Data Analysis): log strengths over Baltimore."""
    games = [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
    strengths = bradley_terry(np.array(games, dtype=np.float64)) / POINTS
    textbook = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0]
    np.testing.assert_allclose(strengths - strengths[-1], textbook, atol=2e-3)


def test_bradley_terry_is_the_fixed_point_of_the_slow_textbook_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strength = wins / sum of games / (strength + opponent's), again and again (Zermelo 1929)."""
    monkeypatch.setattr(rating, "PRIOR", 1e-10)
    wins = np.where(np.eye(12, dtype=bool), 0.0, soft_wins(random_ordered(12)))
    worth = np.ones(12)
    for _ in range(3000):
        for i in range(12):
            rest = [j for j in range(12) if j != i]
            games = sum((wins[i, j] + wins[j, i]) / (worth[i] + worth[j]) for j in rest)
            worth[i] = wins[i].sum() / games
    log_worth = np.log(worth)
    expected = 1000.0 + POINTS * (log_worth - log_worth.mean())
    np.testing.assert_allclose(bradley_terry(wins), expected, atol=1e-5)


@pytest.mark.parametrize("separable", [False, True])
def test_bradley_terry_maximises_the_likelihood_and_prior_that_it_states(separable: bool) -> None:
    wins = soft_wins(random_ordered(8))
    if separable:
        wins = np.triu(np.ones((8, 8)), 1)

    def loss(strengths: Floats) -> float:
        likelihood = sum(
            wins[i, j] * -np.logaddexp(0.0, strengths[j] - strengths[i])
            + wins[j, i] * -np.logaddexp(0.0, strengths[i] - strengths[j])
            for i, j in combinations(range(8), 2)
        )
        return float(PRIOR / 2.0 * (strengths**2).sum() - likelihood)

    best = minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(bradley_terry(wins), 1000.0 + POINTS * best.x, atol=0.01)


def test_bradley_terry_converges_where_full_newton_steps_run_in_circles() -> None:
    wins = np.array([[0, 10_000, 1000, 100], [1, 0, 0, 100_000], [0, 0, 0, 0], [10, 0, 1, 0.0]])
    strengths = (bradley_terry(wins) - 1000.0) / POINTS
    for i in range(4):
        gaps = {j: strengths[i] - strengths[j] for j in range(4) if j != i}
        surplus = [wins[i, j] - (wins[i, j] + wins[j, i]) * expit(gap) for j, gap in gaps.items()]
        assert sum(surplus) == pytest.approx(PRIOR * strengths[i], abs=1e-6)


def test_one_who_wins_every_game_stays_finite_in_order_and_at_the_prior_s_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wins = np.triu(np.ones((64, 64)), 1)
    ratings = bradley_terry(wins)
    assert np.isfinite(ratings).all()
    assert (np.diff(ratings) < 0.0).all()
    assert ratings.mean() == pytest.approx(1000.0)
    monkeypatch.setattr(rating, "PRIOR", 1.0)
    assert np.ptp(bradley_terry(wins)) < np.ptp(ratings) / 2.0


def test_the_prior_takes_half_a_percent_of_a_range_of_1200_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wins = soft_wins(planted(np.linspace(-600.0, 600.0, 64)))
    assert np.ptp(bradley_terry(wins)) == pytest.approx(1200.0 * 0.995, abs=1.0)
    monkeypatch.setattr(rating, "PRIOR", 1e-9)
    assert np.ptp(bradley_terry(wins)) == pytest.approx(1200.0, abs=1e-3)


@pytest.mark.parametrize("rate", [elo, bradley_terry])
def test_wins_that_are_no_table_of_numbers_are_refused(rate: Callable[[Floats], Floats]) -> None:
    wins = soft_wins(random_ordered(4))
    broken = wins.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="the wins: 1 of 16 values are NaN"):
        rate(broken)
    with pytest.raises(ValueError, match="square table"):
        rate(wins[:3])
    broken[1, 2] = -0.1
    with pytest.raises(ValueError, match="must not be negative"):
        rate(broken)


def test_elo_refuses_pairs_whose_wins_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        elo(2.0 * soft_wins(random_ordered(4)))


def test_position_bias_refuses_an_answer_that_is_missing() -> None:
    broken = random_ordered(4).copy()
    broken[0, 1] = np.nan
    with pytest.raises(ValueError, match="the answers: 1 of 12"):
        position_bias(broken)
