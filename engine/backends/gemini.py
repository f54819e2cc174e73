"""Asks Gemini once, with Google's client. Knows no retries, no pacing and no rows."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from google import genai
from google.genai import errors, types

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
from engine.backends.faults import Broken, Busy, Closed, EndpointFault
from engine.backends.hints import asked_delay, longest, seconds

ADDRESS = "https://generativelanguage.googleapis.com"
SPEND_DELAY_S = 300.0
"""How long to wait at a limit of money per ten minutes, which the server does not say."""

# Google's client warns that it uses a key of the environment even when it is given another.
_SILENCE = logging.NullHandler()
_ANSWER = {"candidates", "promptFeedback", "usageMetadata"}
_FINAL = {"PROHIBITED_CONTENT", "BLOCKLIST"}
_WITHHELD = {"SAFETY", "RECITATION", "LANGUAGE", "SPII", "ESCALATION", "MODEL_ARMOR", *_FINAL}
_FINISH: dict[str | None, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(_WITHHELD, "blocked"),
}
_SPENT = ("monthly spending", "prepayment")


class GeminiEndpoint:
    """An `Endpoint` of the Gemini API, at Google or at another address that speaks it."""

    def __init__(
        self,
        model: str,
        key: str,
        *,
        base_url: str | None = None,
        workers: int,
        timeout_s: float,
        thinking_budget: int | None = None,
    ) -> None:
        """`workers` requests at most are under way at once; each ends within `timeout_s`."""
        base_url = base_url or ADDRESS
        self.name = address(base_url)
        self._model = model
        self._timeout_s = timeout_s
        self._thinking_budget = thinking_budget
        self._secrets = secrets_of(key, base_url)
        self._pool = open_client(base_url, workers=workers, timeout_s=timeout_s)
        logging.getLogger("google_genai").addHandler(_SILENCE)
        self._client = genai.Client(
            vertexai=False,
            api_key=key,
            http_options=types.HttpOptions(
                base_url=base_url,
                timeout=max(1, int(timeout_s * 1000)),
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_async_client=self._pool,
            ),
        )

    async def ask(self, request: Request) -> Reply:
        """See `Endpoint`."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.aio.models.generate_content(
                    model=self._model, contents=request.prompt, config=self._config(request)
                )
        except (errors.APIError, *LOST) as error:
            raise self._fault(error) from None
        raw = response.sdk_http_response
        body = read_answer(raw.body if raw else None)
        return self._reply(request, body, time.perf_counter() - started)

    async def close(self) -> None:
        """See `Endpoint`."""
        await self._client.aio.aclose()
        self._client.close()
        await self._pool.aclose()

    def _config(self, request: Request) -> types.GenerateContentConfig:
        thinking = None
        if self._thinking_budget is not None:
            thinking = types.ThinkingConfig(thinking_budget=self._thinking_budget)
        return types.GenerateContentConfig(
            max_output_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=fold_seed(request.seed),
            thinking_config=thinking,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            # The client's own types warn of words they do not know and hide torn answers.
            should_return_http_response=True,
        )

    def _reply(self, request: Request, body: object, latency_s: float) -> Reply:
        """Raises an EndpointFault where the body is no answer."""
        if (error := item(body, "error")) is not None:
            raise self._refusal(stated_status(error), body, {})
        if not isinstance(body, dict) or not _ANSWER & body.keys():
            raise Broken("unreadable answer: neither candidates nor usage")
        block = text_at(body, "promptFeedback", "blockReason")
        reason = text_at(body, "candidates", 0, "finishReason")
        if reason == "PUP_LIMITED_DISABLED":
            raise Closed("this account is limited or disabled (PUP_LIMITED_DISABLED)")
        text = "".join(_spoken(part) for part in items(body, "candidates", 0, "content", "parts"))
        written = count_at(body, "usageMetadata", "candidatesTokenCount")
        return Reply(
            key=request.key,
            text=text,
            finish_reason=_finish(block, reason, item(body, "candidates", 0)),
            prompt_tokens=count_at(body, "usageMetadata", "promptTokenCount"),
            # A count of zero is left out of the answer.
            output_tokens=0 if written is None and not text else written,
            latency_s=latency_s,
            thinking_tokens=count_at(body, "usageMetadata", "thoughtsTokenCount"),
            provider_reason=block or reason,
            response_id=text_at(body, "responseId"),
            model_version=text_at(body, "modelVersion"),
            endpoint=self.name,
            final=block is not None or reason in _FINAL,
        )

    def _fault(self, error: Exception) -> EndpointFault:
        if isinstance(error, errors.APIError):
            response: Any = error.response
            return self._refusal(error.code, read_refusal(response.text), response.headers)
        return lost(error, self._timeout_s, self._secrets)

    def _refusal(self, status: int, body: object, headers: Mapping[str, str]) -> EndpointFault:
        """The fault behind an error that Gemini states; three kinds of 429 are told apart."""
        error = item(body, 0, "error") or item(body, "error")
        message = text_at(error, "message")
        said = (message or "").lower()
        details = items(error, "details")
        delay = longest(asked_delay(headers), *(seconds(text_at(d, "retryDelay")) for d in details))
        fault = refusal(status, message, delay, self._secrets)
        if text_at(error, "status") == "FAILED_PRECONDITION" or _is_key_invalid(details):
            return Closed(fault.reason)
        if isinstance(fault, Busy) and (_is_daily(details) or any(word in said for word in _SPENT)):
            return Closed(fault.reason, quota=True)
        if isinstance(fault, Busy) and "spend" in said:
            return Busy(fault.reason, longest(delay, SPEND_DELAY_S))
        return fault


def _finish(block: str | None, reason: str | None, candidate: object) -> FinishReason:
    if block is not None:
        return "blocked"
    return "stop" if candidate is None else _FINISH.get(reason, "unknown")


def _spoken(part: object) -> str:
    """The text of one part of an answer, unless it is a thought."""
    return "" if item(part, "thought") else text_at(part, "text") or ""


def _is_key_invalid(details: Iterable[object]) -> bool:
    return any(text_at(detail, "reason") == "API_KEY_INVALID" for detail in details)


def _is_daily(details: Iterable[object]) -> bool:
    """Whether a quota of the day is among those that the request would exceed."""
    quotas = (text_at(v, "quotaId") for d in details for v in items(d, "violations"))
    return any("PerDay" in (quota or "") for quota in quotas)
