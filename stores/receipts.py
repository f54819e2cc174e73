"""Receipts: the ledger's word that a chunk of an array is on disk, for the rows planned now.

Knows nothing of files or texts; importing it is cheap.
"""

from collections.abc import Iterable

from stores.database import Connection
from stores.errors import NotReady
from stores.texts import Kind

HERE = "reader = ? AND corpus = ? AND kind = ?"

Here = tuple[str, str, Kind]
"""Reader, corpus and kind: which arrays."""


def chunk_length(conn: Connection, reader: str, corpus: str, kind: Kind) -> int:
    """Rows per chunk, as fixed when these arrays were opened; NotReady when they never were."""
    query = f"SELECT chunk_rows FROM arrays WHERE {HERE}"
    found = conn.execute(query, (reader, corpus, kind)).fetchone()
    if found is None:
        run = f"`cli.py extract --reader {reader} --corpus {corpus}`"
        raise NotReady(f"reader {reader} never read corpus {corpus}; run {run}")
    return int(found["chunk_rows"])


def planned_chunks(conn: Connection, reader: str, corpus: str, kind: Kind) -> dict[int, int]:
    """How many rows are planned in each chunk that has any."""
    here = (reader, corpus, kind)
    query = f"SELECT row / ?, count(*) FROM activations WHERE {HERE} GROUP BY 1 ORDER BY 1"
    found = conn.execute(query, (chunk_length(conn, *here), *here)).fetchall()
    return dict(map(tuple, found))


def written_layers(conn: Connection, reader: str, corpus: str, kind: Kind) -> list[int]:
    """The layers that have any receipt, in order."""
    query = f"SELECT DISTINCT layer FROM receipts WHERE {HERE} ORDER BY layer"
    return [row["layer"] for row in conn.execute(query, (reader, corpus, kind))]


def drop_receipts(
    conn: Connection,
    reader: str,
    corpus: str,
    kind: Kind,
    chunk: int,
    layers: Iterable[int] | None = None,
) -> None:
    """Re-queue a chunk for `layers` (default: all), inside the caller's transaction.

    When no receipt of the chunk is left, its rows are pending again.
    """
    place = (reader, corpus, kind, chunk)
    chosen = f"DELETE FROM receipts WHERE {HERE} AND chunk = ?"
    if layers is None:
        conn.execute(chosen, place)
    else:
        conn.executemany(f"{chosen} AND layer = ?", [(*place, layer) for layer in layers])
    left = conn.execute(f"SELECT count(*) FROM receipts WHERE {HERE} AND chunk = ?", place)
    if left.fetchone()[0] == 0:
        size = chunk_length(conn, reader, corpus, kind)
        conn.execute(
            "UPDATE activations SET status = 'pending', reason = NULL "
            f"WHERE {HERE} AND row >= ? AND row < ? AND status <> 'pending'",
            (reader, corpus, kind, chunk * size, (chunk + 1) * size),
        )
