"""Marks of finished texts: hashes by which texts that may be alike are found.

Knows nothing of how marks are made. Writes within the caller's transaction, beside the text.
"""

from collections.abc import Sequence

from stores.database import Connection, canonical_json


def add_marks(conn: Connection, text_id: int, marks: Sequence[int]) -> None:
    """Keep the marks of a text; adding them twice changes nothing."""
    rows = [(mark, text_id) for mark in marks]
    conn.executemany("INSERT OR IGNORE INTO marks (mark, text_id) VALUES (?, ?)", rows)


def drop_marks(conn: Connection, text_id: int, marks: Sequence[int]) -> None:
    """Forget marks of a text that is no longer there."""
    rows = [(mark, text_id) for mark in marks]
    conn.executemany("DELETE FROM marks WHERE mark = ? AND text_id = ?", rows)


def marked_texts(conn: Connection, marks: Sequence[int]) -> set[int]:
    """Every text that has at least one of these marks."""
    query = "SELECT DISTINCT text_id FROM marks WHERE mark IN (SELECT value FROM json_each(?))"
    return {row["text_id"] for row in conn.execute(query, (canonical_json(list(marks)),))}
