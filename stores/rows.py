"""Which text is which row of the arrays, and which chunks of rows still lack a layer.

A row keeps its place and new texts are appended, so that a chunk is found again after any crash. A
chunk whose rows changed loses its receipts. Knows nothing of Zarr or models; importing it is cheap.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from stores.database import Connection, canonical_json, digest, transaction
from stores.receipts import HERE, Here, chunk_length, drop_receipts, planned_chunks
from stores.texts import KINDS, Kind

RowStatus = Literal["pending", "done", "rejected", "failed"]

READ_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class RowPlan:
    """A row to fill and the text that fills it."""

    row: int
    text_id: int
    text_sha: str


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """A chunk with work left: all of its rows, and the wanted layers that lack a receipt."""

    chunk: int
    first_row: int
    rows: tuple[RowPlan, ...]
    layers_missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the arrays with its text's labels; `emotion` is None for dialogues."""

    row: int
    text_id: int
    status: RowStatus
    reason: str | None
    tokens: int | None
    emotion: str | None
    topic: str
    text_sha: str


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows of one kind are in one state."""

    reader: str
    corpus: str
    kind: Kind
    status: RowStatus
    reason: str | None
    n: int


@dataclass(frozen=True, slots=True)
class TextChanges:
    """How the done texts of a corpus differ from the rows planned for them."""

    new: tuple[tuple[int, str], ...]
    """(text id, text sha) of texts without a row."""
    changed: tuple[RowPlan, ...]
    """Rows whose text is another one now, with its new sha."""
    gone: tuple[RowPlan, ...]
    """Rows whose text is no longer done."""


def row_extent(conn: Connection, reader: str, corpus: str, kind: Kind) -> int:
    """One more than the highest row planned: the length of the arrays."""
    query = f"SELECT coalesce(max(row) + 1, 0) FROM activations WHERE {HERE}"
    return int(conn.execute(query, (reader, corpus, kind)).fetchone()[0])


def compare_texts(conn: Connection, reader: str, corpus: str, kind: Kind) -> TextChanges:
    """Hash every done text, one at a time, and compare it with the row planned for it."""
    query = f"SELECT row, text_id, text_sha FROM activations WHERE {HERE}"
    known = {
        found["text_id"]: RowPlan(*found) for found in conn.execute(query, (reader, corpus, kind))
    }
    new, changed = [], []
    done = f"SELECT id, text FROM {kind} WHERE corpus = ? AND status = 'done' ORDER BY id"
    for text_id, text in conn.execute(done, (corpus,)):
        sha = digest(text)
        plan = known.pop(text_id, None)
        if plan is None:
            new.append((text_id, sha))
        elif plan.text_sha != sha:
            changed.append(RowPlan(plan.row, text_id, sha))
    return TextChanges(tuple(new), tuple(changed), tuple(known.values()))


def plan_rows(conn: Connection, reader: str, corpus: str, kind: Kind) -> int:
    """Give each done text a row, in the order of text ids; return how many rows were added.

    A text that changed is pending again in its old row, one that is no longer done loses its row,
    and every chunk this touches loses its receipts. Planning twice changes nothing.
    """
    here = (reader, corpus, kind)
    with transaction(conn):
        size = chunk_length(conn, *here)
        changes = compare_texts(conn, *here)
        _forget_rows(conn, here, changes.gone)
        _restart_rows(conn, here, changes.changed)
        first = row_extent(conn, *here)
        new = [RowPlan(row, *text) for row, text in enumerate(changes.new, first)]
        _append_rows(conn, here, new)
        touched = {plan.row // size for plan in (*changes.gone, *changes.changed, *new)}
        for chunk in sorted(touched):
            drop_receipts(conn, *here, chunk)
    return len(new)


def retry_rows(conn: Connection, reader: str, corpus: str, kind: Kind, reason: str) -> int:
    """Queue again every chunk that holds rows failed for `reason`; return how many they are."""
    here = (reader, corpus, kind)
    query = f"SELECT row FROM activations WHERE {HERE} AND status = 'failed' AND reason = ?"
    with transaction(conn):
        size = chunk_length(conn, *here)
        rows = [row for (row,) in conn.execute(query, (*here, reason))]
        for chunk in sorted({row // size for row in rows}):
            drop_receipts(conn, *here, chunk)
    return len(rows)


def _forget_rows(conn: Connection, here: Here, plans: Iterable[RowPlan]) -> None:
    query = f"DELETE FROM activations WHERE {HERE} AND row = ?"
    conn.executemany(query, [(*here, plan.row) for plan in plans])


def _restart_rows(conn: Connection, here: Here, plans: Iterable[RowPlan]) -> None:
    query = f"""UPDATE activations SET text_sha = ?, tokens_sha = NULL, tokens = NULL,
                status = 'pending', reason = NULL WHERE {HERE} AND row = ?"""
    conn.executemany(query, [(plan.text_sha, *here, plan.row) for plan in plans])


def _append_rows(conn: Connection, here: Here, plans: Iterable[RowPlan]) -> None:
    query = """INSERT INTO activations (reader, corpus, kind, text_id, row, text_sha)
               VALUES (?, ?, ?, ?, ?, ?)"""
    conn.executemany(query, [(*here, plan.text_id, plan.row, plan.text_sha) for plan in plans])


def pending_chunks(
    conn: Connection, reader: str, corpus: str, kind: Kind, layers: Sequence[int]
) -> list[ChunkPlan]:
    """The chunks that lack a receipt for one of `layers`, in order.

    A chunk is complete when each layer has a receipt for as many rows as are planned in it.
    """
    here = (reader, corpus, kind)
    size = chunk_length(conn, *here)
    receipts = conn.execute(f"SELECT chunk, layer, rows FROM receipts WHERE {HERE}", here)
    written = {(found["chunk"], found["layer"]): found["rows"] for found in receipts}
    planned = conn.execute(
        f"SELECT row, text_id, text_sha FROM activations WHERE {HERE} ORDER BY row", here
    )
    plans = []
    for chunk, members in groupby(planned, key=lambda found: int(found["row"]) // size):
        rows = tuple(RowPlan(*member) for member in members)
        missing = tuple(layer for layer in layers if written.get((chunk, layer)) != len(rows))
        if missing:
            plans.append(ChunkPlan(chunk, chunk * size, rows, missing))
    return plans


def extracted_layers(conn: Connection, reader: str, corpus: str, kind: Kind) -> list[int]:
    """The layers of which every planned chunk has its receipt, in order."""
    here = (reader, corpus, kind)
    written: dict[int, dict[int, int]] = {}
    query = f"SELECT layer, chunk, rows FROM receipts WHERE {HERE} ORDER BY layer"
    for layer, chunk, rows in conn.execute(query, here):
        written.setdefault(layer, {})[chunk] = rows
    planned = planned_chunks(conn, *here)
    return [layer for layer, chunks in written.items() if chunks == planned]


def read_texts(conn: Connection, kind: Kind, text_ids: Sequence[int]) -> dict[int, str]:
    """The texts with these ids; an id whose text is not done is left out."""
    texts: dict[int, str] = {}
    for first in range(0, len(text_ids), READ_AT_ONCE):
        ids = text_ids[first : first + READ_AT_ONCE]
        marks = ", ".join("?" * len(ids))
        query = f"SELECT id, text FROM {kind} WHERE status = 'done' AND id IN ({marks})"
        texts.update({found["id"]: found["text"] for found in conn.execute(query, ids)})
    return texts


def read_rows(conn: Connection, reader: str, corpus: str, kind: Kind) -> list[Row]:
    """Every row in order, with its text's labels. Only rows that are 'done' hold numbers to use."""
    return [Row(*found) for found in _labelled_rows(conn, reader, corpus, kind)]


def _labelled_rows(conn: Connection, reader: str, corpus: str, kind: Kind) -> Iterable[sqlite3.Row]:
    emotion = "t.emotion" if kind == "stories" else "NULL"
    query = f"""
        SELECT a.row, a.text_id, a.status, a.reason, a.tokens, {emotion}, t.topic, a.text_sha
        FROM activations a JOIN {kind} t ON t.id = a.text_id
        WHERE a.reader = ? AND a.corpus = ? AND a.kind = ? ORDER BY a.row"""
    return conn.execute(query, (reader, corpus, kind))


def count_rows(conn: Connection) -> list[RowCount]:
    """Rows by reader, corpus, kind, status and reason: how far every extraction has come."""
    query = """
        SELECT reader, corpus, kind, status, reason, count(*) FROM activations
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""
    return [RowCount(*found) for found in conn.execute(query)]


def count_stories(conn: Connection, reader: str, corpus: str) -> dict[str, int]:
    """Emotion -> how many of its stories a reader has pooled."""
    query = """
        SELECT t.emotion, count(*) FROM activations a JOIN stories t ON t.id = a.text_id
        WHERE a.reader = ? AND a.corpus = ? AND a.kind = 'stories' AND a.status = 'done'
        GROUP BY t.emotion ORDER BY min(a.row)"""
    return dict(conn.execute(query, (reader, corpus)).fetchall())


def activations_digest(
    conn: Connection, reader: str, corpus: str, layers: Sequence[int] | None = None
) -> str:
    """One digest of all that vectors are built from: settings, receipts of `layers`, labelled rows.

    `layers` defaults to all; what is extracted at other layers does not change the digest.
    """
    return next(_digests(conn, reader, corpus, [layers]))


def layer_digests(
    conn: Connection, reader: str, corpus: str, layers: Sequence[int]
) -> dict[int, str]:
    """`activations_digest` of each layer alone; what all share is read once."""
    found = _digests(conn, reader, corpus, [[layer] for layer in layers])
    return dict(zip(layers, found, strict=True))


def _digests(
    conn: Connection, reader: str, corpus: str, choices: Iterable[Sequence[int] | None]
) -> Iterator[str]:
    settings = "SELECT kind, settings FROM arrays WHERE reader = ? AND corpus = ? ORDER BY kind"
    receipts = """
        SELECT kind, layer, chunk, sha256 FROM receipts WHERE reader = ? AND corpus = ?
        ORDER BY kind, layer, chunk"""
    opening = _canonical(conn.execute(settings, (reader, corpus)))
    written = conn.execute(receipts, (reader, corpus)).fetchall()
    labels = b"".join(_canonical(_labelled_rows(conn, reader, corpus, kind)) for kind in KINDS)
    for layers in choices:
        seen = hashlib.sha256(opening)
        seen.update(_canonical(row for row in written if layers is None or row["layer"] in layers))
        seen.update(labels)
        yield f"sha256:{seen.hexdigest()}"


def _canonical(rows: Iterable[sqlite3.Row]) -> bytes:
    return b"".join(canonical_json(list(row)).encode() for row in rows)
