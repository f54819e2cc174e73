"""Pooled activations: their settings, the writing of whole chunks with receipts, and reading back.

A chunk's bytes are durable first; its receipt comes last, in one transaction with the statuses of
its rows. Two laws follow, even under kill -9: the file of every receipt holds the bytes the receipt
says, and a row that is not pending has a receipt. Knows nothing of models; which text is which row
is told by `rows.py`, how bytes reach the disk by `arrays.py`.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stores import arrays
from stores.arrays import ChunkFile, Floats
from stores.database import Connection, canonical_json, now_text, transaction
from stores.errors import FingerprintMismatch, NotReady, StoreCorrupt
from stores.receipts import HERE, Here, chunk_length, drop_receipts, planned_chunks, written_layers
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

    `chunk_rows` counts at the first call only: arrays keep their chunks. Metadata that a crash tore
    or lost is written anew. Raises FingerprintMismatch naming each setting that differs.
    """
    given = asdict(settings)
    with transaction(conn):
        for array in conn.execute("SELECT * FROM arrays WHERE reader = ?", (reader,)).fetchall():
            _refuse_differences(array, corpus, given)
        conn.execute(
            "INSERT OR IGNORE INTO arrays VALUES (?, ?, ?, ?, ?, ?, ?)",
            (reader, corpus, kind, canonical_json(given), chunk_rows, settings.d_model, now_text()),
        )
    for layer in written_layers(conn, reader, corpus, kind):
        require_layer(conn, workspace, reader, corpus, kind, layer)


def _refuse_differences(array: sqlite3.Row, corpus: str, given: dict[str, Any]) -> None:
    stored = json.loads(array["settings"])
    if array["corpus"] != corpus:  # other corpora of this reader may come from other protocols
        stored["protocol_digest"] = given["protocol_digest"]
    if differing := arrays.differences(stored, given):
        raise FingerprintMismatch(
            f"the activations of reader {array['reader']} ({array['corpus']}/{array['kind']}) were "
            f"made with other settings: {differing}; go back to those, or name another --reader"
        )


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


def write_chunk(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    kind: Kind,
    chunk: int,
    blocks: Mapping[int, Floats],
    outcomes: Sequence[RowOutcome],
) -> None:
    """Store one chunk of some layers: bytes first, then receipts and row statuses at once.

    blocks: layer -> float32 [rows, d_model], one row per outcome, in the order of `outcomes`, which
    are all the rows planned in the chunk. A row that is not done is stored as NaN, and one that was
    given up at another layer stays given up. Raises ValueError when rows, shapes or numbers do not
    fit the plan, FingerprintMismatch when the same text has other tokens than at another layer.
    """
    here = (reader, corpus, kind)
    outcomes = _agree_with_other_layers(conn, here, chunk, tuple(blocks), outcomes)
    first = chunk * chunk_length(conn, *here)
    for block in blocks.values():
        _check_block(block, outcomes)
    with transaction(conn):  # the bytes of these receipts are about to be replaced
        drop_receipts(conn, *here, chunk, blocks)
    files = {}
    for layer, block in blocks.items():
        path = require_layer(conn, workspace, *here, layer)
        files[layer] = arrays.write_block(path, chunk, _lay_out(block, first, outcomes))
    with transaction(conn):
        _record_chunk(conn, here, chunk, files, outcomes)


def _agree_with_other_layers(
    conn: Connection,
    here: Here,
    chunk: int,
    layers: Sequence[int],
    outcomes: Sequence[RowOutcome],
) -> list[RowOutcome]:
    """The outcomes to record: a row is done only if it is done at every layer of its chunk."""
    size = chunk_length(conn, *here)
    query = f"SELECT * FROM activations WHERE {HERE} AND row >= ? AND row < ?"
    span = (*here, chunk * size, (chunk + 1) * size)
    planned = {row["row"]: row for row in conn.execute(query, span)}
    given = sorted(outcome.row for outcome in outcomes)
    if not layers or not planned or given != sorted(planned):
        raise ValueError(f"chunk {chunk} of {'/'.join(here)}: give all planned rows, and a layer")
    query = f"SELECT layer FROM receipts WHERE {HERE} AND chunk = ?"
    others = {layer for (layer,) in conn.execute(query, (*here, chunk))} - set(layers)
    if not others:
        return list(outcomes)
    return [_merge(planned[outcome.row], outcome, here) for outcome in outcomes]


def _merge(stored: sqlite3.Row, outcome: RowOutcome, here: Here) -> RowOutcome:
    known = stored["tokens_sha"]
    if known and outcome.tokens_sha and known != outcome.tokens_sha:
        raise FingerprintMismatch(
            f"row {outcome.row} of {'/'.join(here)} has other tokens now than at the layers stored "
            "before: the tokenizer changed; name another --reader"
        )
    if stored["status"] in ("rejected", "failed"):
        return replace(outcome, status=stored["status"], reason=stored["reason"])
    return outcome


def _check_block(block: Floats, outcomes: Sequence[RowOutcome]) -> None:
    if len(block) != len(outcomes):
        raise ValueError(f"{len(block)} rows of numbers for {len(outcomes)} outcomes")
    if not np.isfinite(block[[outcome.status == "done" for outcome in outcomes]]).all():
        raise ValueError("a row that is done has numbers that are not finite; fail it instead")


def _lay_out(block: Floats, first: int, outcomes: Sequence[RowOutcome]) -> Floats:
    """Put each outcome's numbers at its place in the chunk; NaN where there is none to use."""
    places = np.array([outcome.row for outcome in outcomes]) - first
    done = np.array([outcome.status == "done" for outcome in outcomes])
    laid_out = np.full((places.max() + 1, block.shape[1]), np.nan, dtype=np.float32)
    laid_out[places[done]] = block[done]
    return laid_out


def _record_chunk(
    conn: Connection,
    here: Here,
    chunk: int,
    files: Mapping[int, ChunkFile],
    outcomes: Sequence[RowOutcome],
) -> None:
    now = now_text()
    conn.executemany(
        "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (*here, layer, chunk, file.sha256, file.size, len(outcomes), now)
            for layer, file in sorted(files.items())
        ],
    )
    conn.executemany(
        "UPDATE activations SET status = ?, reason = ?, tokens = ?, tokens_sha = ? "
        f"WHERE {HERE} AND row = ?",
        [(o.status, o.reason, o.tokens, o.tokens_sha, *here, o.row) for o in outcomes],
    )


def layer_receipts(
    conn: Connection, reader: str, corpus: str, kind: Kind, layer: int
) -> dict[int, ChunkFile]:
    """The receipts of one layer by chunk. Raises NotReady unless every planned chunk has one."""
    here = (reader, corpus, kind)
    planned = planned_chunks(conn, *here)
    query = f"SELECT chunk, rows, sha256, bytes FROM receipts WHERE {HERE} AND layer = ?"
    found = {
        row["chunk"]: ChunkFile(row["sha256"], row["bytes"])
        for row in conn.execute(f"{query} ORDER BY chunk", (*here, layer))
        if planned.get(row["chunk"]) == row["rows"]
    }
    if missing := len(planned) - len(found):
        raise NotReady(
            f"layer {layer} of {corpus}/{kind} by reader {reader} lacks {missing} of "
            f"{len(planned)} chunks; "
            f"run `cli.py extract --reader {reader} --corpus {corpus} --layers {layer}`"
        )
    return found


def iter_layer_chunks(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    kind: Kind,
    layer: int,
    *,
    verify: bool = False,
) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, float32 [rows, d_model]) chunk by chunk, so that memory holds one chunk.

    Only rows that `read_rows` calls done hold numbers to use. With `verify`, each file is first
    checked against its receipt. Raises NotReady when a planned chunk has no receipt for the layer,
    StoreCorrupt when bytes are damaged.
    """
    receipts = layer_receipts(conn, reader, corpus, kind, layer)
    size = chunk_length(conn, reader, corpus, kind)
    path = layer_path(workspace, reader, corpus, kind, layer)
    for chunk, receipt in receipts.items():
        file = arrays.chunk_path(path, chunk)
        if verify and (fault := arrays.chunk_fault(file, receipt)):
            raise StoreCorrupt(f"{file}: {fault}; run `cli.py doctor --repair`, then extract again")
        yield chunk * size, arrays.read_block(path, slice(chunk * size, (chunk + 1) * size))


def read_layer(
    workspace: Workspace,
    reader: str,
    corpus: str,
    kind: Kind,
    layer: int,
    rows: slice = slice(None),
) -> Floats:
    """Some rows of one layer, float32 [rows, d_model], as plain Zarr reads them.

    Looks at no receipt: rows that were never written, or not done, are NaN.
    """
    return arrays.read_block(layer_path(workspace, reader, corpus, kind, layer), rows)


def sweep_partials(workspace: Workspace, reader: str) -> int:
    """Remove what a killed writer left half written; return how many files that were."""
    partials = arrays.find_partials(workspace.activations(reader))
    for file in partials:
        file.unlink()
    return len(partials)
