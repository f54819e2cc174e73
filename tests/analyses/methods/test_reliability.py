"""Laws of halves, of stepping up, and of what planted signal and noise must give."""

import numpy as np
import pytest
from numpy.typing import NDArray

from analyses.methods.reliability import (
    Agreement,
    CellSums,
    Halving,
    agreements,
    emotion_vectors,
    even_out,
    halved_places,
    mean_interval,
    places_within,
    shuffle_within,
    side_sizes,
    step_up,
    stories_for,
    uneven,
    whole_means,
)
from analyses.methods.statistics import spearman_brown
from tests.analyses.planted import Floats, frozen

Integers = NDArray[np.int64]

SEEDS = 400


def _counts(*numbers: int) -> Integers:
    return np.array(numbers, np.int64)


def _complete(e: int, n: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """n groups of one text of each of e emotions: labels and groups, in an order at random."""
    order = rng.permutation(e * n)
    return np.tile(np.arange(e), n)[order], np.repeat(rng.permutation(n), e)[order]


def _signal(e: int, d: int, share: float, rng: np.random.Generator) -> Floats:
    """Vectors (e, d) of squared length share * d, less their mean."""
    drawn = rng.normal(size=(e, d))
    drawn *= np.sqrt(share * d) / np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.asarray(drawn - drawn.mean(axis=0))


def _known(signal: Floats, texts: float) -> Floats:
    """Reliability (e,) of vectors of so many texts with noise of size 1 in each dimension."""
    power = (signal**2).sum(axis=1)
    noise = signal.shape[1] * (1.0 - 1.0 / len(signal))
    return np.asarray(power / (power + noise / texts))


def _measure(
    texts: Floats, labels: Integers, groups: Integers, wanted: tuple[int, ...] = ()
) -> list[Agreement]:
    halving = Halving(labels, halved_places(labels, groups % 2, groups), wanted)
    sums = CellSums(halving.n_cells)
    sums.add(texts, halving.cells[:, None])
    return agreements(halving, sums.sums, None)


@pytest.mark.parametrize(("first", "second"), [(4, 4), (5, 4), (1, 7)])
def test_a_step_up_gives_the_reliability_of_the_whole_from_parts_of_any_size(
    first: int, second: int
) -> None:
    """With signal S and noise N per text, two means correlate as S / sqrt((S + N/a)(S + N/b))."""
    noise = np.array([0.0, 0.1, 1.0, 30.0])
    r = 1.0 / np.sqrt((1.0 + noise / first) * (1.0 + noise / second))
    whole = step_up(r, _counts(first), _counts(second))
    np.testing.assert_allclose(whole, 1.0 / (1.0 + noise / (first + second)), rtol=1e-12)


def test_a_step_up_of_equal_parts_is_spearmans_and_browns() -> None:
    r = np.linspace(0.0, 1.0, 21)
    np.testing.assert_allclose(step_up(r, _counts(3), _counts(3)), spearman_brown(r), rtol=1e-12)


def test_a_step_up_is_odd_so_that_chance_stays_zero_on_average() -> None:
    r = np.random.default_rng(0).uniform(-1.0, 1.0, 99)
    mirrored = step_up(-r, _counts(5), _counts(4))
    np.testing.assert_array_equal(mirrored, -step_up(r, _counts(5), _counts(4)))


def test_the_number_of_texts_for_a_target_has_just_that_reliability() -> None:
    needed = stories_for(0.9, reliability=0.6, stories=12)
    assert needed / (needed + 12 * (1.0 - 0.6) / 0.6) == pytest.approx(0.9)
    assert stories_for(0.6, reliability=0.6, stories=12) == pytest.approx(12)
    assert stories_for(0.9, reliability=1.0, stories=12) == 0.0
    assert stories_for(0.9, reliability=-0.1, stories=12) == float("inf")


def test_places_count_the_texts_of_each_group_by_key_whatever_their_order() -> None:
    groups, keys = _counts(1, 0, 1, 1, 0), _counts(30, 5, 10, 20, 1)
    np.testing.assert_array_equal(places_within(groups, keys), [2, 1, 0, 1, 0])
    mixed = np.random.default_rng(1).permutation(5)
    expected = np.array([2, 1, 0, 1, 0])[mixed]
    np.testing.assert_array_equal(places_within(groups[mixed], keys[mixed]), expected)


def test_the_first_places_hold_as_many_texts_of_either_half() -> None:
    rng = np.random.default_rng(2)
    labels, groups = _complete(5, 12, rng)
    halves = groups % 2
    places = halved_places(labels, halves, groups)
    np.testing.assert_array_equal(places % 2, halves)
    for size in (2, 4, 8, 12):
        inside = places < size
        np.testing.assert_array_equal(side_sizes(labels[inside], halves[inside]), size // 2)


def test_texts_that_hardly_divide_take_turns_and_others_stay_where_they_are() -> None:
    labels = np.repeat([0, 1], 8)
    halves = np.concatenate([[0] * 7 + [1], [0] * 6 + [1] * 2])
    keys = np.arange(16)[::-1]
    np.testing.assert_array_equal(uneven(labels, halves), [True, False])
    found = even_out(labels, halves, keys)
    np.testing.assert_array_equal(side_sizes(labels, found), [[4, 4], [6, 2]])
    np.testing.assert_array_equal(found[8:], halves[8:])


def test_a_shuffle_leaves_every_group_the_labels_it_has() -> None:
    rng = np.random.default_rng(3)
    labels, groups = _complete(7, 5, rng)
    shuffled = shuffle_within(groups, labels, rng)
    assert (shuffled != labels).any()
    for group in range(5):
        inside = groups == group
        np.testing.assert_array_equal(np.sort(shuffled[inside]), np.sort(labels[inside]))


def test_every_nested_set_is_what_its_texts_give_in_the_open() -> None:
    """The oracle: the texts of each half of each set picked out and averaged by numpy."""
    rng = np.random.default_rng(4)
    labels = np.concatenate([np.tile(np.arange(3), 11), [0, 0, 2]])  # uneven: 13, 11 and 12 texts
    texts = frozen(rng.normal(size=(len(labels), 6)) + 9.0)
    places = halved_places(labels, places_within(labels, rng.permutation(36)) % 2, labels)
    halving = Halving(labels, places, (2, 4, 8, 9, 16))
    assert halving.sizes == (2, 4, 8, 9)
    sums = CellSums(halving.n_cells)
    sums.add(texts, halving.cells[:, None])
    sets = list(halving.nested(sums.sums))
    assert [found.stories for found in sets] == [2, 4, 8, 9, 12]
    for size, found in zip((2, 4, 8, 9, 99), sets, strict=True):
        for half in (0, 1):
            inside = (places < size) & (places % 2 == half)
            means = [texts[inside & (labels == emotion)].mean(axis=0) for emotion in range(3)]
            np.testing.assert_allclose(found.means[half], means, rtol=1e-12)
        whole = [texts[(places < size) & (labels == emotion)].mean(axis=0) for emotion in range(3)]
        np.testing.assert_allclose(found.whole, whole, rtol=1e-12)
    np.testing.assert_allclose(whole_means(halving, sums.sums), sets[-1].whole, rtol=1e-12)


def test_not_a_bit_depends_on_where_blocks_end() -> None:
    rng = np.random.default_rng(5)
    texts = rng.normal(size=(300, 4)).astype(np.float32)
    cells = rng.integers(9, size=(300, 2))
    whole, parts = CellSums(9), CellSums(9)
    whole.add(texts, cells)
    for part in np.split(np.arange(300), [1, 130, 131, 290]):
        parts.add(texts[part], cells[part])
    np.testing.assert_array_equal(whole.sums, parts.sums)


def test_a_set_that_is_all_texts_stands_once() -> None:
    labels, groups = _complete(4, 8, np.random.default_rng(6))
    assert Halving(labels, halved_places(labels, groups % 2, groups), (2, 4, 8, 16)).sizes == (2, 4)


def test_an_emotion_without_text_in_one_half_is_refused() -> None:
    labels = _counts(0, 0, 1, 1)
    with pytest.raises(ValueError, match=r"no text in one half of emotions \[1\]"):
        Halving(labels, _counts(0, 1, 0, 2))


def test_sums_of_nothing_and_rows_without_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="no text was added"):
        _ = CellSums(3).sums
    with pytest.raises(ValueError, match="2 rows for the cells of 1"):
        CellSums(3).add(np.ones((2, 2)), np.zeros((1, 1), np.int64))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_planted_signal_and_noise_give_the_known_reliability_at_every_size(share: float) -> None:
    rng = np.random.default_rng(7)
    signal = _signal(40, 4000, share, rng)
    labels, groups = _complete(40, 16, rng)
    texts = signal[labels] + rng.normal(size=(len(labels), 4000)) + 5.0
    sets = _measure(texts, labels, groups, (2, 4, 8))
    for found in sets:
        known, all_known = _known(signal, found.stories), _known(signal, 16)
        assert found.reliability.mean() == pytest.approx(known.mean(), abs=0.01)
        np.testing.assert_allclose(found.reliability, known, atol=0.1)
        nested = np.sqrt(known / all_known)
        assert found.self_cosine.mean() == pytest.approx(nested.mean(), abs=0.01)


def test_what_lies_along_components_plays_no_part() -> None:
    rng = np.random.default_rng(8)
    signal = _signal(30, 2000, 0.2, rng)
    labels, groups = _complete(30, 8, rng)
    basis = frozen(np.linalg.qr(rng.normal(size=(2000, 3)))[0].T)
    texts = signal[labels] + rng.normal(size=(len(labels), 2000))
    loud = texts + 300.0 * rng.normal(size=(len(labels), 3)) @ basis
    halving = Halving(labels, halved_places(labels, groups % 2, groups))
    found = []
    for numbers in (texts, loud):
        sums = CellSums(halving.n_cells)
        sums.add(numbers, halving.cells[:, None])
        found.append(agreements(halving, sums.sums, basis)[-1].reliability)
        kept = emotion_vectors(whole_means(halving, sums.sums), basis)
        np.testing.assert_allclose(kept @ basis.T, 0.0, atol=1e-9)
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)


def test_the_interval_covers_the_known_mean_as_often_as_it_says() -> None:
    """Over 400 seeds 95% less or more three standard errors: 91.7% to 98.3%."""
    covered = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng([9, seed])
        signal = _signal(60, 150, 0.7, rng)
        labels, groups = _complete(60, 8, rng)
        texts = signal[labels] + rng.normal(size=(len(labels), 150))
        [found] = _measure(texts, labels, groups)
        _, low, high = mean_interval(found.reliability, rng)
        covered += bool(low <= _known(signal, 8).mean() <= high)
    assert 0.917 <= covered / SEEDS <= 0.983


def test_without_signal_the_mean_is_zero_within_its_interval() -> None:
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng([10, seed])
        labels, groups = _complete(50, 6, rng)
        [found] = _measure(rng.normal(size=(len(labels), 100)), labels, groups)
        mean, low, high = mean_interval(found.reliability, rng)
        assert abs(mean) < 0.12
        missed += not low <= 0.0 <= high
    assert missed <= 7
