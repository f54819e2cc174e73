"""Decodes one batch at a time through `generate`: all of its rows wait for the slowest.

For models whose cache rows cannot join midway. Knows nothing of budgets, or who waits for the rows.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engine.backends.rows import Row
from engine.backends.sampling import SamplingProcessor
from engine.models import Model
from engine.packing import pad


class StaticDecoder:
    """A left-padded batch. An error leaves its rows unwritten; only `clear` may follow."""

    mode = "static"

    def __init__(self, model: Model) -> None:
        self._model = model
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self._rows: list[Row] = []

    def admit(self, newcomers: Sequence[Row]) -> list[Row]:
        """Make the newcomers the next batch; none is done yet."""
        self._rows = list(newcomers)
        return []

    def advance(self, pause: threading.Event) -> list[Row]:
        """Write all of the batch and return it, less what is unfinished when `pause` is set."""
        rows, device = self._rows, self._model.device
        ids, mask = pad([row.prompt for row in rows], self._model.pad_token, "left")
        width = ids.shape[1]
        network: Any = self._model.model
        sampler = SamplingProcessor([row.request for row in rows], width, device)
        with torch.inference_mode():
            output = network.generate(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                generation_config=self._settings(max(row.limit for row in rows)),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([_Abandoned(pause)]),
            )
        for row, tokens in zip(rows, output[:, width:].tolist(), strict=True):
            self._cut(row, tokens)
        self.clear()
        return [row for row in rows if row.done]

    def _settings(self, tokens: int) -> Any:
        """Greedy, because the sampler has chosen already."""
        settings: Any = GenerationConfig
        return settings(
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(self._model.end_tokens) or None,
            pad_token_id=self._model.pad_token,
        )

    def _cut(self, row: Row, tokens: list[int]) -> None:
        """Keep what is before the row's end token or limit: what follows is padding."""
        for token in tokens[: row.limit]:
            row.tokens.append(token)
            row.ended = token in self._model.end_tokens
            if row.ended:
                break


class _Abandoned(StoppingCriteria):
    """Ends a batch at its next step once nobody waits for it."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
