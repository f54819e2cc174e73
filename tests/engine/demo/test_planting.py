"""How meaning becomes frequency."""

import random
from collections import Counter

import pytest

from engine.demo.chance import weigh
from engine.demo.planting import (
    around_anchor,
    at_level,
    by_valence,
    near_cues,
    nearest_level,
    own_cues,
    ramp,
)


def test_a_choice_draws_by_weight() -> None:
    rng = random.Random(0)
    choice = weigh({"a": 3.0, "b": 0.0, "c": 1.0})
    drawn = Counter(choice.draw(rng) for _ in range(8000))
    assert drawn["b"] == 0
    assert drawn["a"] / 8000 == pytest.approx(0.75, abs=0.02)
    assert choice.shares() == {"a": 0.75, "b": 0.0, "c": 0.25}


def test_a_choice_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        weigh({"a": 0.0})


def test_synonyms_use_the_same_cues_at_other_rates() -> None:
    cues = [f"cue {n}" for n in range(16)]
    happy, joyful = own_cues("happy", cues), own_cues("joyful", cues)
    assert happy == own_cues("happy", cues)
    assert happy.values == joyful.values
    assert max(abs(happy.shares()[c] - joyful.shares()[c]) for c in cues) > 0.05


def test_nearer_families_lend_more_cues() -> None:
    cues = {"near": ["a", "b"], "far": ["c"]}
    shares = near_cues((0.5, 0.0), {"near": (0.4, 0.1), "far": (-0.5, 0.5)}, cues).shares()
    assert shares["a"] == shares["b"] > 10 * shares["c"]


def test_levels_follow_the_value() -> None:
    texts = {str(level): [f"level {level}"] for level in range(5)}
    best = [max(s, key=s.__getitem__) for v in (-1, 0, 1) if (s := at_level(v, texts).shares())]
    assert best == ["level 0", "level 2", "level 4"]
    assert [nearest_level(v) for v in (-0.98, -0.4, 0.1, 0.9)] == ["0", "1", "2", "4"]


def test_emotions_felt_have_a_valence_near_the_value() -> None:
    shares = by_valence({"good": 0.8, "fair": 0.5, "bad": -0.6}, 0.75).shares()
    assert shares["good"] > shares["fair"] > 0
    assert shares["bad"] < 0.001


def test_an_anchor_has_its_share_and_the_others_the_rest() -> None:
    shares = around_anchor(["sad", "gloomy", "lonely"], "sad").shares()
    assert shares["sad"] == pytest.approx(0.4)
    assert shares["gloomy"] == pytest.approx(0.3)
    assert around_anchor(["sad", "gloomy"], None).shares()["sad"] == 0.5


def test_a_ramp_changes_evenly() -> None:
    steps = ramp({"fear": 0.1, "calm": 0.9}, {"fear": 0.9, "calm": 0.1}, 5)
    assert [round(step.shares()["fear"], 6) for step in steps] == [0.1, 0.3, 0.5, 0.7, 0.9]
