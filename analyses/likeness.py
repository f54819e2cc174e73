"""How alike the layers of a set are, and its raw and denoised vectors: in shape and in direction.

A part of the geometry. Likeness of shape (which emotions are near each other) does not see a
rotation of the whole; likeness of direction (does an emotion keep its vector, the set its plane)
sees nothing else. Knows nothing of where vectors come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.methods import agreement, geometry
from analyses.spaces import Space
from stores.results import Metric, Table

Floats = NDArray[np.float64]

SPANNED = 5
"""Components whose span is compared."""
BLOCK = 8
"""Emotions whose vectors are compared at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What is kept of a layer while others are opened."""

    layer: int
    scores: Floats
    """(e, k) along all components."""
    loadings: Floats
    """(SPANNED, d), or fewer, of the first components."""
    directions: Floats
    """(e, d)."""
    triangle: Floats
    """The cosines above the diagonal."""


def keep_shape(space: Space) -> Shape:
    """What is needed of a layer once it is closed."""
    return _shape(space.layer, space.found, space.directions, space.cosines)


def _shape(
    layer: int, found: geometry.PrincipalComponents, directions: Floats, cosines: Floats
) -> Shape:
    loadings = found.loadings[:SPANNED].copy()
    return Shape(layer, found.scores, loadings, directions, geometry.upper_triangle(cosines))


def compare_layers(shapes: Sequence[Shape], layer: int) -> Result:
    """Every two layers in the table `layers`; as metrics, each layer with `layer` and the previous.

    rsa_<kind>        likeness of their cosines; that of kind cosine has a high floor, its chance
    vector_cosine     mean cosine of an emotion's vector with the same emotion's at the other layer;
                      chance is that of two different emotions
    subspace_overlap  mean squared cosine of the angles between the spans of the first SPANNED
                      components; chance is that of two random ones
    """
    layers, n = [shape.layer for shape in shapes], len(shapes[0].directions)
    found = _liken(shapes)
    home = layers.index(layer)
    pairs = [(i, home) for i in range(len(layers))]
    pairs += [(i, i - 1) for i in range(1, len(layers)) if i - 1 != home]
    metrics = [
        Metric(name, values[i, j], layers[i], f"layer {layers[j]}", n, chance[i, j])
        for name, (values, chance) in found.items()
        for i, j in sorted(pairs)
    ]
    rows = tuple(
        (a, b, *(values[i, j] for values, _ in found.values()))
        for i, a in enumerate(layers)
        for j, b in enumerate(layers)
    )
    return Result(tuple(metrics), (Table("layers", ("layer", "other", *found), rows),))


def compare_raw(space: Space) -> Result:
    """What denoising did to a layer: nothing is said of a set that has one variant alone.

    denoised_cosine   mean cosine of an emotion's raw vector with its denoised one
    denoised_overlap  overlap of the spans of their first SPANNED components
    denoised_rsa      Spearman's r of the cosines among the ones with those among the others
    """
    if space.raw is None:
        return Result()
    raw = _shape(
        space.layer,
        geometry.principal_components(space.raw),
        geometry.unit(space.raw),
        geometry.cosine_matrix(space.raw),
    )
    found = _liken((keep_shape(space), raw))
    names = {
        "denoised_cosine": "vector_cosine",
        "denoised_overlap": "subspace_overlap",
        "denoised_rsa": "rsa_spearman",
    }
    n = len(space.emotions)
    rows = {metric: [part[0, 1] for part in found[name]] for metric, name in names.items()}
    return Result(
        tuple(
            Metric(metric, value, space.layer, n=n, chance=chance)
            for metric, (value, chance) in rows.items()
        )
    )


def _liken(shapes: Sequence[Shape]) -> dict[str, tuple[Floats, Floats]]:
    """Likenesses (l, l) of l shapes by name, each with what it is for unrelated shapes."""
    triangles = np.stack([shape.triangle for shape in shapes])
    alike = geometry.representational_similarity(triangles)
    floor = np.sqrt(triangles.shape[1]) * triangles.mean(axis=1) / np.linalg.norm(triangles, axis=1)
    e, d = shapes[0].directions.shape
    sums = np.stack([shape.directions.sum(axis=0) for shape in shapes])
    cosines = _vector_cosines(shapes)
    ranks = np.array([len(shape.loadings) for shape in shapes])
    overlap = agreement.subspace_overlap([shape.loadings for shape in shapes])
    none = np.zeros_like(cosines)
    return {
        "rsa_cosine": (alike.cosine, np.outer(floor, floor)),
        "rsa_pearson": (alike.pearson, none),
        "rsa_spearman": (alike.spearman, none),
        "vector_cosine": (cosines, (sums @ sums.T - e * cosines) / (e * (e - 1.0))),
        "subspace_overlap": (overlap, np.maximum.outer(ranks, ranks) / d),
    }


def _vector_cosines(shapes: Sequence[Shape]) -> Floats:
    """A few emotions at a time, so that no copy of all layers is made."""
    e = len(shapes[0].directions)
    blocks = [slice(start, start + BLOCK) for start in range(0, e, BLOCK)]
    found = [agreement.vector_cosines([s.directions[block] for s in shapes]) for block in blocks]
    sizes = [len(shapes[0].directions[block]) for block in blocks]
    return np.average(found, axis=0, weights=sizes)
