"""Emotion vectors as float64 Zarr arrays, with a row in the ledger that says what they are.

One array [emotions, d_model] per reader, corpus, variant ('raw' or 'denoised') and layer. The row
is deleted before the array is replaced and written after it is durable, so that a row never speaks
of half an array. An imported set may have one variant alone; its settings name the files. Knows
nothing of how vectors are computed.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stores import arrays
from stores.database import Connection, canonical_json, digest, now_text, transaction
from stores.errors import NotReady, StoreCorrupt
from stores.readers import is_imported
from stores.workspace import Workspace, require_slug

Variant = Literal["raw", "denoised"]
VARIANTS: tuple[Variant, ...] = ("raw", "denoised")


@dataclass(frozen=True, slots=True)
class VectorSet:
    """The vectors of one layer: row i of `vectors`, float64 [e, d], is that of `emotions[i]`."""

    emotions: tuple[str, ...]
    vectors: NDArray[np.float64]
    layer: int
    variant: Variant
    sha256: str


def write_vectors(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    *,
    emotions: Sequence[str],
    layer: int,
    raw: NDArray[np.floating] | None,
    denoised: NDArray[np.floating] | None,
    settings: Mapping[str, Any],
    inputs: str,
    run_id: int,
) -> None:
    """Store one layer's vectors, raw, denoised or both [e, d], in place of older ones.

    `settings` (how they were made) and `inputs` (digest of what from) are kept with them. Raises
    ValueError when shapes or numbers make no sense, or when there is no variant.
    """
    given = {"raw": raw, "denoised": denoised}
    chosen = {key: np.asarray(v, np.float64) for key, v in given.items() if v is not None}
    if not chosen:
        raise ValueError(f"layer {layer}: neither raw nor denoised vectors")
    for variant, values in chosen.items():
        if values.ndim != 2 or len(values) != len(emotions) or not np.isfinite(values).all():
            raise ValueError(
                f"{variant} vectors of layer {layer}: {values.shape} for {len(emotions)} emotions, "
                f"{np.count_nonzero(~np.isfinite(values))} numbers are not finite"
            )
    forget_vectors(conn, workspace, reader, corpus, layer)
    attributes = {"emotions": list(emotions), "layer": layer, "inputs": inputs, **settings}
    for variant, values in chosen.items():
        rows, columns = values.shape
        wanted = arrays.array_metadata(rows, columns, rows, "float64", attributes)
        name = f"{corpus}/{variant}/layer_{layer}"
        arrays.write_block(arrays.require_array(workspace.vectors(reader), name, wanted), 0, values)
    written = (canonical_json(list(emotions)), canonical_json(dict(settings)), inputs)
    with transaction(conn):
        conn.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (reader, corpus, variant, layer, *written, _sha(values), run_id, now_text())
                for variant, values in chosen.items()
            ],
        )


def read_vectors(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    layer: int,
    variant: Variant = "denoised",
) -> VectorSet:
    """Read the vectors of one layer and check them against their row.

    Raises NotReady when they were not built, StoreCorrupt when the bytes are others.
    """
    row = conn.execute(
        "SELECT emotions, sha256 FROM vectors "
        "WHERE reader = ? AND corpus = ? AND layer = ? AND variant = ?",
        (reader, corpus, layer, variant),
    ).fetchone()
    if row is None:
        raise NotReady(
            f"no {variant} vectors of layer {layer} of corpus {corpus} by reader {reader}; "
            f"{making_step(conn, reader, corpus)}"
        )
    path = vector_path(workspace, reader, corpus, variant, layer)
    try:
        vectors = arrays.read_block(path, slice(None)).astype(np.float64, copy=False)
    except NotReady as error:
        raise StoreCorrupt(f"{path} is missing; run `cli.py doctor --repair`") from error
    if _sha(vectors) != row["sha256"]:
        raise StoreCorrupt(
            f"{path}: {_sha(vectors)} instead of {row['sha256']}; run `cli.py doctor --repair`"
        )
    return VectorSet(tuple(json.loads(row["emotions"])), vectors, layer, variant, row["sha256"])


def forget_vectors(
    conn: Connection, workspace: Workspace, reader: str, corpus: str, layer: int
) -> None:
    """Withdraw the vectors of a layer: their rows first, then their arrays."""
    with transaction(conn):
        conn.execute(
            "DELETE FROM vectors WHERE reader = ? AND corpus = ? AND layer = ?",
            (reader, corpus, layer),
        )
    for variant in VARIANTS:
        path = vector_path(workspace, reader, corpus, variant, layer)
        shutil.rmtree(path, ignore_errors=True)


def forget_set(conn: Connection, workspace: Workspace, reader: str, corpus: str) -> None:
    """Withdraw the vectors of every layer: all of their rows first, then their arrays."""
    layers = vector_layers(conn, reader, corpus)
    with transaction(conn):
        conn.execute("DELETE FROM vectors WHERE reader = ? AND corpus = ?", (reader, corpus))
    for layer in layers:
        forget_vectors(conn, workspace, reader, corpus, layer)


def making_step(conn: Connection, reader: str, corpus: str) -> str:
    """What makes vectors that a reader lacks: building them, or a file where they came from one."""
    if is_imported(conn, reader):
        return (
            "the reader's vectors were imported: give files that have them to "
            f"`cli.py vectors import FILE... --reader {reader} --corpus {corpus}`"
        )
    return f"run `cli.py vectors build --reader {reader} --corpus {corpus}`"


def vector_path(
    workspace: Workspace, reader: str, corpus: str, variant: Variant, layer: int
) -> Path:
    """The Zarr array of one layer and variant: float64 [emotions, d_model]."""
    folder = workspace.vectors(reader) / require_slug(corpus, "corpus")
    return folder / variant / f"layer_{layer}"


def vector_layers(conn: Connection, reader: str, corpus: str) -> list[int]:
    """The layers that have vectors, in order."""
    query = "SELECT DISTINCT layer FROM vectors WHERE reader = ? AND corpus = ? ORDER BY layer"
    return [row["layer"] for row in conn.execute(query, (reader, corpus))]


def vector_variants(conn: Connection, reader: str, corpus: str) -> tuple[Variant, ...]:
    """The variants that every layer has, raw first: imported vectors may have one alone."""
    query = """SELECT variant FROM vectors WHERE reader = ?1 AND corpus = ?2 GROUP BY variant
        HAVING count(*) = (SELECT count(DISTINCT layer) FROM vectors
                           WHERE reader = ?1 AND corpus = ?2)"""
    found = {row["variant"] for row in conn.execute(query, (reader, corpus))}
    return tuple(variant for variant in VARIANTS if variant in found)


def vector_variant(conn: Connection, reader: str, corpus: str) -> Variant:
    """The variant that analyses use: denoised where every layer has it, else raw."""
    return "denoised" if "denoised" in vector_variants(conn, reader, corpus) else "raw"


def vector_inputs(conn: Connection, reader: str, corpus: str, layer: int) -> str | None:
    """The digest of what the vectors of a layer were built from; None when there are none."""
    query = "SELECT inputs FROM vectors WHERE reader = ? AND corpus = ? AND layer = ?"
    row = conn.execute(query, (reader, corpus, layer)).fetchone()
    return None if row is None else str(row["inputs"])


def _sha(values: NDArray[np.float64]) -> str:
    return digest(np.ascontiguousarray(values, dtype="<f8").tobytes())
