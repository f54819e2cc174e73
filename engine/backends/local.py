"""Answers requests with a model loaded here, in static left-padded batches.

Every row is sampled with its own random numbers, whichever rows share its batch: its text is the
same in any batch, but for the rare token whose probability rounding moves across a random number.
Knows nothing of emotions, topics or databases.
"""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engine.backends.base import Failure, Reply, Request
from engine.models import Model
from engine.packing import pad
from engine.tokens import encode_prompt

Prompt = tuple[Request, tuple[int, ...]]


class RowSampler(LogitsProcessor):
    """Draws each row's next token by the inverse of its distribution, and leaves only that token.

    Two uniform numbers per row and step decide, a function of the row's seed and the step alone:
    the first draws from all tokens; where that token lies outside the nucleus of `top_p`, the
    second draws from inside. Temperature 0 leaves the scores as they are: the likeliest follows.
    """

    def __init__(self, requests: Sequence[Request], width: int, device: torch.device) -> None:
        """`width` is the padded length of the prompts: what comes after it is step 0, 1, ..."""
        steps = max(request.max_tokens for request in requests)
        numbers = np.stack([row_numbers(request.seed, steps) for request in requests])
        self._numbers = torch.from_numpy(numbers).to(device)
        self._temperature = _column([request.temperature for request in requests], device)
        self._top_p = _column([request.top_p for request in requests], device)
        self._greedy = self._temperature == 0
        self._width = width

    def __call__(self, input_ids: torch.LongTensor, scores: Tensor) -> Tensor:
        first, second = self._numbers[:, input_ids.shape[1] - self._width].unsqueeze(2).unbind(1)
        probabilities = torch.softmax(scores / self._temperature.where(~self._greedy, 1), dim=-1)
        drawn = _draw(probabilities, first)
        likelier = probabilities * (probabilities > probabilities.gather(1, drawn))
        outside = (likelier.sum(dim=1, keepdim=True) >= self._top_p).squeeze(1)
        if bool(outside.any()):
            inside = keep_nucleus(probabilities[outside], self._top_p[outside])
            drawn[outside] = _draw(inside, second[outside])
        alone = torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
        return scores.where(self._greedy, alone)


class _Abandoned(StoppingCriteria):
    """Ends a batch at its next step once nobody waits for it."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)


class LocalBackend:
    """A `Backend` over a loaded model. Batches are cut from prompts sorted by length."""

    name = "local"

    def __init__(self, model: Model, *, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        self._eos = model.end_tokens
        self._pad = model.pad_token
        self.model = model.name
        self.revision = model.revision

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Reply | Failure, None]:
        """Yield the replies of each batch when the batch has finished."""
        prompts = [(r, encode_prompt(self._model.tokenizer, r.prompt)) for r in requests]
        prompts.sort(key=lambda prompt: len(prompt[1]))
        context = self._model.context or sys.maxsize
        while prompts and len(prompts[-1][1]) >= context:
            request, tokens = prompts.pop()
            reason = f"prompt_too_long: {len(tokens)} tokens, the context is {context}"
            yield Failure(key=request.key, reason=reason)
        for first in range(0, len(prompts), self._batch_size):
            batch = prompts[first : first + self._batch_size]
            abandoned = threading.Event()
            try:
                replies = await asyncio.to_thread(self._answer, batch, abandoned)
            finally:
                abandoned.set()
            for reply in replies:
                yield reply

    def _answer(self, batch: Sequence[Prompt], abandoned: threading.Event) -> list[Reply]:
        started = time.perf_counter()
        network: Any = self._model.model
        ids, mask = pad([prompt for _, prompt in batch], self._pad, "left")
        width, device = ids.shape[1], self._model.device
        sampler = RowSampler([request for request, _ in batch], width, device)
        with torch.inference_mode():
            output = network.generate(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                generation_config=self._settings(batch, width),
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([_Abandoned(abandoned)]),
            )
        latency = time.perf_counter() - started
        tokens = output[:, width:].tolist()
        return [
            self._reply(request, prompt, row, latency)
            for (request, prompt), row in zip(batch, tokens, strict=True)
        ]

    def _settings(self, batch: Sequence[Prompt], width: int) -> Any:
        """Greedy, because the sampler has chosen already; as many tokens as the context allows."""
        wanted = max(request.max_tokens for request, _ in batch)
        settings: Any = GenerationConfig
        return settings(
            max_new_tokens=min(wanted, (self._model.context or sys.maxsize) - width),
            do_sample=False,
            eos_token_id=list(self._eos) or None,
            pad_token_id=self._pad,
        )

    def _reply(
        self, request: Request, prompt: tuple[int, ...], tokens: list[int], latency: float
    ) -> Reply:
        """Cut one row at its end token, or at its own limit when it produced none."""
        tokens = tokens[: request.max_tokens]
        ends = [i for i, token in enumerate(tokens) if token in self._eos]
        if ends:
            tokens = tokens[: ends[0] + 1]
        text = self._model.tokenizer.decode(tokens, skip_special_tokens=True)
        return Reply(
            key=request.key,
            text=str(text),
            finish_reason="stop" if ends else "length",
            prompt_tokens=len(prompt),
            output_tokens=len(tokens),
            latency_s=latency,
        )


def row_numbers(seed: int, steps: int) -> NDArray[np.float64]:
    """The uniform numbers [steps, 2] in [0, 1) of one row: a function of its seed alone."""
    return np.random.Generator(np.random.Philox(key=seed)).random((steps, 2))


def keep_nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but each row's most likely tokens whose mass first reaches `top_p` [b, 1]."""
    falling = probabilities.sort(dim=-1, descending=True).values
    mass = falling.cumsum(dim=-1)
    last = (mass < top_p).sum(dim=-1, keepdim=True).clamp(max=falling.shape[1] - 1)
    return probabilities.where(probabilities >= falling.gather(1, last), 0)


def _draw(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """The token at which the running sum passes a uniform number, [b, 1]."""
    mass = probabilities.cumsum(dim=-1, dtype=torch.float64)
    drawn = torch.searchsorted(mass, numbers * mass[:, -1:], right=True)
    return drawn.clamp(max=probabilities.shape[1] - 1)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)
