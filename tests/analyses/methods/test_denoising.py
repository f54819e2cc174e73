"""Laws of the neutral components and of projecting them out."""

import tracemalloc

import numpy as np
import pytest
from sklearn.decomposition import PCA

from analyses.methods.denoising import NeutralScatter, neutral_components, project_out
from tests.analyses.planted import frozen


def _neutral(n: int = 30, d: int = 8) -> np.ndarray:
    scales = 2.0 ** -np.arange(d)
    return frozen(np.random.default_rng(3).normal(size=(n, d)) * scales + 5.0)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (6, 20)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_the_fewest_components_that_explain_the_share(n: int, d: int, share: float) -> None:
    neutral = _neutral(n, d)
    found, reference = neutral_components(neutral, share), PCA().fit(neutral)
    ratios = np.cumsum(reference.explained_variance_ratio_)
    assert found.k == int((ratios < share).sum()) + 1
    assert found.explained == pytest.approx(ratios[found.k - 1])
    overlap = np.abs(np.sum(found.components * reference.components_[: found.k], axis=1))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 8), (9, 8), (6, 20)])
@pytest.mark.parametrize("cuts", [[1], [4, 5], [2, 3, 4]])
def test_components_are_the_same_however_texts_come(n: int, d: int, cuts: list[int]) -> None:
    neutral, scatter = _neutral(n, d), NeutralScatter()
    for block in np.split(neutral, cuts):
        scatter.add(block)
    found, expected = scatter.components(0.9), neutral_components(neutral, 0.9)
    assert (found.k, found.n) == (expected.k, n)
    assert found.explained == pytest.approx(expected.explained, abs=1e-12)
    basis, reference = found.components, expected.components
    np.testing.assert_allclose(basis.T @ basis, reference.T @ reference, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(300, 8), (6, 20)])
def test_what_all_texts_share_costs_no_digits(n: int, d: int) -> None:
    neutral = _neutral(n, d)
    far = NeutralScatter()
    for block in np.split(neutral + 1e5, [2]):
        far.add(block)
    found, expected = far.components(0.9).components, neutral_components(neutral, 0.9).components
    np.testing.assert_allclose(found.T @ found, expected.T @ expected, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (16, 40)])
def test_components_are_orthonormal_down_to_the_smallest(n: int, d: int) -> None:
    found = neutral_components(_neutral(n, d), 1.0).components
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-12)


def test_memory_does_not_grow_with_the_number_of_texts() -> None:
    d, rng = 64, np.random.default_rng(0)
    scatter = NeutralScatter()
    tracemalloc.start()
    for _ in range(200):
        scatter.add(rng.normal(size=(32, d)).astype(np.float32))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scatter.n == 6400
    assert most < 10 * d * d * 8


def test_components_do_not_depend_on_the_common_mean() -> None:
    neutral = _neutral()
    shifted = neutral_components(neutral + 100.0, 0.5)
    np.testing.assert_allclose(
        np.abs(shifted.components), np.abs(neutral_components(neutral, 0.5).components), atol=1e-9
    )


def test_share_zero_removes_nothing() -> None:
    vectors = frozen(np.random.default_rng(0).normal(size=(4, 8)))
    found = neutral_components(_neutral(), 0.0)
    assert (found.k, found.explained) == (0, 0.0)
    np.testing.assert_array_equal(project_out(vectors, found.components), vectors)


def test_share_one_removes_every_direction_neutral_text_has() -> None:
    neutral = _neutral(5, 8)
    found = neutral_components(neutral, 1.0)
    rest = project_out(neutral - neutral.mean(axis=0), found.components)
    np.testing.assert_allclose(rest, 0.0, atol=1e-9)


def test_nothing_is_left_along_the_components_and_the_rest_is_kept() -> None:
    vectors = frozen(np.random.default_rng(0).normal(size=(4, 8)))
    components = neutral_components(_neutral(), 0.9).components
    rest = project_out(vectors, components)
    np.testing.assert_allclose(rest @ components.T, 0.0, atol=1e-12)
    np.testing.assert_allclose(project_out(rest, components), rest, atol=1e-12)
    np.testing.assert_allclose(vectors - rest, (vectors @ components.T) @ components, atol=1e-12)


def test_what_cannot_be_denoised_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 neutral texts"):
        neutral_components(np.ones((1, 3)), 0.5)
    with pytest.raises(ValueError, match="do not vary"):
        neutral_components(np.ones((4, 3)), 0.5)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        neutral_components(_neutral(), 1.5)
