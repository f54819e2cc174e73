"""Laws of the likeness: the services' real clients read this server's answers and refusals."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from google import genai
from google.genai import errors, types

from engine.bench.answers import answer
from engine.bench.script import Script
from engine.bench.server import serve
from tests.engine.bench.raw import MODEL, prompt

WORDS = prompt(0)


def with_gemini(url: str, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `use` makes of google-genai's async models."""

    async def run() -> Any:
        options = types.HttpOptions(base_url=url, timeout=5000)
        async with genai.Client(api_key="any", http_options=options).aio as client:
            return await use(client.models)

    return asyncio.run(run())


def with_openai(url: str, use: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
    """What `use` makes of openai's async client, which tries once."""

    async def run() -> Any:
        base_url = f"{url}/v1"
        async with openai.AsyncOpenAI(
            base_url=base_url, api_key="any", max_retries=0, timeout=5
        ) as client:
            return await use(client)

    return asyncio.run(run())


def ask_gemini(models: Any) -> Awaitable[Any]:
    config = types.GenerateContentConfig(temperature=1.0, top_p=0.9, seed=3, max_output_tokens=2000)
    asked: Awaitable[Any] = models.generate_content(model=MODEL, contents=WORDS, config=config)
    return asked


def ask_openai(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": WORDS}],
        seed=3,
        max_completion_tokens=2000,
    )


def test_google_genai_reads_an_answer() -> None:
    with serve(Script(thinking_tokens=9, by_seed=True)) as server:
        response = with_gemini(server.url, ask_gemini)
        assert (server.calls, server.good) == (1, 1)
    text = answer(WORDS, 3)
    usage = response.usage_metadata
    assert response.text == text
    assert response.candidates[0].finish_reason is types.FinishReason.STOP
    assert response.candidates[0].content.role == "model"
    assert (usage.candidates_token_count, usage.thoughts_token_count) == (-(-len(text) // 4), 9)
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count + 9
    assert response.model_version == MODEL
    assert response.response_id


def test_openai_reads_an_answer() -> None:
    with serve(Script(thinking_tokens=9, by_seed=True)) as server:
        response = with_openai(server.url, ask_openai)
        assert (server.calls, server.good) == (1, 1)
    text = answer(WORDS, 3)
    usage = response.usage
    assert response.choices[0].message.content == text
    assert response.choices[0].finish_reason == "stop"
    assert usage.completion_tokens == -(-len(text) // 4) + 9
    assert usage.completion_tokens_details.reasoning_tokens == 9
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert response.model == MODEL
    assert response.id.startswith("chatcmpl-")
    assert response.object == "chat.completion"
    assert response.created > 0


def test_openai_lists_the_models() -> None:
    with serve(Script(model="a-model")) as server:
        page = with_openai(server.url, lambda client: client.models.list())
    assert [model.id for model in page.data] == ["a-model"]


def test_google_genai_reads_what_is_withheld() -> None:
    with serve(Script(faults={"recitation": 1.0})) as server:
        response = with_gemini(server.url, ask_gemini)
    assert response.text is None
    assert response.candidates[0].finish_reason is types.FinishReason.RECITATION
    with serve(Script(faults={"blocked_prompt": 1.0})) as server:
        response = with_gemini(server.url, ask_gemini)
    assert not response.candidates
    assert response.prompt_feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT


def test_google_genai_reads_a_refusal_and_its_delay() -> None:
    with serve(Script(faults={"rate_limit_delay": 1.0})) as server:
        with pytest.raises(errors.ClientError) as refused:
            with_gemini(server.url, ask_gemini)
        assert server.calls == 1
    assert (refused.value.code, refused.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert "'retryDelay': '0.2s'" in str(refused.value.details)


def test_openai_reads_a_refusal_and_its_delay() -> None:
    with serve(Script(faults={"rate_limit_delay": 1.0})) as server:
        with pytest.raises(openai.RateLimitError) as refused:
            with_openai(server.url, ask_openai)
        assert server.calls == 1
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["retry-after-ms"] == "200"


@pytest.mark.parametrize(
    ("mode", "gemini", "openai_error"),
    [
        ("unauthorised", 400, openai.AuthenticationError),
        ("forbidden", 403, openai.PermissionDeniedError),
        ("no_such_model", 404, openai.NotFoundError),
        ("daily_quota", 429, openai.RateLimitError),
    ],
)
def test_both_clients_know_a_server_that_refuses_everything(
    mode: str, gemini: int, openai_error: type[Exception]
) -> None:
    with serve(Script(mode=mode)) as server:
        with pytest.raises(errors.ClientError) as refused:
            with_gemini(server.url, ask_gemini)
        assert refused.value.code == gemini
        with pytest.raises(openai_error):
            with_openai(server.url, ask_openai)
