"""What a replay is asked and what it answers. Knows nothing of models."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stores.errors import Stopped

Method = Literal["prefix", "last", "upper", "full"]
"""What an addition costs: tokens after a shared prefix in the upper blocks, the last block for the
last token only; upper blocks for all tokens, but the last one; upper blocks; the whole model."""


@dataclass(frozen=True, slots=True)
class Steered:
    """A prompt, and the tokens of it to which additions go; without any, nothing is added."""

    ids: tuple[int, ...]
    where: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Addition:
    """What every steered token gets: by layer, a vector [d] added to resid_post of that layer."""

    vectors: Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits of the k chosen tokens after the last token of n prompts, float32.

    `clean` [n, k]: plain passes through the whole model. `zero` [n, k]: replayed at strength 0 from
    the lowest layer that is added to. `logits` [m, n, k]: with each addition. `drift` is how far
    strength 0 was from clean at most, over all launches; strength 0 is part of every launch.
    """

    clean: NDArray[np.float32]
    zero: NDArray[np.float32]
    logits: NDArray[np.float32]
    drift: float


def mark(prompt: Steered) -> NDArray[np.bool_]:
    """Which tokens of a prompt are steered, [t]."""
    marked = np.zeros(len(prompt.ids), dtype=np.bool_)
    for span in prompt.where:
        marked[span] = True
    return marked


def check_prompt(prompt: Steered) -> None:
    """Raise ValueError for a prompt without tokens, or a slice that is not a span of them."""
    if not prompt.ids:
        raise ValueError("a prompt without tokens")
    for span in prompt.where:
        whole = span.step is None and None not in (span.start, span.stop)
        if not whole or not 0 <= span.start < span.stop <= len(prompt.ids):
            raise ValueError(f"{span}: not a span of a prompt of {len(prompt.ids)} tokens")


def check_addition(addition: Addition, layers: frozenset[int], d_model: int) -> None:
    """Raise ValueError for an addition to other layers, of another width, or not finite."""
    if not addition.vectors or not layers >= set(addition.vectors):
        raise ValueError(f"layers {sorted(addition.vectors)}: opened for {sorted(layers)}")
    for layer, vector in addition.vectors.items():
        if vector.shape != (d_model,) or not np.isfinite(vector).all():
            raise ValueError(f"layer {layer}: a vector {vector.shape}, expected finite [{d_model}]")


def heed(stop: threading.Event | None) -> None:
    """Raise Stopped once the user wants to stop."""
    if stop is not None and stop.is_set():
        raise Stopped("the sweep was stopped; the same command goes on")
