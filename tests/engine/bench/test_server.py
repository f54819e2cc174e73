"""Laws of the loopback server: what it answers, how it refuses, counts and dies."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from threading import Thread
from typing import Any

import pytest

from engine.bench.answers import answer
from engine.bench.script import MODES, Script
from engine.bench.server import Server, serve, serve_apart
from tests.conftest import StartChild, line_of
from tests.engine.bench.raw import (
    DIALECTS,
    MODEL,
    Dialect,
    ask,
    connect,
    fetch,
    prompt,
    request_of,
    send,
    words_of,
)

both = pytest.mark.parametrize("dialect", DIALECTS)
apart = pytest.mark.parametrize("open_server", [serve, serve_apart])


@both
def test_a_plain_answer_is_what_the_service_would_send(dialect: Dialect) -> None:
    with serve(Script()) as server:
        got = ask(server.url, dialect, prompt(0), seed=3)
    said = words_of(got, dialect)
    text = answer(prompt(0), None)
    assert got.status == 200
    assert got.headers["Content-Type"].startswith("application/json")
    assert (said.text, said.finish.lower()) == (text, "stop")
    assert said.prompt_tokens == -(-len(prompt(0)) // 4)
    assert said.output_tokens == -(-len(text) // 4)
    assert said.thinking_tokens is None
    assert got.json["modelVersion" if dialect == "gemini" else "model"] == MODEL


@both
def test_thinking_is_counted_beside_the_answer(dialect: Dialect) -> None:
    with serve(Script(thinking_tokens=50)) as server:
        got = ask(server.url, dialect, prompt(0))
    said, usage = words_of(got, dialect), got.json.get("usageMetadata") or got.json["usage"]
    assert said.thinking_tokens == 50
    total = usage["totalTokenCount" if dialect == "gemini" else "total_tokens"]
    assert total == said.prompt_tokens + said.output_tokens + 50


def test_both_versions_of_geminis_path_are_served() -> None:
    with serve(Script()) as server, closing(connect(server.url)) as connection:
        for version in ("v1", "v1beta"):
            path = f"/{version}/models/{MODEL}:generateContent"
            connection.request("POST", path, b'{"contents": [{"parts": [{"text": "A gate"}]}]}')
            response = connection.getresponse()
            assert (response.status, b"[story 1]" in response.read()) == (200, True)


def test_the_models_are_listed() -> None:
    with serve(Script(model="a-model")) as server:
        got = fetch(server.url, "/v1/models")
        assert [model["id"] for model in got.json["data"]] == ["a-model"]
        assert server.calls == 0


@both
def test_no_two_answers_have_one_response_id(dialect: Dialect) -> None:
    found = set()
    for _ in range(2):
        with serve(Script()) as server, closing(connect(server.url)) as connection:
            for _ in range(20):
                found.add(words_of(send(connection, dialect, prompt(0)), dialect).response_id)
    assert len(found) == 40


@both
def test_the_seed_changes_the_answer_only_when_the_script_says_so(dialect: Dialect) -> None:
    for by_seed in (False, True):
        with serve(Script(by_seed=by_seed)) as server:
            got = [ask(server.url, dialect, prompt(0), seed=seed) for seed in (1, 1, 2)]
        first, again, other = (words_of(one, dialect).text for one in got)
        assert first == again
        assert (first != other) is by_seed


@both
def test_an_answer_stops_at_the_token_limit_of_its_request(dialect: Dialect) -> None:
    with serve(Script()) as server:
        said = words_of(ask(server.url, dialect, prompt(0), max_tokens=40), dialect)
    assert said.finish == ("MAX_TOKENS" if dialect == "gemini" else "length")
    assert said.output_tokens == 40
    assert said.text == answer(prompt(0), None)[:160]


def test_what_is_no_request_gets_an_error_and_is_no_call() -> None:
    with serve(Script()) as server, closing(connect(server.url)) as connection:
        for path, body, status in [
            ("/v1/chat/completions", b"{", 400),
            ("/v1/chat/completions", b"{}", 400),
            ("/v1/models/m:generateContent", b'{"contents": [{}]}', 400),
            ("/v2/elsewhere", b"{}", 404),
        ]:
            connection.request("POST", path, body)
            response = connection.getresponse()
            response.read()
            assert response.status == status
        assert server.calls == 0


# --- modes of a whole server


@both
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_begins_after_so_many_right_answers_and_stays(dialect: Dialect, mode: str) -> None:
    with serve(Script(mode=mode, after=3, faults={"error_500": 0.3})) as server:
        answers = 0
        for number in range(30):
            got = ask(server.url, dialect, prompt(number))
            answers += b"[story 1]" in got.body
        assert (answers, server.good) == (3, 3)
        assert server.counts[mode] == 30 - 3 - server.counts["error_500"]


@both
def test_a_daily_quota_means_hours(dialect: Dialect) -> None:
    with serve(Script(mode="daily_quota")) as server:
        got = ask(server.url, dialect, prompt(0))
    assert got.status == 429
    if dialect == "openai":
        assert got.json["error"]["code"] == "insufficient_quota"
        return
    details = {
        detail["@type"].rpartition(".")[2]: detail for detail in got.json["error"]["details"]
    }
    (violation,) = details["QuotaFailure"]["violations"]
    assert violation["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    assert float(details["RetryInfo"]["retryDelay"].removesuffix("s")) > 3600


@both
@pytest.mark.parametrize(
    ("mode", "gemini", "openai"),
    [
        ("unauthorised", (400, "API_KEY_INVALID"), (401, "invalid_api_key")),
        ("forbidden", (403, "PERMISSION_DENIED"), (403, "forbidden")),
        ("no_such_model", (404, "NOT_FOUND"), (404, "model_not_found")),
        ("disabled", (200, "PUP_LIMITED_DISABLED"), (401, "account_deactivated")),
    ],
)
def test_a_whole_server_refuses_as_its_service_does(
    dialect: Dialect, mode: str, gemini: tuple[int, str], openai: tuple[int, str]
) -> None:
    with serve(Script(mode=mode)) as server:
        got = ask(server.url, dialect, prompt(0))
    status, word = gemini if dialect == "gemini" else openai
    assert got.status == status
    assert word in got.body.decode()


# --- counters, time and room


@apart
def test_the_counters_tell_what_happened(open_server: Any) -> None:
    script = Script(faults={"error_500": 0.3, "empty_text": 0.2}, remember=True)
    with open_server(script) as server, closing(connect(server.url)) as connection:
        statuses = [send(connection, "openai", prompt(i % 40)).status for i in range(80)]
        assert server.calls == 80
        assert server.answered == statuses.count(200) == 80 - server.counts["error_500"]
        assert server.good == server.answered - server.counts["empty_text"]
        assert server.counts["no_such_fault"] == 0
        assert server.sightings == {prompt(i): 2 for i in range(40)}
        assert server.peak == 1
        before = (server.calls, server.answered, server.counts, server.sightings)
    assert (server.calls, server.answered, server.counts, server.sightings) == before


def test_prompts_are_remembered_only_when_the_script_says_so() -> None:
    with serve(Script()) as server:
        ask(server.url, "openai", prompt(0))
        assert (server.calls, server.sightings) == (1, {})


def test_an_answer_that_nobody_waits_for_is_not_counted_as_answered() -> None:
    with serve(Script(latency_s=0.2)) as server:
        with closing(connect(server.url, timeout=0.05)) as connection, pytest.raises(TimeoutError):
            send(connection, "openai", prompt(0))
        time.sleep(0.3)
        assert (server.calls, server.answered, server.good) == (1, 0, 0)


def test_every_answer_takes_its_latency() -> None:
    with serve(Script(latency_s=0.15)) as server, closing(connect(server.url)) as connection:
        begin = time.perf_counter()
        for number in range(2):
            assert send(connection, "gemini", prompt(number)).status == 200
    assert 0.3 <= time.perf_counter() - begin < 5


def test_the_peak_is_the_most_requests_at_once() -> None:
    with serve(Script(faults={"hang": 1.0})) as server:
        with under_way(server, 5):
            assert server.peak == 5
        wait_until(lambda: ask(server.url, "openai", prompt(0)).status == 200)
        assert server.peak == 5


def test_a_server_with_room_for_some_turns_the_rest_away() -> None:
    with serve(Script(faults={"hang": 1.0}, room=5)) as server:
        with under_way(server, 5):
            assert ask(server.url, "openai", prompt(6)).status == 429
            assert server.counts == {"hang": 5, "rate_limit": 1}
        wait_until(lambda: ask(server.url, "openai", prompt(0)).status == 200)


@contextmanager
def under_way(server: Server, n: int) -> Iterator[None]:
    """So many requests that hang, for as long as the block lasts."""
    with ExitStack() as stack:
        for number in range(n):
            connection = stack.enter_context(closing(connect(server.url)))
            connection.request("POST", *request_of("openai", prompt(number)))
        wait_until(lambda: server.calls == n)
        yield


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- life and death


@apart
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_dead_server_drops_its_connections_and_can_come_back(open_server: Any, how: str) -> None:
    with open_server(Script()) as server, closing(connect(server.url)) as connection:
        assert send(connection, "openai", prompt(0)).status == 200
        getattr(server, how)()
        with pytest.raises(ConnectionError):
            send(connection, "openai", prompt(1))
        with pytest.raises(ConnectionRefusedError):
            ask(server.url, "openai", prompt(1))
        assert server.calls == 1
    port = int(server.url.rpartition(":")[2])
    with open_server(Script(), port=port) as again:
        assert again.url == server.url
        assert ask(again.url, "openai", prompt(1)).status == 200


def test_death_cuts_off_who_is_waiting() -> None:
    with serve(Script(latency_s=60)) as server, closing(connect(server.url)) as connection:
        killer = Thread(target=kill_when_called, args=(server,))
        killer.start()
        with pytest.raises(ConnectionError):
            send(connection, "openai", prompt(0))
        killer.join()
        assert (server.calls, server.answered) == (1, 0)


def kill_when_called(server: Server) -> None:
    wait_until(lambda: server.calls == 1)
    server.kill()


@apart
def test_a_taken_port_is_an_error(open_server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(Script()) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match=str(port)), open_server(Script(), port=port):
            pass


@pytest.mark.parametrize(("how", "code"), [("stop", 0), ("kill", -signal.SIGKILL)])
def test_a_server_apart_is_stopped_gently_or_killed(how: str, code: int) -> None:
    with serve_apart(Script()) as server:
        (child,) = multiprocessing.active_children()
        getattr(server, how)()
        assert child.exitcode == code


PARENT = """
import sys, time
from engine.bench.server import Script, serve_apart

if __name__ == "__main__":
    with serve_apart(Script()) as server:
        print(server.url, flush=True)
        time.sleep(60)
"""


def test_a_server_apart_ends_with_the_process_that_began_it(start_child: StartChild) -> None:
    parent = start_child(PARENT)
    url = line_of(parent)
    assert ask(url, "openai", prompt(0)).status == 200
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    with pytest.raises(ConnectionError):
        while time.monotonic() < deadline:
            ask(url, "openai", prompt(0))
            time.sleep(0.02)
