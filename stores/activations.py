"""The arrays of pooled activations: their settings, which never change, their places and metadata.

Knows nothing of models, nor of what the chunks hold: `chunks.py` writes them, `layers.py` reads
them.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from stores import arrays
from stores.database import Connection, canonical_json, now_text, transaction
from stores.errors import FingerprintMismatch, UsageError
from stores.readers import is_imported
from stores.receipts import HERE, chunk_length, written_layers
from stores.rows import row_extent
from stores.texts import Kind
from stores.workspace import Workspace, require_slug


@dataclass(frozen=True, slots=True)
class ArraySettings:
    """All that decides the numbers in an array; stored with it and compared on every resume."""

    model: str
    revision: str
    weights_sha: str
    n_layers: int
    d_model: int
    start_token: int
    format: Literal["raw", "chat"]
    dtype: str
    protocol_digest: str
    bos_counted: bool = False
    """Whether the beginning-of-text token counts towards `start_token`."""
    """The protocol of the corpus when its arrays were opened; kept when the corpus gets another."""


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of one row: done, or rejected or failed with the reason."""

    row: int
    tokens: int | None
    tokens_sha: str | None
    status: Literal["done", "rejected", "failed"]
    reason: str | None = None


def open_arrays(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    kind: Kind,
    settings: ArraySettings,
    chunk_rows: int,
) -> None:
    """Record the settings of these arrays, or check that they are the ones recorded.

    `chunk_rows` counts until something is written: arrays keep their chunks. Metadata that a crash
    tore or lost is written anew. Raises FingerprintMismatch naming each setting that differs, and
    UsageError for a reader whose vectors were imported.
    """
    if is_imported(conn, reader):
        raise UsageError(
            f"reader {reader} is the name of imported vectors, which must not be mixed with what a "
            "model reads here: name another --reader"
        )
    given = asdict(settings)
    with transaction(conn):
        if not _is_begun(conn, workspace, reader):
            conn.execute(
                "UPDATE arrays SET settings = ?, chunk_rows = ?, d_model = ? WHERE reader = ?",
                (canonical_json(given), chunk_rows, settings.d_model, reader),
            )
        for array in conn.execute("SELECT * FROM arrays WHERE reader = ?", (reader,)).fetchall():
            _refuse_differences(conn, array, corpus, given)
        conn.execute(
            "INSERT OR IGNORE INTO arrays VALUES (?, ?, ?, ?, ?, ?, ?)",
            (reader, corpus, kind, canonical_json(given), chunk_rows, settings.d_model, now_text()),
        )
    for layer in written_layers(conn, reader, corpus, kind):
        require_layer(conn, workspace, reader, corpus, kind, layer)


def _is_begun(conn: Connection, workspace: Workspace, reader: str) -> bool:
    """Whether anything of a reader is, or ever was, on the disk; a plan alone binds nobody."""
    query = "SELECT 1 FROM receipts WHERE reader = ? LIMIT 1"
    written = conn.execute(query, (reader,)).fetchone() is not None
    return written or workspace.activations(reader).exists()


def _refuse_differences(
    conn: Connection, array: sqlite3.Row, corpus: str, given: dict[str, Any]
) -> None:
    # Arrays of before this was stored did not count it either.
    stored = {"bos_counted": False, **json.loads(array["settings"])}
    # Other corpora of this reader may come from other protocols, and a corpus may be bound to
    # another one than when its arrays were opened: each row has the digest of its own text.
    if array["corpus"] != corpus or _is_bound(conn, corpus, given["protocol_digest"]):
        stored["protocol_digest"] = given["protocol_digest"]
    if differing := arrays.differences(stored, given):
        raise FingerprintMismatch(
            f"the activations of reader {array['reader']} ({array['corpus']}/{array['kind']}) were "
            f"made with other settings: {differing}; go back to those, or name another --reader"
        )


def _is_bound(conn: Connection, corpus: str, protocol_digest: str) -> bool:
    query = "SELECT 1 FROM corpora WHERE corpus = ? AND protocol_digest = ?"
    return conn.execute(query, (corpus, protocol_digest)).fetchone() is not None


def layer_path(workspace: Workspace, reader: str, corpus: str, kind: Kind, layer: int) -> Path:
    """The Zarr array of one layer: float32 [rows, d_model]."""
    folder = workspace.activations(reader) / require_slug(corpus, "corpus")
    return folder / kind / f"layer_{layer}"


def layer_metadata(
    conn: Connection, reader: str, corpus: str, kind: Kind, layer: int
) -> dict[str, Any]:
    """The Zarr document the ledger wants for one layer, as long as the rows planned now."""
    here = (reader, corpus, kind)
    size = chunk_length(conn, *here)
    query = f"SELECT settings, d_model FROM arrays WHERE {HERE}"
    settings, d_model = conn.execute(query, here).fetchone()
    attributes = {"layer": layer, **json.loads(settings)}
    return arrays.array_metadata(row_extent(conn, *here), d_model, size, "float32", attributes)


def require_layer(
    conn: Connection, workspace: Workspace, reader: str, corpus: str, kind: Kind, layer: int
) -> Path:
    """Make sure that the array of one layer is there, durable, and covers the rows planned now."""
    wanted = layer_metadata(conn, reader, corpus, kind, layer)
    root = workspace.activations(reader)
    return arrays.require_array(root, f"{corpus}/{kind}/layer_{layer}", wanted)


def sweep_partials(workspace: Workspace, reader: str) -> int:
    """Remove what a killed writer left half written; return how many files that were."""
    partials = arrays.find_partials(workspace.activations(reader))
    for file in partials:
        file.unlink()
    return len(partials)
