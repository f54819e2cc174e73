import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from stores.database import open_database, transaction
from stores.replies import (
    ReplyRow,
    iter_replies,
    note_found,
    orphaned_calls,
    read_spending,
    record,
    record_error,
    send,
)
from stores.workspace import Workspace
from tests.conftest import StartChild, line_of

REPLY = ReplyRow(
    run_id=None,
    corpus="toy",
    kind="stories",
    prompt_sha="sha256:p",
    backend="local",
    model="toy",
    seed=2**63 - 1,
    raw='{"stories": ["never closed',
    finish_reason="length",
    prompt_tokens=10,
    output_tokens=20,
    latency_s=0.5,
)

CALL = """
import sys
from pathlib import Path
from stores.database import open_database
from stores.replies import iter_replies, note_found, read_spending, ReplyRow, record, send
conn = open_database(Path(sys.argv[1]))
for n in range(3):
    call_id = send(conn, None, "stories", [n], 0.0)
    if n < 2:
        record(conn, call_id, ReplyRow(run_id=None, corpus="toy", kind="stories", prompt_sha="p",
               backend="b", model="m", seed=n, raw=f"raw {n}", finish_reason="stop"), 1.0)
print("waiting for the last reply", flush=True)
sys.stdin.read()
"""


def calls(conn: sqlite3.Connection) -> list[tuple[object, ...]]:
    rows = conn.execute("SELECT text_ids, sent_at, outcome, reply_id FROM calls ORDER BY id")
    return [tuple(row) for row in rows]


def test_a_call_is_counted_until_its_reply_is_kept(conn: sqlite3.Connection) -> None:
    call_id = send(conn, None, "stories", [3, 4], 0.0)
    sent = (json.dumps([3, 4], separators=(",", ":")), "1970-01-01T00:00:00.000Z")
    assert calls(conn) == [(*sent, None, None)]
    assert orphaned_calls(conn) == 1
    reply_id = record(conn, call_id, REPLY, 1.0)
    assert calls(conn) == [(*sent, "recorded", reply_id)]
    assert orphaned_calls(conn) == 0


def test_a_reply_is_kept_as_it_came(conn: sqlite3.Connection) -> None:
    reply_id = record(conn, send(conn, None, "stories", [1], 0.0), REPLY, 1.0)
    kept = dict(conn.execute("SELECT * FROM replies WHERE id = ?", (reply_id,)).fetchone())
    assert kept.pop("created_at") == "1970-01-01T00:00:01.000Z"
    assert kept.pop("id") == reply_id
    assert kept.pop("found") is None
    assert ReplyRow(**kept) == REPLY


def test_no_reply_is_too_odd_to_keep(conn: sqlite3.Connection) -> None:
    for raw in ("", "half \ud83d of a smile", "nul \0 inside", "line\r\nends"):
        reply_id = record(conn, send(conn, None, "stories", [1], 0.0), replace(REPLY, raw=raw), 1.0)
        found = conn.execute("SELECT raw FROM replies WHERE id = ?", (reply_id,)).fetchone()
        assert found["raw"] == raw.replace("\ud83d", r"\ud83d")


def test_an_error_closes_its_call_and_stays(conn: sqlite3.Connection) -> None:
    call_id = send(conn, None, "dialogues", [1], 0.0)
    record_error(conn, call_id, "503 overloaded")
    assert calls(conn)[0][2:] == ("error: 503 overloaded", None)
    assert orphaned_calls(conn) == 0


def test_a_reply_delivered_twice_is_kept_once(conn: sqlite3.Connection) -> None:
    call_id = send(conn, None, "stories", [1], 0.0)
    record(conn, call_id, REPLY, 1.0)
    for again in (
        lambda: record(conn, call_id, REPLY, 2.0),
        lambda: record_error(conn, call_id, "late"),
        lambda: record(conn, 999, REPLY, 2.0),
    ):
        with pytest.raises(ValueError, match="unknown or closed"):
            again()
    assert conn.execute("SELECT count(*) FROM replies").fetchone()[0] == 1
    assert calls(conn)[0][2:] == ("recorded", 1)


def test_a_reply_survives_a_crash_while_it_is_parsed(
    workspace: Workspace, conn: sqlite3.Connection
) -> None:
    record(conn, send(conn, None, "stories", [1], 0.0), REPLY, 1.0)
    with pytest.raises(json.JSONDecodeError), transaction(conn):
        json.loads(REPLY.raw)
    with closing(open_database(workspace.database, read_only=True)) as reader:
        assert reader.execute("SELECT raw FROM replies").fetchone()["raw"] == REPLY.raw


def test_a_killed_engine_leaves_its_replies_and_a_count_of_what_is_lost(
    workspace: Workspace, conn: sqlite3.Connection, start_child: StartChild
) -> None:
    engine = start_child(CALL, workspace.database)
    assert line_of(engine) == "waiting for the last reply"
    engine.kill()
    engine.wait()
    kept = conn.execute("SELECT raw FROM replies ORDER BY id").fetchall()
    assert [row["raw"] for row in kept] == ["raw 0", "raw 1"]
    assert orphaned_calls(conn) == 1


def test_replies_are_read_again_with_the_rows_they_were_asked_for(conn: sqlite3.Connection) -> None:
    ids = [
        record(conn, send(conn, None, "stories", [n, n + 1], 0.0), REPLY, 1.0) for n in range(450)
    ]
    record(conn, send(conn, None, "dialogues", [1], 0.0), replace(REPLY, kind="dialogues"), 1.0)
    kept = list(iter_replies(conn, "stories", REPLY.corpus))
    assert [each.id for each in kept] == ids
    assert [each.text_ids for each in kept[:2]] == [(0, 1), (1, 2)]
    assert {each.raw for each in kept} == {REPLY.raw}


def test_spending_adds_up_what_is_known(conn: sqlite3.Connection) -> None:
    for found, cost in ((12, 0.25), (11, 0.5), (None, None)):
        reply = replace(
            REPLY, asked=12, prompt_tokens=10, output_tokens=20, thinking_tokens=3, cost_usd=cost
        )
        reply_id = record(conn, send(conn, None, "stories", [1], 0.0), reply, 1.0)
        if found is not None:
            note_found(conn, reply_id, found)
    (spent,) = read_spending(conn)
    assert (spent.replies, spent.prompt_tokens, spent.output_tokens) == (3, 30, 60)
    assert (spent.thinking_tokens, spent.cost_usd, spent.wrong_number) == (9, 0.75, 1)
