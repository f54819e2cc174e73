import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stores.database import Connection, open_database
from stores.errors import EngineError, UsageError
from stores.integrity import backup, inspect, repair
from stores.rows import pending_chunks, read_rows
from stores.workspace import Workspace
from tests.stores.arranged import HERE, LAYERS, add_texts, change_text, extract

Faults = list[tuple[str, str, str]]


def faults(conn: Connection, workspace: Workspace) -> Faults:
    found = inspect(conn, workspace, now=0.0)
    return [(f.thing, f.place, f.problem) for f in found if f.fault]


def test_a_sound_workspace_has_no_fault(conn: Connection, workspace: Workspace) -> None:
    assert faults(conn, workspace) == []
    add_texts(conn, 6)
    extract(conn, workspace)
    assert faults(conn, workspace) == []
    assert repair(conn, workspace, inspect(conn, workspace, now=0.0)) == 0


def test_a_read_only_connection_is_enough_to_inspect(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 6)
    extract(conn, workspace)
    with closing(open_database(workspace.database, read_only=True)) as reader:
        assert faults(reader, workspace) == []


def test_a_done_row_without_text_is_planned_again(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 4)
    conn.execute("PRAGMA ignore_check_constraints = ON")
    conn.execute("UPDATE stories SET text = NULL WHERE id = 2")
    conn.execute("UPDATE stories SET status = 'failed' WHERE id = 3")
    conn.execute("PRAGMA ignore_check_constraints = OFF")
    found = [f for f in inspect(conn, workspace, now=0.0) if f.thing == "text"]
    assert [(f.place, f.problem) for f in found] == [
        ("stories 2", "done without a text"),
        ("stories 3", "failed, yet has a text"),
    ]
    assert repair(conn, workspace, found) == 2
    rows = conn.execute("SELECT status, text, attempts FROM stories ORDER BY id").fetchall()
    assert [row["status"] for row in rows] == ["done", "pending", "pending", "done"]
    assert tuple(rows[1]) == ("pending", None, 0)
    assert faults(conn, workspace) == []


def test_texts_in_the_same_slot_are_left_to_a_person(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 2)
    add_texts(conn, 1, "dialogues")
    conn.execute("PRAGMA foreign_keys = OFF")
    for kind in ("stories", "dialogues"):  # a table that lost its constraint
        conn.execute(f"CREATE TABLE copy AS SELECT * FROM {kind}")
        conn.execute(f"INSERT INTO copy SELECT * FROM {kind} WHERE id = 1")
        conn.execute("UPDATE copy SET id = 9 WHERE rowid = (SELECT max(rowid) FROM copy)")
        conn.execute("DROP VIEW IF EXISTS completeness")
        conn.execute(f"DROP TABLE {kind}")
        conn.execute(f"ALTER TABLE copy RENAME TO {kind}")
    found = [f for f in inspect(conn, workspace, now=0.0) if f.thing == "text"]
    assert [f.place for f in found] == ["stories 1, 9", "dialogues 1, 9"]
    assert repair(conn, workspace, found) == 0


def test_expired_leases_are_a_warning(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 2)
    conn.execute(
        "UPDATE stories SET status = 'leased', owner = 'w', lease_until = 50.0, text = NULL"
    )
    (lease,) = [f for f in inspect(conn, workspace, now=51.0) if f.thing == "lease"]
    assert (lease.fault, lease.place, lease.mend) == (False, "stories", None)
    assert lease.problem == "2 leases have expired"
    assert [f for f in inspect(conn, workspace, now=49.0) if f.thing == "lease"] == []


def test_rows_of_changed_texts_are_read_again(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    change_text(conn, 6, "other words")
    conn.execute("UPDATE stories SET status = 'failed', text = NULL WHERE id = 7")
    found = [f for f in inspect(conn, workspace, now=0.0) if f.fault]
    assert [(f.place, f.problem) for f in found] == [
        ("toy/main/stories", "2 texts were changed or removed after they were read")
    ]
    repair(conn, workspace, found)
    assert [chunk.chunk for chunk in pending_chunks(conn, *HERE, LAYERS)] == [1]


def test_settled_rows_without_a_receipt_are_pending_again(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    conn.execute("DELETE FROM receipts WHERE chunk = 1")
    found = [f for f in inspect(conn, workspace, now=0.0) if f.thing == "rows"]
    assert [f.place for f in found] == ["toy/main/stories chunk 1"]
    repair(conn, workspace, found)
    expected = ["done"] * 4 + ["pending"] * 4 + ["done"] * 2
    assert [row.status for row in read_rows(conn, *HERE)] == expected


def test_an_old_sqlite_is_a_warning(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    (found,) = inspect(conn, workspace, now=0.0)
    assert (found.thing, found.fault, found.mend) == ("SQLite", False, None)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert inspect(conn, workspace, now=0.0) == []


def test_rows_that_refer_to_nothing_are_told(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 1)
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("UPDATE stories SET reply_id = 77")
    (problem,) = faults(conn, workspace)
    assert problem == (
        "database",
        "table stories",
        "row 1 refers to a row of replies that is not there",
    )


@pytest.mark.parametrize("table", ["stories", "sqlite_autoindex_stories_1", "metrics"])
def test_a_damaged_database_is_told_and_left_to_a_person(workspace: Workspace, table: str) -> None:
    with closing(open_database(workspace.database)) as conn:
        add_texts(conn, 300)
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = conn.execute(query, (table,)).fetchone()
    with workspace.database.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xa5" * 4096)
    with closing(open_database(workspace.database)) as conn:
        found = [f for f in inspect(conn, workspace, now=0.0) if f.fault]
        assert found
        assert {(f.thing, f.repair) for f in found} == {("database", "restore a backup")}
        assert repair(conn, workspace, found) == 0


def test_other_errors_of_the_database_are_not_taken_for_damage(
    conn: Connection, workspace: Workspace
) -> None:
    conn.execute("DROP VIEW completeness")
    conn.execute("DROP TABLE dialogues")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        inspect(conn, workspace, now=0.0)


def test_a_backup_holds_every_committed_row_while_an_engine_writes(
    conn: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    add_texts(conn, 50)
    copy = tmp_path / "copy.db"
    with closing(open_database(workspace.database, read_only=True)) as reader:
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("DELETE FROM stories")
        backup(reader, copy)
        conn.execute("ROLLBACK")
    with closing(open_database(copy)) as restored:
        assert restored.execute("SELECT count(*) FROM stories").fetchone()[0] == 50
        assert faults(restored, Workspace(tmp_path / "empty")) == []
    assert not list(tmp_path.glob("*.partial"))


def test_a_backup_never_overwrites(conn: Connection, tmp_path: Path) -> None:
    taken = tmp_path / "copy.db"
    taken.write_text("mine")
    with pytest.raises(UsageError, match=r"copy\.db is there already.*name a new file"):
        backup(conn, taken)
    assert taken.read_text() == "mine"


def test_a_backup_that_cannot_be_written_is_told_in_one_line(
    conn: Connection, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="cannot write the backup") as raised:
        backup(conn, tmp_path / "none" / "copy.db")
    assert "\n" not in str(raised.value)


def test_an_interrupted_backup_is_replaced_by_the_next(conn: Connection, tmp_path: Path) -> None:
    (tmp_path / "copy.db.partial").write_text("half")
    backup(conn, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db.partial").exists()
    with closing(open_database(tmp_path / "copy.db", read_only=True)) as copy:
        assert copy.execute("SELECT count(*) FROM stories").fetchone()[0] == 0
