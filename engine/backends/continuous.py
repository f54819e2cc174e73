"""Decodes rows that come and go: a waiting row takes the place of a finished one between two steps.

transformers has a manager for this, but with one seed for all of its rows, and it gives all of them
up when memory runs short. Knows nothing of budgets, threads or who waits for the rows.
"""

import inspect
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.backends.joining import JoiningCache
from engine.backends.rows import IDLE_SHARE, Row
from engine.backends.sampling import RowSampler
from engine.models import Model


class ContinuousDecoder:
    """Rows in flight, and the cache of their past.

    An error leaves every row as the last whole step left it; only `clear` may follow.
    """

    mode = "continuous"

    def __init__(self, model: Model) -> None:
        self._model = model
        self._network: Any = model.model
        self._ends = model.end_tokens
        arguments = inspect.signature(self._network.forward).parameters
        # else every token of a prompt gets its scores, of which only the last are wanted
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}
        self.clear()

    def clear(self) -> None:
        """Forget all rows, and free their cache."""
        self._rows: list[Row] = []
        self._cache = JoiningCache()
        self._sampler = self._sampler_of([])

    def admit(self, newcomers: Sequence[Row]) -> list[Row]:
        """Drop what is done and read what the newcomers hold; returns those done by one token."""
        with torch.inference_mode():
            kept = [i for i, row in enumerate(self._rows) if not row.done]
            rows = [self._rows[i] for i in kept]
            cache = JoiningCache()
            scores = self._forward(newcomers, cache) if newcomers else None
            if rows:
                # all but its newest token are in the cache of a row
                width = max(cache.width, *(row.length - 1 for row in rows))
                self._cache.join(kept, cache, width)
            else:
                self._cache = cache
            self._rows = [*rows, *newcomers]
            self._sampler = self._sampler_of(self._rows)
            if scores is None:
                return []
            return self._write(newcomers, self._sampler_of(newcomers), scores)

    def advance(self, pause: threading.Event) -> list[Row]:
        """Take steps until rows are done or `pause` is set; returns the rows that are done now."""
        if IDLE_SHARE * sum(row.done for row in self._rows) >= len(self._rows):
            self.admit([])
        done: list[Row] = []
        with torch.inference_mode():
            while self._rows and not done and not pause.is_set():
                scores = self._forward(self._rows, self._cache)
                done = self._write(self._rows, self._sampler, scores)
        return done

    def _forward(self, rows: Sequence[Row], cache: JoiningCache) -> Tensor:
        """Scores [n, v] of each row's next token; what a row holds and `cache` lacks goes there.

        In an empty cache that is all of it, later its newest token.
        """
        columns = 1 if cache.width else max(row.length for row in rows)
        width = cache.width + columns
        device = self._model.device
        ids = torch.tensor([self._newest(row, columns) for row in rows], device=device)
        empty = width - torch.tensor([[row.length] for row in rows], device=device)
        places = torch.arange(width, device=device)
        output = self._network(
            input_ids=ids,
            attention_mask=places >= empty,
            position_ids=(places[-columns:] - empty).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            **self._options,
        )
        scores: Tensor = output.logits[:, -1]
        return scores

    def _newest(self, row: Row, columns: int) -> list[int]:
        """The last tokens of a row, with padding at their left."""
        if columns == 1 and row.tokens:
            return row.tokens[-1:]
        return [self._model.pad_token] * (columns - row.length) + [*row.prompt, *row.tokens]

    def _write(self, rows: Sequence[Row], sampler: RowSampler, scores: Tensor) -> list[Row]:
        """Draw a token for each row that is not done; returns the rows that are done with it."""
        numbers = np.stack([row.numbers[len(row.tokens)] for row in rows])
        tokens = sampler.draw(scores, numbers).tolist()
        written = [(row, token) for row, token in zip(rows, tokens, strict=True) if not row.done]
        for row, token in written:
            row.tokens.append(token)
            row.ended = token in self._ends
        return [row for row, _ in written if row.done]

    def _sampler_of(self, rows: Sequence[Row]) -> RowSampler:
        return RowSampler([row.request for row in rows], self._model.device)
