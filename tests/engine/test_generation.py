"""Every planned row ends with a text or a reason, whatever a backend does and whenever it dies."""

import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.backends.base import Failure, FinishReason, Reply, Request
from engine.backends.local import LocalBackend
from engine.generation import count_open, generate_texts
from engine.models import Model
from engine.requesting import FILLED_IN
from engine.tally import GenerationProgress, GenerationSummary
from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import BackendError, BadValue, ProtocolError
from stores.planning import plan, plan_dialogues, plan_stories
from stores.prices import Price
from stores.protocol import Protocol
from stores.replies import orphaned_calls
from stores.seeds import attempt_seed
from stores.texts import lease
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

    monkeypatch.setattr("engine.settling.split_reply", broken)
    with pytest.raises(RuntimeError, match="parser bug"):
        run(conn, protocol, good)
    raw = [row["raw"] for row in conn.execute("SELECT raw FROM replies")]
    assert raw == [f"[story 1]\nNumber {key} went home at last." for key in range(1, ROWS + 1)]
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
        ("", "stop", "empty"),
        ("", "length", "truncated"),
        ("Half a story, and no reason why it", "unknown", "unknown_finish"),
        ("Half a story, and then the filter", "blocked", "blocked"),
        ("I'm sorry, I can't write that story.", "stop", "refusal"),
        ("And then she", "length", "truncated"),
        ("He left.", "stop", "too_short"),
        ("So he sat there, calm and angry and proud.", "stop", "leak"),
    ],
)
def test_what_never_succeeds_is_rejected_with_its_reason(
    conn: Connection, protocol: Protocol, text: str, finish: FinishReason, reason: str
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
        backend = LocalBackend(tiny, workers=batch)
        settings = replace(SETTINGS, corpus=corpus, workers=batch, max_attempts=2, max_tokens=12)
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
    paused: set[int] = set()

    def in_threes(request: Request) -> Reply | float:
        if request.key % 4 == 0 and request.key not in paused:
            paused.add(request.key)
            return 0.15  # longer than answers are waited for together
        return good(request)

    seen: list[GenerationProgress] = []
    run(conn, protocol, in_threes, progress=seen.append)
    assert [each.done for each in seen] == [3, 7, 11, 12]
    assert {each.total for each in seen} == {ROWS}
    assert (seen[-1].calls, seen[-1].tokens) == (ROWS, 8 * ROWS)
    assert seen[-1].rate > 0


def test_a_long_wait_is_told_and_keeps_its_leases(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.generation.TICK_SECONDS", 0.02)
    monkeypatch.setattr("engine.generation.RENEW_TICKS", 2)
    pauses = iter([0.3])
    held: list[float] = []

    def slow(request: Request) -> Reply | float:
        return next(pauses, None) or good(request)

    def watch(progress: GenerationProgress) -> None:
        if progress.done == 0:
            until = conn.execute("SELECT max(lease_until) FROM stories").fetchone()[0]
            held.append(until)

    clock = iter(range(1000, 10_000))
    generate_texts(
        conn,
        protocol,
        ScriptedBackend(slow),
        SETTINGS,
        run_id=None,
        progress=watch,
        stop=threading.Event(),
        clock=lambda: float(next(clock)),
    )
    assert len(held) >= 5
    assert held[-1] > held[0]


def test_one_call_asks_for_the_texts_of_one_prompt(conn: Connection, protocol: Protocol) -> None:
    def two(request: Request) -> Reply:
        texts = [f"[story {n}]\nNumber {request.key} went home {n} times." for n in (1, 2)]
        return reply_to(request, "\n".join(texts))

    backend = ScriptedBackend(two)
    counted = replace(protocol, prompts={"story": "{n} about {topic}, {emotion}"})
    assert run(conn, counted, backend, per_call=2).done == ROWS
    assert {request.max_tokens for request in backend.asked} == {2 * SETTINGS.max_tokens}
    assert sorted(request.prompt for request in backend.asked) == sorted(
        f"2 about {topic}, {emotion}" for topic in TOPICS for emotion in EMOTIONS
    )
    for row in rows(conn):
        assert row["text"].endswith(f"home {row['slot'] + 1} times.")
    (asked,) = {tuple(r) for r in conn.execute("SELECT asked, found FROM replies")}
    assert asked == (2, 2)


def test_rows_of_one_prompt_stay_calls_of_their_own(conn: Connection, protocol: Protocol) -> None:
    backend = ScriptedBackend(good, at_once=ROWS)
    run(conn, protocol, backend, workers=ROWS)
    assert len(backend.asked) == ROWS
    assert {request.max_tokens for request in backend.asked} == {SETTINGS.max_tokens}
    assert len({request.seed for request in backend.asked}) == ROWS


@pytest.mark.parametrize(
    ("parts", "finish", "first", "second"),
    [
        (1, "stop", "done", "wrong_number"),
        (1, "length", "truncated", "truncated"),
        (2, "length", "done", "truncated"),
        (3, "stop", "done", "done"),
        (0, "stop", "empty", "empty"),
    ],
)
def test_every_text_of_a_reply_is_judged_for_itself(
    conn: Connection,
    protocol: Protocol,
    parts: int,
    finish: FinishReason,
    first: str,
    second: str,
) -> None:
    def some(request: Request) -> Reply:
        texts = [f"[story {n}]\n{request.key} went home {n} times." for n in range(1, parts + 1)]
        return reply_to(request, "\n".join(texts), finish)

    run(conn, protocol, some, per_call=2, max_attempts=1)
    by_slot = {
        slot: {row["reason"] or row["status"] for row in rows(conn) if row["slot"] == slot}
        for slot in (0, 1)
    }
    assert by_slot == {0: {first}, 1: {second}}
    verdicts = conn.execute("SELECT part, reason FROM verdicts v ORDER BY reply_id, text_id")
    for part, reason in verdicts:
        assert part in (None, 0, 1)
        assert (reason or "done") in (first, second)


def test_what_cannot_be_helped_is_not_asked_again(conn: Connection, protocol: Protocol) -> None:
    def never(request: Request) -> Reply | Failure:
        if request.key % 2:
            return Failure(key=request.key, reason="400 too long", final=True)
        return replace(reply_to(request, "", "blocked"), final=True)

    backend = ScriptedBackend(never)
    run(conn, protocol, backend)
    assert len(backend.asked) == ROWS
    assert statuses(conn) == {
        ("failed", "400 too long"): ROWS // 2,
        ("rejected", "blocked"): ROWS // 2,
    }


def test_a_cost_limit_is_never_passed(conn: Connection, protocol: Protocol) -> None:
    """However long the answers: a call is made only if its worst still fits."""
    price = Price(1e6, 1e6, "here", "today")  # a dollar a token, in and out

    def long(request: Request) -> Reply:
        return replace(good(request), prompt_tokens=20, output_tokens=request.max_tokens)

    prompt = protocol.prompts["story"] + " " * FILLED_IN
    dearest = replace(SETTINGS, price=price).dearest_call(prompt)
    limit = 2.5 * dearest
    summary = run(conn, protocol, long, price=price, max_cost=limit)
    assert summary.over_budget
    assert summary.cost_usd == 70.0 * summary.calls
    assert limit - dearest < summary.cost_usd <= limit
    assert (summary.left, summary.stopped) == (ROWS - summary.done, False)
    spent = conn.execute("SELECT sum(cost_usd) FROM replies").fetchone()[0]
    assert spent == summary.cost_usd
    assert {row["attempts"] for row in rows(conn) if row["status"] == "pending"} == {0}
    assert run(conn, protocol, long, price=price).left == 0


def test_a_row_that_was_lost_meanwhile_is_not_written(conn: Connection, protocol: Protocol) -> None:
    def stolen(request: Request) -> Reply:
        if request.key == 3:
            conn.execute("UPDATE stories SET attempts = attempts + 1 WHERE id = 3")
        return good(request)

    summary = run(conn, protocol, stolen, limit=4)
    assert summary.done == 4
    assert (rows(conn)[2]["status"], rows(conn)[2]["text"]) == ("leased", None)
    kept = [row["raw"] for row in conn.execute("SELECT raw FROM replies ORDER BY id")]
    assert kept[2].endswith("Number 3 went home at last.")


def test_texts_of_an_earlier_version_are_marked_before_new_ones_are_judged(
    conn: Connection, protocol: Protocol
) -> None:
    run(conn, protocol, good, limit=2)
    first = rows(conn)[0]["text"]
    conn.execute("DELETE FROM marks")
    conn.execute("UPDATE corpora SET marks_rule = NULL")
    run(conn, protocol, lambda request: reply_to(request, first), max_attempts=1)
    assert statuses(conn) == {("done", None): 2, ("rejected", "duplicate"): ROWS - 2}


def test_a_protocol_without_the_prompt_is_refused(conn: Connection, protocol: Protocol) -> None:
    with pytest.raises(ProtocolError, match=r"prompts/dialogue\.txt is missing"):
        run(conn, replace(protocol, prompts={"story": "x"}), good, kind="dialogues")


@pytest.mark.parametrize(
    "change",
    [{"workers": 0}, {"max_attempts": 0}, {"limit": -1}, {"top_p": 0.0}, {"temperature": -1.0}],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match=next(iter(change)).replace("_", "-")):
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
