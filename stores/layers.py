"""Reading activations back: one layer, chunk by chunk, so that arrays may be larger than memory.

Bytes are checked against their crc32c whenever they are read. Knows nothing of models, or of how
the chunks came to be; which text is which row is told by `rows.py`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import google_crc32c
import numpy as np

from stores import arrays
from stores.activations import layer_path
from stores.arrays import ChunkFile, Floats
from stores.database import Connection
from stores.errors import NotReady, StoreCorrupt
from stores.receipts import HERE, chunk_length, planned_chunks
from stores.rows import row_extent
from stores.texts import Kind
from stores.workspace import Workspace

AHEAD = 4
"""Chunks that are read before the one in use is done with."""
READERS = 2  # one alone leaves the disk idle while it copies
FLOAT_BYTES = 4
CRC_BYTES = 4
REPAIR = "run `cli.py doctor --repair`, then extract again"


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
) -> Generator[tuple[int, Floats], None, None]:
    """Yield (first row, float32 [rows, d_model]) chunk by chunk, in order.

    The next chunks are read while the caller works on one, so that memory holds a few of them,
    however many there are; close the iterator to end the reading early. Only rows that `read_rows`
    calls done hold numbers to use. With `verify`, each file is first checked against its receipt.
    Raises NotReady when a planned chunk has no receipt for the layer, StoreCorrupt when bytes are
    damaged or missing.
    """
    receipts = layer_receipts(conn, reader, corpus, kind, layer)
    size = chunk_length(conn, reader, corpus, kind)
    path = layer_path(workspace, reader, corpus, kind, layer)
    read = _chunk_reader(path, size)

    def read_chunk(chunk: int) -> Floats:
        file = arrays.chunk_path(path, chunk)
        if verify and (fault := arrays.chunk_fault(file, receipts[chunk])):
            raise StoreCorrupt(f"{file}: {fault}; {REPAIR}")
        return read(chunk)

    extent = row_extent(conn, reader, corpus, kind)
    with closing(_read_ahead(read_chunk, receipts)) as blocks:
        for chunk, block in zip(receipts, blocks, strict=True):
            if chunk * size + len(block) < min((chunk + 1) * size, extent):
                raise StoreCorrupt(f"{path}: shorter than the {extent:,} rows planned; {REPAIR}")
            yield chunk * size, block


def _read_ahead(
    read: Callable[[int], Floats], chunks: Iterable[int]
) -> Generator[Floats, None, None]:
    """What `read` gives for each chunk, in order; threads of its own are up to AHEAD further on."""
    threads = ThreadPoolExecutor(READERS, "reading")
    waiting: deque[Future[Floats]] = deque()
    try:
        for chunk in chunks:
            waiting.append(threads.submit(read, chunk))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _chunk_reader(path: Path, size: int) -> Callable[[int], Floats]:
    """How to read a chunk of an array: straight from its file, or through zarr.

    Straight where the metadata is, word for word, what this project writes: then a file holds
    nothing but numbers and their crc32c, and zarr would only copy them.
    """
    if (shape := _plain_shape(path, size)) is None:
        return lambda chunk: arrays.read_block(path, slice(chunk * size, (chunk + 1) * size))
    rows, columns = shape
    return lambda chunk: _read_file(
        arrays.chunk_path(path, chunk), size, columns, max(rows - chunk * size, 0)
    )


def _plain_shape(path: Path, size: int) -> tuple[int, int] | None:
    document = arrays.read_metadata(path)
    if document is None or len(document["shape"]) != 2:
        return None
    rows, columns = document["shape"]
    ours = arrays.array_metadata(rows, columns, size, "float32", document["attributes"])
    return (rows, columns) if document == ours else None


def _read_file(file: Path, size: int, columns: int, rows: int) -> Floats:
    """The numbers of a chunk file [size, columns] as far as the array goes, their crc32c checked.

    A missing file is an error: a receipt says that it was written.
    """
    try:
        payload = np.fromfile(file, dtype=np.uint8)
    except FileNotFoundError as error:
        raise StoreCorrupt(f"{file}: the file is missing; {REPAIR}") from error
    if len(payload) != (expected := size * columns * FLOAT_BYTES + CRC_BYTES):
        raise StoreCorrupt(f"{file}: {len(payload):,} bytes instead of {expected:,}; {REPAIR}")
    numbers, stored = payload[:-CRC_BYTES], payload[-CRC_BYTES:]
    if google_crc32c.value(numbers) != int.from_bytes(stored.tobytes(), "little"):
        raise StoreCorrupt(f"{file}: the bytes do not match their checksum; {REPAIR}")
    return numbers.view("<f4").reshape(size, columns)[:rows]


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
