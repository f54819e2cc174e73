"""Replies that were paid for are read again: nothing good in them is lost, nothing done is touched
unasked, and a second time finds nothing to change."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import Reply, Request
from engine.generation import generate_texts
from engine.reparsing import ReparseSummary, reparse
from engine.splitting import split_reply
from engine.stages import plan_generation
from stores.corpora import protocol_folder
from stores.database import Connection
from stores.errors import FingerprintMismatch, NotReady
from stores.failpoints import EXIT_CODE, VARIABLE
from stores.protocol import Bounds, Protocol, load_protocol
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.engine.protocols import EMOTIONS, write_protocol
from tests.engine.scripted import SETTINGS, Script, ScriptedBackend, reply_to

ROWS = 12
PLACES = ("harbour", "orchard", "chapel", "quarry", "station", "mill")
THINGS = ("lantern", "ladder", "violin", "kettle", "compass")


def story(number: int) -> str:
    """A story like no other."""
    place, thing = PLACES[number % 6], THINGS[number % 5]
    return f"At the {place} {number} people carried one {thing} home, {'very ' * (number % 3)}late."


def stories(request: Request) -> Reply:
    """Two stories, the first of which repeats what no other reply has."""
    told = f"[story 1]\n{story(request.key)}\n[story 2]\n{story(100 + request.key)}"
    return reply_to(request, told)


def turns(request: Request) -> Reply:
    """Two dialogues."""
    told = [
        f"[dialogue {n}]\nPerson: Where is {story(n * 50 + request.key)}\nAI: There.\n"
        f"Person: Whose {THINGS[request.key % 5]}?\nAI: Nobody's number {request.key * n}."
        for n in (1, 2)
    ]
    return reply_to(request, "\n".join(told))


@pytest.fixture
def protocol(workspace: Workspace) -> Protocol:
    return write_protocol(workspace.root)


def with_leaks(
    protocol: Protocol, word: str, *, emotions: Sequence[str] = EMOTIONS, min_words: int = 3
) -> Protocol:
    """The protocol with a word forbidden to these emotions, and other bounds."""
    rows = "\n".join(f"{name}\t\t{word}\town" for name in emotions)
    (protocol.root / "leaks.tsv").write_text(f"emotion\tforms\tsynonyms\tsource\n{rows}\n")
    place = protocol.root / "protocol.toml"
    place.write_text(place.read_text().replace("min_words = 3,", f"min_words = {min_words},"))
    return load_protocol(protocol.root)


def generate(
    conn: Connection, protocol: Protocol, script: Script = stories, **changes: Any
) -> list[Request]:
    """Plan and write; returns what was asked."""
    settings = replace(SETTINGS, per_call=2, **changes)
    plan_generation(conn, protocol, settings)
    backend = ScriptedBackend(script)
    silent, stop = (lambda _progress: None), threading.Event()
    generate_texts(conn, protocol, backend, settings, run_id=None, progress=silent, stop=stop)
    return backend.asked


def again(
    conn: Connection,
    protocol: Protocol,
    *,
    withdraw: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    stop: threading.Event | None = None,
) -> ReparseSummary:
    return reparse(
        conn,
        protocol,
        "toy",
        withdraw=withdraw,
        progress=progress,
        stop=stop or threading.Event(),
        clock=lambda: 2000.0,
    )


def ledger(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    """All that is kept, but for the runs."""
    tables = ("stories", "dialogues", "replies", "calls", "verdicts", "marks", "corpora")
    return {name: [tuple(r) for r in conn.execute(f"SELECT * FROM {name}")] for name in tables}


def texts(conn: Connection) -> dict[int, str | None]:
    return dict(conn.execute("SELECT id, text FROM stories ORDER BY id").fetchall())


def count(conn: Connection, where: str) -> int:
    return int(conn.execute(f"SELECT count(*) FROM stories WHERE {where}").fetchone()[0])


def split_into(monkeypatch: pytest.MonkeyPatch, split: Callable[[str], list[str]]) -> None:
    monkeypatch.setattr("engine.settling.split_reply", lambda raw, *_: split(raw))


# ---- what was lost -----------------------------------------------------------------------------


def test_a_parser_that_found_nothing_loses_nothing(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        split_into(patch, lambda _raw: [])
        asked = generate(conn, protocol)
    assert (len(asked), count(conn, "status = 'rejected' AND reason = 'unparsed'")) == (18, ROWS)
    calls = len(ledger(conn)["calls"])
    summary = again(conn, protocol)
    assert (summary.filled, summary.replies, summary.changes) == (ROWS, 18, {})
    assert count(conn, "status = 'done' AND reason IS NULL AND generator = 'scripted-1'") == ROWS
    assert len(ledger(conn)["calls"]) == calls
    assert generate(conn, protocol) == []
    assert [row["found"] for row in conn.execute("SELECT found FROM replies")] == [2] * 18


def test_a_parser_that_fell_over_loses_nothing(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_raw: str) -> list[str]:
        raise RuntimeError("parser bug")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="parser bug"):
        split_into(patch, broken)
        generate(conn, protocol)
    summary = again(conn, protocol)
    assert summary.filled == 2 * summary.replies > 0
    assert len(generate(conn, protocol)) == 6 - summary.replies


def test_a_row_that_a_later_reply_fills_is_not_among_the_refused(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: set[int] = set()

    def second_time(request: Request) -> Reply:
        if request.key in tried:
            return stories(request)
        tried.add(request.key)
        return reply_to(request, "[story]\nI am calm, angry and proud.\n" * 2)

    with monkeypatch.context() as patch:
        split_into(patch, lambda _raw: [])
        generate(conn, protocol, second_time, max_attempts=2)
    summary = again(conn, protocol)
    assert (summary.replies, summary.filled, summary.refused) == (ROWS, ROWS, {})


def test_a_filled_row_is_the_one_that_a_run_would_have_written(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = "SELECT emotion, topic, slot, text, words, generator, reply_id FROM stories"
    verdicts = "SELECT reply_id, text_id, part, reason FROM verdicts ORDER BY 1, 2"
    with monkeypatch.context() as patch:
        split_into(patch, lambda _raw: [])
        generate(conn, protocol, max_attempts=1)
    again(conn, protocol)
    marks = ledger(conn)["marks"]
    filled = [[tuple(row) for row in conn.execute(query)] for query in (split, verdicts)]
    for table in ("verdicts", "calls", "stories", "marks", "replies"):
        conn.execute(f"DELETE FROM {table}")
    generate(conn, protocol, max_attempts=1)
    assert [[tuple(row) for row in conn.execute(query)] for query in (split, verdicts)] == filled
    assert ledger(conn)["marks"] == marks


def test_a_text_that_the_parser_passed_over_goes_to_the_row_that_went_without(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        split_into(patch, lambda raw: split_reply(raw, "stories", 2)[1:])
        generate(conn, protocol, max_attempts=1)
    before = {key: text for key, text in texts(conn).items() if text is not None}
    assert len(before) == ROWS / 2
    summary = again(conn, protocol)
    assert (summary.filled, summary.changes) == (ROWS / 2, {})
    assert before.items() <= texts(conn).items()
    assert len(set(texts(conn).values())) == ROWS
    assert {text for text in texts(conn).values() if text} >= {story(key) for key in range(1, 7)}


def test_a_looser_filter_fills_rows_from_replies_that_were_refused(
    conn: Connection, workspace: Workspace
) -> None:
    strict = write_protocol(workspace.root, stories=Bounds(100, 400))
    generate(conn, strict)
    assert count(conn, "status = 'rejected' AND reason = 'too_short'") == ROWS
    place = strict.root / "protocol.toml"
    place.write_text(place.read_text().replace("min_words = 100", "min_words = 3"))
    loose = load_protocol(strict.root)
    summary = again(conn, loose)
    assert (summary.filled, summary.bound) == (ROWS, True)
    assert generate(conn, loose) == []


def test_a_reply_that_is_refused_still_says_why_today(
    conn: Connection, workspace: Workspace
) -> None:
    strict = write_protocol(workspace.root, stories=Bounds(100, 400))
    generate(conn, strict, max_attempts=2)
    reparsed = again(conn, with_leaks(strict, "people"))
    assert reparsed.refused == {"too_short": 2 * ROWS}
    place = strict.root / "protocol.toml"
    place.write_text(place.read_text().replace("min_words = 100", "min_words = 3"))
    reparsed = again(conn, load_protocol(strict.root))
    assert (reparsed.refused, reparsed.filled) == ({"leak": 2 * ROWS}, 0)
    assert count(conn, "status = 'rejected' AND reason = 'leak' AND attempts = 2") == ROWS
    verdicts = conn.execute("SELECT reason, attempt, count(*) FROM verdicts GROUP BY 1, 2")
    assert [tuple(row) for row in verdicts] == [("leak", 1, ROWS), ("leak", 2, ROWS)]


def test_a_row_that_may_be_asked_for_again_stays_so(conn: Connection, protocol: Protocol) -> None:
    generate(conn, protocol, script=lambda r: reply_to(r, "No."), max_attempts=1)
    conn.execute("UPDATE stories SET status = 'pending' WHERE id <= 3")
    conn.execute("UPDATE stories SET status = 'failed', reason = 'quota' WHERE id = 4")
    before = ledger(conn)["stories"]
    again(conn, protocol)
    assert ledger(conn)["stories"] == before


def test_dialogues_are_read_again_too(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        split_into(patch, lambda _raw: [])
        generate(conn, protocol, turns, kind="dialogues", emotions=(), max_attempts=1)
    summary = again(conn, protocol)
    assert (summary.filled, summary.replies) == (4, 2)
    done = conn.execute("SELECT count(*) FROM dialogues WHERE status = 'done'").fetchone()[0]
    assert done == 4


# ---- what is done ------------------------------------------------------------------------------


def test_reading_a_sound_corpus_again_changes_nothing(conn: Connection, protocol: Protocol) -> None:
    """No text is a double of itself."""
    generate(conn, protocol)
    generate(conn, protocol, turns, kind="dialogues", emotions=())
    before = ledger(conn)
    for withdraw in (False, True):
        summary = again(conn, protocol, withdraw=withdraw)
        assert (summary.replies, summary.filled, summary.changes, summary.refused) == (8, 0, {}, {})
        assert ledger(conn) == before


def test_the_good_half_of_a_reply_is_left_alone_when_the_other_is_read_again(
    conn: Connection, protocol: Protocol
) -> None:
    def half(request: Request) -> Reply:
        return reply_to(request, f"[story 1]\n{story(request.key)}\n[story 2]\nNo.")

    generate(conn, protocol, half, max_attempts=1)
    before = ledger(conn)
    summary = again(conn, protocol, withdraw=True)
    assert (summary.changes, summary.refused) == ({}, {"too_short": ROWS / 2})
    assert ledger(conn) == before


def test_a_stricter_filter_only_tells_and_the_corpus_stays_with_its_protocol(
    conn: Connection, protocol: Protocol
) -> None:
    generate(conn, protocol)
    before = ledger(conn)
    strict = with_leaks(protocol, "lantern")
    summary = again(conn, strict)
    lanterns = sum("lantern" in (text or "") for text in texts(conn).values())
    assert summary.changes == {"leak": lanterns}
    assert (summary.bound, summary.withdrawn, summary.filled) == (False, False, 0)
    assert ledger(conn) == before
    assert 0 < lanterns < ROWS


def test_nothing_is_filled_by_a_filter_that_the_corpus_does_not_go_over_to(
    conn: Connection, workspace: Workspace
) -> None:
    protocol = write_protocol(workspace.root, stories=Bounds(11, 400))
    generate(conn, protocol)
    before = ledger(conn)
    assert 0 < count(conn, "status = 'rejected'") < ROWS
    place = protocol.root / "protocol.toml"
    place.write_text(place.read_text().replace("min_words = 11", "min_words = 3"))
    summary = again(conn, with_leaks(protocol, "lantern"))
    assert (summary.bound, summary.filled, summary.refused) == (False, 0, {})
    assert ledger(conn) == before
    assert again(conn, with_leaks(protocol, "lantern"), withdraw=True).filled > 0


def test_withdrawn_texts_are_taken_back_and_asked_for_again(
    conn: Connection, protocol: Protocol
) -> None:
    generate(conn, protocol)
    before = texts(conn)
    gone = {key for key, text in before.items() if "lantern" in (text or "")}
    strict = with_leaks(protocol, "lantern")
    summary = again(conn, strict, withdraw=True)
    assert (summary.changes, summary.bound, summary.withdrawn) == ({"leak": len(gone)}, True, True)
    assert texts(conn) == {key: None if key in gone else text for key, text in before.items()}
    assert count(conn, "status = 'pending' AND reason = 'leak'") == len(gone)
    marked = {row[0] for row in conn.execute("SELECT DISTINCT text_id FROM marks")}
    assert marked == before.keys() - gone
    verdicts = conn.execute("SELECT text_id FROM verdicts WHERE reason = 'leak'").fetchall()
    assert {row[0] for row in verdicts} == gone

    def other(request: Request) -> Reply:
        both = (story(request.key * 30 + n).replace("lantern", "globe") for n in (200, 201))
        return reply_to(request, "".join(f"[story]\n{told}\n" for told in both))

    asked = generate(conn, strict, other)
    assert {request.key for request in asked} <= gone
    assert count(conn, "status = 'done'") == ROWS


def test_a_reply_that_reads_differently_now_gives_its_other_text_only_when_told(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        split_into(patch, lambda raw: [f"Once. {t}" for t in split_reply(raw, "stories", 2)])
        generate(conn, protocol)
    before = ledger(conn)
    assert again(conn, protocol).changes == {"another_text": ROWS}
    assert ledger(conn) == before
    assert again(conn, protocol, withdraw=True).changes == {"another_text": ROWS}
    assert count(conn, "status = 'done' AND text LIKE 'At the %'") == ROWS
    replaced = ledger(conn)
    conn.execute("DELETE FROM marks")
    conn.execute("UPDATE corpora SET marks_rule = NULL")
    assert again(conn, protocol).changes == {}
    assert ledger(conn) == replaced  # the marks are those of the new texts and no others


def test_a_row_that_another_reply_filled_is_left_alone(
    conn: Connection, protocol: Protocol
) -> None:
    tried: set[int] = set()

    def second_time(request: Request) -> Reply:
        if request.key in tried:
            return stories(request)
        tried.add(request.key)
        return reply_to(request, f"[story]\nGone {request.key}.\n[story]\nBack {request.key}.")

    generate(conn, protocol, second_time)
    before = ledger(conn)["stories"]
    summary = again(conn, with_leaks(protocol, "submarine", min_words=2), withdraw=True)
    assert (summary.replies, summary.filled, summary.changes) == (12, 0, {})
    assert ledger(conn)["stories"] == before


def test_of_two_texts_that_are_too_alike_by_a_new_rule_the_later_goes(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(conn, protocol)
    for module in ("engine.rereading", "engine.marking"):
        monkeypatch.setattr(f"{module}.find_duplicate", alike)
        monkeypatch.setattr(f"{module}.marked_texts", lambda _conn, _marks: set(texts(conn)))
    summary = again(conn, protocol, withdraw=True)
    assert (summary.changes, summary.filled) == ({"alike": ROWS - 6}, 0)
    kept = [text for text in texts(conn).values() if text]
    assert len({text.split()[2] for text in kept}) == len(kept) == 6
    assert {key for key, text in texts(conn).items() if text} == {1, 7, 2, 8, 3, 4}


def test_a_text_that_would_go_takes_no_other_with_it(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter(["At the mill a lantern stood.", "At the mill two carts stood."])
    asked: dict[str, Any] = {"emotions": ("calm", "angry"), "topics": ("a letter",)}
    generate(conn, protocol, lambda r: reply_to(r, next(told)), per_topic=1, **asked)
    monkeypatch.setattr("engine.rereading.find_duplicate", alike)
    monkeypatch.setattr("engine.rereading.marked_texts", lambda _conn, _marks: set(texts(conn)))
    strict = with_leaks(protocol, "lantern")
    assert again(conn, strict).changes == {"leak": 1}
    assert again(conn, strict, withdraw=True).changes == {"leak": 1}


def alike(text: str, others: Iterable[str]) -> str | None:
    """Only one story may happen at each place."""
    place = text.split()[2]
    return "alike" if any(other.split()[2] == place for other in others) else None


def test_a_text_that_goes_makes_room_for_one_that_was_its_double(
    conn: Connection, protocol: Protocol
) -> None:
    """Its reply is the older one, so that what is done must be judged before anything is filled."""
    told = "A lantern stood in the hall."
    one_leak = with_leaks(protocol, "lantern", emotions=["calm"])
    asked: dict[str, Any] = {"emotions": ("calm", "angry"), "topics": ("a letter",)}
    generate(conn, one_leak, lambda r: reply_to(r, told), per_topic=1, max_attempts=1, **asked)
    assert texts(conn) == {1: None, 2: told}
    other_leak = with_leaks(protocol, "lantern", emotions=["angry"])
    summary = again(conn, other_leak, withdraw=True)
    assert (summary.changes, summary.filled) == ({"leak": 1}, 1)
    assert texts(conn) == {1: told, 2: None}


# ---- protocols ---------------------------------------------------------------------------------


def test_a_corpus_goes_over_to_a_filter_that_all_its_texts_pass(
    conn: Connection, protocol: Protocol
) -> None:
    generate(conn, protocol)
    other = with_leaks(protocol, "submarine")
    with pytest.raises(FingerprintMismatch, match=r"leaks\.tsv"):
        generate(conn, other)
    summary = again(conn, other)
    assert (summary.bound, summary.changes) == (True, {})
    assert protocol_folder(conn, "toy") == other.root.resolve()
    assert generate(conn, other) == []
    (kept,) = conn.execute("SELECT settings FROM runs WHERE command = 'reparse'").fetchall()
    assert json.loads(kept["settings"]) == {
        "withdraw": False,
        "protocol_before": protocol.digest,
        "protocol": other.digest,
    }


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("emotions.tsv", "emotion\nangry\ncalm\nproud\n"),
        ("topics.txt", "the snow\n"),
        ("prompts/story.txt", "Tell of {topic} and {emotion}.\n"),
        ("prompts/dialogue.txt", "Talk of {topic}.\n"),
    ],
)
def test_a_protocol_that_asks_for_other_texts_is_refused_and_named(
    conn: Connection, protocol: Protocol, name: str, changed: str
) -> None:
    generate(conn, protocol)
    before = ledger(conn)
    (protocol.root / name).write_text(changed)
    other = with_leaks(load_protocol(protocol.root), "lantern")
    with pytest.raises(FingerprintMismatch, match=rf"different: {name}\)"):
        again(conn, other, withdraw=True)
    assert ledger(conn) == before


def test_bounds_of_a_base_folder_may_change_and_its_topics_may_not(
    conn: Connection, protocol: Protocol, tmp_path: Path
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    (above / "protocol.toml").write_text('base = "../protocol"\n')
    generate(conn, load_protocol(above))
    with_leaks(protocol, "submarine", min_words=4)
    assert again(conn, load_protocol(above)).bound
    (protocol.root / "topics.txt").write_text("the snow\n")
    with pytest.raises(FingerprintMismatch, match=r"different: topics\.txt\)"):
        again(conn, load_protocol(above))


def test_an_unknown_corpus_is_refused(conn: Connection, protocol: Protocol) -> None:
    with pytest.raises(NotReady, match="no corpus 'toy'"):
        again(conn, protocol)
    assert conn.execute("SELECT count(*) FROM runs").fetchone()[0] == 0


# ---- again, and interrupted --------------------------------------------------------------------


def spoil(conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> Protocol:
    """A corpus in every state, and the stricter protocol to read it again with."""

    def mixed(request: Request) -> Reply:
        told = stories(request).text if request.key % 3 else "No."
        return reply_to(request, told, "length" if request.key % 4 == 1 else "stop")

    with monkeypatch.context() as patch:
        split_into(patch, lambda raw: split_reply(raw, "stories", 2)[:1])
        generate(conn, protocol, mixed, max_attempts=2)
        generate(conn, protocol, turns, kind="dialogues", emotions=(), max_attempts=1)
    return with_leaks(protocol, "lantern")


def test_a_second_time_changes_nothing(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = spoil(conn, protocol, monkeypatch)
    first = again(conn, strict, withdraw=True)
    assert first.filled > 0
    assert first.changes.keys() >= {"leak"}
    after = ledger(conn)
    second = again(conn, strict, withdraw=True)
    assert (second.filled, second.changes) == (0, {})
    assert ledger(conn) == after


def test_a_stop_ends_after_a_page_and_the_same_call_goes_on(
    conn: Connection,
    protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strict = spoil(conn, protocol, monkeypatch)
    before = ledger(conn)
    again(conn, strict, withdraw=True)
    expected = ledger(conn)
    restore(conn, before)
    monkeypatch.setattr("engine.reparsing.REPLIES_AT_ONCE", 2)
    stop, told = threading.Event(), list[tuple[str, int, int]]()

    def watch(*step: Any) -> None:
        told.append(step)
        if len(told) == 3:
            stop.set()

    summary = again(conn, strict, withdraw=True, progress=watch, stop=stop)
    assert (summary.stopped, summary.bound, len(told)) == (True, False, 3)
    outcome = conn.execute("SELECT outcome FROM runs ORDER BY id DESC").fetchone()[0]
    assert outcome == "stopped"
    again(conn, strict, withdraw=True, progress=watch)
    assert ledger(conn) == expected
    total = len(expected["replies"])
    assert told[-1] == ("fill", total, total)


def restore(conn: Connection, tables: dict[str, list[tuple[object, ...]]]) -> None:
    for name in ("verdicts", "calls", "marks", "stories", "dialogues", "replies", "corpora"):
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute(f"DELETE FROM {name}")
        for row in tables[name]:
            conn.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)


def test_a_page_that_fails_leaves_no_trace(
    conn: Connection, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        split_into(patch, lambda _raw: [])
        generate(conn, protocol, max_attempts=1)
    before, filled = ledger(conn), 0

    def fails(*_: object) -> None:
        nonlocal filled
        filled += 1
        if filled == 5:
            raise RuntimeError("marks bug")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="marks bug"):
        patch.setattr("engine.rereading.add_marks", fails)
        again(conn, protocol)
    for table in ("stories", "verdicts", "marks"):
        assert ledger(conn)[table] == before[table]
    assert conn.execute("SELECT outcome FROM runs").fetchone()[0].startswith("failed: RuntimeError")


CHILD = """
import sys, threading
from pathlib import Path
import engine.reparsing
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
engine.reparsing.REPLIES_AT_ONCE = 3
root = Path(sys.argv[1])
engine.reparsing.reparse(
    open_database(Workspace(root).database), load_protocol(root / "protocol"), "toy", withdraw=True,
    progress=lambda *each: None, stop=threading.Event(), clock=lambda: 2000.0,
)
"""


@pytest.mark.parametrize("place", ["settled:1", "settled:3", "settled:7", "settling:2"])
def test_a_kill_between_two_transactions_or_within_one_changes_nothing_in_the_end(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    strict = spoil(conn, protocol, monkeypatch)
    before = ledger(conn)
    again(conn, strict, withdraw=True)
    expected = ledger(conn)
    restore(conn, before)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(workspace.root)],
        cwd=ROOT,
        env={**os.environ, VARIABLE: place},
        check=False,
    )
    assert child.returncode == EXIT_CODE
    assert ledger(conn) != expected
    again(conn, strict, withdraw=True)
    assert ledger(conn) == expected
