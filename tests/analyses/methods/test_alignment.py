"""Laws of cosines with random rows: what is planted is found, and what is random is not."""

import numpy as np
import pytest
from scipy import stats

from analyses.methods.alignment import (
    BLOCK,
    Axes,
    best_cosines,
    best_tail,
    expected_best,
    principal_axes,
    row_tail,
)
from tests.analyses.planted import Floats, frozen

SPECTRA = {
    "steep": 1.0 / np.arange(1.0, 41.0) ** 2,
    "gentle": 1.0 / np.arange(1.0, 41.0) ** 0.5,
    "one axis": np.r_[400.0, np.ones(39)],
    "singular": np.r_[3.0, 2.0, 1.0, np.zeros(37)],
    "three": np.array([4.0, 1.0, 0.1]),
}


def _covariance(spectrum: Floats, seed: int = 0) -> Floats:
    d = len(spectrum)
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return frozen((turned * spectrum) @ turned.T)


def _draw(covariance: Floats, rows: int, rng: np.random.Generator) -> Floats:
    variances, loadings = np.linalg.eigh(covariance)
    scales = np.sqrt(np.maximum(variances, 0.0))
    drawn: Floats = (rng.normal(size=(rows, len(covariance))) * scales) @ loadings.T
    return drawn


def _directions(covariance: Floats, rng: np.random.Generator) -> Floats:
    """Any direction, one near the largest axis, and one made of activations."""
    d = len(covariance)
    near = np.linalg.eigh(covariance)[1][:, -1] + 0.1 * rng.normal(size=d)
    rows = np.vstack([rng.normal(size=d), near, _draw(covariance, 1, rng)])
    return frozen(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_tail_is_the_share_of_simulated_rows(spectrum: Floats) -> None:
    rng = np.random.default_rng(1)
    covariance = _covariance(spectrum)
    directions, rows = _directions(covariance, rng), _draw(covariance, 200_000, rng)
    cosines = rows @ directions.T / np.linalg.norm(rows, axis=1, keepdims=True)
    for share in (0.95, 0.6, 0.4, 0.05, 0.001):
        at = np.quantile(cosines, 1.0 - share, axis=0)
        tails = row_tail(at, directions, principal_axes(covariance))
        np.testing.assert_allclose(tails, share, rtol=5.0 * np.sqrt((1.0 - share) / share / 2e5))


@pytest.mark.parametrize("d", [3, 8, 64, 1024, 4096])
def test_the_tail_of_round_rows_is_that_of_a_beta_as_far_out_as_one_looks(d: int) -> None:
    axes = Axes(np.ones(d), np.eye(d))
    direction = np.random.default_rng(d).normal(size=(1, d))
    for tail in (0.4, 0.1, 1e-3, 1e-8, 1e-40):
        cosine = np.sqrt(stats.beta.isf(2.0 * tail, 0.5, (d - 1) / 2.0))
        if cosine < 1.0 - 1e-8:  # beyond, the cosine itself is rounded too far
            found = row_tail(np.array([cosine]), direction, axes)
            np.testing.assert_allclose(found, tail, rtol=1e-7)


def test_the_tail_in_a_plane_is_a_wedge() -> None:
    spread, angle, half = np.array([1.0, 0.03]), 0.4, np.array([1e-4, 0.1, 0.7, 1.5])
    ends = [
        np.arctan2(np.sin(angle + side) / spread[1], np.cos(angle + side) / spread[0])
        for side in (-half, half)
    ]
    wedge = np.mod(ends[1] - ends[0], 2.0 * np.pi) / (2.0 * np.pi)
    directions = np.tile([np.cos(angle), np.sin(angle)], (len(half), 1))
    tails = row_tail(np.cos(half), directions, principal_axes(np.diag(spread**2)))
    np.testing.assert_allclose(tails, wedge, rtol=1e-6)


def test_a_cosine_and_its_opposite_share_all_rows_and_scale_does_not_matter() -> None:
    covariance = _covariance(SPECTRA["steep"])
    directions = np.tile(_directions(covariance, np.random.default_rng(0))[:1], (5, 1))
    cosines = np.array([0.0, 1e-9, 0.05, 0.3, 0.7])
    axes, scaled = principal_axes(covariance), principal_axes(covariance * 1e9)
    tails = row_tail(cosines, directions, axes)
    np.testing.assert_allclose(tails + row_tail(-cosines, directions, axes), 1.0, rtol=1e-12)
    np.testing.assert_allclose(row_tail(cosines, directions * 7.0, scaled), tails, rtol=1e-9)
    assert tails[0] == 0.5
    assert (np.diff(tails) < 0.0).all()


def test_a_direction_that_rows_cannot_reach_is_never_reached_and_no_p_is_zero() -> None:
    axes = principal_axes(np.diag([2.0, 1.0, 0.0, 0.0]))
    directions = np.array([[0.6, 0.0, 0.8, 0.0]] * 4 + [[0.0, 0.0, 0.0, 1.0]])
    tails = row_tail(np.array([0.59, 0.6 - 1e-13, 0.61, 1.0, 0.1]), directions, axes)
    assert 0.01 < tails[0] < 0.1
    assert (tails[2:] < 1e-300).all()
    assert (tails > 0.0).all()
    assert (best_tail(tails, 65_536) > 0.0).all()


def test_what_rounding_leaves_of_a_flat_axis_is_no_variance() -> None:
    covariance = _covariance(SPECTRA["singular"])
    axes, outside = principal_axes(covariance), np.linalg.eigh(covariance)[1][:, 0]
    assert (axes.variances > 0.0).sum() == 3
    tails = row_tail(np.array([1e-3, 0.5]), np.stack([outside, outside]), axes)
    assert (tails < 1e-300).all()


def test_rows_that_do_not_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        principal_axes(np.zeros((3, 3)))


@pytest.mark.parametrize("f", [64, 512])
@pytest.mark.parametrize("spectrum", ["steep", "one axis", "gentle"])
def test_p_of_random_dictionaries_is_uniform(f: int, spectrum: str) -> None:
    covariance = _covariance(SPECTRA[spectrum])
    axes, rng = principal_axes(covariance), np.random.default_rng(f)
    p = []
    for _ in range(400):
        directions = _directions(covariance, rng)[[0, 2]]
        best = best_cosines(directions, _draw(covariance, f, rng))[0]
        p.append(best_tail(row_tail(best, directions, axes), f))
    for each in np.transpose(p):
        assert stats.kstest(each, "uniform").pvalue > 0.001
        assert np.mean(each < 0.05) < 0.09


def test_a_null_of_round_rows_would_call_random_rows_found() -> None:
    covariance = _covariance(SPECTRA["steep"])
    round_, rng = Axes(np.ones(40), np.eye(40)), np.random.default_rng(0)
    directions = _draw(covariance, 50, rng)
    best = best_cosines(directions, _draw(covariance, 64, rng))[0]
    assert np.mean(best_tail(row_tail(best, directions, round_), 64) < 0.05) > 0.8
    own = best_tail(row_tail(best, directions, principal_axes(covariance)), 64)
    assert np.mean(own < 0.05) < 0.2


def test_planted_rows_are_found_exactly_where_they_are() -> None:
    covariance, rng = _covariance(SPECTRA["gentle"]), np.random.default_rng(3)
    directions, rows = _draw(covariance, 12, rng), _draw(covariance, 512, rng)
    planted = rng.permutation(512)[:6]
    scale = np.linalg.norm(directions) / np.sqrt(12 * 40)
    rows[planted] = 3.0 * (directions[:6] + 0.3 * scale * rng.normal(size=(6, 40)))
    cosines, owner = best_cosines(directions, rows.astype(np.float32))
    p = best_tail(row_tail(cosines, directions, principal_axes(covariance)), 512)
    np.testing.assert_array_equal(owner[:6], planted)
    assert (p[:6] < 1e-6).all()
    assert (p[6:] > 0.01).all()


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("rows", [1, 64, 65_536])
def test_the_expected_best_turns_the_tail_around(rows: int, probability: float) -> None:
    covariance = _covariance(SPECTRA["steep"])
    axes = principal_axes(covariance)
    directions = _directions(covariance, np.random.default_rng(5))
    best = expected_best(directions, axes, rows, probability)
    p = best_tail(row_tail(best, directions, axes), rows)
    np.testing.assert_allclose(p, 1.0 - probability, rtol=1e-6)


def test_the_expected_best_of_a_singular_covariance_is_within_reach() -> None:
    axes = principal_axes(np.diag([1.0, 1.0, 1.0, 0.0]))
    best = expected_best(np.array([[0.6, 0.0, 0.0, 0.8]]), axes, 1000, 0.95)
    assert 0.59 < best[0] < 0.6


def test_best_cosines_are_those_of_all_rows_at_once_whatever_their_lengths() -> None:
    rng = np.random.default_rng(0)
    directions, rows = rng.normal(size=(5, 7)), rng.normal(size=(2 * BLOCK + 3, 7))
    every = directions @ rows.T / np.linalg.norm(directions, axis=1, keepdims=True)
    every /= np.linalg.norm(rows, axis=1)
    scaled = rows * rng.uniform(0.01, 100.0, size=(len(rows), 1))
    cosines, owner = best_cosines(frozen(directions * 3.0), frozen(scaled))
    np.testing.assert_allclose(cosines, every.max(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(owner, every.argmax(axis=1))


def test_a_row_without_length_is_nobodys() -> None:
    directions = np.array([[1.0, 0.0]])
    cosines, owner = best_cosines(directions, np.array([[0.0, 0.0], [-1.0, 0.0]], dtype=np.float32))
    assert (cosines[0], owner[0]) == (-1.0, 1)
    with pytest.raises(ValueError, match="length"):
        best_cosines(directions, np.zeros((3, 2)))


def test_a_tail_too_small_to_add_to_one_keeps_its_digits() -> None:
    tails = np.array([1e-30, 1e-12, 0.5, 1.0 - 1e-16, 1.0])
    p = best_tail(tails, 1000)
    np.testing.assert_allclose(p[:2], 1000.0 * tails[:2], rtol=1e-8)
    np.testing.assert_allclose(p[2:], 1.0)
