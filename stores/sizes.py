"""How large texts and arrays are, without reading them. Knows nothing of tokens or models."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from stores.activations import layer_path
from stores.arrays import chunk_path
from stores.database import Connection
from stores.receipts import HERE
from stores.rows import READ_AT_ONCE
from stores.texts import Kind
from stores.workspace import Workspace

FLOAT_BYTES, CRC_BYTES = 4, 4


def text_lengths(conn: Connection, kind: Kind, text_ids: Sequence[int]) -> dict[int, int]:
    """Characters of the texts with these ids; an id whose text is not done is left out."""
    lengths: dict[int, int] = {}
    for first in range(0, len(text_ids), READ_AT_ONCE):
        ids = text_ids[first : first + READ_AT_ONCE]
        marks = ", ".join("?" * len(ids))
        query = f"SELECT id, length(text) FROM {kind} WHERE status = 'done' AND id IN ({marks})"
        lengths.update(map(tuple, conn.execute(query, ids)))
    return lengths


def chunk_file_bytes(chunk_rows: int, d_model: int) -> int:
    """Bytes of one chunk file; one that is partly filled is as large."""
    return chunk_rows * d_model * FLOAT_BYTES + CRC_BYTES


def receipt_bytes(conn: Connection, reader: str, corpus: str, kind: Kind) -> int:
    """Bytes of the chunk files that have a receipt, of all layers."""
    query = f"SELECT coalesce(sum(bytes), 0) FROM receipts WHERE {HERE}"
    return int(conn.execute(query, (reader, corpus, kind)).fetchone()[0])


def file_bytes(
    workspace: Workspace, reader: str, corpus: str, kind: Kind, chunk: int, layers: Iterable[int]
) -> int:
    """Bytes of the files that are there for one chunk of these layers, receipt or not."""
    arrays = (layer_path(workspace, reader, corpus, kind, layer) for layer in layers)
    return sum(_size(chunk_path(array, chunk)) for array in arrays)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
