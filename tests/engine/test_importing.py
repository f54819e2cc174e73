"""Stories of other people pass the checks of generated ones, and each is taken once."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.generation import generate_texts
from engine.importing import ImportSettings, ImportSummary, import_stories
from engine.reparsing import reparse
from engine.stages import plan_generation
from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import BadValue, FingerprintMismatch
from stores.failpoints import EXIT_CODE, VARIABLE
from stores.protocol import Protocol, load_protocol
from stores.storyfiles import export_texts, file_digest
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.engine.protocols import write_protocol
from tests.engine.scripted import SETTINGS, ScriptedBackend, good, reply_to

Record = dict[str, Any]

RAIN = {"emotion": "calm", "topic": "the rain"}
PLACES = ("harbour", "orchard", "chapel", "quarry", "station", "mill", "market")


@pytest.fixture
def protocol(workspace: Workspace) -> Protocol:
    return write_protocol(workspace.root)


def told(number: int) -> str:
    """A story like no other."""
    place, other = PLACES[number % 7], PLACES[(number * 3 + 1) % 7]
    return (
        f"Between {place} and {other} {number} carts stood{' still' * (number % 4)} till {number}."
    )


def story(number: int, **changes: Any) -> Record:
    emotion = ("calm", "angry", "proud")[number % 3]
    topic = ("a letter", "the rain", "a foreign topic")[number // 3 % 3]
    return {"emotion": emotion, "topic": topic, "text": told(number), **changes}


def write_file(workspace: Workspace, *records: Record, name: str = "stories.jsonl") -> Path:
    path = workspace.root / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def take(
    conn: Connection,
    protocol: Protocol,
    path: Path,
    *,
    corpus: str = "toy",
    generator: str | None = "somebody",
    seed: int = 0,
    mixed: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
    stop: threading.Event | None = None,
) -> ImportSummary:
    return import_stories(
        conn,
        protocol,
        ImportSettings(path=path, corpus=corpus, generator=generator, seed=seed, mixed=mixed),
        progress=progress,
        stop=stop or threading.Event(),
        clock=lambda: 1000.0,
    )


def generate(
    conn: Connection, protocol: Protocol, backend: ScriptedBackend, **changes: Any
) -> None:
    silent, stop = (lambda _progress: None), threading.Event()
    settings = replace(SETTINGS, **changes)
    plan_generation(conn, protocol, settings)
    generate_texts(conn, protocol, backend, settings, run_id=None, progress=silent, stop=stop)


def rows(conn: Connection, corpus: str = "toy") -> list[Record]:
    query = "SELECT * FROM stories WHERE corpus = ? ORDER BY id"
    return [dict(row) for row in conn.execute(query, (corpus,))]


def statuses(conn: Connection) -> Counter[tuple[str, str | None]]:
    return Counter((row["status"], row["reason"]) for row in rows(conn))


def ledger(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    """All that is kept, but for the runs."""
    tables = ("stories", "dialogues", "replies", "calls", "verdicts", "marks", "corpora")
    kept = {name: [dict(row) for row in conn.execute(f"SELECT * FROM {name}")] for name in tables}
    for row in (*kept["replies"], *kept["calls"], *kept["corpora"]):
        row.pop("run_id", None), row.pop("created_at", None)
    return {name: [tuple(row.values()) for row in found] for name, found in kept.items()}


# ---- what is taken -----------------------------------------------------------------------------


def test_every_record_becomes_a_row_with_its_reply_its_verdict_and_its_marks(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = write_file(workspace, *(story(n) for n in range(9)))
    summary = take(conn, protocol, path)
    assert summary == ImportSummary(9, {}, 0, 1, {}, stopped=False)
    for number, row in enumerate(rows(conn)):
        expected = story(number)
        assert {key: row[key] for key in expected} == expected
        assert (row["status"], row["slot"], row["generator"]) == ("done", 0, "somebody")
        assert (row["words"], row["attempts"]) == (len(row["text"].split()), 0)
        query = "SELECT * FROM replies WHERE id = ?"
        reply = conn.execute(query, (row["reply_id"],)).fetchone()
        assert (reply["backend"], reply["model"], reply["raw"]) == (
            "import",
            "somebody",
            row["text"],
        )
        assert (reply["finish_reason"], reply["seed"], reply["found"]) == ("imported", None, 1)
        verdict = conn.execute("SELECT * FROM verdicts WHERE text_id = ?", (row["id"],)).fetchone()
        assert (verdict["reply_id"], verdict["reason"]) == (row["reply_id"], None)
        assert conn.execute("SELECT 1 FROM marks WHERE text_id = ?", (row["id"],)).fetchone()
    open_calls = conn.execute("SELECT count(*) FROM calls WHERE outcome IS NULL").fetchone()[0]
    assert open_calls == 0


def test_the_run_tells_the_file_and_the_texts_lead_to_it(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = write_file(workspace, story(1))
    take(conn, protocol, path)
    (run,) = conn.execute("SELECT * FROM runs").fetchall()
    assert (run["command"], run["outcome"], run["corpus"]) == ("import stories", "done", "toy")
    settings = json.loads(run["settings"])
    assert (settings["file"], settings["digest"]) == ("stories.jsonl", file_digest(path))
    assert settings["generators"] == ["somebody"]
    assert conn.execute("SELECT run_id FROM replies").fetchone()[0] == run["id"]


def test_a_record_says_who_wrote_it_or_the_command_does(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = write_file(workspace, story(1, generator="ann"), story(2))
    with pytest.raises(BadValue, match=r"line 2: does not say who wrote it.*--generator NAME"):
        take(conn, protocol, path, generator=None)
    with pytest.raises(FingerprintMismatch, match=r"stories by ann, bob: say --mix-generators"):
        take(conn, protocol, path, generator="bob")
    assert rows(conn) == []
    take(conn, protocol, path, generator="bob", mixed=True)
    assert [row["generator"] for row in rows(conn)] == ["ann", "bob"]
    third = write_file(workspace, story(3))
    with pytest.raises(FingerprintMismatch, match="were written by ann, bob, not by carl"):
        take(conn, protocol, third, generator="carl")


def test_records_without_a_slot_get_free_ones_in_their_order(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    texts: list[Record] = [RAIN | {"text": told(n)} for n in range(4)]
    texts[2]["slot"] = 1
    take(conn, protocol, write_file(workspace, *texts))
    assert {row["slot"]: row["text"] for row in rows(conn)} == {
        0: told(0),
        2: told(1),
        1: told(2),
        3: told(3),
    }
    more = write_file(workspace, RAIN | {"text": told(9)})
    take(conn, protocol, more)
    assert rows(conn)[-1]["slot"] == 4


def test_a_given_slot_fills_a_planned_row_and_others_leave_it_to_the_backend(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    generate(conn, protocol, ScriptedBackend(good), limit=0)
    planned = {(r["emotion"], r["topic"], r["slot"]): r["id"] for r in rows(conn)}
    given, free = RAIN | {"slot": 1, "text": told(1)}, RAIN | {"text": told(2)}
    take(conn, protocol, write_file(workspace, given, free))
    done = {row["text"]: row for row in rows(conn) if row["status"] == "done"}
    assert done[told(1)]["id"] == planned["calm", "the rain", 1]
    assert done[told(2)]["slot"] == 2
    assert len(rows(conn)) == len(planned) + 1
    backend = ScriptedBackend(good)
    generate(conn, protocol, backend)
    assert len(backend.asked) == len(planned) - 1


def test_an_imported_text_is_tidied_as_one_text(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    raw = "[story 1]\nThe cart  stood.\n\nNobody came,\nand night fell.\n"
    take(conn, protocol, write_file(workspace, RAIN | {"text": raw}))
    (row,) = rows(conn)
    assert row["text"] == "The cart stood. Nobody came, and night fell."
    assert conn.execute("SELECT raw FROM replies").fetchone()[0] == raw


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("He left.", "too_short"),
        ("She was calm and angry and proud then.", "leak"),
        ("I'm sorry, I can't write that story.", "refusal"),
        ("And then she went to the", "truncated"),
    ],
)
def test_what_generated_texts_are_refused_for_records_are_refused_for(
    conn: Connection, protocol: Protocol, workspace: Workspace, text: str, reason: str
) -> None:
    path = write_file(workspace, story(1), story(2, text=text))
    summary = take(conn, protocol, path)
    assert (summary.taken, summary.refused) == (1, {reason: 1})
    assert statuses(conn) == {("done", None): 1, ("rejected", reason): 1}
    backend = ScriptedBackend(good)
    plan_generation(conn, protocol, SETTINGS)
    generate(conn, protocol, backend)
    assert len(backend.asked) == 10  # nobody is asked for what was taken or refused


def test_a_refused_record_leaves_a_planned_row_as_it_was(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    leak = ScriptedBackend(lambda request: reply_to(request, "I am calm, angry and proud."))
    generate(conn, protocol, leak, max_attempts=1)
    conn.execute("UPDATE stories SET status = 'pending' WHERE id <= 6")
    before = rows(conn)
    short = [{key: row[key] for key in ("emotion", "topic", "slot")} for row in before]
    path = write_file(workspace, *(each | {"text": f"Gone {n}."} for n, each in enumerate(short)))
    summary = take(conn, protocol, path)
    assert summary.refused == {"too_short": 12}
    assert rows(conn) == before
    assert conn.execute("SELECT count(*) FROM verdicts WHERE part = 0").fetchone()[0] >= 12


def test_foreign_topics_and_keys_that_mean_nothing_are_counted(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    records = [story(n, topic=f"topic {n // 2}", id=n, note="x") for n in range(4)]
    records[0].pop("note")
    summary = take(conn, protocol, write_file(workspace, *records))
    assert (summary.foreign_topics, summary.ignored) == (2, {"id": 4, "note": 3})


def test_a_table_is_imported_like_lines(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = workspace.root / "stories.csv"
    path.write_text(f'topic,text,emotion,slot\nthe rain,"{told(1)}",calm,4\n')
    assert take(conn, protocol, path).taken == 1
    assert [(row["text"], row["slot"]) for row in rows(conn)] == [(told(1), 4)]


# ---- doubles and taken slots -------------------------------------------------------------------


def test_a_slot_that_has_another_text_is_told_and_the_rest_is_taken(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    take(conn, protocol, write_file(workspace, story(1, slot=0)))
    before = ledger(conn)
    for _ in range(2):
        path = write_file(workspace, story(1, slot=0, text=told(50)))
        assert take(conn, protocol, path).refused == {"slot_taken": 1}
        assert ledger(conn) == before
    path = write_file(workspace, story(1, slot=0, text=told(50)), story(2, slot=0))
    summary = take(conn, protocol, path)
    assert (summary.taken, summary.refused) == (1, {"slot_taken": 1})


def test_doubles_are_found_across_imported_and_generated_texts(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    take(conn, protocol, write_file(workspace, story(1)))
    copied = ScriptedBackend(lambda request: reply_to(request, told(1).upper()))
    generate(conn, protocol, copied, limit=1, max_attempts=1, topics=("the rain",))
    assert ("rejected", "duplicate") in statuses(conn)
    written = ScriptedBackend(lambda request: reply_to(request, told(request.key + 20)))
    generate(conn, protocol, written)
    generated = next(row for row in rows(conn) if row["generator"] == "scripted-1")
    other = next(e for e in ("calm", "angry") if e != generated["emotion"])
    path = write_file(workspace, {"emotion": other, "topic": "x", "text": generated["text"]})
    assert take(conn, protocol, path, mixed=True).refused == {"duplicate": 1}


def test_a_near_double_is_found_across_imported_and_generated_texts(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    long = " ".join(told(n) for n in range(10))
    take(conn, protocol, write_file(workspace, RAIN | {"text": f"In May {long}"}))
    near = ScriptedBackend(lambda request: reply_to(request, f"One evening in {long}"))
    generate(conn, protocol, near, limit=1, max_attempts=1)
    assert statuses(conn) == {("done", None): 1, ("rejected", "near_duplicate"): 11}
    path = write_file(workspace, RAIN | {"text": f"Once upon {long}"})
    assert take(conn, protocol, path).refused == {"near_duplicate": 1}


def test_the_same_text_twice_in_a_file_is_taken_once(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = write_file(workspace, story(1), story(1), story(2, slot=0), story(2, slot=0))
    summary = take(conn, protocol, path)
    assert (summary.taken, summary.already_there, summary.refused) == (2, 2, {})


# ---- again, and interrupted --------------------------------------------------------------------

MANY = [
    *(story(n) for n in range(10)),
    story(20, text="He left."),
    story(21, slot=0),
    story(22, text="I am calm, angry and proud."),
    *(story(n, slot=n) for n in range(30, 40)),
]


def test_importing_a_file_again_adds_nothing(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = write_file(workspace, *MANY)
    first = take(conn, protocol, path)
    before = ledger(conn)
    again = take(conn, protocol, path)
    assert ledger(conn) == before
    assert (again.taken, again.already_there, again.refused) == (0, len(MANY), {})
    assert first.taken + sum(first.refused.values()) == len(MANY)


def test_what_is_exported_is_there_already_in_its_own_corpus_and_equal_in_another(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    generate(conn, protocol, ScriptedBackend(lambda r: reply_to(r, told(r.key))))
    for name in ("out.jsonl", "out.csv"):
        path, before = workspace.root / name, ledger(conn)
        export_texts(conn, "stories", "toy", path)
        summary = take(conn, protocol, path, generator=None)
        assert (summary.already_there, summary.taken) == (12, 0)
        assert ledger(conn) == before
        assert take(conn, protocol, path, corpus=path.suffix[1:], generator=None).taken == 12
    columns = ("emotion", "topic", "slot", "text", "words", "generator", "status")
    found = [
        [[row[name] for name in columns] for row in rows(conn, corpus)]
        for corpus in ("toy", "jsonl", "csv")
    ]
    assert found[0] == found[1] == found[2]


def test_a_stop_ends_after_a_page_and_the_same_file_goes_on(
    conn: Connection, protocol: Protocol, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.importing.RECORDS_AT_ONCE", 4)
    path, stop, seen = write_file(workspace, *MANY), threading.Event(), list[tuple[int, int]]()

    def watch(*progress: int) -> None:
        seen.append((progress[0], progress[1]))
        if len(seen) == 2:
            stop.set()

    first = take(conn, protocol, path, progress=watch, stop=stop)
    assert (first.stopped, first.taken, seen) == (True, 8, [(4, 23), (8, 23)])
    assert conn.execute("SELECT outcome FROM runs").fetchone()[0] == "stopped"
    second = take(conn, protocol, path)
    assert second.already_there == 8
    assert first.taken + second.taken + sum(second.refused.values()) == len(MANY)


CHILD = """
import sys, threading
from pathlib import Path
import engine.importing
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
engine.importing.RECORDS_AT_ONCE = 4
root = Path(sys.argv[1])
engine.importing.import_stories(
    open_database(Workspace(root).database), load_protocol(root / "protocol"),
    engine.importing.ImportSettings(
        path=root / "stories.jsonl", corpus="toy", generator="somebody", seed=0, mixed=False),
    progress=lambda *each: None, stop=threading.Event(), clock=lambda: 1000.0,
)
"""


@pytest.mark.parametrize(
    ("place", "unread"), [("recorded:1", 4), ("recorded:3", 4), ("settling:6", 4), ("settled:3", 0)]
)
def test_a_killed_import_goes_on_to_the_same_rows(
    conn: Connection,
    protocol: Protocol,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    unread: int,
) -> None:
    monkeypatch.setattr("engine.importing.RECORDS_AT_ONCE", 4)
    path = write_file(workspace, *MANY)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(workspace.root)],
        cwd=ROOT,
        env={**os.environ, VARIABLE: place},
        check=False,
    )
    assert child.returncode == EXIT_CODE
    assert statuses(conn)["rejected", "unread"] == unread  # kept, and no backend is asked for them
    assert ("pending", None) not in statuses(conn)
    take(conn, protocol, path)
    resumed = ledger(conn)
    for table in ("verdicts", "calls", "stories", "marks", "replies"):
        conn.execute(f"DELETE FROM {table}")
    take(conn, protocol, path)
    assert ledger(conn) == resumed


def test_a_record_that_was_kept_and_not_judged_is_found_by_reparsing_too(
    conn: Connection, protocol: Protocol, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("filter bug")

    path = write_file(workspace, *MANY)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="filter bug"):
        patch.setattr("engine.rereading.check_story", broken)
        take(conn, protocol, path)
    assert statuses(conn) == {("rejected", "unread"): len(MANY)}
    silent, stop = (lambda *_: None), threading.Event()
    summary = reparse(conn, protocol, "toy", withdraw=False, progress=silent, stop=stop)
    assert summary.filled == len(MANY) - 2
    assert take(conn, protocol, path).already_there == len(MANY)


def test_reparsing_reads_a_record_as_the_one_text_it_is(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    raw = "The cart stood.\n---\nStory 2: Nobody came, and night fell on the square."
    take(conn, protocol, write_file(workspace, RAIN | {"text": raw}, story(1)))
    before = ledger(conn)
    silent, stop = (lambda *_: None), threading.Event()
    summary = reparse(conn, protocol, "toy", withdraw=True, progress=silent, stop=stop)
    assert (summary.changes, summary.replies) == ({}, 2)
    assert ledger(conn) == before


# ---- what is refused before anything is written -------------------------------------------------


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ("{broken", "is not JSON"),
        (story(1, emotion="clam"), "unknown emotion 'clam'; near: calm"),
        (story(1, text="  "), "text is empty"),
        (story(1, slot=-1), "slot must be"),
        (story(3, slot=7, text=told(99)), "slot 7 of this emotion and topic has another text"),
    ],
)
def test_one_bad_line_is_named_and_nothing_is_written(
    conn: Connection, protocol: Protocol, workspace: Workspace, record: Any, problem: str
) -> None:
    path = write_file(workspace, story(3, slot=7), *(story(n) for n in range(4, 9)), story(1))
    lines = path.read_text().splitlines()
    lines[6] = record if isinstance(record, str) else json.dumps(record)
    path.write_text("\n".join(lines))
    with pytest.raises(BadValue, match=rf"stories\.jsonl, line 7: {problem}"):
        take(conn, protocol, path)
    assert conn.execute("SELECT count(*) FROM corpora").fetchone()[0] == 0
    assert conn.execute("SELECT count(*) FROM runs").fetchone()[0] == 0


def test_a_file_without_stories_is_refused(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    with pytest.raises(BadValue, match=r"stories\.jsonl: has no stories"):
        take(conn, protocol, write_file(workspace))


def test_a_corpus_keeps_its_protocol_and_its_seed(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    path = write_file(workspace, story(1))
    take(conn, protocol, path, seed=7)
    with pytest.raises(FingerprintMismatch, match="give the --seed they were planned with"):
        take(conn, protocol, write_file(workspace, story(2)))
    assert take(conn, protocol, write_file(workspace, story(2)), seed=7).taken == 1
    plan_generation(conn, protocol, replace(SETTINGS, seed=7))
    open_corpus(conn, "other", "sha256:p", {"topics.txt": "sha256:t"})
    with pytest.raises(FingerprintMismatch, match="another protocol"):
        take(conn, protocol, path, corpus="other")


def test_a_changed_filter_reaches_imported_texts(
    conn: Connection, protocol: Protocol, workspace: Workspace
) -> None:
    take(conn, protocol, write_file(workspace, story(1), story(2)))
    (protocol.root / "leaks.tsv").write_text("emotion\tforms\tsynonyms\nangry\tcarts\t\n")
    silent, stop = (lambda *_: None), threading.Event()
    strict = load_protocol(protocol.root)
    summary = reparse(conn, strict, "toy", withdraw=True, progress=silent, stop=stop)
    assert summary.changes == {"leak": 1}
    assert statuses(conn) == {("pending", "leak"): 1, ("done", None): 1}
