"""Laws of the scorecard's statistics: each recovers what was planted, and nothing from noise."""

import numpy as np
import pytest

from engine.demo.measures import (
    adjusted_rand,
    cluster,
    correlation,
    elo,
    principal_axes,
    rank_correlation,
    remove_common,
    spread,
    unit,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_axes_recover_planted_directions_and_shares(rng: np.random.Generator) -> None:
    valence, arousal = rng.normal(size=(2, 400)) * [[3.0], [2.0]]
    basis = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    rows = valence[:, None] * basis[0] + arousal[:, None] * basis[1]
    scores, shares = principal_axes(rows + rng.normal(size=rows.shape) * 0.1 + 7.0)
    assert abs(correlation(scores[:, 0], valence)) > 0.97
    assert abs(correlation(scores[:, 1], arousal)) > 0.97
    assert shares[:2] == pytest.approx([0.69, 0.30], abs=0.05)


def test_clusters_recover_a_planted_partition_and_none_in_noise(
    rng: np.random.Generator,
) -> None:
    planted = np.repeat(np.arange(6), 12)
    centers = rng.normal(size=(6, 8)) * 4
    found = cluster(centers[planted] + rng.normal(size=(72, 8)) * 0.3, 6, rng)
    assert adjusted_rand(found, planted) == pytest.approx(1.0)
    noise = cluster(rng.normal(size=(72, 8)), 6, rng)
    assert abs(adjusted_rand(noise, planted)) < 0.15


def test_adjusted_rand_ignores_names_and_knows_a_worked_example() -> None:
    a = np.array([0, 0, 0, 1, 1, 1])
    assert adjusted_rand(a, 1 - a) == pytest.approx(1.0)
    assert adjusted_rand(a, np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(0.2424, abs=1e-4)


def test_rank_correlation_sees_order_only() -> None:
    x = np.arange(6.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    assert correlation(x, np.ones(6)) == 0.0


def test_elo_recovers_planted_values_and_keeps_the_sum(rng: np.random.Generator) -> None:
    value = rng.normal(size=64)
    preference = 1 / (1 + np.exp(5 * (value[None] - value[:, None])))
    ratings = elo(preference)
    assert rank_correlation(ratings, value) > 0.98
    assert ratings.mean() == pytest.approx(1000.0)
    assert np.ptp(ratings) > 600


def test_elo_is_flat_without_preferences_and_repeats_itself(rng: np.random.Generator) -> None:
    assert np.allclose(elo(np.full((10, 10), 0.5)), 1000.0)
    preference = rng.uniform(size=(10, 10))
    assert (elo(preference) == elo(preference)).all()


def test_common_axes_are_removed_and_no_others(rng: np.random.Generator) -> None:
    neutral = rng.normal(size=(50, 1)) * np.eye(6)[:1] * 9 + rng.normal(size=(50, 6)) * 0.1
    kept = remove_common(np.ones((3, 6)), neutral, 0.5)
    assert np.abs(kept[:, 0]).max() < 0.1
    assert np.abs(kept[:, 1:] - 1).max() < 0.1


def test_spread_covers_the_range_in_rank() -> None:
    values = np.array([5.0, 1.0, 9.0, 3.0, 7.0])
    assert spread(values, 3) == [1, 0, 2]
    assert sorted(spread(values, 35)) == [0, 1, 2, 3, 4]


def test_unit_rows_have_length_one(rng: np.random.Generator) -> None:
    assert np.linalg.norm(unit(rng.normal(size=(4, 3))), axis=1) == pytest.approx(np.ones(4))
