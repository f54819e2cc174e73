"""What the answers and errors of OpenAI and its imitators mean."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.backends.faults import Broken, Busy, Closed, Impossible
from tests.engine.backends.canned import Canned, request, response
from tests.engine.backends.dialects import open_openai


@pytest.fixture(scope="module")
def server() -> Iterator[Canned]:
    with Canned(open_openai) as opened:
        yield opened


def choice(message: object, finish: str | None = "stop", usage: object = None) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def error(message: object, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "blocked"),
        ("tool_calls", "unknown"),
        ("error", "unknown"),
        ("a_reason_of_next_year", "unknown"),
        (None, "unknown"),
    ],
)
def test_only_a_known_end_counts_as_one(server: Canned, reason: str | None, finish: str) -> None:
    reply = server.reply_to(response(200, choice({"content": "Some words"}, reason)))
    assert (reply.finish_reason, reply.final) == (finish, False)
    assert (reply.text, reply.provider_reason) == ("Some words", reason)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Words."}, "Words."),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": [{"text": "One, "}, {"text": "two."}]}, "One, two."),
        ({"content": None}, ""),
        (None, ""),
    ],
)
def test_the_text_is_what_was_said_even_in_refusing(
    server: Canned, message: object, text: str
) -> None:
    assert server.reply_to(response(200, choice(message))).text == text


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40}, (10, 30, None)),
        ({"prompt_tokens": 10, "completion_tokens": 30}, (10, 30, None)),
        ({"completion_tokens": 30, "total_tokens": 40}, (None, 30, None)),
        ({}, (None, None, None)),
    ],
)
def test_tokens_are_counted_as_far_as_the_server_says(
    server: Canned, usage: dict[str, int], counts: tuple[int | None, ...]
) -> None:
    reply = server.reply_to(response(200, choice({"content": "Words."}, usage=usage)))
    assert (reply.prompt_tokens, reply.output_tokens, reply.thinking_tokens) == counts


@pytest.mark.parametrize(("completion", "total"), [(30, 40), (30, None), (5, 40)])
def test_thinking_is_no_output_whether_or_not_it_counts_as_completion(
    server: Canned, completion: int, total: int | None
) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": completion,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": 25},
    }
    reply = server.reply_to(response(200, choice({"content": "Words."}, usage=usage)))
    assert (reply.output_tokens, reply.thinking_tokens) == (5, 25)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("Filtered.", code="content_filter", param="prompt")),
        (400, error("Filtered.", code="content_policy_violation")),
        (400, error("Flagged.", code="invalid_prompt", type="invalid_request_error")),
        (403, error("Flagged.", code=403, metadata={"reasons": [], "flagged_input": "Tell"})),
        (200, error("Filtered.", code="content_filter")),
    ],
)
def test_a_blocked_prompt_is_final(server: Canned, status: int, body: object) -> None:
    reply = server.reply_to(response(status, body))
    assert (reply.finish_reason, reply.final, reply.text) == ("blocked", True, "")


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, None),
        ({"retry_after": "2"}, 2.0),
        ({"retry_after": "1", "retry_after_ms": "250"}, 0.25),
        ({"x_ratelimit_reset_requests": "1s", "x_ratelimit_reset_tokens": "6m0s"}, 360.0),
        ({"x_ratelimit_reset_tokens": "6m0s", "x_ratelimit_remaining_tokens": "900"}, None),
        ({"x_ratelimit_reset_tokens": "6m0s", "retry_after": "3"}, 3.0),
    ],
)
def test_a_rate_limit_is_busy_for_as_long_as_it_says(
    server: Canned, headers: dict[str, str], delay: float | None
) -> None:
    fault = server.fault_of(response(429, error("Slow down."), **headers))
    assert isinstance(fault, Busy)
    assert fault.delay_s == delay


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, error("Add credits.", code=402)),
        (429, error("No money.", code="insufficient_quota", type="insufficient_quota")),
        (429, error("No money.", type="insufficient_quota")),
        (429, error("Not active.", code="billing_not_active")),
        (400, error("Hard limit.", code="billing_hard_limit_reached")),
        (200, error("Add credits.", code=402)),
        (
            429,
            error(
                "Limit of the day.",
                code=429,
                metadata={
                    "headers": {
                        "X-RateLimit-Remaining": "0",
                        "X-RateLimit-Reset": "4102444800000",
                    }
                },
            ),
        ),
    ],
)
def test_spent_money_and_spent_days_are_a_used_up_quota(
    server: Canned, status: int, body: object
) -> None:
    fault = server.fault_of(response(status, body))
    assert isinstance(fault, Closed)
    assert fault.quota


@pytest.mark.parametrize("parameter", ["seed", "max_tokens"])
def test_a_parameter_that_the_server_refuses_is_impossible_and_named(
    server: Canned, parameter: str
) -> None:
    fault = server.fault_of(response(400, error("Unsupported parameter.", param=parameter)))
    assert isinstance(fault, Impossible)
    assert fault.reason == f"400 Bad Request: Unsupported parameter. ({parameter})"


@pytest.mark.parametrize(
    "body",
    [
        error("The context is too long."),
        {"object": "error", "message": "The context is too long.", "code": 400},
        {"detail": "The context is too long."},
        {"error": "The context is too long."},
    ],
)
def test_the_reason_is_the_servers_own_word_wherever_it_stands(
    server: Canned, body: object
) -> None:
    fault = server.fault_of(response(400, body))
    assert isinstance(fault, Impossible)
    assert fault.reason == "400 Bad Request: The context is too long."


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error("Down.", code=502), Broken),
        (error("Down.", code="server_error"), Broken),
        (error("Slow down.", code=429), Busy),
        (error("Slow down.", code="429"), Busy),
        (error("No.", code=400), Impossible),
        ({"error": "Down."}, Broken),
        ({"choices": [{"error": {"code": 502, "message": "Down."}, "message": {}}]}, Broken),
        ({"choices": None}, Broken),
        ({"id": "chatcmpl-1", "usage": {}}, Broken),
    ],
)
def test_an_error_inside_a_successful_answer_is_no_reply(
    server: Canned, body: object, kind: type
) -> None:
    assert type(server.fault_of(response(200, body))) is kind


def test_a_request_carries_its_settings(server: Canned) -> None:
    server.ask(request(prompt="Why?", seed=3 * 2**31 + 7))
    head, _, body = server.heard.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions ")
    assert json.loads(body) == {
        "model": "loopback",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 200,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 7,
    }
