"""The bytes of a file, unpacked where it is packed, in chunks, lines or whole; memory stays flat.

A file that ends too early is told from one that is finished. Knows nothing of what is written.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stores.errors import EngineError

MAX_DOCUMENT = 32 * 2**20
"""Bytes. A line or a text beyond this is not kept in memory: most likely it is none."""
PACKED = (".zst", ".gz")

_CHUNK = 2**16
_PACKED_CHUNK = 2**12  # small, for what comes of it may be ten thousand times as long
_MAX_WINDOW = 2**31  # what `zstd --long=31` writes; the library refuses above 2**27 unasked
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[bytes | None]:
    """Each line without its end; None for one longer than MAX_DOCUMENT. EngineError: torn."""
    parts: list[bytes] = []
    size = 0
    for chunk in _read_chunks(path):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            fits = size + len(end) <= MAX_DOCUMENT
            yield b"".join((*parts, end)) if fits else None
            parts, size = [], 0
        size += len(rest)
        parts = [*parts, rest] if size <= MAX_DOCUMENT else []
    if size:
        yield b"".join(parts) if size <= MAX_DOCUMENT else None


def read_whole(path: Path) -> bytes | None:
    """All of a file; None when it is longer than MAX_DOCUMENT. EngineError: torn."""
    parts: list[bytes] = []
    size = 0
    for chunk in _read_chunks(path):
        size += len(chunk)
        if size > MAX_DOCUMENT:
            return None
        parts.append(chunk)
    return b"".join(parts)


def unreadable(path: Path, error: Exception, place: str) -> EngineError:
    """What to raise when a file cannot be read beyond `place`."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".")
    return EngineError(f"{path}: cannot be read ({reason}, after {place}): copy it again")


def _read_chunks(path: Path) -> Iterator[bytes]:
    place = 0
    try:
        with path.open("rb") as packed:
            chunks = _unpacked(packed, path.suffix.lower())
            first = next(chunks, b"")
            yield first.removeprefix(_BYTE_ORDER_MARK)
            for chunk in chunks:
                place = packed.tell()
                yield chunk
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise unreadable(path, error, f"byte {place:,}") from error


def _unpacked(packed: BinaryIO, suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        yield from _unpacked_zst(packed)
        return
    plain: BinaryIO | gzip.GzipFile = packed
    if suffix == ".gz":
        plain = gzip.GzipFile(fileobj=packed)
    while chunk := plain.read(_CHUNK):
        yield chunk


def _unpacked_zst(packed: BinaryIO) -> Iterator[bytes]:
    """Frame after frame: the library's own reader does not tell a cut file from a whole one."""
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame = None
    while rest := packed.read(_PACKED_CHUNK):
        while rest:
            frame = frame or unpacker.decompressobj()
            try:
                chunk = frame.decompress(rest)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from error
            yield from (chunk[at : at + _CHUNK] for at in range(0, len(chunk), _CHUNK))
            rest = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it ends within a frame")
