"""What a killed engine leaves behind, in one process and in many."""

import sqlite3
import subprocess
from collections import Counter
from contextlib import closing

import pytest

from stores.database import open_database
from stores.errors import LeaseLost
from stores.texts import MAX_CRASHES, Counts, counts, reclaim
from stores.workspace import Workspace
from tests.conftest import StartChild, line_of
from tests.stores.corpora import plan_corpus, row, take, write

# Leases and commits until nothing is pending, and prints each row once it is committed.
ENGINE = """
import sys, time
from pathlib import Path
from stores.database import open_database
from stores.texts import commit, lease, reclaim
conn = open_database(Path(sys.argv[1]))
if sys.argv[2] == "alone":
    reclaim(conn, now=0.0)
print("ready", flush=True)
sys.stdin.readline()
while taken := lease(conn, "stories", "toy", "me", limit=8, now=0.0, seconds=60.0, max_attempts=3):
    for held in taken:
        text = f"text of {held.seed}"
        commit(conn, held, text=text, words=3, generator="g", reply_id=None, now=1.0)
        print(held.id, flush=True)
        time.sleep(0.001)  # or the first one is through before the other gets a word in
"""


def go(engine: "subprocess.Popen[str]") -> None:
    assert engine.stdin is not None
    engine.stdin.write("\n")
    engine.stdin.flush()


def test_a_new_engine_takes_back_what_a_dead_one_held(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    orphans = [*take(conn, 4), *take(conn, 1, kind="dialogues")]
    write(conn, orphans[0])
    assert reclaim(conn, now=1.0) == 4
    assert reclaim(conn, now=1.0) == 0
    left = [row(conn, orphan) for orphan in orphans[1:]]
    assert {(r["status"], r["attempts"], r["crashes"]) for r in left} == {("pending", 0, 1)}
    for orphan in orphans:
        with pytest.raises(LeaseLost):
            write(conn, orphan)


def test_rows_of_a_crash_come_last_and_in_ever_smaller_company(conn: sqlite3.Connection) -> None:
    plan_corpus(conn, per_topic=6)
    sizes = []
    for _ in range(MAX_CRASHES):
        taken = take(conn, 64)
        sizes.append(len(taken))
        for held in taken if len(sizes) == 1 else []:
            assert held.attempt == 1
        reclaim(conn, now=1.0)
    assert sizes[0] == 36
    assert max(sizes[1:]) <= 16


def test_a_row_that_kills_the_engine_fails_alone(conn: sqlite3.Connection) -> None:
    plan_corpus(conn, per_topic=30)
    poison, lives = 77, 0
    while any(c.status in {"pending", "leased"} for c in counts(conn) if c.kind == "stories"):
        lives += 1
        reclaim(conn, now=float(lives))
        while taken := take(conn, 64):
            if poison in {held.id for held in taken}:
                break  # the engine is dead
            for held in taken:
                write(conn, held)
    assert lives == MAX_CRASHES + 1
    assert counts(conn)[:2] == [
        Counts("toy", "stories", "done", None, 179),
        Counts("toy", "stories", "failed", "abandoned", 1),
    ]


# ---- processes ---------------------------------------------------------------------------------


def test_every_acknowledged_text_survives_kills(
    workspace: Workspace, conn: sqlite3.Connection, start_child: StartChild
) -> None:
    plan_corpus(conn, per_topic=100)
    acknowledged: list[int] = []
    for kill in range(6):
        engine = start_child(ENGINE, workspace.database, "alone")
        assert line_of(engine) == "ready"
        go(engine)
        acknowledged += [int(line_of(engine)) for _ in range(1 + 7 * kill)]
        engine.kill()
        acknowledged += [int(line) for line in engine.communicate()[0].split()]
    with closing(open_database(workspace.database)) as after:
        assert after.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        done = {r["id"]: r for r in after.execute("SELECT * FROM stories WHERE status = 'done'")}
    assert max(Counter(acknowledged).values()) == 1
    assert set(acknowledged) <= done.keys()
    # a kill may fall between the commit of a row and its print, once
    assert len(done) <= len(acknowledged) + 6
    assert all(r["text"] == f"text of {r['seed']}" for r in done.values())


def test_a_run_that_was_killed_ends_like_one_that_was_not(
    workspace: Workspace, conn: sqlite3.Connection, start_child: StartChild
) -> None:
    plan_corpus(conn, per_topic=10)
    for committed in (3, 11):
        engine = start_child(ENGINE, workspace.database, "alone")
        assert line_of(engine) == "ready"
        go(engine)
        for _ in range(committed):
            line_of(engine)
        engine.kill()
        engine.wait()
    assert start_child(ENGINE, workspace.database, "alone").communicate("\n")[0]
    texts = conn.execute(
        "SELECT text = 'text of ' || seed AS same, attempts FROM stories"
    ).fetchall()
    assert [tuple(r) for r in texts] == [(1, 1)] * 60


def test_two_engines_never_take_the_same_row(
    workspace: Workspace, conn: sqlite3.Connection, start_child: StartChild
) -> None:
    plan_corpus(conn, per_topic=50)
    engines = [start_child(ENGINE, workspace.database, "beside another") for _ in range(2)]
    assert [line_of(engine) for engine in engines] == ["ready", "ready"]
    for engine in engines:
        go(engine)
    taken = [[int(line) for line in engine.communicate()[0].split()] for engine in engines]
    assert all(taken)
    assert sorted(taken[0] + taken[1]) == list(range(1, 301))


def test_rows_that_are_no_suspects_are_taken_back_without_a_crash(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    for _ in range(MAX_CRASHES + 1):
        assert len(take(conn, 3)) == 3
        assert reclaim(conn, now=0.0, suspects=False) == 3
    found = conn.execute("SELECT status, attempts, crashes FROM stories").fetchall()
    assert {tuple(row) for row in found} == {("pending", 0, 0)}
