"""Laws of features that tell emotions apart: chance is one half, even for the best of many."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from analyses.methods.telling import COLUMNS, Telling, feature_aucs, tell_apart

Codes = NDArray[np.float32]
Ints = NDArray[np.int64]


def _design(e: int, topics: int, stories: int = 1) -> tuple[Ints, Ints]:
    """Whose a text is, and its topic: every emotion as often on each topic."""
    own = np.tile(np.repeat(np.arange(e), stories), topics)
    return own, np.repeat(np.arange(topics), e * stories)


def _noise(n: int, f: int, rng: np.random.Generator) -> Codes:
    return np.maximum(rng.normal(size=(n, f)) - 0.5, 0.0).astype(np.float32)


def _tell(codes: Codes, own: Ints, topics: Ints, e: int, seed: int = 0, **more: int) -> Telling:
    rng = np.random.default_rng(seed)
    permutations = more.get("permutations", 200)
    return tell_apart(csr_array(codes), own, topics, e, permutations=permutations, rng=rng)


@pytest.mark.parametrize("fired", [0.02, 0.5, 1.0])
def test_the_auc_of_every_feature_is_that_of_sklearn(fired: float) -> None:
    rng, f = np.random.default_rng(0), COLUMNS + 5
    own = rng.integers(4, size=60)
    values = np.where(rng.random((60, f)) < 0.5, rng.integers(1, 5, (60, f)), rng.random((60, f)))
    codes = np.where(rng.random((60, f)) < fired, values * 1e-3, 0.0).astype(np.float32)
    codes[:, 3], codes[:, 4] = 0.0, 1.0
    sparse = csr_array(codes)
    for part in (sparse.data, sparse.indices, sparse.indptr):
        part.setflags(write=False)
    found = feature_aucs(sparse, own, 4)
    some = np.r_[0:f:9, COLUMNS - 2 : f]
    expected = [[roc_auc_score(own == emotion, codes[:, c]) for c in some] for emotion in range(4)]
    np.testing.assert_allclose(found[:, some], expected, atol=1e-6)
    np.testing.assert_array_equal(found[:, 3:5], 0.5)


def test_a_stored_zero_is_a_silent_feature() -> None:
    codes = csr_array((np.array([0.0, 2.0], dtype=np.float32), ([0, 1], [0, 0])), shape=(4, 1))
    aucs = feature_aucs(codes, np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(aucs, [[0.75], [0.25]])


def test_an_emotion_with_none_or_all_of_the_texts_has_no_auc() -> None:
    codes = csr_array(np.eye(3, dtype=np.float32))
    assert np.isnan(feature_aucs(codes, np.zeros(3, dtype=np.int64), 2)).all()


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_codes_that_are_negative_or_not_finite_are_refused(wrong: float) -> None:
    codes = csr_array(np.array([[wrong, 1.0], [0.0, 1.0]], dtype=np.float32))
    with pytest.raises(ValueError, match="finite and none negative"):
        feature_aucs(codes, np.array([0, 1]), 2)


WORLDS = ("independent", "few dimensions", "topics", "uneven")


@cache
def _told(world: str) -> tuple[Telling, ...]:
    """Worlds in which no feature tells an emotion."""
    told, (own, topics) = [], _design(6, 8, 2)
    if world == "uneven":
        own, topics = np.tile([0, *np.repeat([1, 2, 3, 4, 5], 8)], 8), np.repeat(np.arange(8), 41)
    for seed in range(120):
        rng, n = np.random.default_rng(seed), len(own)
        if world in ("independent", "uneven"):
            codes = _noise(n, 60, rng)
        elif world == "few dimensions":
            codes = np.maximum(rng.normal(size=(n, 2)) @ rng.normal(size=(2, 60)), 0.0)
        else:
            codes = np.maximum(3.0 * rng.normal(size=(8, 60))[topics] + _noise(n, 60, rng), 0.0)
        told.append(_tell(codes.astype(np.float32), own, topics, 6, seed, permutations=120))
    return tuple(told)


@pytest.mark.parametrize("world", WORLDS)
def test_p_of_features_that_tell_nothing_is_uniform(world: str) -> None:
    """In few dimensions both folds choose alike and err alike: a shuffle has to choose anew."""
    p = np.array([each.p for each in _told(world)])
    for emotion in range(6):
        assert stats.kstest(p[:, emotion], "uniform").pvalue > 0.0005
        assert np.mean(p[:, emotion] <= 0.05) < 0.125
    assert np.mean(p <= 0.05) < 0.075


@pytest.mark.parametrize("world", WORLDS)
def test_the_best_of_many_features_that_tell_nothing_has_an_auc_of_one_half(world: str) -> None:
    means = np.array([each.auc.mean() for each in _told(world)])
    assert abs(means.mean() - 0.5) < 4.0 * means.std() / np.sqrt(len(means))
    assert means.std() / np.sqrt(len(means)) < 0.005


def test_judged_on_what_they_were_chosen_on_features_would_seem_to_tell() -> None:
    own, topics = _design(6, 8, 2)
    codes = _noise(len(own), 60, np.random.default_rng(0))
    told, every = _tell(codes, own, topics, 6), feature_aucs(csr_array(codes), own, 6)
    np.testing.assert_array_equal(told.feature, every.argmax(axis=1))
    assert every.max(axis=1).mean() > 0.6
    assert told.auc.mean() < 0.55


def test_planted_features_are_found_and_judged_at_what_they_are_worth() -> None:
    rng, (own, topics) = np.random.default_rng(1), _design(8, 40)
    codes = _noise(len(own), 300, rng)
    planted = rng.permutation(300)[:4]
    for emotion, feature in enumerate(planted):
        codes[:, feature] = np.maximum(rng.normal(size=len(own)) + 2.0 * (own == emotion) + 3, 0)
    told = _tell(codes, own, topics, 8, permutations=400)
    np.testing.assert_array_equal(told.feature[:4], planted)
    np.testing.assert_array_equal(told.fold_features[:4], np.repeat(planted[:, None], 2, axis=1))
    worth = stats.norm.cdf(2.0 / np.sqrt(2.0))
    np.testing.assert_allclose(told.auc[:4], worth, atol=0.05)
    assert (told.p[:4] == 1.0 / 401.0).all()
    assert (told.p[4:] > 0.01).all()
    assert (told.low[:4] > 0.8).all()


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_cover_what_a_feature_is_worth_over_topics(shift: float) -> None:
    """One feature only, so that none is chosen; its strength differs from topic to topic."""
    own, topics = _design(8, 20)
    worth, inside = stats.norm.cdf(shift / np.sqrt(2.0 + 0.25)), []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        strength = shift + 0.5 * rng.normal(size=20)[topics]
        codes = np.maximum(rng.normal(size=len(own)) + strength * (own == 0) + 9.0, 0.0)
        told = _tell(codes[:, None].astype(np.float32), own, topics, 8, seed, permutations=1)
        assert told.low[0] < told.auc[0] < told.high[0]
        inside.append(told.low[0] <= worth <= told.high[0])
    assert 0.9 < np.mean(inside) < 0.995


def test_the_mean_auc_and_its_pieces_are_those_of_the_two_folds() -> None:
    rng, (own, topics) = np.random.default_rng(3), _design(4, 6, 2)
    codes = _noise(len(own), 20, rng)
    told = _tell(codes, own, topics, 4)
    folds = _folds_of(told, codes, own, topics)
    assert folds is not None
    for emotion, features in enumerate(told.fold_features):
        judged = [
            roc_auc_score(own[rows] == emotion, codes[rows, feature])
            for rows, feature in zip(folds, features, strict=True)
        ]
        assert told.auc[emotion] == pytest.approx(np.mean(judged), abs=1e-6)


def _folds_of(told: Telling, codes: Codes, own: Ints, topics: Ints) -> list[Ints] | None:
    """Halves of the topics such that what is judged on one is the best of the other."""
    from itertools import combinations

    for half in combinations(range(6), 3):
        rows = [np.flatnonzero(np.isin(topics, half) == side) for side in (True, False)]
        best = [feature_aucs(csr_array(codes[r]), own[r], 4).argmax(axis=1) for r in rows]
        if (told.fold_features == np.stack(best[::-1], axis=1)).all():
            return rows
    return None


def test_the_order_of_texts_does_not_matter_but_for_the_shuffles() -> None:
    rng, (own, topics) = np.random.default_rng(4), _design(5, 8)
    codes, order = _noise(len(own), 30, rng), rng.permutation(len(own))
    told, again = (
        _tell(codes[rows], own[rows], topics[rows], 5, permutations=4000)
        for rows in (np.arange(len(own)), order)
    )
    for name in ("feature", "fold_features", "auc", "low", "high"):
        np.testing.assert_allclose(getattr(again, name), getattr(told, name), atol=1e-9)
    np.testing.assert_allclose(again.p, told.p, atol=0.05)


def test_the_same_seed_tells_the_same() -> None:
    own, topics = _design(5, 8)
    codes = _noise(len(own), 30, np.random.default_rng(4))
    one, two, other = (_tell(codes, own, topics, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.p, two.p)
    np.testing.assert_array_equal(one.fold_features, two.fold_features)
    assert (one.p != other.p).any()


def test_an_emotion_that_lacks_on_a_fold_is_not_judged_and_the_others_are() -> None:
    own, topics = _design(4, 6)
    kept = (own != 3) | (topics == 0)
    codes = _noise(int(kept.sum()), 10, np.random.default_rng(0))
    told = _tell(codes, own[kept], topics[kept], 4)
    for values in (told.auc, told.p, told.low, told.high):
        np.testing.assert_array_equal(np.isfinite(values), [True, True, True, False])


def test_two_topics_have_no_interval_and_one_cannot_be_divided() -> None:
    own, topics = _design(3, 2, 5)
    codes = _noise(len(own), 10, np.random.default_rng(0))
    told = _tell(codes, own, topics, 3)
    assert np.isfinite(told.p).all()
    assert np.isnan(told.low).all()
    with pytest.raises(ValueError, match="at least two"):
        _tell(codes, own, np.zeros_like(topics), 3)


def test_features_that_never_fire_tell_nothing() -> None:
    own, topics = _design(3, 4)
    told = _tell(np.zeros((12, 5), dtype=np.float32), own, topics, 3)
    np.testing.assert_array_equal(told.auc, 0.5)
    np.testing.assert_array_equal(told.p, 1.0)
