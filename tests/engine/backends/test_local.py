"""Rows are answered as if each were alone: sampling is exact, seeded by row, cut at its end."""

import asyncio
import shutil
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from engine.backends.base import Failure, Reply, Request
from engine.backends.local import LocalBackend, RowSampler, keep_nucleus, row_numbers
from engine.models import Model, load_model
from engine.tokens import encode_prompt
from tests.engine.tiny import EOS, text_of

MAX_TOKENS = 24
UNUSED = 3  # a token that greedy answers do not hold


def request(key: int, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "key": key,
        "prompt": text_of(3 + key % 5, start=key),
        "seed": 1000 + key,
        "max_tokens": MAX_TOKENS,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    return Request(**fields | changes)


def answer(
    model: Model, requests: list[Request], batch_size: int = 4
) -> dict[int, Reply | Failure]:
    async def collect() -> dict[int, Reply | Failure]:
        backend = LocalBackend(model, batch_size=batch_size)
        return {found.key: found async for found in backend.generate(requests)}

    return asyncio.run(collect())


def texts(answers: dict[int, Reply | Failure]) -> dict[int, str]:
    return {key: found.text for key, found in answers.items() if isinstance(found, Reply)}


def plain_greedy(model: Model, prompt: str, max_tokens: int = MAX_TOKENS) -> str:
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


def test_greedy_equals_plain_generate(tiny: Model) -> None:
    requests = [request(key, temperature=0.0) for key in range(6)]
    expected = {r.key: plain_greedy(tiny, r.prompt) for r in requests}
    assert texts(answer(tiny, requests)) == expected


def test_a_rows_text_does_not_depend_on_its_batch(tiny: Model) -> None:
    requests = [request(key, top_p=0.9) for key in range(8)]
    alone = texts(answer(tiny, requests, batch_size=1))
    assert texts(answer(tiny, requests, batch_size=8)) == alone
    assert texts(answer(tiny, requests[::-1], batch_size=3)) == alone


def test_another_seed_gives_another_text(tiny: Model) -> None:
    found = texts(answer(tiny, [request(0, prompt="The"), request(1, prompt="The")]))
    assert found[0] != found[1]


def test_greedy_and_sampled_rows_share_a_batch(tiny: Model) -> None:
    requests = [request(0, temperature=0.0), request(1), request(2, temperature=0.0)]
    mixed = texts(answer(tiny, requests))
    assert mixed[0] == plain_greedy(tiny, requests[0].prompt)
    assert mixed[1] == texts(answer(tiny, [requests[1]]))[1]


def test_a_reply_says_how_it_ended(tiny: Model) -> None:
    requests = [request(key, temperature=2.0, max_tokens=120) for key in range(12)]
    answers = answer(tiny, requests, batch_size=12)
    replies = [found for found in answers.values() if isinstance(found, Reply)]
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}
    for reply in replies:
        assert "<eos>" not in reply.text
        assert (reply.output_tokens == 120) == (reply.finish_reason == "length")
        assert reply.prompt_tokens == len(encode_prompt(tiny.tokenizer, requests[reply.key].prompt))


def test_a_row_is_cut_at_its_own_limit(tiny: Model) -> None:
    requests = [request(0, temperature=0.0, max_tokens=5), request(1, max_tokens=30)]
    reply = answer(tiny, requests)[0]
    assert isinstance(reply, Reply)
    assert (reply.output_tokens, reply.finish_reason) == (5, "length")
    assert reply.text == plain_greedy(tiny, requests[0].prompt, max_tokens=5)


def test_a_prompt_beyond_the_context_fails_alone(tiny: Model) -> None:
    answers = answer(tiny, [request(0), request(1, prompt=text_of(400)), request(2)])
    poisoned = answers.pop(1)
    assert isinstance(poisoned, Failure)
    assert poisoned.reason.startswith("prompt_too_long")
    assert sorted(texts(answers)) == [0, 2]


def test_the_habits_of_a_checkpoint_are_not_ours(
    tiny: Model, tiny_path: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "habits")
    settings: Any = GenerationConfig
    habits = settings(repetition_penalty=9.0, do_sample=True, eos_token_id=[EOS, UNUSED])
    habits.save_pretrained(copy)
    model = load_model(str(copy), device="cpu")
    assert model.end_tokens == {EOS, UNUSED}
    prompts = [request(key, temperature=0.0) for key in range(4)]
    assert texts(answer(model, prompts)) == {r.key: plain_greedy(tiny, r.prompt) for r in prompts}


def test_a_batch_nobody_waits_for_ends_at_its_next_step(tiny: Model) -> None:
    steps = Counter[str]()
    hook = tiny.model.register_forward_hook(lambda *_: steps.update(["forward"]))

    async def leave() -> None:
        stream = LocalBackend(tiny, batch_size=1).generate(
            [request(0, temperature=2.0, max_tokens=200, prompt="The", seed=3)]
        )
        async with aclosing(stream):
            arriving = asyncio.ensure_future(anext(stream))
            while not steps:
                await asyncio.sleep(0.001)
            arriving.cancel()
            await asyncio.wait({arriving})

    try:
        full = Counter(steps)
        answer(tiny, [request(0, temperature=2.0, max_tokens=200, prompt="The", seed=3)])
        full = steps - full
        steps.clear()
        asyncio.run(leave())
    finally:
        hook.remove()
    assert steps["forward"] < full["forward"] / 2


def test_the_numbers_of_a_row_depend_on_its_seed_alone() -> None:
    assert np.array_equal(row_numbers(5, 100)[:7], row_numbers(5, 7))
    assert not np.array_equal(row_numbers(5, 7), row_numbers(6, 7))


def frequencies(logits: list[float], rows: int, **changes: Any) -> torch.Tensor:
    """How often each token is drawn by many rows that see the same scores."""
    requests = [request(key, max_tokens=1, **changes) for key in range(rows)]
    sampler: Any = RowSampler(requests, 3, torch.device("cpu"))
    scores = torch.tensor([logits]).expand(rows, -1)
    drawn = sampler(torch.zeros((rows, 3), dtype=torch.long), scores).argmax(dim=1)
    return torch.bincount(drawn, minlength=len(logits)) / rows


LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]
ROWS = 20_000
# four standard errors of a share estimated from 20,000 rows
SHARE_ERROR = 4 * 0.5 / ROWS**0.5


def test_tokens_are_drawn_as_often_as_their_probability() -> None:
    expected = torch.softmax(torch.tensor(LOGITS) / 0.7, dim=0)
    found = frequencies(LOGITS, ROWS, temperature=0.7)
    assert torch.allclose(found, expected, atol=SHARE_ERROR)


def test_the_nucleus_is_drawn_from_and_nothing_else() -> None:
    expected = torch.softmax(torch.tensor(LOGITS), dim=0)
    expected[3:] = 0  # the first three hold .88 of the mass, the first two .74
    found = frequencies(LOGITS, ROWS, top_p=0.8)
    assert found[3:].sum() == 0
    assert torch.allclose(found, expected / expected.sum(), atol=SHARE_ERROR)


@pytest.mark.parametrize(("top_p", "kept"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.8, 2), (1.0, 4)])
def test_the_nucleus_is_the_fewest_tokens_that_reach_its_mass(top_p: float, kept: int) -> None:
    probabilities = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    nucleus = keep_nucleus(probabilities, torch.tensor([[top_p]]))
    assert int((nucleus > 0).sum()) == kept
    assert torch.equal(nucleus[nucleus > 0], probabilities[nucleus > 0])
