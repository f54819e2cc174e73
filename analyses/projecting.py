"""What a model projects texts of others on: the unit vectors of its reader, at some layers.

Knows nothing of texts. The engine is imported when the directions are opened.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.methods.geometry import unit
from analyses.reading import require_model
from stores.errors import FingerprintMismatch, UsageError
from stores.vectors import VectorSet, read_vectors

if TYPE_CHECKING:
    from engine.projection.job import Directions


def open_directions(inputs: Inputs, layers: Sequence[int] | None = None) -> "Directions":
    """The denoised vectors at `layers` (default: all of `inputs`), each of length 1.

    Their emotions are those that have vectors, in the order of the stored sets.

    Raises:
        NotReady: no model was named, the reader has none, or a layer has no vectors.
        FingerprintMismatch: the model is not the reader's, or layers have different emotions.
        UsageError: a vector has no length.
        StoreCorrupt: a vector is not what was stored.
    """
    from engine.projection.job import Directions

    require_model(inputs)
    sets = [read_denoised(inputs, layer) for layer in (layers or inputs.layers)]
    emotions = sets[0].emotions
    if others := [found.layer for found in sets if found.emotions != emotions]:
        raise FingerprintMismatch(
            f"the vectors of layers {sets[0].layer} and {others[0]} of corpus {inputs.corpus} by "
            f"reader {inputs.reader} are of different emotions; build all layers together: "
            f"`cli.py vectors build --reader {inputs.reader} --corpus {inputs.corpus}`"
        )
    return Directions(
        emotions,
        {found.layer: unit_vectors(found) for found in sets},
        {found.layer: found.sha256 for found in sets},
    )


def read_denoised(inputs: Inputs, layer: int) -> VectorSet:
    """The vectors that texts are projected on. NotReady without, StoreCorrupt for other bytes."""
    return read_vectors(
        inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, layer, "denoised"
    )


def unit_vectors(found: VectorSet) -> NDArray[np.float64]:
    """Vectors (e, d) of length 1. UsageError where one has no length."""
    try:
        return unit(found.vectors)
    except ValueError as error:
        raise UsageError(
            f"layer {found.layer} has no direction to project on: {error}; "
            "leave out what has no vector of its own"
        ) from error
