"""Emotion vectors as float64 Zarr arrays, with a row in the ledger that says what they are.

One array [emotions, d_model] per reader, corpus, variant ('raw' or 'denoised') and layer. The row
is deleted before the array is replaced and written after it is durable, so that a row never speaks
of half an array. A set that replaces another one whole is staged first: until all of it is on the
disk, the old one stands. An imported set may have one variant alone; its settings name the files.
Knows nothing of how vectors are computed.
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
from stores.files import sync
from stores.readers import is_imported
from stores.workspace import Workspace, require_slug

Variant = Literal["raw", "denoised"]
VARIANTS: tuple[Variant, ...] = ("raw", "denoised")

STAGED = ".staged"
"""Beside a reader's corpora, and no name of one: arrays that nobody reads yet."""


@dataclass(frozen=True, slots=True, eq=False)
class NewVectors:
    """The vectors of one layer, raw, denoised or both [e, d], and what is kept with them."""

    emotions: Sequence[str]
    layer: int
    vectors: Mapping[Variant, NDArray[np.float64]]
    settings: Mapping[str, Any]
    """How they were made."""
    inputs: str
    """Digest of what they were made from."""
    sha256: Mapping[Variant, str]
    """Of each variant's numbers."""


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
    given = dict(zip(VARIANTS, (raw, denoised), strict=True))
    chosen: dict[Variant, NDArray[np.float64]] = {
        variant: np.asarray(given[variant], np.float64)
        for variant in VARIANTS
        if given[variant] is not None
    }
    if not chosen:
        raise ValueError(f"layer {layer}: neither raw nor denoised vectors")
    new = new_vectors(emotions, layer, chosen, settings, inputs)
    forget_vectors(conn, workspace, reader, corpus, layer)
    _write_arrays(workspace.vectors(reader), corpus, new)
    record_vectors(conn, reader, corpus, new, run_id)


def stage_set(workspace: Workspace, reader: str, corpus: str, layers: Sequence[NewVectors]) -> None:
    """Write the arrays of a whole set where nobody reads them, for `install_set`.

    Raises EngineError when the disk refuses.
    """
    root = workspace.vectors(reader)
    shutil.rmtree(root / STAGED, ignore_errors=True)
    try:
        for new in layers:
            _write_arrays(root, f"{STAGED}/{corpus}", new)
    except BaseException:
        shutil.rmtree(root / STAGED, ignore_errors=True)
        raise


def install_set(conn: Connection, workspace: Workspace, reader: str, corpus: str) -> None:
    """Put the staged arrays in place of older ones, whose rows go first.

    Their own rows are for `record_vectors` to write.
    """
    root = workspace.vectors(reader)
    forget_set(conn, workspace, reader, corpus)
    (root / STAGED / corpus).rename(root / corpus)
    shutil.rmtree(root / STAGED)
    sync(root)


def record_vectors(
    conn: Connection, reader: str, corpus: str, new: NewVectors, run_id: int
) -> None:
    """Write the rows of vectors whose arrays are on the disk."""
    kept = (canonical_json(list(new.emotions)), canonical_json(dict(new.settings)), new.inputs)
    with transaction(conn):
        conn.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (reader, corpus, variant, new.layer, *kept, sha256, run_id, now_text())
                for variant, sha256 in new.sha256.items()
            ],
        )


def new_vectors(
    emotions: Sequence[str],
    layer: int,
    vectors: Mapping[Variant, NDArray[np.float64]],
    settings: Mapping[str, Any],
    inputs: str,
) -> NewVectors:
    """These vectors with their digests. Raises ValueError as `write_vectors` does."""
    for variant, values in vectors.items():
        if values.ndim != 2 or len(values) != len(emotions) or not np.isfinite(values).all():
            raise ValueError(
                f"{variant} vectors of layer {layer}: {values.shape} for {len(emotions)} emotions, "
                f"{np.count_nonzero(~np.isfinite(values))} numbers are not finite"
            )
    sha256 = {variant: _sha(values) for variant, values in vectors.items()}
    return NewVectors(emotions, layer, vectors, settings, inputs, sha256)


def _write_arrays(root: Path, folder: str, new: NewVectors) -> None:
    about = {"emotions": list(new.emotions), "layer": new.layer, "inputs": new.inputs}
    for variant, values in new.vectors.items():
        rows, columns = values.shape
        wanted = arrays.array_metadata(rows, columns, rows, "float64", {**about, **new.settings})
        name = f"{folder}/{variant}/layer_{new.layer}"
        arrays.write_block(arrays.require_array(root, name, wanted), 0, values)


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
    with transaction(conn):
        conn.execute("DELETE FROM vectors WHERE reader = ? AND corpus = ?", (reader, corpus))
    shutil.rmtree(workspace.vectors(reader) / require_slug(corpus, "corpus"), ignore_errors=True)


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
