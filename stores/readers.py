"""Who has read what: the names in a workspace. Reads only; imports nothing heavy."""

import json
from typing import Any

from stores.database import Connection
from stores.errors import NotReady


def known_corpora(conn: Connection) -> list[str]:
    """The corpora of a workspace, by name."""
    return [row[0] for row in conn.execute("SELECT corpus FROM corpora ORDER BY corpus")]


def known_readers(conn: Connection) -> list[str]:
    """The readers that have arrays, by name."""
    return [row[0] for row in conn.execute("SELECT DISTINCT reader FROM arrays ORDER BY reader")]


def reader_source(conn: Connection, reader: str) -> str | None:
    """Where the model of a reader was last found: a hub id or a folder; None when nobody said."""
    row = conn.execute(
        "SELECT json_extract(settings, '$.source') AS source FROM runs WHERE command = 'extract' "
        "AND reader = ? ORDER BY id DESC LIMIT 1",
        (reader,),
    ).fetchone()
    settings = reader_settings(conn, reader)
    if row is not None and row["source"]:
        return str(row["source"])
    return None if settings["revision"] == "local" else str(settings["model"])


def count_layers(conn: Connection, reader: str) -> int:
    """How many decoder blocks the model of a reader has. NotReady when it has read nothing."""
    return int(reader_settings(conn, reader)["n_layers"])


def reader_settings(conn: Connection, reader: str) -> dict[str, Any]:
    """What a reader's arrays were made with: model, weights, type, ... as `ArraySettings` names it.

    NotReady when it has read nothing.
    """
    row = conn.execute("SELECT settings FROM arrays WHERE reader = ?", (reader,)).fetchone()
    if row is None:
        raise NotReady(f"reader {reader} has read nothing; run `cli.py extract --reader {reader}`")
    found: dict[str, Any] = json.loads(row["settings"])
    return found
