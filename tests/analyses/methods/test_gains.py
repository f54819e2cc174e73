"""Laws of gains: nothing is gained by chance more often than it should be, and what is there is
found."""

import numpy as np
import pytest
from numpy.typing import NDArray

from analyses.methods.alignment import best_cosines
from analyses.methods.gains import Gain, likeness_gain, mean_gain, nearness_gain, parted_gains
from analyses.methods.geometry import cosine_matrix, upper_triangle
from tests.analyses.planted import planted_world

Floats = NDArray[np.float64]
FAMILIES, MEMBERS, TRIALS = 14, 12, 200


def gains_by_chance(groups: NDArray[np.int64], seed: int) -> list[Gain]:
    """Of rivals that are alike, whose differences go together within families."""
    rng, e = np.random.default_rng(seed), FAMILIES * MEMBERS
    found = []
    for _ in range(TRIALS):
        shared = rng.normal(size=FAMILIES)[np.arange(e) % FAMILIES]
        found.append(mean_gain(shared + 0.3 * rng.normal(size=e), groups, rng, permutations=199))
    return found


def test_what_goes_together_in_families_is_rarely_a_gain_by_chance() -> None:
    found = gains_by_chance(np.arange(FAMILIES * MEMBERS) % FAMILIES, seed=0)
    assert np.mean([each.p <= 0.05 for each in found]) < 0.09
    assert np.mean([each.low <= 0.0 <= each.high for each in found]) > 0.87


def test_taken_one_by_one_it_often_would_be() -> None:
    found = gains_by_chance(np.arange(FAMILIES * MEMBERS), seed=0)
    assert np.mean([each.p <= 0.05 for each in found]) > 0.2


def test_a_gain_that_is_there_is_found_with_its_size() -> None:
    rng = np.random.default_rng(1)
    groups = np.arange(60) % 10
    found = mean_gain(0.2 + 0.1 * rng.normal(size=60), groups, rng, permutations=199)
    assert found.value == pytest.approx(0.2, abs=0.05)
    assert 0.0 < found.low < found.value < found.high
    assert found.p == pytest.approx(1 / 200, abs=0.006)


def test_one_family_tells_nothing_of_others() -> None:
    found = mean_gain(np.ones(5), np.zeros(5, np.int64), np.random.default_rng(0), permutations=9)
    assert found.value == 1.0
    assert np.isnan([found.low, found.high, found.p]).all()


def uneven_rows(rows: int, rng: np.random.Generator) -> Floats:
    """Random rows that fill few of their dimensions, as those of controls do."""
    return rng.normal(size=(rows, 24)) / np.arange(1.0, 25.0)


@pytest.mark.parametrize("others", [80, 20, 400])
def test_of_two_sets_of_random_rows_neither_is_nearer_by_more_than_chance(others: int) -> None:
    """However many there are of each; directions are alike, so that they err together."""
    rng = np.random.default_rng(5)
    directions = uneven_rows(40, rng)
    found = [
        nearness_gain(
            directions, uneven_rows(80, rng), uneven_rows(others, rng), rng, permutations=99
        )
        for _ in range(TRIALS)
    ]
    p = np.array([each.p for each in found])
    assert 0.01 <= np.mean(p <= 0.05) <= 0.1
    assert 0.01 <= np.mean(p >= 0.95) <= 0.1
    if others == 80:
        assert np.mean([each.low <= 0.0 <= each.high for each in found]) > 0.9


def test_rows_that_were_planted_are_nearer() -> None:
    rng = np.random.default_rng(6)
    directions, rows = uneven_rows(40, rng), uneven_rows(80, rng)
    rows[:20] = directions[:20]
    found = nearness_gain(directions, rows, uneven_rows(80, rng), rng, permutations=199)
    assert found.p == 1 / 200
    assert 0.0 < found.low < found.value < found.high


def test_the_nearness_gained_is_the_difference_of_the_best_cosines() -> None:
    """Also where one side has so few rows that they are not among the nearest."""
    rng = np.random.default_rng(7)
    directions = rng.normal(size=(6, 5))
    for f, g in ((300, 300), (2, 5000), (5000, 2)):
        one, other = rng.normal(size=(f, 5)), rng.normal(size=(g, 5))
        expected = np.subtract(*(best_cosines(directions, rows)[0] for rows in (one, other)))
        found = nearness_gain(directions, one, other, rng, permutations=9)
        assert found.value == pytest.approx(expected.mean(), abs=1e-12)


def test_of_two_sets_of_random_numbers_none_is_ahead_by_more_than_chance() -> None:
    rng = np.random.default_rng(8)
    parts = rng.normal(size=(2, 4, 400))
    whole = parts.mean(axis=1) * 2.0
    found = parted_gains(whole[0], whole[1], parts[1])
    assert 0.02 < np.mean([each.p <= 0.05 for each in found]) < 0.08
    assert 0.92 < np.mean([each.low <= 0.0 <= each.high for each in found]) < 0.98


def test_parts_that_do_not_differ_say_nothing_where_wholes_do_not() -> None:
    same = np.ones((4, 1))
    (found,) = parted_gains(np.ones(1), np.ones(1), same)
    assert (found.value, found.p) == (0.0, 1.0)


def random_shape(vectors: Floats, columns: int, rng: np.random.Generator) -> Floats:
    """A rectified random projection of the vectors, as the codes of random features are."""
    projected = vectors @ rng.normal(size=(vectors.shape[1], columns))
    return np.maximum(projected, 0.0)


def test_of_two_random_projections_none_is_more_like_the_vectors() -> None:
    vectors, rng = planted_world(e=60).vectors, np.random.default_rng(2)
    found = [
        likeness_gain(vectors, random_shape(vectors, 64, rng), random_shape(vectors, 64, rng), rng)
        for _ in range(60)
    ]
    assert np.mean([each.low <= 0.0 <= each.high for each in found]) > 0.9
    assert np.mean([each.p <= 0.05 for each in found]) < 0.1


def test_what_keeps_the_shape_is_more_like_it_than_what_does_not() -> None:
    vectors, rng = planted_world(e=60).vectors, np.random.default_rng(3)
    other = random_shape(rng.normal(size=vectors.shape), 64, rng)
    found = likeness_gain(vectors, random_shape(vectors, 256, rng), other, rng)
    assert found.low > 0.3
    assert found.p < 1e-4


def test_the_gain_is_the_difference_of_the_two_likenesses() -> None:
    rng = np.random.default_rng(4)
    sets = [rng.normal(size=(20, 30)) for _ in range(3)]
    ranks = [
        upper_triangle(cosine_matrix(each)).argsort().argsort().astype(np.float64) for each in sets
    ]
    r = [float(np.corrcoef(ranks[0], each)[0, 1]) for each in ranks[1:]]
    found = likeness_gain(sets[0], sets[1], sets[2], rng)
    assert found.value == pytest.approx(r[0] - r[1], abs=1e-12)


def test_the_same_set_twice_gains_nothing() -> None:
    vectors = planted_world(e=30).vectors
    coded = random_shape(vectors, 50, np.random.default_rng(0))
    found = likeness_gain(vectors, coded, coded, np.random.default_rng(0))
    assert found.value == 0.0
    assert found.p == pytest.approx(0.5, abs=0.01)


def test_vectors_without_shape_or_length_are_refused() -> None:
    few, rng = np.ones((2, 3)), np.random.default_rng(0)
    with pytest.raises(ValueError, match="no shape"):
        likeness_gain(few, few, few, rng)
    vectors = planted_world(e=10).vectors
    with pytest.raises(ValueError, match=r"\[0, 1, .* have length zero"):
        likeness_gain(vectors, np.zeros((10, 20)), vectors, rng)
