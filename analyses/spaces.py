"""The vectors of each layer with their components, and the protocol's labels in the same order.

What every question about the vectors' geometry starts from. Principal components are numbered by
variance and oriented by labels: PC1 rises with valence, PC2 with arousal. Layers are opened one at
a time, as they are asked for, and none is kept here. Computes nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.labels import LABELS, Labels, read_labels
from analyses.methods import geometry
from stores.errors import FingerprintMismatch, UsageError
from stores.vectors import Variant, VectorSet, read_vectors, vector_variant, vector_variants

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The vectors (e, d) of one layer and what follows from them."""

    layer: int
    emotions: tuple[str, ...]
    vectors: Floats
    """Of the variant that the set is judged by; everything below but `raw` is theirs."""
    found: geometry.PrincipalComponents
    directions: Floats
    cosines: Floats
    """(e, e)."""
    raw: Floats | None = None
    """The raw vectors beside denoised ones; None where there is one variant alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Spaces:
    """The layers of one set. Iterating opens one after the other and keeps none."""

    inputs: Inputs
    emotions: tuple[str, ...]
    """In the same order at every layer."""
    variant: Variant
    """Which vectors are judged: the denoised ones, or the raw ones where a layer has no others."""
    labels: Labels

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that iterating opens, in that order."""
        return self.inputs.layers

    @property
    def both(self) -> bool:
        """Whether the raw vectors are there beside denoised ones."""
        place = (self.inputs.conn, self.inputs.reader, self.inputs.corpus)
        return len(vector_variants(*place)) > 1

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Space]:
        return map(self.at, self.layers)

    def at(self, layer: int) -> Space:
        """One layer. FingerprintMismatch when its vectors are of other emotions than the first's;
        UsageError when there is nothing to see in them, as in vectors that are all the same."""
        found = _read(self.inputs, layer, self.variant)
        if found.emotions != self.emotions:
            raise FingerprintMismatch(
                f"the vectors of layers {self.layers[0]} and {layer} of {_name(self.inputs)} are "
                "of different emotions; build or import all layers together"
            )
        raw = _read(self.inputs, layer, "raw").vectors if self.both else None
        try:
            return open_space(found, self.labels, raw)
        except ValueError as error:
            raise UsageError(
                f"layer {layer} of {_name(self.inputs)} has no geometry: {error}; "
                "leave out what has no vector of its own"
            ) from error


def open_spaces(inputs: Inputs) -> tuple[Spaces, Labels]:
    """The layers of `inputs` and the labels of their emotions. NotReady without vectors."""
    variant = vector_variant(inputs.conn, inputs.reader, inputs.corpus)
    emotions = _read(inputs, inputs.layers[0], variant).emotions
    labels = read_labels(inputs.protocol, emotions)
    return Spaces(inputs, emotions, variant, labels), labels


def open_space(found: VectorSet, labels: Labels, raw: Floats | None = None) -> Space:
    """What follows from the vectors of one layer, with components oriented by `labels`.

    ValueError when a vector has no length or all vectors are the same.
    """
    references = {
        i: np.nan_to_num(labels.values[label], nan=float(np.nanmean(labels.values[label])))
        for i, label in enumerate(LABELS)
        if label in labels.values
    }
    components = geometry.orient(geometry.principal_components(found.vectors), references)
    directions = geometry.unit(found.vectors)
    cosines = geometry.cosine_matrix(found.vectors)
    return Space(found.layer, found.emotions, found.vectors, components, directions, cosines, raw)


def _name(inputs: Inputs) -> str:
    return f"{inputs.reader}/{inputs.corpus}"


def _read(inputs: Inputs, layer: int, variant: Variant) -> VectorSet:
    place = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus)
    return read_vectors(*place, layer, variant)
