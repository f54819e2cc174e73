"""Laws of the agreement of shapes: what turning, permuting and noise do to it, and its chance."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes as scipy_procrustes
from scipy.stats import kstest, pearsonr, spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from analyses.methods.agreement import (
    Agreement,
    Kind,
    matched_cosines,
    procrustes,
    rsa,
    subspace_overlap,
    vector_cosines,
)
from analyses.methods.geometry import cosine_matrix
from analyses.methods.resampling import (
    draw_halves,
    draw_orders,
    halves_interval,
    jackknife_interval,
)
from tests.analyses.planted import Floats, frozen

KINDS: tuple[Kind, ...] = ("pearson", "spearman", "cosine")


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _pair(
    e: int = 40, noise: float = 0.5, seed: int = 0, kind: str = "float64"
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Two shapes (e, 70) and (e, 24) of the same emotions, in spaces that have nothing in common.

    What they share lies along 6 axes of unequal size; everything else is noise.
    """
    rng = _rng(seed)
    shared = rng.normal(size=(e, 6)) * [3.0, 2.0, 1.5, 1.0, 0.8, 0.6]
    shapes = [shared @ _turn(d)[:6] + noise * rng.normal(size=(e, d)) for d in (70, 24)]
    first, second = (shape - shape.mean(axis=0) for shape in shapes)
    return frozen(first.astype(kind)), frozen(second.astype(kind))


def _turn(d: int) -> Floats:
    turned: Floats = np.linalg.qr(_rng(d).normal(size=(d, d)))[0]
    return turned


def _rsa(a: NDArray[np.floating], b: NDArray[np.floating], kind: Kind = "pearson") -> Agreement:
    return rsa(cosine_matrix(a), cosine_matrix(b), _rng(), permutations=199, kind=kind)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_rsa_equals_scipy_on_the_triangles(kind: str) -> None:
    a, b = _pair(kind=kind)
    above = np.triu_indices(40, 1)
    plain = [cosine_similarity(shape.astype(np.float64))[above] for shape in (a, b)]
    assert _rsa(a, b).value == pytest.approx(pearsonr(*plain)[0], abs=1e-9)
    assert _rsa(a, b, "spearman").value == pytest.approx(spearmanr(*plain)[0], abs=1e-9)
    assert _rsa(a, b, "cosine").value == pytest.approx(cosine_similarity(plain)[0, 1], abs=1e-9)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("k", [2, 5, 24])
def test_procrustes_is_one_less_the_disparity_of_scipy(k: int, kind: str) -> None:
    a, b = _pair(kind=kind)
    scores = [PCA(k).fit_transform(shape.astype(np.float64)) for shape in (a, b)]
    found = procrustes(a, b, k, _rng(), permutations=1)
    assert found.value == pytest.approx(1.0 - scipy_procrustes(*scores)[2], abs=1e-6)


def test_a_turned_scaled_shifted_mirrored_shape_agrees_wholly() -> None:
    b = _pair()[1]
    other = 7.0 * b @ _turn(24)[:, ::-1] * [-1.0] + 3.0
    found = procrustes(b, other, 10, _rng(), permutations=199)
    assert found.value == pytest.approx(1.0)
    assert (found.ci_low, found.p) == pytest.approx((1.0, 1 / 200))
    for kind in KINDS:
        same = _rsa(b, other - other.mean(axis=0), kind)
        assert (same.value, same.ci_low, same.p) == pytest.approx((1.0, 1.0, 1 / 200))


def test_agreement_is_the_same_both_ways_and_in_any_common_order() -> None:
    a, b = _pair()
    order = _rng(1).permutation(40)
    for kind in KINDS:
        found = _rsa(a, b, kind)
        for other in (_rsa(b, a, kind), _rsa(a[order], b[order], kind)):
            assert (other.value, other.ci_low) == pytest.approx((found.value, found.ci_low))
    found = procrustes(a, b, 5, _rng(), permutations=9)
    for other in (
        procrustes(b, a, 5, _rng(), permutations=9),
        procrustes(a[order], b[order], 5, _rng(), permutations=9),
    ):
        assert other.value == pytest.approx(found.value)
        assert other.ci_low == pytest.approx(found.ci_low, abs=0.02)  # other halves are drawn


def test_noise_lowers_agreement_and_emotions_in_another_order_end_it() -> None:
    near, far = [_pair(noise=noise) for noise in (0.1, 1.0)]
    shuffled = (near[0], near[1][_rng(1).permutation(40)])
    for kind in KINDS:
        values = [_rsa(*pair, kind) for pair in (near, far, shuffled)]
        assert values[0].value > values[1].value + 0.1
        assert values[1].ci_low > values[2].value
        assert values[2].p > 0.05
    found = [procrustes(*pair, 5, _rng(), permutations=199) for pair in (near, far, shuffled)]
    assert found[0].value > found[1].value + 0.1
    assert found[0].p == found[1].p == 1 / 200
    assert found[2].p > 0.05


def test_chance_of_procrustes_is_above_zero_and_that_of_rsa_is_not() -> None:
    """Ten components of 40 shuffled emotions always find something to turn into each other."""
    a, b = _pair()
    assert procrustes(a, b, 10, _rng(), permutations=99).chance > 0.05
    two, ten = (procrustes(a, b, k, _rng(), permutations=99).chance for k in (2, 10))
    assert ten > two
    assert abs(_rsa(a, b).chance) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_p_is_uniform_for_shapes_that_have_nothing_in_common(kind: Kind) -> None:
    p, of_procrustes = [], []
    for seed in range(120):
        a, b = _pair(e=14, seed=seed)[0], _pair(e=14, seed=seed + 1000)[1]
        cosines = cosine_matrix(a), cosine_matrix(b)
        p.append(rsa(*cosines, _rng(seed), permutations=99, kind=kind).p)
        if kind == "cosine":
            of_procrustes.append(procrustes(a, b, 3, _rng(seed), permutations=99).p)
    assert kstest(p, "uniform").pvalue > 0.05
    if of_procrustes:
        assert kstest(of_procrustes, "uniform").pvalue > 0.05


@pytest.mark.parametrize("kind", ["pearson", "cosine"])
def test_the_interval_of_rsa_is_that_of_leaving_out_every_emotion_in_turn(kind: Kind) -> None:
    """Of vectors that are not centred: their cosines have a mean that must not be forgotten."""
    a, b = (cosine_matrix(shape + 1.0) for shape in _pair(e=12))
    without = []
    for emotion in range(12):
        rest = np.ix_(*[np.delete(np.arange(12), emotion)] * 2)
        without.append(rsa(a[rest], b[rest], _rng(), permutations=1, kind=kind).value)
    found = rsa(a, b, _rng(), permutations=1, kind=kind)
    expected = jackknife_interval(found.value, np.array(without))
    assert (found.ci_low, found.ci_high) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_procrustes_is_that_of_leaving_out_half_of_the_emotions() -> None:
    a, b = (shape[:, :9] for shape in _pair(e=13))
    rng = _rng()
    draw_orders(13, rng, 1)  # what the permutation takes
    halves = draw_halves(13, rng)
    assert set(halves.sum(axis=1)) == {7.0}
    drawn = [
        procrustes(a[half > 0.0], b[half > 0.0], 3, _rng(), permutations=1).value for half in halves
    ]
    found = procrustes(a, b, 3, _rng(), permutations=1)
    expected = halves_interval(np.sqrt(found.value), np.sqrt(drawn), halves)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(np.square(expected)), abs=1e-9)


def test_components_that_tie_do_not_blow_up_the_interval_of_procrustes() -> None:
    """Of ten components six are any of the many that noise has: which, differs for any emotion left
    out, and the value hardly does."""
    found = []
    for seed in range(40):
        rng = _rng(seed)
        held = rng.normal(size=(60, 48)) * [6.0, 4.0, 3.0, 2.4, *[0.6] * 44]
        a, b = (held + 0.2 * rng.normal(size=held.shape) for _ in range(2))
        found.append(procrustes(a, b, 10, _rng(), permutations=1))
    values = np.array([one.value for one in found])
    widths = np.array([one.ci_high - one.ci_low for one in found])
    assert widths.max() < 3.0 * 3.92 * values.std()
    covered = [one.ci_low <= values.mean() <= one.ci_high for one in found]
    assert np.mean(covered) >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_rsa_covers_what_all_emotions_would_give(kind: Kind) -> None:
    truth = np.mean([_rsa_value(*_pair(e=1200, noise=0.9, seed=seed), kind) for seed in range(3)])
    hits = []
    for seed in range(200):
        a, b = _pair(e=45, noise=0.9, seed=seed)
        found = rsa(cosine_matrix(a), cosine_matrix(b), _rng(), permutations=1, kind=kind)
        hits.append(found.ci_low <= truth <= found.ci_high)
    assert 0.92 <= np.mean(hits) <= 0.98


def _rsa_value(a: NDArray[np.floating], b: NDArray[np.floating], kind: Kind) -> float:
    return rsa(cosine_matrix(a), cosine_matrix(b), _rng(), permutations=1, kind=kind).value


def test_the_interval_of_procrustes_covers_what_as_many_other_emotions_give() -> None:
    found = [
        procrustes(*_pair(e=45, noise=0.9, seed=seed), 3, _rng(), permutations=1)
        for seed in range(200)
    ]
    typical = np.mean([one.value for one in found])
    assert np.mean([one.ci_low <= typical <= one.ci_high for one in found]) >= 0.92


def test_three_emotions_are_enough_for_a_value_but_not_for_an_interval() -> None:
    a, b = (shape[:3] for shape in _pair())
    for found in (_rsa(a, b), procrustes(a, b, 10, _rng(), permutations=99)):
        assert np.isfinite([found.value, found.chance, found.p]).all()
        assert np.isnan([found.ci_low, found.ci_high]).all()
    with pytest.raises(ValueError, match="at least 3"):
        _rsa(a[:2], b[:2])
    with pytest.raises(ValueError, match="3 and 2 emotions"):
        procrustes(a, b[:2], 2, _rng(), permutations=9)


def test_a_shape_that_does_not_vary_has_no_likeness() -> None:
    corners = cosine_matrix(np.eye(6))
    for kind in KINDS:
        with pytest.raises(ValueError, match="do not vary"):
            rsa(corners, corners, _rng(), permutations=9, kind=kind)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_vector_cosines_are_the_mean_over_emotions(kind: str) -> None:
    layers = _rng().normal(size=(4, 9, 20)).astype(kind)
    found = vector_cosines(frozen(layers))
    wide = layers.astype(np.float64)
    expected = np.mean(np.diag(cosine_similarity(wide[1], wide[3])))
    assert found[1, 3] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(np.diag(found), 1.0)
    np.testing.assert_array_equal(found, vector_cosines([*layers]))


def test_vector_cosines_see_turns_but_not_lengths() -> None:
    layer = _rng().normal(size=(9, 20))
    found = vector_cosines(
        [layer, layer * np.arange(1.0, 10.0)[:, None], -layer, layer @ _turn(20)]
    )
    np.testing.assert_allclose(found[0, :3], [1.0, 1.0, -1.0])
    assert abs(found[0, 3]) < 0.5


def test_subspace_overlap_is_the_mean_squared_cosine_of_the_principal_angles() -> None:
    spans = [_turn(30)[:4], _turn(30)[2:5], np.linalg.qr(_rng(1).normal(size=(30, 5)))[0].T]
    found = subspace_overlap(spans)
    for i, a in enumerate(spans):
        for j, b in enumerate(spans):
            angles = subspace_angles(a.T, b.T)
            assert found[i, j] == pytest.approx(np.mean(np.cos(angles) ** 2))
    assert found[0, 1] == pytest.approx(2 / 3)


def test_random_spans_overlap_in_k_of_d() -> None:
    spans = [np.linalg.qr(_rng(seed).normal(size=(50, 10)))[0].T for seed in range(20)]
    found = subspace_overlap(spans)
    assert np.mean(found[np.triu_indices(20, 1)]) == pytest.approx(10 / 50, abs=0.01)
    assert found.max() == pytest.approx(1.0)


def test_matched_cosines_are_those_of_the_same_emotion_and_chance_those_of_others() -> None:
    a = _pair()[0]
    b = a + 2.0 * _rng(1).normal(size=a.shape)
    found = matched_cosines(a.astype(np.float32), b, _rng(), permutations=199)
    every = cosine_similarity(a, b)
    np.testing.assert_allclose(found.cosines, np.diag(every), atol=1e-6)
    assert found.mean.value == pytest.approx(np.diag(every).mean(), abs=1e-6)
    assert found.mean.chance == pytest.approx(every[~np.eye(40, dtype=bool)].mean(), abs=1e-6)
    assert found.mean.p == 1 / 200
    assert found.mean.ci_low < found.mean.value < found.mean.ci_high


def test_matched_cosines_of_other_emotions_are_chance() -> None:
    a = _pair()[0]
    found = matched_cosines(a, np.roll(a, 1, axis=0), _rng(), permutations=199)
    assert found.mean.p > 0.05
    mean = matched_cosines(a[:2], a[:2], _rng(), permutations=199).mean
    assert (mean.value, mean.chance) == pytest.approx((1.0, cosine_matrix(a)[0, 1]))
    assert 0.3 < mean.p < 0.7


def test_vectors_of_two_spaces_cannot_be_matched() -> None:
    a, b = _pair()
    with pytest.raises(ValueError, match="70 and 24 numbers are not of one space"):
        matched_cosines(a, b, _rng(), permutations=9)
    with pytest.raises(ValueError, match="length zero"):
        matched_cosines(a, np.zeros_like(a), _rng(), permutations=9)
