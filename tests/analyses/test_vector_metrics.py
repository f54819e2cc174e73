"""Laws of judging vectors: reliable ones are told from noise, imbalance and rounding are seen."""

from collections.abc import Sequence

import numpy as np
import pytest

from analyses.methods.denoising import neutral_components, project_out
from analyses.methods.directions import EmotionMeans, difference_of_means
from analyses.vector_metrics import LayerVectors, describe_layer
from stores.results import Metric
from tests.analyses.planted import Floats, planted_world

E, D = 8, 12
WORLD = planted_world(e=E, d=D, families=2)
NAMES = tuple(f"e{i:02d}" for i in range(E))


def _built(
    counts: Sequence[int], *, noise: float, signal: float = 1.0, neutral: Floats | None = None
) -> LayerVectors:
    """Texts of each emotion around its planted vector, far from the origin."""
    labels = np.repeat(np.arange(E), counts)
    own = signal * WORLD.vectors[labels]
    rows = own + noise * np.random.default_rng(0).normal(size=(len(labels), D)) + 20.0
    means = EmotionMeans(E)
    means.add(rows, labels)
    raw = difference_of_means(means.means())
    if neutral is None:
        return LayerVectors(raw, raw, means, None)
    found = neutral_components(neutral, 0.5)
    return LayerVectors(raw, project_out(raw, found.components), means, found)


def _one(built: LayerVectors, metric: str, subject: str | None = None) -> Metric:
    rows = [row for row in describe_layer(built, 3, NAMES) if row.metric == metric]
    return next(row for row in rows if row.subject == subject)


def _value(built: LayerVectors, metric: str, subject: str | None = None) -> float:
    value = _one(built, metric, subject).value
    assert value is not None
    return value


def test_reliability_is_high_where_texts_agree_and_nought_where_they_do_not() -> None:
    agree, noise = _built([24] * E, noise=0.1), _built([24] * E, noise=1.0, signal=0.0)
    assert _value(agree, "reliability") > 0.98
    assert abs(_value(noise, "reliability")) < 0.3
    assert _one(agree, "reliability", "e04").n == 24


def test_reliability_is_stepped_up_from_the_halves() -> None:
    built = _built([24] * E, noise=2.0)
    assert _value(built, "split_half") < _value(built, "reliability") < 1.0
    half = _built([12] * E, noise=2.0)
    assert _value(half, "reliability") < _value(built, "reliability")


def test_halves_are_denoised_like_the_vectors() -> None:
    """Noise along one direction: vectors without it are reliable."""
    axis = np.zeros(D)
    axis[0] = 30.0
    rng = np.random.default_rng(1)
    labels = np.tile(np.arange(E), 12)
    rows = WORLD.vectors[labels] + np.outer(rng.normal(size=len(labels)), axis)
    means = EmotionMeans(E)
    means.add(rows, labels)
    raw = difference_of_means(means.means())
    found = neutral_components(np.outer(rng.normal(size=9), axis), 0.5)
    noisy = LayerVectors(raw, raw, means, None)
    clean = LayerVectors(raw, project_out(raw, found.components), means, found)
    assert _value(noisy, "reliability") < 0.6
    assert _value(clean, "reliability") > 0.99


def test_one_text_of_an_emotion_leaves_reliability_unsaid() -> None:
    rows = describe_layer(_built([1, *[4] * (E - 1)], noise=0.1), 3, NAMES)
    assert not [row for row in rows if row.metric in ("split_half", "reliability")]


def test_the_mean_of_the_vectors_is_nought_but_for_rounding() -> None:
    centre = _one(_built([5] * E, noise=0.3), "centre")
    assert centre.passed
    assert centre.value is not None
    assert centre.value < 1e-12
    off = _built([5] * E, noise=0.3)
    shifted = LayerVectors(off.raw + 0.1, off.denoised, off.means, None)
    assert _one(shifted, "centre").passed is False


def test_an_imbalance_is_measured() -> None:
    even, uneven = _built([6] * E, noise=0.3), _built([27, *[6] * (E - 1)], noise=0.3)
    assert _value(even, "centre_shift") == pytest.approx(0.0, abs=1e-12)
    assert _value(uneven, "centre_shift") > 0.05
    assert (_value(uneven, "fewest_texts"), _value(uneven, "most_texts")) == (6, 27)
    assert _value(uneven, "texts") == 27 + 6 * (E - 1)


def test_what_denoising_took_is_told() -> None:
    neutral = np.random.default_rng(2).normal(size=(40, D)) * 2.0 ** -np.arange(D)
    built = _built([6] * E, noise=0.3, neutral=neutral)
    assert built.neutral is not None
    assert _one(built, "components").value == built.neutral.k
    assert _one(built, "components").n == 40
    assert _value(built, "neutral_variance") == built.neutral.explained
    sizes = [np.linalg.norm(v, axis=1).mean() for v in (built.denoised, built.raw)]
    assert _value(built, "kept_norm") == pytest.approx(sizes[0] / sizes[1])
