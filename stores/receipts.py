"""Receipts: the ledger's word that a chunk of an array is on disk, for the rows planned now.

Knows nothing of files or texts; importing it is cheap.
"""

from collections.abc import Iterable, Sequence

from stores.database import Connection
from stores.errors import NotReady
from stores.texts import KINDS, Kind

HERE = "reader = ? AND corpus = ? AND kind = ?"

Here = tuple[str, str, Kind]
"""Reader, corpus and kind: which arrays."""


def chunk_length(conn: Connection, reader: str, corpus: str, kind: Kind) -> int:
    """Rows per chunk, as fixed when these arrays were opened; NotReady when they never were."""
    query = f"SELECT chunk_rows FROM arrays WHERE {HERE}"
    found = conn.execute(query, (reader, corpus, kind)).fetchone()
    if found is None:
        run = _extract(reader, corpus)
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


def mean_norms(
    conn: Connection,
    reader: str,
    corpus: str,
    kinds: Sequence[Kind] = KINDS,
    layers: Sequence[int] | None = None,
) -> dict[int, float]:
    """The mean residual norm over the rows that are done, for `layers`: all with any receipt.

    A row counts at the layers for which it was done when they were written.
    Raises NotReady when there is none, and when a layer lacks a chunk or the norms of one.
    """
    places: list[Here] = [(reader, corpus, kind) for kind in kinds]
    means = {}
    written = {layer for here in places for layer in written_layers(conn, *here)}
    for layer in sorted(written if layers is None else layers):
        norms = [norm for here in places for norm in _chunk_norms(conn, here, layer)]
        if rows := sum(done for _, done in norms):
            means[layer] = sum(norm * done for norm, done in norms) / rows
    if not means:
        raise NotReady(f"no text of corpus {corpus} has a norm yet; run {_extract(reader, corpus)}")
    return means


def _chunk_norms(conn: Connection, here: Here, layer: int) -> list[tuple[float, int]]:
    """The mean norm of each chunk that has done rows, and how many it has."""
    reader, corpus, kind = here
    query = f"SELECT chunk, rows, norm, done FROM receipts WHERE {HERE} AND layer = ?"
    found = conn.execute(query, (*here, layer)).fetchall()
    place = f"layer {layer} of {corpus}/{kind} by reader {reader}"
    if {row["chunk"]: row["rows"] for row in found} != planned_chunks(conn, *here):
        run = _extract(reader, corpus, f" --layers {layer}")
        raise NotReady(f"{place} lacks chunks; run {run}")
    if any(row["done"] is None for row in found):
        raise NotReady(
            f"{place} was extracted before norms were kept; extract the corpus under another "
            "--reader to have them"
        )
    return [(row["norm"], row["done"]) for row in found if row["done"]]


def _extract(reader: str, corpus: str, more: str = "") -> str:
    return f"`cli.py extract --reader {reader} --corpus {corpus}{more}`"
