"""Laws of every endpoint, with the real clients over real sockets."""

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import Reply
from engine.backends.faults import (
    Broken,
    Busy,
    Closed,
    Endpoint,
    EndpointFault,
    Impossible,
    Unreachable,
)
from engine.bench.script import PERMANENT
from engine.bench.server import Script, Server, serve
from stores.errors import BackendError
from tests.engine.backends.canned import (
    KEY,
    Canned,
    Opened,
    OpenEndpoint,
    outcome,
    request,
    response,
)
from tests.engine.backends.dialects import DIALECTS, open_gemini, open_openai

ANSWER = {
    open_gemini: {
        "candidates": [{"content": {"parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]
    },
    open_openai: {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]},
}

FAULTS: dict[str, tuple[type, dict[str, object]]] = {
    "rate_limit": (Busy, {"delay_s": None}),
    "rate_limit_delay": (Busy, {"delay_s": 0.25}),
    "minutes_limit": (Busy, {"delay_s": None}),
    "unavailable": (Busy, {"delay_s": None}),
    "error_500": (Broken, {}),
    "bad_gateway": (Broken, {"reason": "502 Bad Gateway"}),
    "echo_key": (Broken, {"reason": "500 Internal Server Error"}),
    "disconnect": (Broken, {}),
    "broken_body": (Broken, {}),
    "truncated_json": (Broken, {"reason": "unreadable answer"}),
    "bad_request": (Impossible, {}),
    "empty_candidates": (Reply, {"finish_reason": "stop", "text": "", "final": False}),
    "empty_text": (Reply, {"finish_reason": "stop", "text": "", "final": False}),
    "token_limit": (Reply, {"finish_reason": "length", "final": False}),
    "blocked_answer": (Reply, {"finish_reason": "blocked", "final": False}),
    "recitation": (Reply, {"finish_reason": "blocked", "final": False}),
    "unknown_finish": (Reply, {"finish_reason": "unknown", "final": False}),
    "blocked_prompt": (Reply, {"finish_reason": "blocked", "text": "", "final": True}),
}
MODES = {
    "daily_quota": True,
    "unauthorised": False,
    "forbidden": False,
    "no_such_model": False,
    "disabled": False,
}

both = pytest.mark.parametrize("opened", DIALECTS.values(), ids=DIALECTS.keys())
SCRIPT = Script(faults=dict.fromkeys(FAULTS, 1 / len(FAULTS)), delay_s=0.25)

Answered = dict[OpenEndpoint, Canned]
Faulty = dict[OpenEndpoint, tuple[Server, Opened]]


@pytest.fixture(scope="module")
def canned() -> Iterator[Answered]:
    with Canned(open_gemini) as gemini, Canned(open_openai) as openai:
        yield {open_gemini: gemini, open_openai: openai}


@pytest.fixture(scope="module")
def faulty() -> Iterator[Faulty]:
    with ExitStack() as stack:
        found = {}
        for opened in DIALECTS.values():
            server = stack.enter_context(serve(SCRIPT))
            found[opened] = server, stack.enter_context(Opened(opened, server.url))
        yield found


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def prompt_hit_by(fault: str) -> str:
    return next(p for p in map("prompt {}".format, range(10_000)) if SCRIPT.fault(p) == fault)


@both
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_documented_outcome_after_one_try(
    faulty: Faulty, opened: OpenEndpoint, name: str
) -> None:
    kind, traits = FAULTS[name]
    server, endpoint = faulty[opened]
    calls = server.calls
    first = endpoint.ask(request(prompt=prompt_hit_by(name)))
    assert isinstance(first, kind), first
    assert {trait: getattr(first, trait) for trait in traits} == traits
    assert server.calls == calls + 1
    second = endpoint.ask(request(prompt=prompt_hit_by(name)))
    if name in PERMANENT:
        assert isinstance(second, kind)
    else:
        assert isinstance(second, Reply)
        assert (second.finish_reason, bool(second.text)) == ("stop", True)


@both
@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_refuses_everything_is_closed(opened: OpenEndpoint, mode: str) -> None:
    with serve(Script(mode=mode)) as server, Opened(opened, server.url) as endpoint:
        first = endpoint.ask()
    assert isinstance(first, Closed), first
    assert first.quota == MODES[mode]


@both
def test_a_reply_says_what_was_used_and_who_answered(opened: OpenEndpoint) -> None:
    with serve(Script(thinking_tokens=7)) as server, Opened(opened, server.url) as endpoint:
        first, second = endpoint.ask(request(prompt="one")), endpoint.ask(request(prompt="two"))
        assert isinstance(first, Reply) and isinstance(second, Reply)
        assert (first.finish_reason, first.thinking_tokens) == ("stop", 7)
        assert first.output_tokens == -(-len(first.text) // 4)
        assert first.prompt_tokens == 1
        assert first.model_version == "loopback"
        assert first.endpoint is not None and first.endpoint.startswith(server.url)
        assert first.response_id not in {None, second.response_id}


@both
@pytest.mark.parametrize("name", ["hang", "slow_drip"])
def test_a_try_ends_at_its_time_limit(opened: OpenEndpoint, name: str) -> None:
    brief = partial(opened, timeout_s=0.3)
    script = Script(faults={name: 1.0}, drip_s=5.0)
    with serve(script) as server, Opened(brief, server.url) as endpoint:
        started = time.perf_counter()
        first = endpoint.ask()
        waited = time.perf_counter() - started
    assert isinstance(first, Broken)
    assert first.reason == "timeout after 0.3 s"
    assert waited < 2.0


@both
def test_a_slow_answer_within_its_time_limit_is_read_whole(opened: OpenEndpoint) -> None:
    script = Script(faults={"slow_drip": 1.0}, drip_s=0.2)
    with serve(script) as server, Opened(opened, server.url) as endpoint:
        slow, fast = endpoint.ask(), endpoint.ask()
    assert isinstance(slow, Reply) and isinstance(fast, Reply)
    assert slow.text == fast.text


@both
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_no_reason_holds_the_key(opened: OpenEndpoint, canned: Answered, status: int) -> None:
    body = {"error": {"code": status, "message": f"{KEY}\n{KEY[:12]} is not welcome"}}
    fault = canned[opened].fault_of(response(status, body))
    assert KEY[:8] not in fault.reason
    assert "is not welcome" in fault.reason
    assert "\n" not in fault.reason


@both
@pytest.mark.parametrize("key", ["one\ntwo-0123456789", "schlüssel-0123456789"])
def test_a_key_that_no_header_can_hold_is_refused(opened: OpenEndpoint, key: str) -> None:
    with pytest.raises(BackendError) as refused:
        opened("http://127.0.0.1:9", key=key)
    assert "0123456789" not in str(refused.value)


@both
@pytest.mark.parametrize(
    "url", ["127.0.0.1:9", "ftp://127.0.0.1", "http://", "http://[1", "http://a:b@c?d=e"]
)
def test_an_address_that_is_none_is_refused(opened: OpenEndpoint, url: str) -> None:
    with pytest.raises(BackendError, match="not the base address") as refused:
        opened(url)
    assert "a:b" not in str(refused.value)


@both
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, Closed),
        (402, Closed),
        (404, Closed),
        (408, Broken),
        (413, Impossible),
        (422, Impossible),
        (429, Busy),
        (502, Broken),
        (503, Broken),
        (504, Broken),
    ],
)
def test_the_page_of_a_proxy_is_judged_by_its_status(
    opened: OpenEndpoint, canned: Answered, status: int, kind: type
) -> None:
    page = response(status, b"<html><h1>no</h1></html>", location="http://127.0.0.1:9/elsewhere")
    fault = canned[opened].fault_of(page)
    assert type(fault) is kind
    assert fault.reason.startswith(f"{status} ")
    assert "html" not in fault.reason


@both
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'"ok"', b"[" * 50_000, b"\xff\xfe{"])
def test_a_successful_answer_in_no_known_shape_is_no_reply(
    opened: OpenEndpoint, canned: Answered, body: bytes
) -> None:
    assert isinstance(canned[opened].fault_of(response(200, body)), Broken)


@both
def test_nobody_listening_is_unreachable(opened: OpenEndpoint) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with Opened(opened, f"http://127.0.0.1:{bound.getsockname()[1]}") as endpoint:
            first = endpoint.ask()
    assert isinstance(first, Unreachable)


@both
def test_a_name_that_does_not_resolve_is_unreachable(
    opened: OpenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with Opened(opened, "http://nowhere.test") as endpoint:
        first = endpoint.ask()
    assert isinstance(first, Unreachable)


@both
def test_a_host_that_takes_no_connection_is_unreachable_and_not_slow(opened: OpenEndpoint) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        brief = partial(opened, timeout_s=1.0)
        with Opened(brief, f"http://127.0.0.1:{full.getsockname()[1]}") as endpoint:
            first = endpoint.ask()
        for client in waiting:
            client.close()
    assert isinstance(first, Unreachable)


@both
def test_no_more_requests_are_under_way_than_there_are_workers(opened: OpenEndpoint) -> None:
    async def run(url: str) -> list[Reply | EndpointFault]:
        endpoint = opened(url, workers=4)
        asking = [outcome(endpoint, request(prompt=f"prompt {i}")) for i in range(16)]
        outcomes = await asyncio.gather(*asking)
        await endpoint.close()
        return outcomes

    with serve(Script(latency_s=0.05)) as server:
        assert all(isinstance(each, Reply) for each in asyncio.run(run(server.url)))
        assert server.peak == 4


@both
def test_connections_stay_bounded_and_none_is_left(opened: OpenEndpoint) -> None:
    faults = dict.fromkeys(("disconnect", "broken_body", "error_500", "slow_drip"), 0.1)
    open_before = open_files()
    outcomes: list[Reply | EndpointFault] = []
    seen: list[int] = []

    async def run(url: str) -> None:
        endpoint, keys = opened(url, workers=64), iter(range(300))

        async def worker() -> None:
            for key in keys:
                asking = outcome(endpoint, request(key=key, prompt=f"prompt {key}"))
                # One in ten is given up while it is being answered.
                with suppress(TimeoutError):
                    outcomes.append(await asyncio.wait_for(asking, None if key % 10 else 0.1))
                seen.append(open_files())

        await asyncio.gather(*(worker() for _ in range(64)))
        await endpoint.close()

    with serve(Script(faults=faults, latency_s=0.2, drip_s=0.2)) as server:
        asyncio.run(run(server.url))
        assert sum(isinstance(each, Reply) for each in outcomes) > 150
        assert not any(isinstance(each, Unreachable) for each in outcomes)
    gc.collect()
    # Both ends of a connection are in this process.
    assert max(seen) <= open_before + 2 * 64 + 40
    assert open_files() <= open_before


@both
def test_no_proxy_stands_before_this_machine(
    opened: OpenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Canned(opened) as server:
        server.reply_to(response(200, ANSWER[opened]))


@both
def test_the_proxy_of_the_environment_leads_to_other_machines(
    opened: OpenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_far(url: str) -> Endpoint:
        monkeypatch.setenv("http_proxy", url)
        return opened("http://far.test")

    monkeypatch.delenv("no_proxy", raising=False)
    with Canned(open_far) as proxy:
        proxy.reply_to(response(200, ANSWER[opened]))
    assert proxy.heard.startswith(b"POST http://far.test/v1")


@both
def test_no_credentials_of_the_environment_are_sent(
    opened: OpenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY")
    accounts = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "GOOGLE_CLOUD_PROJECT")
    for name in (*keys, *accounts):
        monkeypatch.setenv(name, "elsewhere")
    for name in ("GOOGLE_GEMINI_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/elsewhere")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer elsewhere")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    with Canned(opened) as server:
        server.reply_to(response(200, ANSWER[opened]))
    assert server.heard.startswith(b"POST /v1/")
    assert b"elsewhere" not in server.heard
    assert KEY.encode() in server.heard


@both
def test_the_name_holds_no_credentials_and_no_query(opened: OpenEndpoint) -> None:
    endpoint = opened("http://user:word@127.0.0.1:9/base/")
    asyncio.run(endpoint.close())
    assert endpoint.name.removesuffix("/v1").rstrip("/") == "http://127.0.0.1:9/base"
