"""What Gemini's own answers and errors mean."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from engine.backends.faults import Broken, Busy, Closed, Impossible
from engine.backends.gemini import SPEND_DELAY_S, GeminiEndpoint
from tests.engine.backends.canned import KEY, Canned, request, response
from tests.engine.backends.dialects import open_gemini

DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"


@pytest.fixture(scope="module")
def gemini() -> Iterator[Canned]:
    with Canned(open_gemini) as opened:
        yield opened


def candidate(finish: str | None, *parts: dict[str, Any]) -> dict[str, Any]:
    body = {"content": {"parts": list(parts), "role": "model"}, "finishReason": finish}
    return {"candidates": [{name: value for name, value in body.items() if value is not None}]}


def error(status: int, message: str, *details: dict[str, Any], name: str = "") -> dict[str, Any]:
    stated = {"code": status, "message": message, "status": name, "details": list(details)}
    return {"error": stated}


def retry_in(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota(*names: str) -> dict[str, Any]:
    violations = [{"quotaMetric": "requests", "quotaId": name} for name in names]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}


@pytest.mark.parametrize(
    ("reason", "finish", "final"),
    [
        ("STOP", "stop", False),
        ("MAX_TOKENS", "length", False),
        ("CONTINUATION", "length", False),
        ("SAFETY", "blocked", False),
        ("SPII", "blocked", False),
        ("LANGUAGE", "blocked", False),
        ("PROHIBITED_CONTENT", "blocked", True),
        ("BLOCKLIST", "blocked", True),
        ("OTHER", "unknown", False),
        ("MALFORMED_RESPONSE", "unknown", False),
        ("A_REASON_OF_NEXT_YEAR", "unknown", False),
        (None, "unknown", False),
    ],
)
def test_only_a_known_end_counts_as_one(
    gemini: Canned, reason: str | None, finish: str, final: bool
) -> None:
    reply = gemini.reply_to(response(200, candidate(reason, {"text": "Some words"})))
    assert (reply.finish_reason, reply.final) == (finish, final)
    assert (reply.text, reply.provider_reason) == ("Some words", reason)


def test_thoughts_are_counted_and_not_read(gemini: Canned) -> None:
    parts = {"text": "Let me see", "thought": True}, {"text": "One, "}, {"text": "two."}
    counts = {"promptTokenCount": 11, "candidatesTokenCount": 4, "thoughtsTokenCount": 90}
    reply = gemini.reply_to(response(200, candidate("STOP", *parts) | {"usageMetadata": counts}))
    assert reply.text == "One, two."
    assert (reply.prompt_tokens, reply.output_tokens, reply.thinking_tokens) == (11, 4, 90)


def test_thinking_that_ate_the_limit_leaves_an_empty_text_of_no_tokens(gemini: Canned) -> None:
    counts = {"usageMetadata": {"promptTokenCount": 11, "thoughtsTokenCount": 200}}
    reply = gemini.reply_to(response(200, candidate("MAX_TOKENS") | counts))
    assert (reply.finish_reason, reply.text, reply.output_tokens) == ("length", "", 0)


def test_tokens_that_are_not_counted_are_not_known(gemini: Canned) -> None:
    reply = gemini.reply_to(response(200, candidate("STOP", {"text": "Some words"})))
    assert (reply.prompt_tokens, reply.output_tokens, reply.thinking_tokens) == (None, None, None)


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKED_NEXT_YEAR"])
def test_a_blocked_prompt_is_final(gemini: Canned, reason: str) -> None:
    reply = gemini.reply_to(response(200, {"promptFeedback": {"blockReason": reason}}))
    assert (reply.finish_reason, reply.final, reply.text) == ("blocked", True, "")
    assert reply.provider_reason == reason


@pytest.mark.parametrize(
    ("body", "headers", "delay"),
    [
        (error(429, "Wait.", retry_in("34.5s")), {}, 34.5),
        (error(429, "Wait.", retry_in("34.5s"), quota(MINUTE)), {}, 34.5),
        (error(429, "Wait.", quota(MINUTE)), {}, None),
        (error(429, "Resource has been exhausted."), {}, None),
        (error(429, "Wait."), {"retry_after": "12"}, 12.0),
        (error(429, "Wait.", retry_in("7s")), {"retry_after": "12"}, 12.0),
        (error(429, "Wait.", retry_in("17s")), {"retry_after": "12"}, 17.0),
        (error(429, "Wait.", retry_in("soon")), {"retry_after": "later"}, None),
        (error(429, "The spend limit of your tier is reached."), {}, SPEND_DELAY_S),
        (error(429, "The spend limit is reached.", retry_in("900s")), {}, 900.0),
        ([error(429, "Wait.", retry_in("34.5s"))], {}, 34.5),
        (error(503, "The model is overloaded."), {}, None),
    ],
)
def test_a_limit_that_passes_is_busy(
    gemini: Canned, body: Any, headers: dict[str, str], delay: float | None
) -> None:
    status = 503 if "overloaded" in json.dumps(body) else 429
    fault = gemini.fault_of(response(status, body, **headers))
    assert isinstance(fault, Busy)
    assert fault.delay_s == delay


@pytest.mark.parametrize(
    "body",
    [
        error(429, "Wait.", quota(MINUTE, DAY), retry_in("20s")),
        error(429, "Wait.", retry_in("3601s")),
        error(429, "Your project has exceeded its monthly spending cap."),
        error(429, "Your prepayment credits are depleted."),
    ],
)
def test_a_limit_that_lasts_is_a_used_up_quota(gemini: Canned, body: dict[str, Any]) -> None:
    fault = gemini.fault_of(response(429, body))
    assert isinstance(fault, Closed)
    assert fault.quota


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error(400, "API key expired.", {"reason": "API_KEY_INVALID"})),
        (400, error(400, "No service in this country.", name="FAILED_PRECONDITION")),
        (403, error(403, "Not yours.", name="PERMISSION_DENIED")),
        (404, error(404, "No such model.", name="NOT_FOUND")),
        (200, candidate("PUP_LIMITED_DISABLED")),
        (200, error(403, "Not yours.", name="PERMISSION_DENIED")),
    ],
)
def test_what_concerns_every_request_closes_the_endpoint(
    gemini: Canned, status: int, body: object
) -> None:
    fault = gemini.fault_of(response(status, body))
    assert isinstance(fault, Closed)
    assert not fault.quota


def test_an_argument_that_is_not_valid_is_impossible_and_named(gemini: Canned) -> None:
    stated = error(400, "maxOutputTokens is out of range.", name="INVALID_ARGUMENT")
    fault = gemini.fault_of(response(400, stated))
    assert isinstance(fault, Impossible)
    assert fault.reason == "400 Bad Request: maxOutputTokens is out of range."


@pytest.mark.parametrize("body", [{"error": "odd"}, {"error": {"code": 7}}, {"models": []}])
def test_an_answer_that_holds_an_error_or_something_else_is_broken(
    gemini: Canned, body: object
) -> None:
    assert isinstance(gemini.fault_of(response(200, body)), Broken)


def test_an_error_page_in_another_encoding_is_broken(gemini: Canned) -> None:
    page = "<html>Défaut</html>".encode("latin-1")
    assert isinstance(gemini.fault_of(response(502, page)), Broken)


@pytest.mark.parametrize("budget", [None, 0, 512])
def test_a_request_carries_its_settings(budget: int | None) -> None:
    with Canned(partial(open_gemini, thinking_budget=budget)) as opened:
        opened.ask(request(prompt="Why?", seed=3 * 2**31 + 7))
    head, _, body = opened.heard.partition(b"\r\n\r\n")
    asked = json.loads(body)
    config = asked["generationConfig"]
    thinking = config.pop("thinkingConfig", None)
    assert head.startswith(b"POST /v1/models/loopback:generateContent ")
    assert asked["contents"] == [{"parts": [{"text": "Why?"}], "role": "user"}]
    assert config == {"temperature": 0.7, "topP": 0.9, "maxOutputTokens": 200, "seed": 7}
    assert (list(thinking.values()) if thinking else [None]) == [budget]


def test_the_address_is_googles_where_none_is_given() -> None:
    endpoint = GeminiEndpoint("loopback", KEY, workers=1, timeout_s=1.0)
    asyncio.run(endpoint.close())
    assert endpoint.name == "https://generativelanguage.googleapis.com"
