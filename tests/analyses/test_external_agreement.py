"""Laws of two sources held against each other, and of one against neutral texts."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from analyses.external_agreement import compare_sources
from analyses.external_measures import Measured, describe, draw_neutral, measure
from stores.results import Metric
from stores.seeds import text_seed
from tests.analyses.planted import Floats

E, D = 30, 6
PROBES = np.random.default_rng(0).normal(size=(D, E))
"""Thirty probes that lie in six dimensions, as neighbours do."""
OFFSET = 40.0 * np.random.default_rng(1).normal(size=E)
NAMES = tuple(f"e{i:02d}" for i in range(E))


def _scores(rng: np.random.Generator, n: int, shift: Floats | float = 0.0) -> Floats:
    scores: Floats = (rng.normal(size=(n, D)) + shift) @ PROBES + OFFSET
    return scores


def _pair(
    seed: int, *, n: int = 150, neutral: int = 20, shifts: tuple[Floats | float, ...] = (0.0, 0.0)
) -> list[Measured]:
    rng = np.random.default_rng(seed)
    reference = draw_neutral(_scores(rng, neutral), rng)
    return [
        measure(name, 0, NAMES, np.arange(n), _scores(rng, n, shift), reference, rng)
        for name, shift in zip(("a", "b"), shifts, strict=True)
    ]


def _rng_of(seed: int) -> Callable[..., np.random.Generator]:
    return lambda *words: np.random.default_rng(text_seed("main", seed, "test", *words))


def _agreed(measured: list[Measured], seed: int = 0, permutations: int = 99) -> dict[str, Metric]:
    rows = compare_sources(measured, permutations, _rng_of(seed))
    return {row.metric.removeprefix("agreement."): row for row in rows}


def _numbers(row: Metric) -> Floats:
    return np.array([row.value, row.ci_low, row.ci_high], np.float64)


def test_two_sources_without_anything_in_common_do_not_agree_for_their_noise() -> None:
    """Few neutral texts: held against one mean of them, both sources would share its noise."""
    pairs = [_pair(seed, n=100) for seed in range(16)]
    found = [_agreed(pair)["neutral"] for pair in pairs]
    assert abs(np.mean([row.value or 0.0 for row in found])) < 0.25
    assert np.mean([(row.p_value or 1.0) <= 0.05 for row in found]) <= 0.15
    assert np.mean([_with_one_mean(pair) for pair in pairs]) > 0.5


def _with_one_mean(measured: list[Measured]) -> float:
    a, b = (each.neutral.values.argsort().argsort() for each in measured)
    return float(np.corrcoef(a, b)[0, 1])


def test_what_two_sources_have_in_common_is_found() -> None:
    shift = np.linspace(-1.0, 1.0, D)
    found = _agreed(_pair(3, neutral=200, shifts=(shift, shift)))
    assert (found["neutral"].value or 0.0) > 0.9
    assert found["neutral"].p_value == pytest.approx(0.01, abs=0.03)
    opposed = _agreed(_pair(3, neutral=200, shifts=(shift, -shift)))
    assert (opposed["neutral"].value or 0.0) < -0.9
    assert opposed["neutral"].p_value == pytest.approx(1.0, abs=0.03)
    assert (opposed["change"].value or 0.0) > 1.5
    assert opposed["change"].ci_low is not None and opposed["change"].ci_low > 1.0


def test_raw_any_two_sources_agree() -> None:
    shift = np.linspace(-1.0, 1.0, D)
    raw = _agreed(_pair(4, shifts=(shift, -shift)))["raw"]
    assert (raw.value or 0.0) > 0.98
    assert (raw.n, raw.subject) == (E, "a~b")
    assert raw.p_value is not None and raw.p_value <= 0.05
    assert raw.ci_low is not None and 0.95 < raw.ci_low <= (raw.value or 0.0)


def test_what_hangs_on_the_probes_geometry_has_no_p_and_no_chance() -> None:
    found = _agreed(_pair(4))
    for name in ("first", "spread", "change"):
        assert (found[name].p_value, found[name].chance) == (None, None)
        assert found[name].ci_low is not None
    assert all(found[name].p_value is not None for name in ("raw", "neutral"))


def test_raw_two_sources_with_offsets_of_their_own_agree_no_more_than_contrasts_do() -> None:
    """Orders at random would find one pair in four alike: thirty probes lie in six dimensions."""
    low = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = [_scores(rng, 60, 20.0 * rng.normal(size=D)) - OFFSET for _ in range(2)]
        pair = [
            measure(name, 0, NAMES, np.arange(60), each, None, rng)
            for name, each in zip(("a", "b"), scores, strict=True)
        ]
        low.append((_agreed(pair, seed)["raw"].p_value or 1.0) <= 0.05)
    assert np.mean(low) <= 0.12


# Sixty pairs: .92 to .98 of the intervals hold what pairs of this size come to on average.
def test_intervals_of_agreement_hold_what_sources_of_this_size_come_to() -> None:
    shifts = (np.linspace(-0.6, 0.6, D), np.linspace(-0.6, 0.6, D)[::-1] ** 2)
    found = [_agreed(_pair(seed, n=80, neutral=60, shifts=shifts), seed, 9) for seed in range(40)]
    for name in ("neutral", "first", "spread", "change"):
        value, low, high = np.array([_numbers(row[name]) for row in found]).T
        assert np.mean((low <= value.mean()) & (high >= value.mean())) >= 0.85


def test_intervals_against_neutral_texts_cover_nothing_where_there_is_nothing() -> None:
    covered = []
    for seed in range(20):
        judged = _pair(seed, neutral=60)[0].neutral
        covered.append((judged.low <= 0.0) & (judged.high >= 0.0))
    assert 0.88 <= np.mean(covered) <= 0.99


def test_a_source_agrees_with_itself_and_every_two_sources_have_a_row() -> None:
    a, b = _pair(5)
    rows = list(compare_sources([a, b, a], 9, _rng_of(0)))
    assert {row.subject for row in rows} == {"a~b", "a~a", "b~a"}
    own = {row.metric: row.value for row in rows if row.subject == "a~a"}
    assert own["agreement.raw"] == own["agreement.spread"] == own["agreement.first"] == 1.0
    assert list(compare_sources([a], 9, _rng_of(0))) == []


def test_what_two_sources_come_to_hangs_on_no_third_one() -> None:
    (a, b), (other, _) = _pair(5), _pair(8)
    third = replace(other, source="c")
    alone = list(compare_sources([a, b], 49, _rng_of(0)))
    among = list(compare_sources([third, a, b], 49, _rng_of(0)))
    assert [row for row in among if row.subject == "a~b"] == alone


def test_two_emotions_or_one_that_never_varies_have_no_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    few = [
        measure(name, 0, NAMES[:2], np.arange(9), rng.normal(size=(9, 2)), None, rng)
        for name in ("a", "b")
    ]
    for row in compare_sources(few, 9, _rng_of(0)):
        assert np.isnan(_numbers(row)).all()
        assert row.p_value is None
    flat = _scores(rng, 40)
    flat[:, 3] = 1.0
    reference, scores = draw_neutral(flat, rng), _scores(rng, 40)
    sides = [measure(name, 0, NAMES, np.arange(40), scores, reference, rng) for name in ("a", "b")]
    row = _agreed(sides)["neutral"]
    assert np.isnan(_numbers(row)).all()
    assert row.p_value is None
    assert np.isnan(sides[0].neutral.values[3])


def test_ten_neutral_texts_are_a_reference_and_twenty_are_two() -> None:
    pair = _pair(6, neutral=19)
    assert np.isfinite(pair[0].neutral.values).all()
    assert set(_agreed(pair)) == {"raw", "first", "spread"}
    assert np.isnan(_pair(6, neutral=9)[0].neutral.values).all()
    assert "neutral" in _agreed(_pair(6, neutral=20))


def test_the_share_of_the_same_first_is_held_against_equal_emotions() -> None:
    rng = np.random.default_rng(7)
    even = measure("a", 0, NAMES, np.arange(300), rng.normal(size=(300, E)), None, rng)
    rows = {row.metric: row for row in describe(even, 0.0025, 1000, rng)}
    first = rows["same_first.centred"]
    assert first.value == pytest.approx(first.chance, abs=0.03)
    assert first.ci_low is not None and first.chance is not None and first.ci_low < first.chance
    assert (rows["token_rank_error"].value, rows["token_rank_error"].n) == (0.0025, 1000)
