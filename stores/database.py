"""Opens the ledger, one SQLite file, and runs its transactions.

Knows the connection settings, the migrations and the errors of SQLite; knows nothing of what the
tables mean.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from stores.errors import LedgerError, NotReady, SchemaTooNew
from stores.files import make_folder
from stores.migrations import (
    EXTERNAL_TEXT,
    EXTRACTION_AT_SCALE,
    GENERATION_AT_SCALE,
    SAE_CODES,
    SWEEPS,
)
from stores.schema import LEDGER

if TYPE_CHECKING:
    from sqlite_utils import Database

Connection = sqlite3.Connection  # for the rooms above, which never import sqlite3

MIN_SQLITE = (3, 37, 0)  # STRICT tables; RETURNING needs 3.35
BUSY_SECONDS = 30.0
MIGRATION_SET = "emovec"

# Append only: a ledger in the field has applied a prefix of this list.
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("m001_ledger", LEDGER),
    ("m002_generation_at_scale", GENERATION_AT_SCALE),
    ("m003_extraction_at_scale", EXTRACTION_AT_SCALE),
    ("m004_sweeps", SWEEPS),
    ("m005_external_text", EXTERNAL_TEXT),
    ("m006_sae_codes", SAE_CODES),
)

# made once: planning 205,200 rows encodes as many keys
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_SPACE = "free space, then run the same command again (it resumes)"
_ACCESS = "check that you may read and write this file and its folder"
_ADVICE = {
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_IOERR: f"the disk is full, over quota or failing: {_SPACE}",
    sqlite3.SQLITE_BUSY: "another program is writing to it: close that one and run again",
    sqlite3.SQLITE_CANTOPEN: _ACCESS,
    sqlite3.SQLITE_PERM: _ACCESS,
    sqlite3.SQLITE_READONLY: _ACCESS,
    sqlite3.SQLITE_NOTADB: "move it away or choose another --workspace",
    sqlite3.SQLITE_CORRUPT: "run `python cli.py doctor`, or restore a backup",
}


def open_database(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the ledger at `path`; a writer creates it and brings its tables up to date.

    Rows answer to names and positions. Every statement outside `transaction` commits by itself.

    Raises:
        NotReady: read only, and there is no ledger yet, or one that still lacks tables.
        SchemaTooNew: a newer version of this program wrote it.
        LedgerError: the file, its folder or this SQLite cannot be used.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise LedgerError(
            f"SQLite {sqlite3.sqlite_version} is too old for {path}: use a Python whose sqlite3 "
            f"is {'.'.join(map(str, MIN_SQLITE))} or newer"
        )
    if read_only and not path.is_file():
        raise NotReady(f"there is no ledger at {path}: run `python cli.py generate stories` first")
    with _named_errors(path):
        if not read_only:
            _make_folder_of(path)
        mode = "ro" if read_only else "rwc"
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        conn = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(conn, path, read_only=read_only)
        except BaseException:
            conn.close()
            raise
    return conn


@contextmanager
def transaction(conn: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it; durable once the outermost block is left.

    The outermost block takes the write lock at once (a deferred one fails when a reader turns
    writer, whatever the timeout). An inner block is a savepoint of the outer one.

    Raises:
        LedgerError: the disk is full or failing, or another program holds the write lock.
    """
    if conn.in_transaction:
        begin, commit = "SAVEPOINT inner_block", "RELEASE inner_block"
        undo: tuple[str, ...] = ("ROLLBACK TO inner_block", "RELEASE inner_block")
    else:
        begin, commit, undo = "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
    with _named_errors(conn):
        conn.execute(begin)
        try:
            yield
            conn.execute(commit)
        except BaseException:
            for statement in undo:
                # SQLite itself rolls back after some errors; a second ROLLBACK would hide them
                if conn.in_transaction:
                    conn.execute(statement)
            raise


def now_text(now: float | None = None) -> str:
    """Seconds since the epoch (default: the clock) as ISO 8601 UTC, milliseconds, sortable."""
    moment = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def canonical_json(value: object) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, no NaN (ValueError)."""
    return _CANONICAL.encode(value)


def digest(content: bytes | str) -> str:
    """SHA-256 with its name in front, so that the rule can change visibly later."""
    payload = content.encode() if isinstance(content, str) else content
    return "sha256:" + hashlib.sha256(payload).hexdigest()


def storable(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 cannot hold, spelled out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _prepare(conn: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    conn.row_factory = sqlite3.Row
    conn.execute("PRAGMA foreign_keys = ON")
    ours, applied = {name for name, _ in MIGRATIONS}, _applied_migrations(conn)
    if applied - ours:
        raise SchemaTooNew(
            f"{path} was written by a newer version of this program (it has "
            f"{', '.join(sorted(applied - ours))}): update this program; nothing was changed"
        )
    if read_only:
        if ours - applied:
            raise NotReady(f"{path} is empty or older than this program: run a writing command")
        conn.execute("PRAGMA query_only = ON")
        return
    _use_wal(conn, path)
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA cache_size = -16000")  # KiB: planning 205,200 rows goes a third faster
    if ours - applied:
        _migrate(conn)


def _use_wal(conn: sqlite3.Connection, path: Path) -> None:
    mode = _switch_to_wal(conn)
    if mode != "wal":
        raise LedgerError(
            f"{path} cannot keep a write-ahead log (journal mode {mode!r}; a network file "
            "system?): put the workspace on a local disk"
        )


def _switch_to_wal(conn: sqlite3.Connection) -> str:
    """The journal mode after the switch.

    Of several processes that make the same switch, SQLite turns some away at once, whatever the
    timeout; so the wait is here.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return str(conn.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _applied_migrations(conn: sqlite3.Connection) -> set[str]:
    known = "SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'"
    if conn.execute(known).fetchone() is None:
        return set()
    names = "SELECT name FROM _sqlite_migrations WHERE migration_set = ?"
    return {row["name"] for row in conn.execute(names, (MIGRATION_SET,))}


def _migrate(conn: sqlite3.Connection) -> None:
    from sqlite_utils import Database, Migrations  # a quarter of a second that readers do not pay

    migrations = Migrations(MIGRATION_SET)
    for name, statements in MIGRATIONS:
        migrations(name=name)(_migration(statements))
    with transaction(conn):
        migrations.apply(Database(conn, execute_plugins=False))


def _migration(statements: tuple[str, ...]) -> Callable[["Database"], None]:
    def apply(db: "Database") -> None:
        for statement in statements:
            db.conn.execute(statement)

    return apply


@contextmanager
def _named_errors(place: Path | sqlite3.Connection) -> Iterator[None]:
    """Turn the errors of SQLite that a user can mend into one line; others are bugs and pass."""
    try:
        yield
    except sqlite3.Error as error:
        # an extended code holds its primary code in the low byte
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if advice is None:
            raise
        path = place if isinstance(place, Path) else _path_of(place)
        raise LedgerError(f"{path}: {error}: {advice}") from error


def _make_folder_of(path: Path) -> None:
    try:
        make_folder(path.parent)
    except OSError as error:
        raise LedgerError(
            f"{path.parent} cannot be created ({error.strerror}): {_ACCESS}"
        ) from error


def _path_of(conn: sqlite3.Connection) -> Path:
    with closing(conn.execute("PRAGMA database_list")) as cursor:
        return Path(cursor.fetchone()["file"])
