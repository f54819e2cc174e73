"""The vectors of a layer with their components, and the protocol's labels in the same order.

What every question about the vectors' geometry starts from. Principal components are numbered by
variance and oriented by labels: PC1 rises with valence, PC2 with arousal. Computes nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.labels import LABELS, Labels, read_labels
from analyses.methods import geometry
from stores.errors import FingerprintMismatch
from stores.vectors import Variant, VectorSet, read_vectors

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Space:
    """The vectors (e, d) of one layer and what follows from them."""

    layer: int
    emotions: tuple[str, ...]
    raw: Floats
    vectors: Floats
    """The denoised ones; everything below is theirs."""
    found: geometry.PrincipalComponents
    directions: Floats
    cosines: Floats


def open_spaces(inputs: Inputs) -> tuple[list[Space], Labels]:
    """Every layer of `inputs`. FingerprintMismatch when their vectors are of different emotions."""
    sets = [_read(inputs, layer, "denoised") for layer in inputs.layers]
    emotions = sets[0].emotions
    for found in sets:
        if found.emotions != emotions:
            raise FingerprintMismatch(
                f"the vectors of layers {sets[0].layer} and {found.layer} of {inputs.reader}/"
                f"{inputs.corpus} are of different emotions; run `cli.py vectors build "
                f"--reader {inputs.reader} --corpus {inputs.corpus}` for all layers"
            )
    labels = read_labels(inputs.protocol, emotions)
    return [_open_space(inputs, found, labels) for found in sets], labels


def _open_space(inputs: Inputs, found: VectorSet, labels: Labels) -> Space:
    references = {
        i: np.nan_to_num(labels.values[label], nan=float(np.nanmean(labels.values[label])))
        for i, label in enumerate(LABELS)
        if label in labels.values
    }
    components = geometry.orient(geometry.principal_components(found.vectors), references)
    return Space(
        found.layer,
        found.emotions,
        _read(inputs, found.layer, "raw").vectors,
        found.vectors,
        components,
        geometry.unit(found.vectors),
        geometry.cosine_matrix(found.vectors),
    )


def _read(inputs: Inputs, layer: int, variant: Variant) -> VectorSet:
    place = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus)
    return read_vectors(*place, layer, variant)
