"""Laws of shared top features."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analyses.methods.overlap import Overlap, jaccard, score_pairs, top_features
from tests.analyses.planted import Floats, frozen

Pairs = NDArray[np.bool_]


def _family(e: int = 12, size: int = 3) -> Pairs:
    groups = np.arange(e) // size
    same: Pairs = groups[:, None] == groups
    return same


def _score(table: Floats, pairs: Pairs, seed: int = 0, permutations: int = 500) -> Overlap:
    rng = np.random.default_rng(seed)
    return score_pairs(frozen(table), pairs, permutations=permutations, rng=rng)


def test_the_top_features_are_those_of_highest_score_and_of_equals_the_first() -> None:
    scores = np.array([[0.1, 0.9, 0.9, 0.4], [0.0, 0.0, 0.0, 0.0], [0.3, np.nan, 0.2, 0.1]])
    tops = top_features(frozen(scores), 3)
    np.testing.assert_array_equal(tops, [[1, 2, 3], [0, 1, 2], [0, 2, 3]])
    many = np.tile([0.2, 0.7], (1, 500))
    np.testing.assert_array_equal(top_features(many, 4), [[1, 3, 5, 7]])


def test_the_overlap_of_two_sets_is_what_python_says() -> None:
    tops = np.stack([np.random.default_rng(i).permutation(30)[:8] for i in range(9)])
    for i, row in enumerate(jaccard(tops)):
        for j, value in enumerate(row):
            a, b = set(tops[i].tolist()), set(tops[j].tolist())
            assert value == pytest.approx(len(a & b) / len(a | b), abs=1e-15)


def test_the_order_of_features_in_a_set_does_not_matter() -> None:
    tops = np.array([[4, 7, 1], [1, 7, 4], [0, 2, 3]])
    np.testing.assert_array_equal(jaccard(tops), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_families_that_share_features_are_found_and_the_others_are_not() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(12, 200)) + 4.0 * np.repeat(rng.random((4, 200)) < 0.05, 3, axis=0)
    table, within = jaccard(top_features(scores, 8)), _family()
    found, across = _score(table, within), _score(table, ~within)
    assert found.value > 2.0 * found.chance
    assert found.p < 0.01
    assert found.low < found.value < found.high
    assert across.p > 0.9
    assert (found.pairs, across.pairs) == (12, 54)


def test_p_of_features_that_know_no_families_is_uniform() -> None:
    p = []
    for seed in range(200):
        scores = np.random.default_rng(seed).normal(size=(12, 40))
        p.append(_score(jaccard(top_features(scores, 8)), _family(), seed, 99).p)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(np.array(p) <= 0.05) < 0.11


def test_chance_is_the_mean_of_all_pairs() -> None:
    table = jaccard(np.stack([np.random.default_rng(i).permutation(20)[:6] for i in range(12)]))
    found = _score(table, _family(), permutations=4000)
    every = table[np.triu_indices(12, 1)].mean()
    assert found.chance == pytest.approx(every, abs=0.003)


def test_the_interval_is_that_of_emotions_drawn_again_without_their_own_copies() -> None:
    rng = np.random.default_rng(1)
    table = jaccard(np.stack([rng.permutation(20)[:6] for _ in range(12)]))
    pairs, means = _family(), []
    for _ in range(1500):
        drawn = rng.integers(12, size=12)
        a, b = np.triu_indices(12, 1)
        left, right = drawn[a], drawn[b]
        kept = pairs[left, right] & (left != right)
        if kept.any():
            means.append(table[left, right][kept].mean())
    found = _score(table, pairs)
    low, high = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.02)


def test_pairs_of_an_emotion_with_itself_are_none() -> None:
    with pytest.raises(ValueError, match="no two emotions"):
        _score(np.eye(4), np.eye(4, dtype=np.bool_))


def test_a_single_pair_has_a_value_and_an_interval_of_the_draws_that_hold_it() -> None:
    pairs = np.zeros((5, 5), dtype=np.bool_)
    pairs[1, 3] = pairs[3, 1] = True
    table = np.full((5, 5), 0.1)
    table[1, 3] = table[3, 1] = 0.6
    found = _score(table, pairs)
    assert (found.value, found.low, found.high, found.pairs) == (0.6, 0.6, 0.6, 1)
    assert found.p == pytest.approx(0.1, abs=0.05)  # one pair of ten
