"""Who has read what: the names in a workspace. Reads only; imports nothing heavy.

A reader is a model that read texts here, or a name under which vectors were imported: the latter
has no arrays, and its vectors say which files they came from.
"""

import json
from typing import Any

from stores.database import Connection
from stores.errors import NotReady
from stores.rows import extracted_layers

FILES = "json_extract(settings, '$.imported') IS NOT NULL"
"""What distinguishes the rows of imported vectors from those of vectors built here."""


def known_corpora(conn: Connection, reader: str | None = None) -> list[str]:
    """The corpora of a workspace, or those that a reader has arrays or vectors of, by name."""
    query = "SELECT corpus FROM corpora ORDER BY corpus"
    if reader is not None:
        query = """SELECT corpus FROM arrays WHERE reader = ?1
                   UNION SELECT corpus FROM vectors WHERE reader = ?1 ORDER BY corpus"""
    return [row[0] for row in conn.execute(query, () if reader is None else (reader,))]


def text_corpora(conn: Connection) -> list[str]:
    """The corpora that texts are written in: all but those of imported vectors alone."""
    query = f"""SELECT corpus FROM corpora c
        WHERE NOT EXISTS (SELECT 1 FROM vectors v WHERE v.corpus = c.corpus AND {FILES})
        OR EXISTS (SELECT 1 FROM stories s WHERE s.corpus = c.corpus)
        OR EXISTS (SELECT 1 FROM dialogues d WHERE d.corpus = c.corpus) ORDER BY corpus"""
    return [row[0] for row in conn.execute(query)]


def known_readers(conn: Connection) -> list[str]:
    """The readers that have arrays or vectors, by name."""
    query = "SELECT reader FROM arrays UNION SELECT reader FROM vectors ORDER BY reader"
    return [row[0] for row in conn.execute(query)]


def is_imported(conn: Connection, reader: str) -> bool:
    """Whether the vectors of a reader came from files; False also for a name nobody has."""
    query = f"SELECT 1 FROM vectors WHERE reader = ? AND {FILES} LIMIT 1"
    return conn.execute(query, (reader,)).fetchone() is not None


def analysable_layers(conn: Connection, reader: str, corpus: str) -> tuple[int, ...]:
    """The layers that analyses may ask for, in order: extracted ones, else imported ones.

    Those of imported files count even after a damaged one was withdrawn, so that it is missed.
    """
    arrays = "SELECT 1 FROM arrays WHERE reader = ? AND corpus = ? AND kind = 'stories'"
    if conn.execute(arrays, (reader, corpus)).fetchone() is not None:
        return tuple(extracted_layers(conn, reader, corpus, "stories"))
    if (imported := import_settings(conn, reader, corpus)) is not None:
        return tuple(imported["layers"])
    query = "SELECT DISTINCT layer FROM vectors WHERE reader = ? AND corpus = ? ORDER BY layer"
    return tuple(row["layer"] for row in conn.execute(query, (reader, corpus)))


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
    """How many decoder blocks the model of a reader has. NotReady when it has read nothing.

    Of an imported one: what somebody said when importing, else what its highest layer asks for.
    """
    imported = imported_sets(conn, reader).values()
    told = [found for found in imported if not found["n_layers_assumed"]]
    if imported:
        return max(int(found["n_layers"]) for found in told or imported)
    return int(reader_settings(conn, reader)["n_layers"])


def import_settings(conn: Connection, reader: str, corpus: str) -> dict[str, Any] | None:
    """What an imported set was made from: files, model, n_layers, ...; None when it was not."""
    return imported_sets(conn, reader).get(corpus)


def imported_sets(conn: Connection, reader: str) -> dict[str, dict[str, Any]]:
    """`import_settings` of every imported set of a reader, by corpus."""
    query = f"""SELECT corpus, settings, min(layer) FROM vectors
        WHERE reader = ? AND {FILES} GROUP BY corpus ORDER BY corpus"""
    return {row["corpus"]: json.loads(row["settings"]) for row in conn.execute(query, (reader,))}


def reader_settings(conn: Connection, reader: str) -> dict[str, Any]:
    """What a reader's arrays were made with: model, weights, type, ... as `ArraySettings` names it.

    NotReady when it has read nothing.
    """
    row = conn.execute("SELECT settings FROM arrays WHERE reader = ?", (reader,)).fetchone()
    if row is None and is_imported(conn, reader):
        raise NotReady(
            f"the vectors of reader {reader} were imported, and with them no model; where one is "
            "needed, let a model read the texts: `cli.py extract`, under another --reader"
        )
    if row is None:
        raise NotReady(f"reader {reader} has read nothing; run `cli.py extract --reader {reader}`")
    found: dict[str, Any] = json.loads(row["settings"])
    return found
