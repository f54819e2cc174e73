"""2,000 stories from a server that does everything wrong: every row ends as it must."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.backends.connections import fold_seed
from engine.backends.faults import RetryPolicy
from engine.bench.answers import answer
from engine.bench.script import PERMANENT, TRANSIENT
from engine.bench.server import Script, serve_apart
from engine.settings import GenerationSettings
from engine.stages import run_generation
from engine.tally import GenerationSummary
from engine.writers import GeminiWriter, OpenAIWriter, Writer
from stores.database import Connection, open_database
from stores.protocol import Protocol, load_protocol
from stores.replies import orphaned_calls
from stores.workspace import Workspace

KEY = "not-a-real-key-0123456789abcdef"
SHARE = 0.03
SCRIPT = Script(
    seed=5,
    faults=dict.fromkeys((*TRANSIENT, *PERMANENT), SHARE),
    latency_s=0.02,  # so that an answer delivered twice meets the next request
    delay_s=0.05,
    drip_s=0.2,
    by_seed=True,
    remember=True,
)
QUICK = RetryPolicy(first_delay_s=0.02, longest_delay_s=0.2, broken_in_a_row=100)
PER_CALL = 4
RETRIED = (
    *("rate_limit", "rate_limit_delay", "minutes_limit", "error_500", "bad_gateway", "unavailable"),
    *("hang", "disconnect", "broken_body", "truncated_json", "echo_key", "duplicate_delivery"),
)
"""Faults after which the same call is tried again."""


@dataclass(frozen=True)
class Faulty:
    """A finished run, and what the server says it saw."""

    workspace: Workspace
    conn: Connection
    protocol: Protocol
    settings: GenerationSettings
    summary: GenerationSummary
    sightings: dict[str, int]
    faults: dict[str, int]
    calls: int


def settings_of(protocol: Protocol, topics: int) -> GenerationSettings:
    return GenerationSettings(
        corpus="main",
        kind="stories",
        emotions=protocol.names[:50],
        topics=protocol.topics[:topics],
        per_topic=PER_CALL,
        per_call=PER_CALL,
        seed=0,
        max_attempts=5,
        workers=16,
        max_tokens=400,
    )


def writer_of(dialect: str, url: str) -> Writer:
    if dialect == "gemini":
        return GeminiWriter(model="m", key=KEY, base_url=url, timeout_s=1.0, policy=QUICK)
    url = f"{url}/v1"
    return OpenAIWriter(model="m", key=KEY, base_urls=(url,), timeout_s=1.0, policy=QUICK)


@pytest.fixture(scope="module", params=[("gemini", 10), ("openai", 3)], ids=["gemini", "openai"])
def faulty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Faulty]:
    dialect, topics = request.param
    workspace, protocol = Workspace(tmp_path_factory.mktemp(dialect)), load_protocol()
    settings, stop = settings_of(protocol, topics), threading.Event()
    with closing(open_database(workspace.database)) as conn, serve_apart(SCRIPT) as server:
        writer = writer_of(dialect, server.url)
        done = run_generation(conn, protocol, settings, writer, progress=lambda _: None, stop=stop)
        seen, faults = dict(server.sightings), dict(server.counts)
        yield Faulty(workspace, conn, protocol, settings, done, seen, faults, server.calls)


def rows(conn: Connection, query: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in conn.execute(query)]


def prompts_of(faulty: Faulty) -> Iterator[tuple[str, list[int], str | None]]:
    """Every call's prompt, its rows and how it ended."""
    keys = {
        row["id"]: (row["emotion"], row["topic"])
        for row in faulty.conn.execute("SELECT id, emotion, topic FROM stories")
    }
    for call in faulty.conn.execute("SELECT text_ids, outcome FROM calls ORDER BY id"):
        ids = json.loads(call["text_ids"])
        emotion, topic = keys[ids[0]]
        prompt = faulty.protocol.prompts["story"].format(emotion=emotion, topic=topic, n=len(ids))
        yield prompt, ids, call["outcome"]


def test_every_planned_row_is_there_once_and_settled(faulty: Faulty) -> None:
    settings = faulty.settings
    planned = len(settings.emotions) * len(settings.topics) * PER_CALL
    assert rows(faulty.conn, "SELECT count(*), count(DISTINCT id) FROM stories") == [
        (planned, planned)
    ]
    statuses = dict(
        faulty.conn.execute("SELECT status, count(*) FROM stories GROUP BY status").fetchall()
    )
    assert set(statuses) == {"done", "rejected", "failed"}
    assert (faulty.summary.left, faulty.summary.done) == (0, statuses["done"])
    assert orphaned_calls(faulty.conn) == 0


def test_every_kind_of_fault_was_met(faulty: Faulty) -> None:
    assert {name for name in SCRIPT.faults if not faulty.faults.get(name)} == set()


def test_only_permanent_faults_cost_a_row(faulty: Faulty) -> None:
    """Rows that are not done are exactly those whose last prompt the server never answers."""
    last: dict[int, str] = {}
    for prompt, ids, _ in prompts_of(faulty):
        last |= dict.fromkeys(ids, prompt)
    expected = {
        text_id: fault
        for text_id, prompt in last.items()
        if (fault := SCRIPT.fault(prompt)) in PERMANENT
    }
    lost = {
        row["id"]: (row["status"], row["reason"])
        for row in faulty.conn.execute("SELECT * FROM stories WHERE status <> 'done'")
    }
    assert lost.keys() == expected.keys()
    for text_id, (status, reason) in lost.items():
        if expected[text_id] == "blocked_prompt":
            assert (status, reason) == ("rejected", "blocked")
        else:
            assert status == "failed"
            assert reason.startswith("400")


def test_no_permanent_failure_is_asked_for_again(faulty: Faulty) -> None:
    refused = {
        prompt: n for prompt, n in faulty.sightings.items() if SCRIPT.fault(prompt) in PERMANENT
    }
    assert refused
    asked = Counter(prompt for prompt, _, _ in prompts_of(faulty))
    assert refused == {prompt: asked[prompt] for prompt in refused}
    rows_of: dict[tuple[int, ...], int] = Counter()
    for prompt, ids, _ in prompts_of(faulty):
        if prompt in refused:
            rows_of[tuple(ids)] += 1
    assert set(rows_of.values()) == {1}


def test_no_text_is_there_twice(faulty: Faulty) -> None:
    query = "SELECT count(text), count(DISTINCT text) FROM stories WHERE status = 'done'"
    ((count, different),) = rows(faulty.conn, query)
    assert count == different == faulty.summary.done


def test_every_text_answers_its_own_prompt(faulty: Faulty) -> None:
    """What the server writes follows from prompt and seed: a mixed-up answer would show."""
    query = """SELECT s.emotion, s.topic, s.text, r.seed, r.asked FROM stories s
               JOIN replies r ON r.id = s.reply_id WHERE s.status = 'done'"""
    for emotion, topic, text, seed, asked in faulty.conn.execute(query):
        prompt = faulty.protocol.prompts["story"].format(emotion=emotion, topic=topic, n=asked)
        assert text in " ".join(answer(prompt, fold_seed(seed)).split())


def test_every_judged_text_has_a_verdict_and_every_reply_a_count(faulty: Faulty) -> None:
    unjudged = """SELECT count(*) FROM replies r
                  WHERE NOT EXISTS (SELECT 1 FROM verdicts WHERE reply_id = r.id)"""
    assert rows(faulty.conn, unjudged) == [(0,)]
    reasons = dict(
        faulty.conn.execute(
            "SELECT reason, count(*) FROM verdicts WHERE reason IS NOT NULL GROUP BY reason"
        ).fetchall()
    )
    expected = {"empty", "truncated", "blocked", "unknown_finish", "refusal"}
    assert expected <= reasons.keys()


def test_the_key_is_nowhere(faulty: Faulty) -> None:
    faulty.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = [path for path in faulty.workspace.root.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert [path for path in files if KEY[:12].encode() in path.read_bytes()] == []


def test_the_server_was_asked_no_more_than_the_ledger_knows(faulty: Faulty) -> None:
    """Every request is a try of a recorded call; tries beyond the first are retried faults."""
    recorded = faulty.conn.execute("SELECT count(*) FROM calls").fetchone()[0]
    again = sum(faulty.faults.get(name, 0) for name in RETRIED)
    assert recorded <= faulty.calls <= recorded + again


def test_paths_stay_out_of_reasons(faulty: Faulty) -> None:
    reasons = {row[0] for row in faulty.conn.execute("SELECT DISTINCT outcome FROM calls")}
    assert not any(str(Path.home()) in (reason or "") for reason in reasons)
