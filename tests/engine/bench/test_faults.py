"""Laws of the faults: each does just what its name says, in both dialects, and heals or stays."""

import json
import time
from contextlib import closing
from http.client import IncompleteRead, RemoteDisconnected
from typing import Any

import pytest

from engine.bench.script import PERMANENT, REFUSED, SPOILT, TRANSIENT, Script
from engine.bench.server import serve
from engine.quality import check_story, is_refusal
from engine.splitting import split_reply
from stores.protocol import load_protocol
from tests.engine.bench.raw import (
    DIALECTS,
    KEY,
    MODEL,
    Dialect,
    Got,
    Words,
    ask,
    connect,
    pieces,
    prompt,
    send,
    words_of,
)

pytestmark = pytest.mark.parametrize("dialect", DIALECTS)
GOOGLE = "type.googleapis.com/google.rpc."


def struck(fault: str, dialect: Dialect, number: int = 0, **settings: Any) -> Got:
    """What the first request meets when every prompt has that fault."""
    with serve(Script(faults={fault: 1.0}, **settings)) as server:
        got = ask(server.url, dialect, prompt(number))
        assert server.counts == {fault: 1}
        assert server.calls == 1
    return got


def right(dialect: Dialect, number: int = 0) -> Words:
    with serve(Script()) as server:
        return words_of(ask(server.url, dialect, prompt(number)), dialect)


def google_detail(got: Got, kind: str) -> Any:
    found = [d for d in got.json["error"]["details"] if d["@type"] == GOOGLE + kind]
    assert len(found) == 1
    return found[0]


def test_every_transient_fault_strikes_as_often_as_scripted_and_then_heals(
    dialect: Dialect,
) -> None:
    for fault in TRANSIENT:
        script = Script(faults={fault: 1.0}, times=2, drip_s=0.01, remember=True)
        with serve(script) as server, closing(connect(server.url)):
            for _ in range(2):
                strike(server.url, dialect, fault)
            healed = ask(server.url, dialect, prompt(0))
            assert words_of(healed, dialect).text == right(dialect).text, fault
            assert server.counts == {fault: 2}, fault
            assert (server.calls, server.sightings) == (3, {prompt(0): 3}), fault


def strike(url: str, dialect: Dialect, fault: str) -> None:
    """Ask and bear whatever comes."""
    with closing(connect(url, timeout=0.1 if fault == "hang" else 5)) as connection:
        try:
            send(connection, dialect, prompt(0))
        except (TimeoutError, RemoteDisconnected, IncompleteRead):
            assert fault in ("hang", "disconnect", "broken_body")


@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_fault_never_heals(dialect: Dialect, fault: str) -> None:
    with serve(Script(faults={fault: 1.0}, times=1)) as server:
        bodies = [ask(server.url, dialect, prompt(0)) for _ in range(4)]
        assert server.counts == {fault: 4}
        assert server.answered == 0
    assert all("candidates" not in got.json and "choices" not in got.json for got in bodies)


@pytest.mark.parametrize("fault", [*REFUSED, *PERMANENT])
def test_a_refusal_counts_as_a_call_and_not_as_an_answer(dialect: Dialect, fault: str) -> None:
    with serve(Script(faults={fault: 1.0})) as server:
        ask(server.url, dialect, prompt(0))
        assert (server.calls, server.answered, server.good) == (1, 0, 0)


@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_answer_counts_as_answered_and_not_as_good(dialect: Dialect, fault: str) -> None:
    with serve(Script(faults={fault: 1.0})) as server:
        assert ask(server.url, dialect, prompt(0)).status == 200
        assert (server.calls, server.answered, server.good) == (1, 1, 0)


def test_a_rate_limit_gives_no_hint(dialect: Dialect) -> None:
    got = struck("rate_limit", dialect)
    assert got.status == 429
    assert "details" not in got.json["error"]
    assert not {name.lower() for name in got.headers} & {"retry-after", "retry-after-ms"}
    if dialect == "gemini":
        assert got.json["error"]["status"] == "RESOURCE_EXHAUSTED"
    else:
        assert got.json["error"]["code"] == "rate_limit_exceeded"


def test_a_rate_limit_with_delay_says_how_long(dialect: Dialect) -> None:
    got = struck("rate_limit_delay", dialect, delay_s=0.25)
    assert got.status == 429
    if dialect == "gemini":
        assert google_detail(got, "RetryInfo")["retryDelay"] == "0.25s"
    else:
        assert (got.headers["Retry-After"], got.headers["retry-after-ms"]) == ("1", "250")


def test_a_limit_of_a_minute_names_its_quota(dialect: Dialect) -> None:
    got = struck("minutes_limit", dialect)
    assert got.status == 429
    if dialect == "gemini":
        (violation,) = google_detail(got, "QuotaFailure")["violations"]
        assert "PerMinute" in violation["quotaId"]
        assert violation["quotaDimensions"]["model"] == MODEL
    else:
        assert got.json["error"]["code"] == "rate_limit_exceeded"
        assert "RPM" in got.json["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [("error_500", 500, "INTERNAL"), ("unavailable", 503, "UNAVAILABLE")],
)
def test_a_server_error_is_said_in_json(
    dialect: Dialect, fault: str, status: int, word: str
) -> None:
    got = struck(fault, dialect)
    error = got.json["error"]
    assert got.status == status
    if dialect == "gemini":
        assert (error["code"], error["status"]) == (status, word)
    else:
        assert error["type"] == "server_error"


def test_a_bad_gateway_is_a_page_of_html(dialect: Dialect) -> None:
    got = struck("bad_gateway", dialect)
    assert got.status == 502
    assert got.headers["Content-Type"].startswith("text/html")
    assert got.body.startswith(b"<html>")


def test_an_echoed_key_stands_in_a_page_of_html(dialect: Dialect) -> None:
    got = struck("echo_key", dialect)
    assert got.status == 500
    assert got.headers["Content-Type"].startswith("text/html")
    assert KEY.encode() in got.body


def test_a_hanging_answer_sends_nothing_until_the_client_leaves(dialect: Dialect) -> None:
    with serve(Script(faults={"hang": 1.0})) as server:
        with closing(connect(server.url, timeout=0.15)) as connection:
            with pytest.raises(TimeoutError):
                send(connection, dialect, prompt(0))
            assert server.calls == 1
        assert server.answered == 0


def test_a_disconnect_sends_not_a_byte(dialect: Dialect) -> None:
    with serve(Script(faults={"disconnect": 1.0})) as server:
        with pytest.raises(RemoteDisconnected):
            ask(server.url, dialect, prompt(0))
        assert server.answered == 0


def test_a_broken_body_ends_before_the_length_it_promises(dialect: Dialect) -> None:
    with serve(Script(faults={"broken_body": 1.0})) as server:
        with pytest.raises(IncompleteRead) as broken:
            ask(server.url, dialect, prompt(0))
        assert server.answered == 0
    assert len(broken.value.partial) > 100
    assert broken.value.expected is not None
    assert broken.value.expected > 100


def test_truncated_json_comes_in_a_whole_body(dialect: Dialect) -> None:
    with serve(Script(faults={"truncated_json": 1.0})) as server:
        got = ask(server.url, dialect, prompt(0))
        assert server.answered == 0
    assert got.status == 200
    assert len(got.body) == int(got.headers["Content-Length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(got.body)


def test_a_slow_drip_is_the_right_answer_over_the_time_scripted(dialect: Dialect) -> None:
    begin = time.perf_counter()
    with serve(Script(faults={"slow_drip": 1.0}, drip_s=0.3)) as server:
        got = ask(server.url, dialect, prompt(0))
        assert (server.answered, server.good) == (1, 1)
    assert words_of(got, dialect).text == right(dialect).text
    assert 0.3 <= time.perf_counter() - begin < 3


def test_a_dripping_answer_comes_in_many_pieces(dialect: Dialect) -> None:
    with serve(Script(faults={"slow_drip": 1.0}, drip_s=0.3)) as server:
        found = pieces(server.url, dialect, prompt(0))
    assert len(found) > 20
    assert max(map(len, found[1:])) < sum(map(len, found)) / 5


def test_a_duplicate_delivery_is_the_same_answer_twice_on_one_connection(dialect: Dialect) -> None:
    with serve(Script(faults={"duplicate_delivery": 1.0})) as server:
        both = b"".join(pieces(server.url, dialect, prompt(0)))
        assert (server.calls, server.answered, server.good) == (1, 1, 1)
    middle = len(both) // 2
    assert both[:middle] == both[middle:]
    assert both.startswith(b"HTTP/1.1 200 OK\r\n")
    assert both.count(b"[story 2]") == 2


def test_no_candidates_and_an_empty_text_are_two_things(dialect: Dialect) -> None:
    nothing, empty = struck("empty_candidates", dialect), struck("empty_text", dialect)
    if dialect == "gemini":
        assert "candidates" not in nothing.json
        assert "promptFeedback" not in nothing.json
        assert words_of(empty, dialect).finish == "STOP"
        assert words_of(empty, dialect).text is None
    else:
        assert nothing.json["choices"] == []
        assert (words_of(empty, dialect).finish, words_of(empty, dialect).text) == ("stop", "")


def test_the_token_limit_cuts_the_last_text_in_the_middle(dialect: Dialect) -> None:
    said, whole = words_of(struck("token_limit", dialect), dialect), right(dialect)
    assert said.finish == ("MAX_TOKENS" if dialect == "gemini" else "length")
    assert said.text is not None
    assert whole.text is not None
    assert whole.text.startswith(said.text)
    first, last = said.text.split("[story 2]\n")
    assert first == whole.text.split("[story 2]\n")[0]
    assert 20 < len(last.split()) < 70
    assert last[-1].isalnum()


def test_a_blocked_answer_has_a_part_of_the_text_or_none(dialect: Dialect) -> None:
    with serve(Script(faults={"blocked_answer": 1.0})) as server:
        found = [words_of(ask(server.url, dialect, prompt(i)), dialect) for i in range(12)]
    assert {said.finish for said in found} == {
        "SAFETY" if dialect == "gemini" else "content_filter"
    }
    assert 0 < sum(said.text is None for said in found) < 12
    assert all(said.text is None or said.text.startswith("[story 1]") for said in found)


def test_a_recitation_has_no_text(dialect: Dialect) -> None:
    said = words_of(struck("recitation", dialect), dialect)
    assert said.finish == ("RECITATION" if dialect == "gemini" else "content_filter")
    assert said.text is None


def test_an_unknown_finish_comes_with_the_whole_text(dialect: Dialect) -> None:
    said = words_of(struck("unknown_finish", dialect), dialect)
    assert said.finish == ("SOMETHING_NEW" if dialect == "gemini" else "something_new")
    assert said.text == right(dialect).text


@pytest.mark.parametrize(("fault", "word"), [("refusal_text", "sorry"), ("junk_text", "0 0 0")])
def test_a_refusal_or_junk_is_text_that_ends_as_if_all_were_well(
    dialect: Dialect, fault: str, word: str
) -> None:
    said = words_of(struck(fault, dialect), dialect)
    assert said.finish == ("STOP" if dialect == "gemini" else "stop")
    assert word in str(said.text)
    assert "[story" not in str(said.text)


def test_the_engine_knows_the_refusal_and_uses_nothing_of_the_junk(dialect: Dialect) -> None:
    refusal = str(words_of(struck("refusal_text", dialect), dialect).text)
    junk = str(words_of(struck("junk_text", dialect), dialect).text)
    protocol = load_protocol()
    assert is_refusal(refusal)
    assert not is_refusal(junk)
    for text in split_reply(junk, "stories", 2):
        assert check_story(text, protocol.emotions[0], protocol, cut=False) is not None


def test_a_blocked_prompt_is_said_as_each_service_says_it(dialect: Dialect) -> None:
    got = struck("blocked_prompt", dialect)
    if dialect == "gemini":
        assert got.status == 200
        assert got.json["promptFeedback"]["blockReason"] == "PROHIBITED_CONTENT"
        assert got.json["usageMetadata"]["promptTokenCount"] > 0
        assert got.json["responseId"]
    else:
        assert (got.status, got.json["error"]["code"]) == (400, "content_filter")


def test_a_bad_request_is_the_clients_fault(dialect: Dialect) -> None:
    got = struck("bad_request", dialect)
    assert got.status == 400
    if dialect == "gemini":
        assert got.json["error"]["status"] == "INVALID_ARGUMENT"
    else:
        assert got.json["error"]["type"] == "invalid_request_error"


def test_two_servers_with_one_script_misbehave_on_the_same_prompts(dialect: Dialect) -> None:
    script = Script(seed=5, faults={"error_500": 0.3, "empty_text": 0.2, "bad_request": 0.1})
    runs = []
    for _ in range(2):
        with serve(script) as server, closing(connect(server.url)) as connection:
            runs.append([send(connection, dialect, prompt(i)).status for i in range(100)])
            counts = server.counts
            assert set(counts) == set(script.faults)
            assert 100 - runs[-1].count(200) == counts["error_500"] + counts["bad_request"]
    assert runs[0] == runs[1]
    assert 20 < runs[0].count(500) < 45
