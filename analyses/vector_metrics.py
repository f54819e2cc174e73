"""What the vectors of a layer may be judged by. Knows nothing of where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.methods.denoising import NeutralComponents, project_out
from analyses.methods.directions import EmotionMeans, difference_of_means
from analyses.methods.statistics import spearman_brown, split_half_cosines
from stores.results import Metric

Floats = NDArray[np.float64]

CENTRE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class LayerVectors:
    """One layer's vectors (e, d) and what they were made of."""

    raw: Floats
    denoised: Floats
    means: EmotionMeans
    neutral: NeutralComponents | None


def describe_layer(built: LayerVectors, layer: int, emotions: Sequence[str]) -> list[Metric]:
    """What a layer's vectors may be judged by.

    texts              pooled stories; fewest_texts and most_texts: of one emotion
    mean_norm          mean length of the pooled residuals of single texts
    vector_norm        mean length of the raw vectors
    centre             length of the mean of the vectors as a share of vector_norm: rounding only
    centre_shift       how far the mean over texts lies from the mean over emotions, likewise; 0
                       when every emotion has as many texts
    components         neutral components projected out (k); n is the number of dialogues
    neutral_variance   share of the neutral variance along them
    kept_norm          mean length of the denoised vectors as a share of vector_norm
    split_half         mean cosine of a denoised vector from even texts with that from odd ones
    reliability        the same stepped up to all texts (Spearman-Brown), per emotion and on average
    """
    means, counts = built.means.means(), built.means.totals
    size = float(np.linalg.norm(built.raw, axis=1).mean())
    centre = float(np.linalg.norm(built.raw.mean(axis=0))) / size
    shift = counts @ means / counts.sum() - means.mean(axis=0)
    texts = int(counts.sum())
    rows = [
        Metric("texts", texts, layer, n=len(emotions)),
        Metric("fewest_texts", int(counts.min()), layer, n=len(emotions)),
        Metric("most_texts", int(counts.max()), layer, n=len(emotions)),
        Metric("mean_norm", built.means.mean_norm, layer, n=texts),
        Metric("vector_norm", size, layer, n=len(emotions)),
        Metric(
            "centre",
            centre,
            layer,
            n=len(emotions),
            passed=centre < CENTRE_TOLERANCE,
            threshold=CENTRE_TOLERANCE,
        ),
        Metric("centre_shift", float(np.linalg.norm(shift)) / size, layer, n=texts),
    ]
    if built.neutral is not None:
        kept = float(np.linalg.norm(built.denoised, axis=1).mean()) / size
        n = built.neutral.n
        rows += [
            Metric("components", built.neutral.k, layer, n=n),
            Metric("neutral_variance", built.neutral.explained, layer, n=n),
            Metric("kept_norm", kept, layer, n=len(emotions)),
        ]
    return rows + _describe_reliability(built, layer, emotions)


def _describe_reliability(built: LayerVectors, layer: int, emotions: Sequence[str]) -> list[Metric]:
    halves = built.means.half_means()
    if halves is None:
        return []
    even, odd = (difference_of_means(half) for half in halves)
    if built.neutral is not None:
        even, odd = (project_out(half, built.neutral.components) for half in (even, odd))
    cosines = split_half_cosines(even, odd)
    whole = spearman_brown(cosines)
    counts = built.means.totals
    return [
        Metric("split_half", float(cosines.mean()), layer, n=len(emotions), chance=0.0),
        Metric("reliability", float(whole.mean()), layer, n=len(emotions), chance=0.0),
        *(
            Metric("reliability", float(r), layer, subject=name, n=int(n), chance=0.0)
            for name, r, n in zip(emotions, whole, counts, strict=True)
        ),
    ]
