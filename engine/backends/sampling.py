"""Draws next tokens with random numbers that belong to a row, whichever rows are computed with it.

Two uniform numbers per row and step decide, a function of the row's seed and the step alone: the
first draws from all tokens; where that token lies outside the nucleus of `top_p`, the second draws
from inside. A row's text is so the same in any batch, but for the rare token whose probability
rounding moves across a random number: the stored text, not the seed, is the record of what was
written. Knows nothing of models.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from engine.backends.base import Request


class RowSampler:
    """Draws one token for each of its rows. Temperature 0 takes the likeliest."""

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        self._device = device
        self._temperature = self._column([request.temperature for request in requests])
        self._top_p = self._column([request.top_p for request in requests])
        self._greedy = self._temperature == 0
        self._divisor = self._temperature.where(~self._greedy, 1)
        self._any_greedy = bool(self._greedy.any())

    def draw(self, scores: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        """The next tokens [n] by scores [n, v] and each row's two uniform numbers [n, 2]."""
        first, second = torch.from_numpy(numbers).to(self._device).unsqueeze(2).unbind(1)
        scores = scores.float()
        probabilities = torch.softmax(scores / self._divisor, dim=-1)
        drawn = _draw(probabilities, first)
        likelier = probabilities * (probabilities > probabilities.gather(1, drawn))
        outside = (likelier.sum(dim=1, keepdim=True) >= self._top_p).squeeze(1)
        if bool(outside.any()):
            inside = keep_nucleus(probabilities[outside], self._top_p[outside])
            drawn[outside] = _draw(inside, second[outside])
        if self._any_greedy:
            drawn = drawn.where(~self._greedy, scores.argmax(dim=-1, keepdim=True))
        return drawn.squeeze(1)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device).unsqueeze(1)


class SamplingProcessor(LogitsProcessor):
    """Leaves `generate` no choice but the token that a `RowSampler` has drawn."""

    def __init__(self, requests: Sequence[Request], width: int, device: torch.device) -> None:
        """`width` is the padded length of the prompts: what comes after it is step 0, 1, ..."""
        steps = max(request.max_tokens for request in requests)
        self._numbers = np.stack([row_numbers(request.seed, steps) for request in requests])
        self._sampler = RowSampler(requests, device)
        self._width = width

    def __call__(self, input_ids: torch.LongTensor, scores: Any) -> Any:
        drawn = self._sampler.draw(scores, self._numbers[:, input_ids.shape[1] - self._width])
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn.unsqueeze(1), 0.0)


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
