"""Asks a server that speaks like OpenAI once, with OpenAI's client.

Knows no retries, no pacing and no rows.
"""

import asyncio
import time
from collections.abc import Mapping

import openai

from engine.backends.base import FinishReason, Reply, Request
from engine.backends.bodies import count_at, item, items, read_answer, read_refusal, text_at
from engine.backends.connections import (
    LOST,
    address,
    fold_seed,
    lost,
    open_client,
    refusal,
    secrets_of,
    stated_status,
)
from engine.backends.faults import Broken, Closed
from engine.backends.hints import asked_delay, longest

_FINISH: dict[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "blocked",
}
_PROMPT_BLOCKED = {"content_filter", "content_policy_violation", "invalid_prompt"}
_QUOTA = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}


class OpenAIEndpoint:
    """An `Endpoint` of the chat completions API: OpenAI, OpenRouter, vLLM, llama.cpp, ..."""

    def __init__(
        self, model: str, key: str, *, base_url: str, workers: int, timeout_s: float
    ) -> None:
        """`workers` requests at most are under way at once; each ends within `timeout_s`."""
        self.name = address(base_url)
        self._model = model
        self._timeout_s = timeout_s
        self._secrets = secrets_of(key, base_url)
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            timeout=timeout_s,
            max_retries=0,
            # Stated, lest the environment's own replace it.
            default_headers={"Authorization": f"Bearer {key}"},
            http_client=open_client(base_url, workers=workers, timeout_s=timeout_s),
        )
        # The environment's identifiers belong to OpenAI; this may be anybody's server.
        self._client.organization = self._client.project = None

    async def ask(self, request: Request) -> Reply:
        """See `Endpoint`."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[{"role": "user", "content": request.prompt}],
                    max_tokens=request.max_tokens,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    seed=fold_seed(request.seed),
                )
        except openai.APIStatusError as error:
            body, headers = read_refusal(error.response.text), error.response.headers
            waited = time.perf_counter() - started
            return self._refused(request, error.status_code, body, headers, waited)
        except openai.APIConnectionError as error:
            raise lost(error.__cause__ or error, self._timeout_s, self._secrets) from None
        except LOST as error:
            raise lost(error, self._timeout_s, self._secrets) from None
        return self._reply(request, read_answer(answer.text), time.perf_counter() - started)

    async def close(self) -> None:
        """See `Endpoint`."""
        await self._client.close()

    def _reply(self, request: Request, body: object, latency_s: float) -> Reply:
        """Raises an EndpointFault where the body is no answer."""
        error = item(body, "error") or item(body, "choices", 0, "error")
        if error is not None:
            return self._refused(request, stated_status(error), {"error": error}, {}, latency_s)
        if not isinstance(item(body, "choices"), list):
            raise Broken("unreadable answer: no choices")
        message = item(body, "choices", 0, "message")
        reason = text_at(body, "choices", 0, "finish_reason")
        thinking = count_at(body, "usage", "completion_tokens_details", "reasoning_tokens")
        return Reply(
            key=request.key,
            text=_spoken(item(message, "content")) or text_at(message, "refusal") or "",
            finish_reason=_FINISH.get(reason, "unknown") if items(body, "choices") else "stop",
            prompt_tokens=count_at(body, "usage", "prompt_tokens"),
            output_tokens=_written(item(body, "usage"), thinking or 0),
            latency_s=latency_s,
            thinking_tokens=thinking,
            provider_reason=reason,
            response_id=text_at(body, "id"),
            model_version=text_at(body, "model"),
            endpoint=self.name,
        )

    def _refused(
        self,
        request: Request,
        status: int,
        body: object,
        headers: Mapping[str, str],
        latency_s: float,
    ) -> Reply:
        """The reply to a prompt that a filter withholds. Raises any other refusal as a fault."""
        error = item(body, "error")
        codes = {text_at(error, "code"), text_at(error, "type")}
        if codes & _PROMPT_BLOCKED or item(error, "metadata", "flagged_input") is not None:
            return Reply(
                key=request.key,
                text="",
                finish_reason="blocked",
                prompt_tokens=None,
                output_tokens=0,
                latency_s=latency_s,
                provider_reason=text_at(error, "code") or "content_filter",
                endpoint=self.name,
                final=True,
            )
        delay = longest(asked_delay(headers), asked_delay(_relayed_headers(error)))
        fault = refusal(status, _message(body), delay, self._secrets)
        raise Closed(fault.reason, quota=True) if codes & _QUOTA else fault


def _message(body: object) -> str | None:
    """The server's own word, and the parameter that it is about if it does not name it."""
    error = item(body, "error")
    said = text_at(body, "error") or text_at(error, "message")
    said = said or text_at(body, "message") or text_at(body, "detail")
    parameter = text_at(error, "param")
    return f"{said} ({parameter})" if said and parameter and parameter not in said else said


def _relayed_headers(error: object) -> dict[str, str]:
    """The headers that a router passes on from the provider behind it."""
    headers = item(error, "metadata", "headers")
    if not isinstance(headers, dict):
        return {}
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _spoken(content: object) -> str:
    """The text of a message, whole or in parts."""
    if isinstance(content, str):
        return content
    return "".join(text_at(part, "text") or "" for part in items(content))


def _written(usage: object, thinking: int) -> int | None:
    """Tokens of the answer without the thinking, which some servers count as completion."""
    completion, prompt = count_at(usage, "completion_tokens"), count_at(usage, "prompt_tokens")
    if completion is None:
        return None
    total = count_at(usage, "total_tokens") or 0
    return max(0, max(completion, total - (prompt or total)) - thinking)
