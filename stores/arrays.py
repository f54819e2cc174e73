"""Arrays of floats as plain Zarr v3: metadata and whole chunks, durable before anybody trusts them.

zarr renames its files atomically but never syncs them, so chunk files are synced here; metadata,
a small document of the Zarr v3 specification, is written here. Knows nothing of SQLite or texts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.errors import EngineError, FingerprintMismatch, NotReady, StoreCorrupt
from stores.files import PARTIAL_SUFFIX, sync, write_file_atomically

Floats = NDArray[Any]

GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """What a chunk file was when it became durable: the facts of its receipt."""

    sha256: str
    size: int


def chunk_path(array: Path, chunk: int) -> Path:
    """The file of one chunk of rows; Zarr's default key."""
    return array / "c" / str(chunk) / "0"


def array_metadata(
    rows: int, columns: int, chunk_rows: int, dtype: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """The Zarr v3 document of an array [rows, columns] in chunks [chunk_rows, columns].

    Activations do not compress, so there is no compressor; crc32c turns a flipped bit into an error
    for every reader, and NaN marks what was never written.
    """
    chunk_shape = [chunk_rows, columns]
    return {
        "shape": [rows, columns],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "attributes": dict(attributes),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def read_metadata(node: Path, node_type: str = "array") -> dict[str, Any] | None:
    """The metadata of an array or a group; None when it is missing, torn or of another type."""
    try:
        document = json.loads((node / "zarr.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    parts = {"array": {"shape", "attributes"}, "group": set()}[node_type]
    whole = isinstance(document, dict) and document.get("node_type") == node_type
    return document if whole and parts <= document.keys() else None


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Names each key whose value differs, with both values; '' when nothing does."""
    keys = [key for key in {**given, **stored} if stored.get(key) != given.get(key)]
    return ", ".join(f"{key} (stored {stored.get(key)!r}, now {given.get(key)!r})" for key in keys)


def metadata_differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What `stored` lacks of `wanted`, apart from the number of rows, which may grow."""
    before, now = _identity(stored), _identity(wanted)
    return differences({key: before.get(key) for key in now}, now)


def _identity(document: dict[str, Any]) -> dict[str, Any]:
    fixed = {key: document.get(key) for key in ("data_type", "chunk_grid", "codecs", "fill_value")}
    return {**fixed, "columns": document["shape"][1], **document["attributes"]}


def require_array(root: Path, name: str, wanted: dict[str, Any]) -> Path:
    """Make sure that the array `name` of the store `root` has the metadata `wanted`.

    Returns its folder. Safe to repeat: missing or torn metadata is written anew and leaves chunk
    files alone, and an array only ever grows. Raises FingerprintMismatch when the array was made
    with other settings.
    """
    path = root / name
    folders = [root / parent for parent in Path(name).parents][::-1]
    for folder in folders:
        if read_metadata(folder, "group") is None:
            write_metadata(folder, GROUP)
    found = read_metadata(path)
    if found is None:
        write_metadata(path, wanted)
    else:
        if differing := metadata_differences(found, wanted):
            raise FingerprintMismatch(
                f"{path} was made with other settings: {differing}; "
                "use another --reader, or run `cli.py doctor`"
            )
        if found["shape"][0] < wanted["shape"][0]:
            write_metadata(path, {**found, "shape": wanted["shape"]})
    # even when nothing was written: an earlier run may have been killed just before this
    for folder in [path, *folders[::-1], root.parent, root.parent.parent]:
        sync(folder)
    return path


def write_metadata(node: Path, document: Mapping[str, Any]) -> None:
    """Put the metadata of an array or a group on the disk, leaving its chunk files alone."""
    write_file_atomically(node / "zarr.json", json.dumps(document, indent=2).encode())


def write_block(path: Path, chunk: int, block: Floats) -> ChunkFile:
    """Write one whole chunk durably: block [rows, columns], rows it lacks become NaN.

    The same block gives the same bytes whatever was there before, because zarr never has to read
    the old chunk. Raises EngineError when the disk refuses, ValueError when the block does not fit.
    """
    import zarr

    # a chunk of nothing but NaN is a file too, because every receipt has one
    array = zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})
    first = chunk * array.chunks[0]
    last = min(first + array.chunks[0], array.shape[0])
    whole = np.full((max(last - first, 0), array.shape[1]), np.nan, dtype=array.dtype)
    if block.ndim != 2 or len(block) > len(whole) or block.shape[1] != whole.shape[1]:
        raise ValueError(f"{path}: a block {block.shape} does not fit chunk {chunk} {whole.shape}")
    whole[: len(block)] = block
    file = chunk_path(path, chunk)
    try:
        array[first:last] = whole
        for node in (file, file.parent, file.parent.parent, path):
            sync(node)
    except OSError as error:
        raise EngineError(
            f"{file}: cannot write {whole.nbytes:,} bytes ({error.strerror}); "
            "make room, then run the same command again: it goes on from here"
        ) from error
    return describe_chunk(file)


def read_block(path: Path, rows: slice) -> Floats:
    """The rows of an array as stored, [rows, columns]; NaN where nothing was written.

    Raises NotReady when there is no such array, StoreCorrupt when its bytes are damaged.
    """
    import zarr

    try:
        return np.asarray(zarr.open_array(path, mode="r")[rows])
    except FileNotFoundError as error:
        raise NotReady(f"{path} is not there; run `cli.py extract` for this layer") from error
    except ValueError as error:
        raise StoreCorrupt(f"{path}: {error}; run `cli.py doctor --repair`") from error


def describe_chunk(file: Path) -> ChunkFile:
    """Read a chunk file and digest its bytes as they are on disk."""
    payload = file.read_bytes()
    return ChunkFile(f"sha256:{hashlib.sha256(payload).hexdigest()}", len(payload))


def chunk_fault(file: Path, receipt: ChunkFile) -> str | None:
    """What is wrong with a chunk file, or None when its bytes are those of the receipt."""
    if not file.exists():
        return "the file is missing"
    size = file.stat().st_size
    if size != receipt.size:
        return f"{size:,} bytes instead of {receipt.size:,}"
    found = describe_chunk(file)
    return None if found == receipt else f"{found.sha256} instead of {receipt.sha256}"


def find_chunks(folder: Path) -> list[Path]:
    """Every chunk file of the arrays below a folder, in a stable order."""
    return sorted(folder.glob("**/c/*/0"))


def find_partials(folder: Path) -> list[Path]:
    """Temporary files that a killed writer left below a folder."""
    return sorted(folder.rglob(f"*{PARTIAL_SUFFIX}"))
