"""Compares the files of a workspace with what the ledger says of them.

Each inspection yields findings, and each finding carries the way to mend it, which withdraws the
claim before it removes a file: the stage that made the damaged thing makes it again, nothing else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from stores import arrays
from stores.activations import layer_metadata, layer_path, require_layer
from stores.arrays import ChunkFile
from stores.database import Connection, transaction
from stores.errors import StoreCorrupt
from stores.readers import is_imported
from stores.receipts import Here, drop_receipts, written_layers
from stores.rows import extracted_layers
from stores.vectors import forget_vectors, read_vectors, vector_path
from stores.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as the ledger says, and what `repair` does about it."""

    thing: str
    place: str
    problem: str
    repair: str
    mend: Callable[[Connection, Workspace], object] | None = None
    """None when only a person can act."""
    fault: bool = True
    """False for a warning: nothing is damaged."""


def array_places(conn: Connection) -> list[Here]:
    """(reader, corpus, kind) of all arrays."""
    query = "SELECT reader, corpus, kind FROM arrays ORDER BY 1, 2, 3"
    return [(row["reader"], row["corpus"], row["kind"]) for row in conn.execute(query)]


def inspect_metadata(conn: Connection, workspace: Workspace) -> Iterator[Finding]:
    """The zarr.json of every array with receipts, and of the groups above it."""
    seen: set[Path] = set()
    for here in array_places(conn):
        root = workspace.activations(here[0])
        complete = extracted_layers(conn, *here)
        for layer in written_layers(conn, *here):
            path = layer_path(workspace, *here, layer)
            wanted = layer_metadata(conn, *here, layer)
            if problem := _array_fault(path, wanted, complete=layer in complete):
                yield _metadata_finding(path, problem, here, layer, workspace)
            for parent in path.relative_to(root).parents:
                group = root / parent
                if group not in seen and arrays.read_metadata(group, "group") is None:
                    problem = "zarr.json is missing or torn"
                    yield _metadata_finding(group, problem, here, layer, workspace)
                seen.add(group)


def _array_fault(path: Path, wanted: dict[str, Any], *, complete: bool) -> str:
    found = arrays.read_metadata(path)
    if found is None:
        return "zarr.json is missing or torn"
    if differing := arrays.metadata_differences(wanted, found):
        return f"zarr.json disagrees with the ledger: {differing}"
    if complete and found["shape"][0] < wanted["shape"][0]:
        return f"zarr.json covers {found['shape'][0]} of {wanted['shape'][0]} rows"
    return ""


def _metadata_finding(
    node: Path, problem: str, here: Here, layer: int, workspace: Workspace
) -> Finding:
    mend = partial(_restore_metadata, here=here, layer=layer)
    return Finding("array", _name(node, workspace), problem, "write it from the ledger", mend)


def _restore_metadata(conn: Connection, workspace: Workspace, here: Here, layer: int) -> None:
    path = layer_path(workspace, *here, layer)
    arrays.write_metadata(path, layer_metadata(conn, *here, layer))
    require_layer(conn, workspace, *here, layer)


def inspect_receipts(conn: Connection, workspace: Workspace) -> Iterator[Finding]:
    """Every receipt against the bytes of its chunk file."""
    query = "SELECT * FROM receipts ORDER BY reader, corpus, kind, layer, chunk"
    for row in conn.execute(query).fetchall():
        here, layer, chunk = (row["reader"], row["corpus"], row["kind"]), row["layer"], row["chunk"]
        file = arrays.chunk_path(layer_path(workspace, *here, layer), chunk)
        if fault := arrays.chunk_fault(file, ChunkFile(row["sha256"], row["bytes"])):
            mend = partial(_requeue_chunk, here=here, layer=layer, chunk=chunk)
            yield Finding("chunk", _name(file, workspace), fault, "extract it again", mend)


def _requeue_chunk(
    conn: Connection, workspace: Workspace, here: Here, layer: int, chunk: int
) -> None:
    """Queue one chunk of one layer; vectors may have been built from its bad bytes, so they go."""
    reader, corpus, _ = here
    with transaction(conn):
        drop_receipts(conn, *here, chunk, [layer])
    arrays.chunk_path(layer_path(workspace, *here, layer), chunk).unlink(missing_ok=True)
    forget_vectors(conn, workspace, reader, corpus, layer)


def inspect_vectors(conn: Connection, workspace: Workspace) -> Iterator[Finding]:
    """Every set of vectors against its row, and against the activations it was built from."""
    gone = """
        EXISTS (SELECT 1 FROM arrays a WHERE a.reader = v.reader AND a.corpus = v.corpus)
        AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.reader = v.reader
                        AND r.corpus = v.corpus AND r.layer = v.layer)"""
    query = (
        f"SELECT reader, corpus, variant, layer, {gone} AS gone FROM vectors v ORDER BY 1, 2, 4, 3"
    )
    for row in conn.execute(query).fetchall():
        reader, corpus, variant, layer, orphaned = row
        problem = "the activations it was built from are gone" if orphaned else ""
        try:
            read_vectors(conn, workspace, reader, corpus, layer, variant)
        except StoreCorrupt as error:
            problem = str(error)
        if problem:
            place = _name(vector_path(workspace, reader, corpus, variant, layer), workspace)
            mend = partial(forget_vectors, reader=reader, corpus=corpus, layer=layer)
            again = "import it" if is_imported(conn, reader) else "build the layer's vectors"
            yield Finding("vectors", place, problem, f"{again} again", mend)


def inspect_files(conn: Connection, workspace: Workspace) -> Iterator[Finding]:
    """Files that nothing in the ledger mentions: chunks without a receipt, half-written files."""
    known = _known_files(conn, workspace)
    roots = [workspace.root / "data" / name for name in ("activations", "vectors")]
    for file in chain.from_iterable(arrays.find_chunks(root) for root in roots):
        if file not in known:
            yield _file_finding(file, "no receipt mentions it", workspace)
    for root in [*roots, workspace.root / "results"]:
        for file in arrays.find_partials(root):
            yield _file_finding(file, "a killed writer left it half written", workspace)


def _known_files(conn: Connection, workspace: Workspace) -> set[Path]:
    receipts = conn.execute("SELECT reader, corpus, kind, layer, chunk FROM receipts").fetchall()
    vectors = conn.execute("SELECT reader, corpus, variant, layer FROM vectors").fetchall()
    return {
        *(
            arrays.chunk_path(layer_path(workspace, *row[:4]), row[4])
            for row in map(tuple, receipts)
        ),
        *(arrays.chunk_path(vector_path(workspace, *row), 0) for row in map(tuple, vectors)),
    }


def _file_finding(file: Path, problem: str, workspace: Workspace) -> Finding:
    def remove(conn: Connection, workspace: Workspace) -> None:
        file.unlink(missing_ok=True)

    return Finding("file", _name(file, workspace), problem, "remove it", remove)


def _name(path: Path, workspace: Workspace) -> str:
    return path.relative_to(workspace.root).as_posix()
