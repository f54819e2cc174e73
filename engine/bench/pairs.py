"""The questions of a steering sweep in random tokens, and the plain way to ask them.

Lengths are those of the protocol's activities under a tokenizer of the size of Llama's, in the
plain form; a chat template would put more tokens before the first option. Knows nothing of clocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.bench.contest import Numbers
from engine.bench.shapes import BOS, FIRST_TOKEN
from engine.capture import capture
from engine.models import Model, residual
from engine.packing import Segment, pad

BEFORE, BETWEEN, AFTER = 10, 4, 6
"""Tokens of 'Human: Would you prefer to (A)' with its BOS, ' or (B)' and '?\\n\\nAssistant: ('."""
SHORTEST, LONGEST = 6, 16
"""Tokens of an activity; lengths between them are drawn alike."""
PLAIN_BATCH = 32
STRENGTH = 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """One question: which activities it puts first and second, its tokens, and theirs."""

    first: int
    second: int
    ids: tuple[int, ...]
    spans: tuple[slice, slice]

    @property
    def shared(self) -> int:
        """Tokens that all questions with this first option begin with."""
        start: int = self.spans[1].start
        return start

    def where(self, steered: frozenset[int]) -> tuple[slice, ...]:
        """The tokens of its steered activities."""
        both = zip((self.first, self.second), self.spans, strict=True)
        return tuple(span for activity, span in both if activity in steered)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every ordered pair of activities, asked under every vector; even activities are steered."""

    model: Model
    layer: int
    activities: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]
    vectors: Numbers
    """[m, d], of the length that is added."""

    @property
    def steered(self) -> frozenset[int]:
        """Every second activity; the others are the controls."""
        return frozenset(range(0, len(self.activities), 2))

    @property
    def answers(self) -> tuple[int, int]:
        """The tokens that are compared."""
        return FIRST_TOKEN, FIRST_TOKEN + 1

    def sample(self, firsts: int) -> tuple[Pair, ...]:
        """All pairs of some first options, of average length, as many steered as controls."""
        lengths = [len(each) for each in self.activities]
        order = sorted(range(len(lengths)), key=lambda i: abs(lengths[i] - np.mean(lengths)))
        half = firsts // 2
        steered = [i for i in order if i in self.steered][:half]
        controls = [i for i in order if i not in self.steered][:half]
        return tuple(pair for pair in self.pairs if pair.first in (*steered, *controls))


def draw_sweep(model: Model, layer: int, activities: int, vectors: int, seed: int) -> Sweep:
    """Random activities, and random vectors of `STRENGTH` times the mean residual norm."""
    rng = np.random.default_rng(seed)
    words = model.model.config.get_text_config().vocab_size
    frame = [_draw(rng, words, count) for count in (BEFORE - 1, BETWEEN, AFTER)]
    lengths = rng.integers(SHORTEST, LONGEST + 1, activities)
    drawn = tuple(_draw(rng, words, length) for length in lengths)
    every = range(activities)
    pairs = tuple(_pair(frame, drawn, a, b) for a in every for b in every if a != b)
    directions = rng.standard_normal((vectors, model.d_model))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    size = STRENGTH * _mean_norm(model, layer, pairs[:: activities - 1])
    return Sweep(model, layer, drawn, pairs, (size * directions).astype(np.float32))


def _draw(rng: np.random.Generator, words: int, count: int) -> tuple[int, ...]:
    return tuple(rng.integers(FIRST_TOKEN, words, count).tolist())


def _pair(
    frame: Sequence[tuple[int, ...]], activities: Sequence[tuple[int, ...]], first: int, second: int
) -> Pair:
    before, between, after = frame
    one, other = activities[first], activities[second]
    start = BEFORE + len(one) + BETWEEN
    spans = (slice(BEFORE, BEFORE + len(one)), slice(start, start + len(other)))
    return Pair(first, second, (BOS, *before, *one, *between, *other, *after), spans)


def _mean_norm(model: Model, layer: int, pairs: Sequence[Pair]) -> float:
    """Mean length of the residual at `layer` over all tokens but BOS."""
    with capture(model, (layer,)) as pooling:
        segments = [Segment(pair.ids, slice(1, None)) for pair in pairs]
        return float(pooling.start(segments).wait().norms.mean())


def steer_plainly(sweep: Sweep, pairs: Sequence[Pair], vectors: Numbers) -> Numbers:
    """Logits [m, n, 2] by the loop of many a replication: the whole model for every vector.

    A hook on the steered block; batches of `PLAIN_BATCH` as they come, padded; logits of every
    token over the whole vocabulary.
    """
    network: Any = sweep.model.model
    found = np.empty((len(vectors), len(pairs), 2), np.float32)
    for row, vector in zip(found, vectors, strict=True):
        for start in range(0, len(pairs), PLAIN_BATCH):
            batch = pairs[start : start + PLAIN_BATCH]
            ids, mask, places, last = _rectangle(sweep, batch)
            with torch.inference_mode(), _added(sweep, places, vector):
                logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits
            chosen = logits[torch.arange(len(batch)), last][:, list(sweep.answers)]
            row[start : start + PLAIN_BATCH] = chosen.float().cpu().numpy()
    return found


def _rectangle(sweep: Sweep, batch: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, mask, steered) [b, t] and the place of each last token [b], on the model's device."""
    ids, mask = pad([pair.ids for pair in batch], sweep.model.pad_token, "right")
    places = np.zeros(ids.shape, np.float32)
    for row, pair in zip(places, batch, strict=True):
        for span in pair.where(sweep.steered):
            row[span] = 1.0
    last = mask.sum(axis=1) - 1
    device = sweep.model.device
    ready = (torch.from_numpy(each).to(device) for each in (ids, mask, places, last))
    return tuple(ready)  # type: ignore[return-value]


@contextmanager
def _added(sweep: Sweep, places: Tensor, vector: Numbers) -> Iterator[None]:
    """Add `vector` to what the steered block gives, at `places`, while the block runs."""

    def add(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        states = residual(output)
        added = places[..., None] * torch.from_numpy(vector).to(places.device)
        changed = (states.float() + added.to(states.device)).to(states.dtype)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    hook = sweep.model.blocks[sweep.layer].register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
