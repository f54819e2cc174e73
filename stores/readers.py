"""Who has read what: the names in a workspace. Reads only; imports nothing heavy."""

import json

from stores.database import Connection
from stores.errors import NotReady


def known_corpora(conn: Connection) -> list[str]:
    """The corpora of a workspace, by name."""
    return [row[0] for row in conn.execute("SELECT corpus FROM corpora ORDER BY corpus")]


def known_readers(conn: Connection) -> list[str]:
    """The readers that have arrays, by name."""
    return [row[0] for row in conn.execute("SELECT DISTINCT reader FROM arrays ORDER BY reader")]


def count_layers(conn: Connection, reader: str) -> int:
    """How many decoder blocks the model of a reader has. NotReady when it has read nothing."""
    row = conn.execute("SELECT settings FROM arrays WHERE reader = ?", (reader,)).fetchone()
    if row is None:
        raise NotReady(f"reader {reader} has read nothing; run `cli.py extract --reader {reader}`")
    return int(json.loads(row["settings"])["n_layers"])
