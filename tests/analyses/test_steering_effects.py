"""Laws of V10 and V11 on planted effects: what passes, what must not, and what each row holds."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from analyses.methods import scoring
from analyses.steering_arms import BAND, MEAN, Key, select_emotions
from analyses.steering_effects import Steering, score_steering, without_effects
from analyses.steering_tables import category_table, exemplar_table, score_doses
from stores.results import Metric

Effect = Callable[[float], float]

R = np.random.default_rng(5).permutation(np.linspace(-0.9, 0.9, 60))
NAMES = tuple(f"e{i:02d}" for i in range(len(R)))
RANDOMS = tuple(f"random {i}" for i in range(1, 9))
KINDS = ("Helpful", "Social", "Neutral", "Unsafe")
CATEGORIES = tuple(kind for kind in KINDS for _ in range(4))
STEERED = np.tile([True, False], 8)
BASELINE = np.linspace(700.0, 1300.0, 16)


def moved(effect: float) -> scoring.Floats:
    """Elo after an arm that lifts what is steered and, as the sum is fixed, lowers the others."""
    return BASELINE + np.where(STEERED, effect / 2.0, -effect / 2.0)


def planted(
    effect: Effect,
    by_chance: Sequence[float] = (3.0, -2.0, 1.0, -1.0, 2.0, -3.0, 0.5, -0.5),
    valence: scoring.Floats = R,
    drop: float = 0.0,
    n: int = 35,
) -> Steering:
    """Steering at half the norm whose effect follows from r; every direction lowers by `drop`."""
    chosen = select_emotions(R, n, 12)
    arms: dict[Key, scoring.Floats] = {}
    for i in chosen.all:
        arms[Key(NAMES[i], 0.5)] = moved(effect(R[i]) - drop)
    for i in chosen.some:
        arms[Key(NAMES[i], 0.5, BAND)] = moved(effect(R[i]) - drop)
        arms[Key(NAMES[i], -0.5)] = moved(-effect(R[i]) - drop)
    for name, size in zip((*RANDOMS, MEAN), (*by_chance, 0.0), strict=True):
        arms[Key(name, 0.5)] = moved(size - drop)
    for i in chosen.exemplars:
        arms[Key(NAMES[i], 0.25)] = moved(effect(R[i]) / 2.0)
    arms[Key(RANDOMS[0], 0.25)] = moved(by_chance[0] / 2.0)
    return Steering(
        layer=3,
        strength=0.5,
        emotions=NAMES,
        r=R,
        valence=valence,
        selections=chosen,
        randoms=RANDOMS,
        random_r=np.linspace(-0.4, 0.4, 8),
        keys={key: i for i, key in enumerate(arms)},
        ratings=np.stack(list(arms.values())),
        baseline=BASELINE,
        steered=STEERED,
        categories=CATEGORIES,
    )


def score(found: Steering) -> dict[str, Metric]:
    rows = score_steering(found, 199, np.random.default_rng(0)).metrics
    return {row.metric: row for row in rows if row.subject is None}


def wave(r: float) -> float:
    """An effect of the size of a random direction's that follows r all the same."""
    return 2.0 * r


def test_an_effect_that_follows_the_probes_passes_every_reading() -> None:
    rows = score(planted(lambda r: 25.0 * r))
    for name in ("V10", "V10.spread", "V10.valence", "V10.controlled", "V10.band"):
        assert rows[name].value == pytest.approx(1.0)
        assert rows[name].passed
    parts = [rows[name].p_value for name in ("V10.clear", "V10.valence", "V10.spread")]
    assert rows["V10.controlled"].p_value == pytest.approx(max(filter(None, parts)))
    assert rows["V10.opposite"].value == pytest.approx(-1.0)
    assert rows["V10.opposite_sum"].value == pytest.approx(0.0)
    assert rows["V10.clear"].passed
    assert rows["V11"].value == rows["V11.controlled"].value == 35
    assert rows["V11.controlled"].passed


def test_an_inverted_effect_passes_the_reports_bar_and_no_other() -> None:
    rows = score(planted(lambda r: -25.0 * r))
    assert rows["V10"].value == pytest.approx(-1.0)
    assert rows["V10"].passed
    for name in ("V10.spread", "V10.controlled", "V11", "V11.spread", "V11.controlled"):
        assert not rows[name].passed


def test_an_effect_no_larger_than_that_of_random_directions_is_not_controlled() -> None:
    rows = score(planted(wave))
    assert rows["V10"].passed
    assert rows["V10.spread"].passed
    assert not rows["V10.clear"].passed
    assert not rows["V10.controlled"].passed


def test_clear_effects_that_do_not_follow_the_probes_are_not_controlled() -> None:
    rng = np.random.default_rng(1)
    rows = score(planted(lambda r: float(rng.normal(0.0, 20.0))))
    assert rows["V10.clear"].passed
    assert not rows["V10.controlled"].passed
    assert not rows["V11.controlled"].passed


def test_what_every_direction_does_is_taken_off_before_signs_are_read() -> None:
    rows = score(planted(lambda r: 25.0 * r, drop=59.0))
    assert rows["V11.spread"].value == int((R[list(select_emotions(R, 35, 12).spread)] < 0).sum())
    assert rows["V11.controlled"].value == 35
    assert rows["V10.controlled"].value == pytest.approx(1.0)


def test_signs_that_one_label_alone_explains_are_not_controlled() -> None:
    valence = np.where(np.arange(len(R)) == 0, 1.0, -1.0)
    rows = score(planted(lambda r: -20.0 - r, valence=valence))
    row = rows["V11.controlled"]
    assert (rows["V11.spread"].p_value or 1.0) < 1e-6
    assert row.value == pytest.approx(34, abs=1)
    assert row.chance == pytest.approx(34, abs=1)
    assert row.p_value == pytest.approx(1.0)
    assert not row.passed


def test_nothing_moves_then_no_r_is_made_up() -> None:
    rows = score(planted(lambda r: 0.0, by_chance=(0.0,) * 8))
    for name in ("V10", "V10.spread", "V10.controlled", "V10.clear", "V10.band", "V10.opposite"):
        assert rows[name].value is None
        assert rows[name].passed is False
    assert rows["V11"].value == rows["V11.controlled"].value == 0


def test_an_effect_over_all_activities_is_twice_the_change_of_the_steered_ones() -> None:
    found = planted(lambda r: 25.0 * r)
    rated = found.rated(found.names(found.selections.top))
    assert found.effect(rated) == pytest.approx(2.0 * found.change(rated))


def test_a_category_that_goes_the_other_way_shows_in_its_own_row_alone() -> None:
    found = planted(lambda r: 25.0 * r)
    unsafe = np.array([category == "Unsafe" for category in CATEGORIES])
    flipped = np.where(unsafe, 2.0 * BASELINE - found.ratings, found.ratings)
    found = replace(found, ratings=flipped)
    rows = score_steering(found, 99, np.random.default_rng(0)).metrics
    signs = {row.subject: np.sign(row.value or 0.0) for row in rows if row.metric == "V10.category"}
    assert signs == {"Helpful": 1.0, "Social": 1.0, "Neutral": 1.0, "Unsafe": -1.0}
    names = found.names(found.selections.spread)
    within = [found.effect_within(found.rated(names), kind) for kind in KINDS]
    np.testing.assert_allclose(np.mean(within, axis=0), found.effect(found.rated(names)))


def test_the_bar_of_v11_is_25_of_35_and_the_same_share_of_fewer() -> None:
    assert score(planted(lambda r: 25.0 * r))["V11"].threshold == 25
    fewer = score(planted(lambda r: 25.0 * r, n=7))
    assert {fewer[name].threshold for name in ("V11", "V11.controlled")} == {5}


def test_effects_that_follow_the_probes_and_not_the_labels_are_not_controlled() -> None:
    """As when the stories are dealt to the wrong emotions: such vectors still steer."""
    dealt = np.random.default_rng(3).permutation(R)
    for valence in (dealt, -R):
        rows = score(planted(lambda r: 25.0 * r, valence=valence))
        assert rows["V10.spread"].passed
        assert rows["V10.clear"].passed
        assert rows["V10.controlled"].value == pytest.approx(1.0)
        assert not rows["V10.controlled"].passed
        assert not rows["V11.controlled"].passed


def test_every_steered_emotion_and_random_direction_has_its_change_of_elo() -> None:
    found = planted(lambda r: 20.0 * r)
    rows = score_steering(found, 99, np.random.default_rng(0)).metrics
    changes = {row.subject: row for row in rows if row.metric == "steering_elo"}
    assert set(changes) == set(found.names(found.selections.all))
    for i in found.selections.all:
        assert changes[NAMES[i]].value == pytest.approx(10.0 * R[i])
        assert changes[NAMES[i]].n == 8
    randoms = [row.value for row in rows if row.metric == "random_elo"]
    assert randoms == pytest.approx([1.5, -1.0, 0.5, -0.5, 1.0, -1.5, 0.25, -0.25])


def test_the_mean_direction_is_judged_by_the_random_ones() -> None:
    ordinary = score(planted(lambda r: 20.0 * r))["V10.mean_direction"]
    assert ordinary.value == pytest.approx(0.0)
    assert ordinary.p_value == 1.0
    found = planted(lambda r: 20.0 * r)
    ratings = found.ratings.copy()
    ratings[found.keys[Key(MEAN, 0.5)]] = moved(30.0)
    extreme = score(replace(found, ratings=ratings))["V10.mean_direction"]
    assert extreme.p_value == 1 / 9


def test_random_directions_may_follow_their_probes_too_and_that_is_told() -> None:
    rows = score(planted(lambda r: 25.0 * r, by_chance=np.linspace(-4.0, 4.0, 8).tolist()))
    assert rows["V10.random"].value == pytest.approx(1.0)
    assert rows["V10.random"].n == 8


def test_doses_go_through_nothing_at_strength_nothing() -> None:
    found = planted(lambda r: 20.0 * r)
    result = score_doses(found, (0.25,))
    slopes = {row.subject: row.value for row in result.metrics}
    high, low = found.names(found.selections.exemplars)
    assert slopes == pytest.approx({high: 36.0, low: -36.0, "random 1": 6.0})
    assert result.tables[0].rows[0] == pytest.approx((high, 0.25, 9.0, 4.5))


def test_tables_hold_what_the_figures_show() -> None:
    found = planted(lambda r: 20.0 * r, drop=5.0)
    rows = exemplar_table(found, [f"activity {i}" for i in range(16)]).rows
    assert len(rows) == 32
    assert rows[0] == pytest.approx(
        (found.emotions[found.selections.spread[-1]], 13.0, "activity 0", "Helpful", 1, 700, 706.5)
    )
    categories = category_table(found)
    controlled = [row[3] for row in categories.rows if str(row[1]).startswith("random")]
    assert np.mean(np.array(controlled, float)) == pytest.approx(0.0)


def test_without_r_every_criterion_is_there_and_fails() -> None:
    rows = without_effects(3).metrics
    assert {row.metric for row in rows} >= {"V10", "V10.controlled", "V11", "V11.controlled"}
    assert all(row.value is None and row.passed is False for row in rows)
