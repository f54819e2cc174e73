"""Arrays of floats as plain Zarr v3: metadata and whole chunks, durable before anybody trusts them.

Both are small matters of the Zarr v3 specification and are written here, because zarr itself never
syncs a file; reading is left to zarr. Knows nothing of SQLite or texts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from stores.errors import FingerprintMismatch, NotReady, StoreCorrupt
from stores.files import PARTIAL_SUFFIX, make_folder, sync, write_file_atomically

Floats = NDArray[Any]

CHECKSUM_BYTES = 4
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
    make_folder(path / "c")  # here, so that writing a chunk need not sync the array's own folder
    # even when nothing was written: an earlier run may have been killed just before this
    for folder in [path, *folders[::-1], root.parent, root.parent.parent]:
        sync(folder)
    return path


def write_metadata(node: Path, document: Mapping[str, Any]) -> None:
    """Put the metadata of an array or a group on the disk, leaving its chunk files alone."""
    write_file_atomically(node / "zarr.json", json.dumps(document, indent=2).encode())


def write_block(path: Path, chunk: int, block: Floats) -> ChunkFile:
    """Write one whole chunk durably: block [rows, columns], rows it lacks become NaN.

    Raises NotReady when there is no such array, EngineError when the disk refuses, ValueError when
    the block does not fit.
    """
    metadata = read_metadata(path)
    if metadata is None:
        raise NotReady(f"{path} is no array; run `cli.py doctor --repair`")
    return write_payload(path, chunk, encode_chunk(metadata, chunk, block, np.arange(len(block))))


def encode_chunk(
    metadata: Mapping[str, Any], chunk: int, block: Floats, places: NDArray[np.intp]
) -> memoryview:
    """The bytes of a chunk file, a copy: block [rows, columns] at `places` of the chunk, else NaN.

    They are the bytes that zarr would write, whatever the chunk held before. Raises ValueError when
    the block does not fit the array that `metadata` describes.
    """
    rows, columns = metadata["shape"]
    shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    room = (max(min(shape[0], rows - chunk * shape[0]), 0), columns)
    if block.ndim != 2 or block.shape[1] != columns or max(places, default=-1) >= room[0]:
        raise ValueError(f"a block {block.shape} does not fit chunk {chunk} {room}")
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    payload = np.empty(dtype.itemsize * shape[0] * shape[1] + CHECKSUM_BYTES, np.uint8)
    numbers, checksum = payload[:-CHECKSUM_BYTES], payload[-CHECKSUM_BYTES:].view("<u4")
    laid_out = numbers.view(dtype).reshape(shape)
    laid_out[:] = np.nan
    laid_out[places] = block
    checksum[:] = crc32c(numbers)
    return payload.data


def write_payload(path: Path, chunk: int, payload: memoryview) -> ChunkFile:
    """Put the bytes of one chunk on the disk; safe in any thread, for one chunk one at a time.

    Raises EngineError when the disk refuses.
    """
    write_file_atomically(chunk_path(path, chunk), payload, folders=2)
    # reading the file back would digest the same memory, its cached pages, and say no more
    return ChunkFile(_digest(payload), len(payload))


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
    return ChunkFile(_digest(payload), len(payload))


def _digest(payload: bytes | memoryview) -> str:
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


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
