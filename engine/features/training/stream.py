"""Tokens to train on: what a model makes of texts, in buffers that are shuffled as a whole.

A buffer hangs on the seed and its number alone, not on those before it. Where all texts fit in one,
they are read once and shuffled anew. Knows nothing of SAEs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.features.codes import TokenRecorder
from engine.features.training.texts import DOCUMENT_TOKENS, StoredText, load_texts
from engine.pooling import Batch, BatchReader
from engine.projection.cutting import read_beginning
from engine.readings import Reading, TextReader
from stores.database import Connection
from stores.errors import ModelError, NoRoom, Stopped

Tokens = NDArray[np.float32]
"""Activations [t, d]."""


@dataclass(slots=True)
class TokenReader(BatchReader):
    """Reads texts at one layer and keeps every content token: all that is no BOS or template."""

    reader: TextReader
    layer: int
    unreadable: set[StoredText] = field(default_factory=set, init=False)

    def gather(self, conn: Connection, texts: Sequence[StoredText]) -> Tokens:
        """Their tokens, text after text, those of `unreadable` ones left out.

        Raises Stopped, NoRoom for a text that does not fit the memory, ModelError for activations
        that are not finite, NotReady for a text that changed.
        """
        readings = [
            self._read(text, stored)
            for text, stored in zip(load_texts(conn, texts), texts, strict=True)
        ]
        sound = [i for i, reading in enumerate(readings) if reading.fault is None]
        self.unreadable |= {texts[i] for i in range(len(texts)) if readings[i].fault}
        segments = [readings[i].segment for i in sound]
        bounds = np.cumsum([0, *(readings[i].length for i in sound)])
        tokens = np.empty((int(bounds[-1]), self.model.d_model), np.float32)

        def keep(batch: Batch, rows: Tokens) -> None:
            edges = np.cumsum([readings[sound[i]].length for i in batch])[:-1]
            for i, own in zip(batch, np.split(rows, edges), strict=True):
                tokens[bounds[i] : bounds[i + 1]] = own

        recorder = TokenRecorder(self.model, self.layer, self.batching)
        too_large = self.read(recorder, segments, range(len(sound)), keep, lambda *_: None)
        if too_large is None:
            raise Stopped("stopped while texts were read; the same command goes on")
        self._require_sound(tokens, len(too_large))
        return tokens

    def _read(self, text: str, stored: StoredText) -> Reading:
        if stored.sample is None:
            return self.reader.read(text)
        return read_beginning(self.reader, text, DOCUMENT_TOKENS).reading

    def _require_sound(self, tokens: Tokens, too_large: int) -> None:
        if too_large:
            raise NoRoom(f"{too_large} texts do not fit the memory even alone; free some of it")
        if broken := len(tokens) - int(np.isfinite(tokens).all(axis=1).sum()):
            raise ModelError(
                f"{broken} of {len(tokens)} tokens of model {self.model.name} are not finite after "
                f"block {self.layer}; read with another --dtype, such as float32"
            )


@dataclass(slots=True)
class TokenStream:
    """Buffers of about `buffer_tokens` tokens, for ever: all texts, then all in another order."""

    gather: Callable[[Sequence[StoredText]], Tokens]
    texts: Sequence[StoredText]
    buffer_tokens: int
    seed: int
    _all: Tokens | None = field(default=None, init=False)
    """Every token, where one buffer holds them."""

    @property
    def buffers(self) -> int:
        """How many hold every text once."""
        return math.ceil(sum(each.tokens for each in self.texts) / self.buffer_tokens)

    def read(self, number: int) -> tuple[Tokens, NDArray[np.int64]]:
        """Buffer `number`: its tokens, and the order they come in."""
        tokens = self._gather(number)
        return tokens, np.random.default_rng([self.seed, 1, number]).permutation(len(tokens))

    def _gather(self, number: int) -> Tokens:
        if self.buffers > 1:
            return self.gather([self.texts[i] for i in self.cut(number)])
        if self._all is None:
            self._all = self.gather(self.texts)
        return self._all

    def cut(self, number: int) -> list[int]:
        """Which texts buffer `number` holds: each text is in one buffer of its round."""
        turn, part = divmod(number, self.buffers)
        order = np.random.default_rng([self.seed, 2, turn]).permutation(len(self.texts))
        lengths = np.array([each.tokens for each in self.texts])[order]
        ends = np.cumsum(lengths)
        edges = ends[-1] / self.buffers * np.array([part, part + 1])
        first, last = np.searchsorted(ends - lengths / 2, edges)  # where a text's middle lies
        return sorted(order[first:last].tolist())
