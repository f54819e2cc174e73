import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stores.database import (
    MIGRATIONS,
    _switch_to_wal,
    canonical_json,
    digest,
    now_text,
    open_database,
    storable,
    transaction,
)
from stores.errors import EngineError, LedgerError, NotReady, SchemaTooNew
from stores.workspace import Workspace
from tests.conftest import StartChild, line_of

CORPUS = "INSERT INTO corpora VALUES (?, 'p', '{}', NULL, 'now', NULL)"
CORPORA = "SELECT corpus FROM corpora ORDER BY corpus"

OPEN = """
import sys
from pathlib import Path
from stores.database import open_database
sys.stdin.readline()
open_database(Path(sys.argv[1]), read_only=len(sys.argv) > 2)
print("sqlite_utils" in sys.modules, flush=True)
"""

FILL = """
import resource, sys
from pathlib import Path
from stores.database import open_database, transaction
from stores.errors import LedgerError
conn = open_database(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    for n in range(10_000):
        with transaction(conn):
            row = (f"{n:05}" + "x" * 2000,)
            conn.execute("INSERT INTO corpora VALUES (?, '', '{}', NULL, '', NULL)", row)
        print(n, flush=True)
except LedgerError as error:
    print(error, flush=True)
"""


def corpora(conn: sqlite3.Connection) -> list[str]:
    return [row["corpus"] for row in conn.execute(CORPORA)]


def add(conn: sqlite3.Connection, corpus: str) -> None:
    with transaction(conn):
        conn.execute(CORPUS, (corpus,))


def pragma(conn: sqlite3.Connection, name: str) -> Any:
    return conn.execute(f"PRAGMA {name}").fetchone()[0]


# ---- opening -----------------------------------------------------------------------------------


def test_a_new_ledger_is_durable_checked_and_strict(conn: sqlite3.Connection) -> None:
    full = 2
    assert pragma(conn, "journal_mode") == "wal"
    assert pragma(conn, "synchronous") == full
    assert pragma(conn, "foreign_keys") == 1
    assert pragma(conn, "busy_timeout") == 30_000
    tables = conn.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    loose = {row["name"] for row in tables if not row["strict"]}
    assert {name for name in loose if not name.startswith(("sqlite_", "_sqlite"))} == set()
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        conn.execute(
            "INSERT INTO dialogues (corpus, topic, slot, seed, created_at, updated_at)"
            " VALUES ('unknown', 't', 0, 0, '', '')"
        )


def test_what_was_written_is_there_after_reopening(workspace: Workspace) -> None:
    with closing(open_database(workspace.database)) as conn:
        add(conn, "one")
        conn.execute(CORPUS, ("two",))  # a lone statement commits by itself
    with closing(open_database(workspace.database, read_only=True)) as conn:
        assert corpora(conn) == ["one", "two"]


def test_only_the_first_opening_pays_for_migrations(
    workspace: Workspace, start_child: StartChild
) -> None:
    first, *later = ((), (), ("read only",))
    children = [start_child(OPEN, workspace.database, *mode) for mode in (first, *later)]
    assert [child.communicate("\n")[0] for child in children] == ["True\n", "False\n", "False\n"]


def test_the_switch_to_a_write_ahead_log_waits_where_sqlite_turns_it_away(tmp_path: Path) -> None:
    path = tmp_path / "emovec.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as writer,
    ):
        reader.execute("CREATE TABLE one (x)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM one").fetchall()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.execute("PRAGMA journal_mode = WAL")
        leaving = threading.Timer(0.2, reader.execute, ["COMMIT"])
        leaving.start()
        assert _switch_to_wal(writer) == "wal"
        leaving.join()


def test_two_processes_can_create_the_same_ledger_at_once(
    workspace: Workspace, start_child: StartChild
) -> None:
    children = [start_child(OPEN, workspace.database) for _ in range(3)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert {line_of(child) for child in children} <= {"True", "False"}
    assert [child.wait() for child in children] == [0, 0, 0]
    with closing(open_database(workspace.database)) as conn:
        assert conn.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()[0] == len(
            MIGRATIONS
        )


def test_a_reader_cannot_write_and_sees_what_is_committed_while_a_writer_works(
    workspace: Workspace, conn: sqlite3.Connection
) -> None:
    add(conn, "one")
    with closing(open_database(workspace.database, read_only=True)) as reader:
        with transaction(conn):
            conn.execute(CORPUS, ("two",))
            assert corpora(reader) == ["one"]
        assert corpora(reader) == ["one", "two"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute(CORPUS, ("three",))


def test_a_reader_of_nothing_is_told_what_to_run(workspace: Workspace) -> None:
    with pytest.raises(NotReady, match=r"no ledger at .*run `python cli\.py"):
        open_database(workspace.database, read_only=True)
    assert not workspace.database.parent.exists()
    workspace.database.parent.mkdir()
    workspace.database.touch()
    with pytest.raises(NotReady, match="empty or older"):
        open_database(workspace.database, read_only=True)


def test_a_ledger_of_the_first_version_is_brought_up_to_date_with_all_its_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setattr("stores.database.MIGRATIONS", MIGRATIONS[:1])
        with closing(open_database(workspace.database)) as conn:
            conn.execute("INSERT INTO corpora VALUES ('main', 'p', '{}', NULL, 'now')")
            columns = "run_id, corpus, kind, prompt_sha, backend, model, raw, finish_reason"
            conn.execute(
                f"""INSERT INTO replies ({columns}, created_at)
                    VALUES (NULL, 'main', 'stories', 'p', 'local', 'm', 'raw', 'stop', 'now')"""
            )
    with pytest.raises(NotReady, match="older than this program"):
        open_database(workspace.database, read_only=True)
    with closing(open_database(workspace.database)) as conn:
        assert tuple(conn.execute("SELECT raw, asked, cost_usd FROM replies").fetchone()) == (
            "raw",
            None,
            None,
        )
        assert conn.execute("SELECT marks_rule FROM corpora").fetchone()[0] is None
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_ledger_of_the_second_version_keeps_its_receipts_which_have_no_norm(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = ("toy", "main", "stories", 3, 0, "sha256:x", 84, 4, "now")
    with monkeypatch.context() as old:
        old.setattr("stores.database.MIGRATIONS", MIGRATIONS[:2])
        with closing(open_database(workspace.database)) as conn:
            arrays = "INSERT INTO arrays VALUES ('toy', 'main', 'stories', '{}', 4, 5, 'now')"
            conn.execute(arrays)
            conn.execute(f"INSERT INTO receipts VALUES ({', '.join('?' * 9)})", receipt)
    with closing(open_database(workspace.database)) as conn:
        rows = [tuple(row) for row in conn.execute("SELECT * FROM receipts")]
        assert rows == [(*receipt, None, None)]
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_ledger_of_a_newer_version_is_refused_unchanged(
    workspace: Workspace, read_only: bool
) -> None:
    with closing(open_database(workspace.database)) as conn:
        conn.execute("UPDATE _sqlite_migrations SET name = 'm999_later' WHERE id = 1")
    before = workspace.database.read_bytes()
    with pytest.raises(SchemaTooNew, match="m999_later"):
        open_database(workspace.database, read_only=read_only)
    assert workspace.database.read_bytes() == before


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_ledger_is_refused_in_one_line(tmp_path: Path, read_only: bool) -> None:
    other = tmp_path / "emovec.db"
    other.write_bytes(b"these bytes are no database " * 100)
    folder = tmp_path / "folder.db"
    folder.mkdir()
    with pytest.raises(LedgerError, match="move it away") as raised:
        open_database(other, read_only=read_only)
    assert str(other) in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(EngineError, match=str(folder)):
        open_database(folder, read_only=read_only)


def test_a_damaged_ledger_is_sent_to_doctor(workspace: Workspace) -> None:
    open_database(workspace.database).close()
    pages = bytearray(workspace.database.read_bytes())
    pages[100:108] = b"\xff" * 8  # the header of the page that lists the tables
    workspace.database.write_bytes(pages)
    with pytest.raises(LedgerError, match="doctor"):
        open_database(workspace.database)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="file/data cannot be created"):
        open_database(tmp_path / "file" / "data" / "emovec.db")


def test_an_old_sqlite_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(LedgerError, match=r"too old.*3\.37\.0"):
        open_database(workspace.database)


def test_a_file_system_without_shared_memory_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect

    def connect(address: str, **settings: Any) -> Any:
        return real(f"{address}&vfs=unix-dotfile", **settings)  # no shared memory between processes

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(LedgerError, match="local disk"):
        open_database(workspace.database)


# ---- transactions ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_interrupted_transaction_leaves_nothing(
    conn: sqlite3.Connection, error: type[BaseException]
) -> None:
    with pytest.raises(error), transaction(conn):
        conn.execute(CORPUS, ("one",))
        raise error
    assert not conn.in_transaction
    assert corpora(conn) == []


def test_an_inner_block_undoes_itself_alone(conn: sqlite3.Connection) -> None:
    with transaction(conn):
        add(conn, "one")
        with pytest.raises(ValueError), transaction(conn):
            add(conn, "two")
            raise ValueError
        add(conn, "three")
    assert corpora(conn) == ["one", "three"]


def test_an_outer_block_undoes_its_inner_ones(conn: sqlite3.Connection) -> None:
    with pytest.raises(ValueError), transaction(conn):
        add(conn, "one")
        raise ValueError
    assert corpora(conn) == []


def test_the_write_lock_is_taken_at_the_start_and_its_lack_is_explained(
    workspace: Workspace, conn: sqlite3.Connection
) -> None:
    with closing(open_database(workspace.database)) as other:
        other.execute("PRAGMA busy_timeout = 10")
        with transaction(conn):
            with pytest.raises(LedgerError, match="close that one"), transaction(other):
                pytest.fail("two writers at once")
            add(conn, "one")
        add(other, "two")


def test_a_full_database_stops_with_advice_and_keeps_what_was_committed(
    conn: sqlite3.Connection,
) -> None:
    add(conn, "one")
    conn.execute(f"PRAGMA max_page_count = {pragma(conn, 'page_count')}")
    with pytest.raises(LedgerError, match=r"disk is full.*free space.*resumes"):
        add(conn, "x" * 100_000)
    assert not conn.in_transaction
    assert corpora(conn) == ["one"]
    conn.execute("PRAGMA max_page_count = 100000")
    add(conn, "two")


def test_a_disk_that_refuses_writes_stops_with_advice_and_keeps_what_was_committed(
    workspace: Workspace, start_child: StartChild
) -> None:
    *acknowledged, error = start_child(FILL, workspace.database).communicate()[0].splitlines()
    assert "free space" in error
    with closing(open_database(workspace.database)) as conn:
        assert [int(name[:5]) for name in corpora(conn)] == [int(n) for n in acknowledged]
        assert pragma(conn, "integrity_check") == "ok"


def test_a_bug_keeps_its_own_error(conn: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), transaction(conn):
        conn.execute("SELECT * FROM absent")
    with pytest.raises(sqlite3.ProgrammingError), transaction(conn):
        conn.execute("SELECT ?")


# ---- spelling ----------------------------------------------------------------------------------


def test_times_are_utc_and_sort_as_text() -> None:
    assert now_text(0) == "1970-01-01T00:00:00.000Z"
    assert now_text(1_700_000_000.9996) < now_text(1_700_000_001.5)
    assert len(now_text()) == len(now_text(0))


def test_equal_values_have_one_spelling() -> None:
    assert canonical_json({"b": (1, 2), "a": "é"}) == '{"a":"é","b":[1,2]}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_digest_names_its_rule() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest(b"") == digest("") == empty
    assert digest("é") == digest("é".encode())


def test_text_that_utf8_cannot_hold_is_spelled_out(conn: sqlite3.Connection) -> None:
    assert storable("plain é 🙂") == "plain é 🙂"
    add(conn, storable("half \ud83d of a smile"))
    assert corpora(conn) == [r"half \ud83d of a smile"]
