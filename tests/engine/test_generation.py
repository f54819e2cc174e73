"""Every planned row ends with a text or a reason, whatever a backend does and whenever it dies."""

import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.backends.base import Failure, Reply, Request
from engine.backends.local import LocalBackend
from engine.generation import (
    GenerationProgress,
    GenerationSummary,
    count_open,
    generate_texts,
)
from engine.models import Model
from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import BackendError, ProtocolError
from stores.protocol import Protocol
from stores.replies import orphaned_calls
from stores.seeds import attempt_seed
from stores.texts import lease, plan, plan_dialogues, plan_stories
from stores.workspace import Workspace
from tests.conftest import StartChild, line_of
from tests.engine.protocols import EMOTIONS, TOPICS, write_protocol
from tests.engine.scripted import SETTINGS, Script, ScriptedBackend, good, reply_to

ROWS = len(EMOTIONS) * len(TOPICS) * 2


@pytest.fixture
def protocol(workspace: Workspace, conn: Connection) -> Protocol:
    """A protocol whose twelve stories and four dialogues are planned."""
    protocol = write_protocol(workspace.root)
    open_corpus(conn, "toy", protocol.digest, protocol.files)
    stories = plan_stories(emotions=EMOTIONS, topics=TOPICS, per_topic=2, corpus="toy", seed=0)
    dialogues = plan_dialogues(topics=TOPICS, per_topic=2, corpus="toy", seed=0)
    plan(conn, "stories", "toy", stories, now=0.0)
    plan(conn, "dialogues", "toy", dialogues, now=0.0)
    return protocol


def run(
    conn: Connection,
    protocol: Protocol,
    script: Script | ScriptedBackend,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[GenerationProgress], None] = lambda _progress: None,
    **changes: Any,
) -> GenerationSummary:
    backend = script if isinstance(script, ScriptedBackend) else ScriptedBackend(script)
    return generate_texts(
        conn,
        protocol,
        backend,
        replace(SETTINGS, **changes),
        run_id=None,
        progress=progress,
        stop=stop or threading.Event(),
        clock=lambda: 1000.0,
    )


def rows(conn: Connection, kind: str = "stories") -> list[dict[str, Any]]:
    return [dict(row) for row in conn.execute(f"SELECT * FROM {kind} ORDER BY id")]


def statuses(conn: Connection) -> Counter[tuple[str, str | None]]:
    return Counter((row["status"], row["reason"]) for row in rows(conn))


def test_every_row_gets_its_text_and_its_reply(conn: Connection, protocol: Protocol) -> None:
    summary = run(conn, protocol, good)
    assert (summary.done, summary.left, summary.stopped) == (ROWS, 0, False)
    for row in rows(conn):
        assert row["text"] == f"Number {row['id']} went home at last."
        assert (row["words"], row["generator"], row["status"]) == (6, "scripted-1", "done")
        reply = conn.execute("SELECT * FROM replies WHERE id = ?", (row["reply_id"],)).fetchone()
        assert reply["raw"] == f"[story 1]\n{row['text']}"
        assert (reply["backend"], reply["output_tokens"]) == ("scripted", 8)
        assert reply["seed"] == attempt_seed(row["seed"], 1)
    assert orphaned_calls(conn) == 0


def test_prompts_name_the_emotion_and_the_topic(conn: Connection, protocol: Protocol) -> None:
    backend = ScriptedBackend(good)
    run(conn, protocol, backend)
    asked = Counter(request.prompt for request in backend.asked)
    assert asked == {
        f"Write a story about {topic}. The feeling is {emotion}.": 2
        for emotion in EMOTIONS
        for topic in TOPICS
    }
    assert {request.max_tokens for request in backend.asked} == {50}


def test_nothing_open_asks_nothing(conn: Connection, protocol: Protocol) -> None:
    run(conn, protocol, good)
    again = ScriptedBackend(good)
    assert count_open(conn, "stories", "toy") == 0
    assert run(conn, protocol, again).done == 0
    assert again.asked == []


def test_the_raw_reply_is_durable_before_it_is_parsed(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[str]:
        raise RuntimeError("parser bug")

    monkeypatch.setattr("engine.generation.split_reply", broken)
    with pytest.raises(RuntimeError, match="parser bug"):
        run(conn, protocol, good)
    raw = [row["raw"] for row in conn.execute("SELECT raw FROM replies")]
    assert raw == [f"[story 1]\nNumber {key} went home at last." for key in range(1, 5)]
    assert statuses(conn) == {("pending", None): ROWS}


def test_rejected_rows_are_asked_again_with_another_seed(
    conn: Connection, protocol: Protocol
) -> None:
    seeds: dict[int, list[int]] = {}

    def second_time(request: Request) -> Reply:
        seeds.setdefault(request.key, []).append(request.seed)
        text = "I am calm, angry and proud." if len(seeds[request.key]) == 1 else None
        return reply_to(request, text) if text else good(request)

    summary = run(conn, protocol, second_time)
    assert (summary.done, summary.rejections) == (ROWS, {"leak": ROWS})
    assert all(len(set(tried)) == 2 for tried in seeds.values())
    assert {row["attempts"] for row in rows(conn)} == {2}


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "unparsed"),
        ("I'm sorry, I can't write that story.", "stop", "refusal"),
        ("And then she", "length", "truncated"),
        ("He left.", "stop", "too_short"),
        ("So he sat there, calm and angry and proud.", "stop", "leak"),
    ],
)
def test_what_never_succeeds_is_rejected_with_its_reason(
    conn: Connection, protocol: Protocol, text: str, finish: str, reason: str
) -> None:
    backend = ScriptedBackend(lambda request: reply_to(request, text, finish))
    summary = run(conn, protocol, backend)
    assert statuses(conn) == {("rejected", reason): ROWS}
    assert len(backend.asked) == 3 * ROWS
    assert (summary.rejections, summary.left) == ({reason: 3 * ROWS}, 0)


def test_the_same_text_twice_is_a_duplicate(conn: Connection, protocol: Protocol) -> None:
    def same(request: Request) -> Reply:
        return reply_to(request, "Nobody knew where the key was.")

    run(conn, protocol, same, max_attempts=1)
    assert statuses(conn) == {("done", None): 1, ("rejected", "duplicate"): ROWS - 1}


def test_a_text_of_an_earlier_run_is_a_duplicate_too(conn: Connection, protocol: Protocol) -> None:
    def same(request: Request) -> Reply:
        return reply_to(request, "Nobody knew where the key was.")

    run(conn, protocol, same, max_attempts=1, limit=1)
    run(conn, protocol, same, max_attempts=1)
    assert statuses(conn) == {("done", None): 1, ("rejected", "duplicate"): ROWS - 1}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda request: Failure(key=request.key, reason="quota"), "quota"),
        (lambda _request: None, "unanswered"),
    ],
    ids=["failure", "silence"],
)
def test_what_is_never_answered_fails_with_its_reason(
    conn: Connection, protocol: Protocol, script: Script, reason: str
) -> None:
    summary = run(conn, protocol, script)
    assert statuses(conn) == {("failed", reason): ROWS}
    assert (summary.failures, summary.left, orphaned_calls(conn)) == (3 * ROWS, 0, 0)


def test_a_backend_that_cannot_go_on_costs_no_attempt(conn: Connection, protocol: Protocol) -> None:
    def breaks(request: Request) -> Reply:
        if request.key == 3:
            raise BackendError("no quota left; wait until tomorrow")
        return good(request)

    with pytest.raises(BackendError, match="no quota left"):
        run(conn, protocol, breaks)
    assert statuses(conn) == {("done", None): 2, ("pending", None): ROWS - 2}
    assert {row["attempts"] for row in rows(conn) if row["status"] == "pending"} == {0}
    assert run(conn, protocol, good).left == 0


def test_a_stop_keeps_what_is_finished_and_releases_the_rest(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.generation.DRAIN_SECONDS", 0.2)
    stop = threading.Event()

    def stops(request: Request) -> Reply | float:
        if request.key < 6:
            return good(request)
        stop.set()
        return 60.0

    summary = run(conn, protocol, stops, stop=stop)
    assert (summary.done, summary.left, summary.stopped) == (5, ROWS - 5, True)
    assert statuses(conn) == {("done", None): 5, ("pending", None): ROWS - 5}
    assert {row["attempts"] for row in rows(conn) if row["status"] == "pending"} == {0}
    assert orphaned_calls(conn) == 3


def test_a_limit_counts_finished_texts(conn: Connection, protocol: Protocol) -> None:
    assert run(conn, protocol, good, limit=5).done == 5
    assert run(conn, protocol, good, limit=0).done == 0
    assert [row["status"] for row in rows(conn)] == ["done"] * 5 + ["pending"] * (ROWS - 5)


def test_leases_of_a_dead_engine_are_taken_back(conn: Connection, protocol: Protocol) -> None:
    lease(conn, "stories", "toy", "dead", limit=3, now=999.0, seconds=1e9, max_attempts=3)
    assert count_open(conn, "stories", "toy") == ROWS
    assert run(conn, protocol, good).left == 0


def test_dialogues_are_asked_for_and_checked_as_such(conn: Connection, protocol: Protocol) -> None:
    def talk(request: Request) -> Reply:
        turns = f"Person: Why {request.key}?\nAI: So.\nPerson: And?\nAI: Then rain."
        return reply_to(request, f"[dialogue 1]\n{turns}")

    backend = ScriptedBackend(talk)
    summary = run(conn, protocol, backend, kind="dialogues", emotions=())
    assert (summary.done, count_open(conn, "stories", "toy")) == (4, ROWS)
    assert {request.prompt for request in backend.asked} == {
        f"Write a dialogue about {topic}." for topic in TOPICS
    }
    assert all(row["text"].startswith("Person: Why") for row in rows(conn, "dialogues"))


def test_a_local_model_gives_the_same_replies_in_any_batch(
    conn: Connection, protocol: Protocol, tiny: Model
) -> None:
    replies = []
    for corpus, batch in (("one", 1), ("five", 5)):
        # planned for the same corpus name, so that the rows have the same seeds
        stories = plan_stories(emotions=EMOTIONS, topics=TOPICS, per_topic=2, corpus="x", seed=0)
        open_corpus(conn, corpus, protocol.digest, protocol.files)
        plan(conn, "stories", corpus, stories, now=0.0)
        backend = LocalBackend(tiny, batch_size=batch)
        settings = replace(SETTINGS, corpus=corpus, batch=batch, max_attempts=2, max_tokens=12)
        silent, stop = (lambda _progress: None), threading.Event()
        summary = generate_texts(
            conn, protocol, backend, settings, run_id=None, progress=silent, stop=stop
        )
        assert summary.left == 0
        query = "SELECT seed, raw, finish_reason FROM replies WHERE corpus = ? ORDER BY seed"
        replies.append([tuple(row) for row in conn.execute(query, (corpus,))])
    assert len(replies[0]) >= ROWS
    assert replies[0] == replies[1]


def test_progress_counts_what_happened(conn: Connection, protocol: Protocol) -> None:
    seen: list[GenerationProgress] = []
    run(conn, protocol, good, progress=seen.append)
    assert [each.done for each in seen] == [4, 8, 12]
    assert {each.total for each in seen} == {ROWS}
    assert seen[-1].rate > 0


def test_a_protocol_without_the_prompt_is_refused(conn: Connection, protocol: Protocol) -> None:
    with pytest.raises(ProtocolError, match=r"prompts/dialogue\.txt is missing"):
        run(conn, replace(protocol, prompts={"story": "x"}), good, kind="dialogues")


@pytest.mark.parametrize(
    "change",
    [{"batch": 0}, {"max_attempts": 0}, {"limit": -1}, {"top_p": 0.0}, {"temperature": -1.0}],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SETTINGS, **change)


CHILD = """
import sys, threading
from pathlib import Path
from engine.generation import generate_texts
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
from tests.engine.scripted import SETTINGS, ScriptedBackend, good

root = Path(sys.argv[1])
answered = 0

def script(request):
    global answered
    answered += 1
    if answered > 6:
        print("waiting")
    if answered > 5:
        return 60.0 if answered > 6 else 0.3  # by then the fifth answer is settled
    return good(request)

generate_texts(
    open_database(Workspace(root).database), load_protocol(root / "protocol"),
    ScriptedBackend(script), SETTINGS, run_id=None, progress=lambda p: None, stop=threading.Event(),
)
"""


def test_a_killed_run_loses_only_what_was_in_flight(
    conn: Connection, protocol: Protocol, workspace: Workspace, start_child: StartChild
) -> None:
    child = start_child(CHILD, workspace.root)
    assert line_of(child) == "waiting"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert statuses(conn) == {("done", None): 5, ("leased", None): 3, ("pending", None): ROWS - 8}
    assert orphaned_calls(conn) == 3
    before = {row["id"]: row["text"] for row in rows(conn) if row["status"] == "done"}
    resumed = ScriptedBackend(good)
    assert run(conn, protocol, resumed).left == 0
    assert not before.keys() & {request.key for request in resumed.asked}
    assert before.items() <= {row["id"]: row["text"] for row in rows(conn)}.items()
