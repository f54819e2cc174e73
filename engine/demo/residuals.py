"""Reads texts with a trained demo model: residuals of one layer, pooled means, sampled stories.

Knows nothing of emotions. Rows are padded on the right, which a causal model cannot see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from engine.demo.layers import run_layers
from engine.demo.measures import Floats
from engine.demo.tokenizer import EOS_ID, PAD_ID
from engine.tokens import encode_prompt, render_prompt

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Reader:
    """A Llama with its tokenizer, read at one 0-based layer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    layer: int
    fast: bool = False
    """Whether to use bf16 above the layer: a logit errs by 0.04 at most, in a third of the time."""

    @property
    def upper(self) -> int:
        """The first layer above the one that is read."""
        return self.layer + 1


@dataclass(frozen=True)
class Padded:
    """Some of the texts: their `indices`, `ids` [n, t] padded on the right, `lengths` [n]."""

    indices: list[int]
    ids: Tensor
    lengths: Tensor


def batches(texts: Sequence[Sequence[int]], device: torch.device) -> Iterator[Padded]:
    """Batches of texts of similar length, at most BATCH_TOKENS tokens each with their padding."""
    waiting = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    while waiting:
        fit = max(1, BATCH_TOKENS // len(texts[waiting[-1]]))
        indices, waiting = waiting[-fit:], waiting[:-fit]
        lengths = [len(texts[i]) for i in indices]
        ids = torch.full((len(indices), max(lengths)), PAD_ID)
        for row, index in zip(ids, indices, strict=True):
            row[: len(texts[index])] = torch.tensor(texts[index])
        yield Padded(indices, ids.to(device), torch.tensor(lengths, device=device))


def residual(reader: Reader, ids: Tensor) -> Tensor:
    """The residual [n, t, d] of the reader's layer."""
    hidden = reader.model.model.embed_tokens(ids)
    return run_layers(reader.model, hidden, range(reader.upper))


def encode_texts(reader: Reader, texts: Sequence[str]) -> list[list[int]]:
    """Bare texts with one start token each."""
    encoded: list[list[int]] = reader.tokenizer(list(texts))["input_ids"]
    return encoded


def pooled_means(reader: Reader, texts: Sequence[Sequence[int]], first: int) -> Floats:
    """Mean residual [n, d] of each text's tokens from the `first` on, the start token not counted.

    A text that is too short has a row of NaN.
    """
    means = np.full((len(texts), reader.model.config.hidden_size), np.nan)
    for batch in batches(texts, reader.model.device):
        position = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        inside = (position > first) & (position < batch.lengths[:, None])
        total = (residual(reader, batch.ids) * inside[..., None]).double().sum(dim=1)
        means[batch.indices] = (total / inside.sum(dim=1, keepdim=True)).cpu().numpy()
    return means


def last_residuals(reader: Reader, prompts: Sequence[str]) -> Floats:
    """Residual [n, d] at the last token of rendered prompts: where the answer starts."""
    texts = [encode_prompt(reader.tokenizer, prompt) for prompt in prompts]
    last = np.zeros((len(texts), reader.model.config.hidden_size))
    for batch in batches(texts, reader.model.device):
        rows = torch.arange(len(batch.indices), device=batch.ids.device)
        hidden = residual(reader, batch.ids)[rows, batch.lengths - 1]
        last[batch.indices] = hidden.double().cpu().numpy()
    return last


def mean_norm(reader: Reader, texts: Sequence[Sequence[int]]) -> float:
    """Mean length of the residual over all tokens but the start tokens."""
    total, tokens = 0.0, 0
    for batch in batches(texts, reader.model.device):
        norms = residual(reader, batch.ids).norm(dim=-1)
        position = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        inside = (position > 0) & (position < batch.lengths[:, None])
        total += float(norms[inside].sum())
        tokens += int(inside.sum())
    return total / tokens


def token_loss(reader: Reader, texts: Sequence[str]) -> float:
    """Mean cross entropy per token of texts read to their end token, in nats."""
    encoded = [[*ids, EOS_ID] for ids in encode_texts(reader, texts)]
    total, tokens = 0.0, 0
    for batch in batches(encoded, reader.model.device):
        logits = reader.model(input_ids=batch.ids).logits[:, :-1].float()
        position = torch.arange(1, batch.ids.shape[1], device=batch.ids.device)
        inside = position < batch.lengths[:, None]
        total += float(
            torch.nn.functional.cross_entropy(
                logits[inside], batch.ids[:, 1:][inside], reduction="sum"
            )
        )
        tokens += int(inside.sum())
    return total / tokens


def write_texts(
    reader: Reader, prompts: Sequence[str], *, seed: int, max_tokens: int = 240, batch: int = 256
) -> list[str]:
    """One sampled answer (temperature 1) to each prompt, without its end token."""
    answers: list[str] = []
    for first in range(0, len(prompts), batch):
        rendered = [render_prompt(reader.tokenizer, p) for p in prompts[first : first + batch]]
        inputs = reader.tokenizer(
            rendered,
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(reader.model.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed + first)
            written = cast("Any", reader.model).generate(
                **inputs, do_sample=True, top_k=0, max_new_tokens=max_tokens
            )
        new = written[:, inputs["input_ids"].shape[1] :]
        answers += reader.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [answer.strip() for answer in answers]
