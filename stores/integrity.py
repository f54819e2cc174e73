"""Re-reads everything the ledger claims, queues what is damaged again, and makes backups.

Inspecting only reads. Repairing makes no claim of its own: the stage that made the damaged thing
makes it again, and nothing else. Knows nothing of models; files are the matter of `damage.py`.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from stores.damage import (
    Finding,
    array_places,
    inspect_files,
    inspect_metadata,
    inspect_receipts,
    inspect_vectors,
)
from stores.damage_encodings import inspect_encodings
from stores.damage_external import inspect_projections, inspect_samples
from stores.database import Connection, now_text, transaction
from stores.errors import EngineError, UsageError
from stores.files import PARTIAL_SUFFIX, sync
from stores.receipts import Here, drop_receipts
from stores.rows import compare_texts, plan_rows
from stores.texts import KINDS, Kind
from stores.workspace import Workspace

SAFE_SQLITE = (3, 51, 3)
RESTORE = "restore a backup"


def inspect(conn: Connection, workspace: Workspace, *, now: float | None = None) -> list[Finding]:
    """Compare texts, rows, arrays, receipts, vectors, samples and passes: differences are findings.

    While an engine writes, its newest chunk may look like one without a receipt: repair only under
    the engine's lock, and only what was found under it.
    """
    inspections = (
        _inspect_database(conn),
        _inspect_texts(conn, time.time() if now is None else now),
        _inspect_rows(conn),
        inspect_metadata(conn, workspace),
        inspect_receipts(conn, workspace),
        inspect_vectors(conn, workspace),
        inspect_files(conn, workspace),
        inspect_samples(conn),
        inspect_projections(conn),
        inspect_encodings(conn),
    )
    findings: list[Finding] = []
    try:
        for inspection in inspections:
            findings += inspection
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        findings.append(Finding("database", "data/emovec.db", str(error), RESTORE))
    return findings


def repair(conn: Connection, workspace: Workspace, findings: Iterable[Finding]) -> int:
    """Mend what can be mended, by queueing exactly that again; return how many findings that were.

    Call it under the engine's lock, with the findings of an inspection under the same lock.
    """
    mends = [finding.mend for finding in findings if finding.mend]
    for mend in mends:
        mend(conn, workspace)
    return len(mends)


def backup(conn: Connection, path: Path) -> None:
    """Copy the ledger as of one moment to a new file, also while an engine writes to it.

    Raises UsageError when `path` is taken, EngineError when it cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} is there already; a backup never overwrites: name a new file")
    unfinished = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
    try:
        unfinished.unlink(missing_ok=True)
        with closing(sqlite3.connect(unfinished)) as copy:
            conn.backup(copy)
        sync(unfinished)
        unfinished.rename(path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise EngineError(
            f"{path}: cannot write the backup ({error}); choose another place"
        ) from error


def _inspect_database(conn: Connection) -> Iterator[Finding]:
    for (message,) in conn.execute("PRAGMA integrity_check").fetchall():
        if message != "ok":
            yield Finding("database", "data/emovec.db", message, RESTORE)
    for row in conn.execute("PRAGMA foreign_key_check").fetchall():
        problem = f"row {row[1]} refers to a row of {row[2]} that is not there"
        yield Finding("database", f"table {row[0]}", problem, RESTORE)
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        yield Finding(
            "SQLite",
            sqlite3.sqlite_version,
            "before 3.51.3 a ledger can be damaged when two programs write to it at once",
            "none needed while only this program writes: its lock admits one writer",
            fault=False,
        )


def _inspect_texts(conn: Connection, now: float) -> Iterator[Finding]:
    for kind in KINDS:
        query = f"SELECT id, status FROM {kind} WHERE (status = 'done') <> (text IS NOT NULL)"
        for text_id, status in conn.execute(query).fetchall():
            problem = "done without a text" if status == "done" else f"{status}, yet has a text"
            mend = partial(_requeue_text, kind=kind, text_id=text_id)
            yield Finding("text", f"{kind} {text_id}", problem, "plan the text again", mend)
        subject = "emotion, topic, slot" if kind == "stories" else "topic, slot"
        query = f"""SELECT group_concat(id, ', ') AS ids FROM {kind}
                    GROUP BY corpus, {subject} HAVING count(*) > 1"""
        for (ids,) in conn.execute(query).fetchall():
            problem = "several rows are for the same text"
            yield Finding("text", f"{kind} {ids}", problem, "delete all but one by hand")
        query = f"SELECT count(*) FROM {kind} WHERE status = 'leased' AND lease_until < ?"
        if expired := conn.execute(query, (now,)).fetchone()[0]:
            problem = f"{expired} leases have expired"
            yield Finding("lease", kind, problem, "the next generate takes them", fault=False)


def _requeue_text(conn: Connection, _: Workspace, kind: Kind, text_id: int) -> None:
    with transaction(conn):
        conn.execute(
            f"""UPDATE {kind} SET status = 'pending', text = NULL, words = NULL, owner = NULL,
                lease_until = NULL, attempts = 0, reason = NULL, updated_at = ? WHERE id = ?""",
            (now_text(), text_id),
        )


def _inspect_rows(conn: Connection) -> Iterator[Finding]:
    """Rows against the texts they were read from, and against receipts."""
    for here in array_places(conn):
        changes = compare_texts(conn, *here)
        if stale := len(changes.changed) + len(changes.gone):
            problem = f"{stale} texts were changed or removed after they were read"
            yield Finding(
                "rows", "/".join(here), problem, "read them again", partial(_replan, here=here)
            )
    query = """
        SELECT DISTINCT reader, corpus, kind, row / chunk_rows AS chunk
        FROM activations a JOIN arrays USING (reader, corpus, kind)
        WHERE status <> 'pending' AND NOT EXISTS (
            SELECT 1 FROM receipts r WHERE r.reader = a.reader AND r.corpus = a.corpus
            AND r.kind = a.kind AND r.chunk = a.row / chunk_rows)"""
    for reader, corpus, kind, chunk in conn.execute(query).fetchall():
        place = f"{reader}/{corpus}/{kind} chunk {chunk}"
        mend = partial(_requeue_rows, here=(reader, corpus, kind), chunk=chunk)
        problem = "its rows are settled, yet no layer has a receipt"
        yield Finding("rows", place, problem, "extract the chunk again", mend)


def _replan(conn: Connection, _: Workspace, here: Here) -> None:
    plan_rows(conn, *here)


def _requeue_rows(conn: Connection, _: Workspace, here: Here, chunk: int) -> None:
    with transaction(conn):
        drop_receipts(conn, *here, chunk)
