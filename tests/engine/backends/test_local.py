"""Rows are answered as if each were alone: whatever shares their batch, and however it ends."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from engine.backends.base import Failure, Reply
from engine.backends.listed import Listed
from engine.backends.local import LocalBackend
from engine.models import Model, load_model
from engine.tokens import encode_prompt
from tests.engine.backends.asking import (
    answer,
    collect,
    mixed_requests,
    plain_greedy,
    request,
    texts,
)
from tests.engine.tiny import EOS, text_of

UNUSED = 3  # a token that greedy answers do not hold


@pytest.fixture(params=["continuous", "static"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to write, on a model that allows both."""
    if request.param == "static":
        monkeypatch.setattr("engine.backends.local.joining_obstacle", lambda _model: "so it is")
    return str(request.param)


def test_greedy_equals_plain_generate_in_any_mix(mode: str, tiny_family: Model) -> None:
    requests = mixed_requests(9, temperature=0.0)
    expected = {r.key: plain_greedy(tiny_family, r.prompt, r.max_tokens) for r in requests}
    for workers in (1, 4, 9):
        assert texts(answer(tiny_family, requests, workers)) == expected
    assert LocalBackend(tiny_family, workers=1).mode == mode


def test_a_rows_text_does_not_depend_on_its_batch(mode: str, tiny_family: Model) -> None:
    requests = mixed_requests(8, top_p=0.9)
    alone = texts(answer(tiny_family, requests, workers=1))
    assert texts(answer(tiny_family, requests, workers=8)) == alone
    assert texts(answer(tiny_family, requests[::-1], workers=3)) == alone


def test_both_modes_write_the_same(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = mixed_requests(12)
    continuous = texts(answer(tiny, requests))
    monkeypatch.setattr("engine.backends.local.joining_obstacle", lambda _model: "so it is")
    backend = LocalBackend(tiny, workers=4)
    assert texts({found.key: found for found in collect(backend, Listed(requests))}) == continuous
    assert (backend.mode, backend.note()) == ("static", "static batches: so it is")
    assert backend.in_process


def test_another_seed_gives_another_text(tiny: Model) -> None:
    found = texts(answer(tiny, [request(0, prompt="The"), request(1, prompt="The")]))
    assert found[0] != found[1]


def test_greedy_and_sampled_rows_share_a_batch(mode: str, tiny: Model) -> None:
    requests = [request(0, temperature=0.0), request(1), request(2, temperature=0.0)]
    mixed = texts(answer(tiny, requests))
    assert mixed[0] == plain_greedy(tiny, requests[0].prompt)
    assert mixed[1] == texts(answer(tiny, [requests[1]]))[1]


def test_a_reply_says_how_it_ended(mode: str, tiny: Model) -> None:
    requests = [request(key, temperature=2.0, max_tokens=120) for key in range(12)]
    answers = answer(tiny, requests, workers=12)
    replies = [found for found in answers.values() if isinstance(found, Reply)]
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}
    for reply in replies:
        assert "<eos>" not in reply.text
        assert (reply.output_tokens == 120) == (reply.finish_reason == "length")
        assert reply.prompt_tokens == len(encode_prompt(tiny.tokenizer, requests[reply.key].prompt))
        assert reply.latency_s > 0


@pytest.mark.parametrize("limit", [1, 5])
def test_a_row_is_cut_at_its_own_limit(mode: str, tiny: Model, limit: int) -> None:
    requests = [request(0, temperature=0.0, max_tokens=limit), request(1, max_tokens=30)]
    reply = answer(tiny, requests)[0]
    assert isinstance(reply, Reply)
    assert (reply.output_tokens, reply.finish_reason) == (limit, "length")
    assert reply.text == plain_greedy(tiny, requests[0].prompt, max_tokens=limit)


@pytest.mark.parametrize("tiny_family", ["gpt2", "llama"], indirect=True)
def test_a_row_is_cut_at_its_own_context(mode: str, tiny_family: Model) -> None:
    long = request(0, prompt=text_of(100), max_tokens=500, temperature=0.0)
    others = [request(key, max_tokens=150, temperature=0.0) for key in range(1, 5)]
    answers = answer(tiny_family, [long, *others], workers=5)
    found = answers[0]
    assert isinstance(found, Reply)
    assert found.prompt_tokens is not None
    room = 256 - found.prompt_tokens
    assert (found.output_tokens, found.finish_reason) == (room, "length")
    expected = {r.key: plain_greedy(tiny_family, r.prompt, 150) for r in others}
    assert texts(answers) == {0: plain_greedy(tiny_family, long.prompt, room), **expected}


def test_a_prompt_beyond_the_context_fails_alone(mode: str, tiny: Model) -> None:
    answers = answer(tiny, [request(0), request(1, prompt=text_of(400)), request(2)])
    poisoned = answers.pop(1)
    assert isinstance(poisoned, Failure)
    assert poisoned.reason.startswith("prompt_too_long: ")
    assert poisoned.final
    assert sorted(texts(answers)) == [0, 2]


def test_the_habits_of_a_checkpoint_are_not_ours(
    mode: str, tiny: Model, tiny_path: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "habits")
    settings: Any = GenerationConfig
    habits = settings(repetition_penalty=9.0, do_sample=True, eos_token_id=[EOS, UNUSED])
    habits.save_pretrained(copy)
    model = load_model(str(copy), device="cpu")
    assert model.end_tokens == {EOS, UNUSED}
    prompts = [request(key, temperature=0.0) for key in range(4)]
    assert texts(answer(model, prompts)) == {r.key: plain_greedy(tiny, r.prompt) for r in prompts}


def test_nothing_to_answer_answers_nothing(mode: str, tiny: Model) -> None:
    assert answer(tiny, []) == {}
