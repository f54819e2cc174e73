"""Requests for the tiny models, and what a local backend answers to them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import torch

from engine.backends.base import Failure, Reply, Request, Requests
from engine.backends.listed import Listed
from engine.backends.local import LocalBackend
from engine.models import Model
from engine.tokens import encode_prompt
from tests.engine.tiny import text_of

MAX_TOKENS = 24

Answers = dict[int, Reply | Failure]


def request(key: int, **changes: Any) -> Request:
    """A short prompt of its own, sampled at temperature 1."""
    fields: dict[str, Any] = {
        "key": key,
        "prompt": text_of(3 + key % 5, start=key),
        "seed": 1000 + key,
        "max_tokens": MAX_TOKENS,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    return Request(**fields | changes)


def mixed_requests(count: int, **changes: Any) -> list[Request]:
    """Prompts of 2 to 41 words that may have 2 to 50 tokens as an answer."""
    return [
        request(
            key,
            prompt=text_of(2 + key * 7 % 40, start=key),
            max_tokens=(30, 2, 50, 12)[key % 4],
            **changes,
        )
        for key in range(count)
    ]


def collect(backend: LocalBackend, requests: Requests) -> list[Reply | Failure]:
    """All answers, in the order in which they came."""

    async def listen() -> list[Reply | Failure]:
        return [answer async for answer in backend.generate(requests)]

    return asyncio.run(listen())


def answer(model: Model, requests: Sequence[Request], workers: int = 4, **options: Any) -> Answers:
    """The one answer to each request."""
    found = collect(LocalBackend(model, workers=workers, **options), Listed(requests))
    assert sorted(each.key for each in found) == sorted(each.key for each in requests)
    return {each.key: each for each in found}


def texts(answers: Answers) -> dict[int, str]:
    return {key: found.text for key, found in answers.items() if isinstance(found, Reply)}


def plain_greedy(model: Model, prompt: str, max_tokens: int = MAX_TOKENS) -> str:
    """What `generate` writes to this prompt alone."""
    ids = torch.tensor([encode_prompt(model.tokenizer, prompt)])
    network: Any = model.model
    output = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return str(model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
