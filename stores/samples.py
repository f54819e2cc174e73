"""Samples of texts that others wrote: which documents were drawn, from where, by which rule.

A sample is drawn once and read by every model. Knows nothing of files, hubs or models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stores.database import (
    Connection,
    canonical_json,
    digest,
    now_text,
    storable,
    transaction,
)
from stores.errors import NotReady
from stores.workspace import require_slug


@dataclass(frozen=True, slots=True)
class Drawn:
    """A document that may belong to a sample: the lowest ranks of distinct texts are kept."""

    rank: int
    place: str
    """Where it stands: file and line, file and row, or position in a stream."""
    text: str
    """As it is kept: perhaps only its beginning."""
    characters: int
    """Of the whole document."""
    text_sha: str
    """Of the whole document."""
    part: str | None = None
    """What its source calls a part of itself: a subset, a language."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample; `finished` once it is complete. `source` is a slug: pile, lmsys, ..."""

    id: int
    source: str
    digest: str
    settings: Mapping[str, Any]
    seen: int | None
    skipped: Mapping[str, int]
    finished: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a sample; `position` counts from 0 by rank."""

    id: int
    position: int
    place: str
    part: str | None
    text: str
    characters: int
    text_sha: str


def find_sample(conn: Connection, source: str, settings: Mapping[str, Any]) -> Sample | None:
    """The sample of that source drawn by these settings, finished or not."""
    query = "SELECT * FROM samples WHERE source = ? AND digest = ?"
    row = conn.execute(query, (source, _digest(settings))).fetchone()
    return None if row is None else _sample(row)


def open_sample(conn: Connection, source: str, settings: Mapping[str, Any], run_id: int) -> Sample:
    """The same, made when it is not there. UsageError when `source` is no slug."""
    with transaction(conn):
        conn.execute(
            "INSERT INTO samples (source, digest, settings, run_id, created_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                require_slug(source, "source"),
                _digest(settings),
                canonical_json(dict(settings)),
                run_id,
                now_text(),
            ),
        )
        found = find_sample(conn, source, settings)
    if found is None:
        raise RuntimeError("a sample that was just made is not there")
    return found


def keep_documents(conn: Connection, sample_id: int, drawn: Sequence[Drawn], size: int) -> None:
    """Keep the `size` lowest ranks of what is there and `drawn`; a text that is there stays.

    Raises ValueError when the sample is finished: passes of models refer to its documents.
    """
    with transaction(conn):
        _require_open(conn, sample_id)
        conn.executemany(
            "INSERT INTO documents (sample_id, rank, place, part, text, characters, text_sha) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (
                    sample_id,
                    each.rank,
                    storable(each.place),
                    None if each.part is None else storable(each.part),
                    storable(each.text),
                    each.characters,
                    each.text_sha,
                )
                for each in drawn
            ],
        )
        conn.execute(
            "DELETE FROM documents WHERE id IN (SELECT id FROM documents WHERE sample_id = ? "
            "ORDER BY rank, id LIMIT -1 OFFSET ?)",
            (sample_id, size),
        )


def drop_documents(conn: Connection, sample_id: int) -> None:
    """Empty a sample that is drawn from the beginning. ValueError when it is finished."""
    with transaction(conn):
        _require_open(conn, sample_id)
        conn.execute("DELETE FROM documents WHERE sample_id = ?", (sample_id,))


def kept_ranks(conn: Connection, sample_id: int) -> dict[int, str]:
    """Rank -> text_sha of every document that is kept."""
    query = "SELECT rank, text_sha FROM documents WHERE sample_id = ?"
    return dict(map(tuple, conn.execute(query, (sample_id,))))


def finish_sample(
    conn: Connection, sample_id: int, *, seen: int, skipped: Mapping[str, int]
) -> Sample:
    """Say that the sample is complete. NotReady when it holds no document."""
    with transaction(conn):
        _require_open(conn, sample_id)
        if not count_documents(conn, sample_id):
            raise NotReady(_nothing(_row(conn, sample_id)["source"], seen, skipped))
        conn.execute(
            "UPDATE samples SET seen = ?, skipped = ?, finished_at = ? WHERE id = ?",
            (seen, canonical_json(dict(skipped)), now_text(), sample_id),
        )
        return _sample(_row(conn, sample_id))


def known_samples(conn: Connection) -> list[Sample]:
    """Every sample, oldest first."""
    return [_sample(row) for row in conn.execute("SELECT * FROM samples ORDER BY id")]


def count_documents(conn: Connection, sample_id: int) -> int:
    """How many documents a sample holds."""
    query = "SELECT count(*) FROM documents WHERE sample_id = ?"
    return int(conn.execute(query, (sample_id,)).fetchone()[0])


def read_documents(conn: Connection, sample_id: int, first: int, count: int) -> list[Document]:
    """Documents by position, from `first` on, at most `count`."""
    query = (
        "SELECT id, place, part, text, characters, text_sha FROM documents WHERE sample_id = ? "
        "ORDER BY rank, id LIMIT ? OFFSET ?"
    )
    rows = conn.execute(query, (sample_id, count, first))
    return [
        Document(row["id"], position, *tuple(row)[1:]) for position, row in enumerate(rows, first)
    ]


def _digest(settings: Mapping[str, Any]) -> str:
    return digest(canonical_json(dict(settings)))


def _row(conn: Connection, sample_id: int) -> Any:
    row = conn.execute("SELECT * FROM samples WHERE id = ?", (sample_id,)).fetchone()
    if row is None:
        raise ValueError(f"there is no sample {sample_id}")
    return row


def _require_open(conn: Connection, sample_id: int) -> None:
    if _row(conn, sample_id)["finished_at"] is not None:
        raise ValueError(f"sample {sample_id} is finished: its documents do not change any more")


def _sample(row: Any) -> Sample:
    return Sample(
        row["id"],
        row["source"],
        row["digest"],
        json.loads(row["settings"]),
        row["seen"],
        json.loads(row["skipped"] or "{}"),
        row["finished_at"] is not None,
    )


def _nothing(source: str, seen: int, skipped: Mapping[str, int]) -> str:
    why = ", ".join(f"{n} {reason}" for reason, n in sorted(skipped.items())) or "it is empty"
    field = skipped.keys() & {"no_field", "no_text", "not_text"}
    remedy = "name the field that holds the text with --text-field" if field else "check the source"
    return f"{source}: none of the {seen} documents seen has a text ({why}); {remedy}"
