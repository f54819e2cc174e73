"""What the analyses that read a model start from: the model, the probes, the size of a residual.

Knows nothing of prompts or criteria. The engine is imported when a model is first asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.methods import geometry
from analyses.vectors import open_sources, read_stories
from stores.errors import FingerprintMismatch, NotReady, UsageError
from stores.readers import count_layers, reader_settings
from stores.receipts import mean_norms, written_layers
from stores.texts import KINDS
from stores.vectors import read_vectors

if TYPE_CHECKING:
    from engine.loading import LazyModel
    from engine.models import Model

Floats = NDArray[np.float64]

HALF = Fraction(1, 2)
SHOWN = 19
"""Characters of a digest that tell it from others."""


@dataclass(frozen=True, slots=True)
class Probes:
    """Denoised emotion vectors of some layers; row i is that of `emotions[i]`."""

    emotions: tuple[str, ...]
    directions: Mapping[int, Floats]
    """Layer -> (e, d) of length 1."""
    vectors: Mapping[int, Floats]
    """Layer -> (e, d)."""

    def rows(self, names: Sequence[str]) -> list[int]:
        """Where these emotions stand. KeyError for one that is not there."""
        place = {name: i for i, name in enumerate(self.emotions)}
        return [place[name] for name in names]


def open_model(inputs: Inputs) -> "Model":
    """The model that read the corpus, loaded. Raises what `require_model` raises."""
    return require_model(inputs).loaded


def require_model(inputs: Inputs) -> "LazyModel":
    """The model that read the corpus, not loaded yet.

    NotReady when none was named; FingerprintMismatch when weights or type are not the reader's.
    """
    if inputs.model is None:
        raise NotReady(
            f"this reads prompts with the model of reader {inputs.reader}; name it with --model"
        )
    known = reader_settings(inputs.conn, inputs.reader)
    given = {
        "weights_sha": inputs.model.checkpoint.weights_sha,
        "dtype": inputs.model.compute_dtype,
    }
    if wrong := [
        f"{key} {known[key][:SHOWN]} is {given[key][:SHOWN]}"
        for key in given
        if known[key] != given[key]
    ]:
        raise FingerprintMismatch(
            f"model {inputs.model.name} is not what reader {inputs.reader} read with: "
            f"{', '.join(wrong)}; name that model, and its type with --dtype or --quantize"
        )
    return inputs.model


def open_probes(inputs: Inputs, layers: Sequence[int] | None = None) -> Probes:
    """The probes at `layers` (default: the analysis layer), in the protocol's order.

    NotReady names the emotions of the protocol that have no vector, and layers without vectors.
    """
    place = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus)
    wanted = inputs.protocol.names
    vectors: dict[int, Floats] = {}
    for layer in (inputs.layer,) if layers is None else layers:
        found = read_vectors(*place, layer, "denoised")
        if missing := [name for name in wanted if name not in found.emotions]:
            raise NotReady(
                f"{len(missing)} of {len(wanted)} {inputs.protocol.concept}s have no vector at "
                f"layer {layer} of corpus {inputs.corpus} by reader {inputs.reader}: "
                f"{', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}; generate and "
                f"extract their stories, then `cli.py vectors build --reader {inputs.reader}`"
            )
        vectors[layer] = found.vectors[[found.emotions.index(name) for name in wanted]]
    directions = {layer: geometry.unit(found) for layer, found in vectors.items()}
    return Probes(wanted, directions, vectors)


def steering_norms(inputs: Inputs, layers: Sequence[int]) -> dict[int, float]:
    """Layer -> mean residual norm over the corpus' texts: what a strength is a fraction of.

    Over stories and dialogues, or what of them was read.
    """
    place = (inputs.conn, inputs.reader, inputs.corpus)
    read = [kind for kind in KINDS if written_layers(*place, kind)]
    return mean_norms(*place, kinds=read, layers=layers)


def middle_band(inputs: Inputs) -> tuple[int, ...]:
    """The layers that are steered together. UsageError for one that is not extracted."""
    if inputs.suite.band is not None:
        if missing := sorted(set(inputs.suite.band) - set(inputs.layers)):
            raise UsageError(
                f"--band: layers {missing} are not extracted; there are {list(inputs.layers)}"
            )
        return inputs.suite.band
    n_layers = count_layers(inputs.conn, inputs.reader)
    return tuple(
        layer
        for layer in inputs.layers
        if Fraction(layer + 1, n_layers) >= HALF and layer <= inputs.layer
    )


def mean_direction(inputs: Inputs, layer: int) -> Floats:
    """(d,) of length 1: what all emotions share, the mean of the emotions' uncentred means.

    A control for steering: it holds what the difference of means takes away. Reads the layer once.
    """
    place = (inputs.conn, inputs.workspace, inputs.protocol, inputs.reader, inputs.corpus)
    means, _ = read_stories(open_sources(*place, denoise=0.0), layer)
    shared: Floats = geometry.unit(means.means().mean(axis=0)[None])[0]
    return shared


def step(inputs: Inputs, stage: str) -> Callable[[int, int, str], None] | None:
    """What tells the user of the steps of a stage; None when nobody watches."""
    watch = inputs.watch
    return None if watch is None else lambda done, total, note: watch(stage, done, total, note)
