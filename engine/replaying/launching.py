"""Runs the upper blocks again with vectors added, from states that were read once.

A launch holds several variants of several prompts of one length, all rows of a variant after one
another. Knows nothing of how its prompts and variants were chosen.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.models import Model
from engine.replaying.anatomy import Anatomy
from engine.replaying.calls import Cut, cut_call, cut_shared
from engine.replaying.keys import Keys, KeysKnownError, Pair, Stems
from engine.replaying.reading import Reading


@dataclass(frozen=True, slots=True)
class Upper:
    """The blocks above layer `start`; `keyed` says whether they are run with keys that are kept."""

    model: Model
    anatomy: Anatomy
    start: int
    keyed: bool

    @property
    def last_keyed(self) -> int:
        """The last block that makes keys, `start` if none does: only the last token needs more."""
        above = range(self.start + 1, self.model.n_layers)
        return max((layer for layer in above if layer in self.anatomy.keyed), default=self.start)


class Launch:
    """Variants of prompts of `cut.keys` tokens each, or of their stems; `vectors` [v, d] by layer.

    As many variants as `cut.runs`.
    """

    def __init__(
        self, upper: Upper, reading: Reading, cut: Cut, vectors: Mapping[int, Tensor]
    ) -> None:
        self._upper, self._reading, self._cut, self._vectors = upper, reading, cut, vectors
        self._where = reading.where.index_select(0, cut.rows)
        i = upper.start + 1 - upper.anatomy.first
        calls, axes = reading.calls[i : i + 1], upper.anatomy.axes[i : i + 1]
        self._shared = cut_shared(calls[0], axes[0], cut) if calls else {}

    def stems(self) -> dict[int, Pair]:
        """Keys and values by block: all that the tokens after the stems need of them."""
        last, tokens = self._upper.last_keyed, self._cut.tokens
        states = self._begin(tokens)
        pairs: dict[int, Pair] = {}
        for layer in range(self._upper.start + 1, last + 1):
            keys = Keys(0, self._cut.runs, stop=layer == last)
            with suppress(KeysKnownError):
                states = self._run(layer, states, tokens, keys)
            if keys.known is not None:
                pairs[layer] = keys.known
        return pairs

    def finish(self, stems: Mapping[int, Stems]) -> Tensor:
        """resid_post [v * n, d] of the last block at each prompt's last token."""
        upper, tokens, runs = self._upper, self._cut.tokens, self._cut.runs
        end = slice(self._cut.keys - 1, self._cut.keys)
        if upper.keyed and upper.last_keyed == upper.start:
            tokens = end
        states = self._begin(tokens)
        for layer in range(upper.start + 1, upper.model.n_layers):
            keys = None
            if upper.keyed and layer == upper.last_keyed:
                every = Keys(tokens.start, runs, stems=stems.get(layer), stop=True)
                with suppress(KeysKnownError):
                    self._run(layer, states, tokens, every)
                keys = Keys(end.start, runs, known=every.known)
                tokens, states = end, states[:, -1:]
            elif upper.keyed:
                keys = Keys(tokens.start, runs, stems=stems.get(layer))
            states = self._run(layer, states, tokens, keys)
        return states[:, -1]

    def _begin(self, tokens: slice) -> Tensor:
        """Where the lowest additions go: [v * n, t, d]."""
        states = self._reading.states[self._upper.start]
        states = states.index_select(0, self._cut.rows.to(states.device))[:, tokens]
        came = self._steer(self._upper.start, states, tokens)
        variants = len(came) // len(states)
        return came.repeat(self._cut.runs // variants, 1, 1)

    def _run(self, layer: int, states: Tensor, tokens: slice, keys: Keys | None) -> Tensor:
        i = layer - self._upper.anatomy.first
        cut = replace(self._cut, tokens=tokens)
        call = cut_call(self._reading.calls[i], self._upper.anatomy.axes[i], cut, self._shared)
        if keys is not None:
            call = call.with_cache(self._upper.anatomy.places[i], keys)
        states = call.run(self._upper.model.blocks[layer], states)
        return self._steer(layer, states, tokens)

    def _steer(self, layer: int, states: Tensor, tokens: slice) -> Tensor:
        """Add each variant's vector to the steered ones of these tokens, in float32."""
        where = self._where[:, tokens]
        if layer not in self._vectors or not bool(where.any()):
            return states
        vectors = self._vectors[layer].to(states.device)[:, None, None, :]
        on = where.to(states.device)[None, ..., None]
        split = states.float().reshape(-1, len(where), *states.shape[1:])
        return torch.addcmul(split, on, vectors).flatten(0, 1).to(states.dtype)
