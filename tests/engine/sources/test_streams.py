"""A file is read to its end whatever packs it; one that ends too early is not taken for whole."""

import gzip
import random
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from engine.sources.streams import MAX_DOCUMENT, read_lines, read_whole
from stores.errors import EngineError

RANDOM = random.Random(0)
LINES = [RANDOM.randbytes(RANDOM.choice([0, 1, 50, 3000])).hex().encode() for _ in range(2000)] + [
    b"end"
]
PLAIN = b"\n".join(LINES)


def zst(payload: bytes) -> bytes:
    """A frame that says neither how long it is nor what it sums up to, as a stream's does not."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(payload) + packer.flush()


def skipped(payload: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(payload).to_bytes(4, "little") + payload


def frames() -> bytes:
    """Two frames, cut within a line, and a frame to be skipped between them."""
    middle = len(PLAIN) // 2
    return zst(PLAIN[:middle]) + skipped(b"12345") + zst(PLAIN[middle:])


PACKED = {
    "a.jsonl": PLAIN,
    "a.jsonl.gz": gzip.compress(PLAIN[:999]) + gzip.compress(PLAIN[999:]),
    "a.jsonl.zst": zst(PLAIN),
    "frames.jsonl.zst": frames(),
    "small.jsonl.ZST": b"".join(zst(PLAIN[i : i + 5000]) for i in range(0, len(PLAIN), 5000)),
}


def write(path: Path, payload: bytes) -> Path:
    path.write_bytes(payload)
    return path


@pytest.mark.parametrize("name", PACKED)
def test_whatever_packs_a_file_its_bytes_and_lines_are_the_same(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, PACKED[name])
    assert read_whole(path) == PLAIN
    assert list(read_lines(path)) == LINES


@pytest.mark.parametrize("name", [name for name in PACKED if name != "a.jsonl"])
@pytest.mark.parametrize("lost", [1, 3, 400, 60_000])
def test_a_packed_file_that_was_cut_off_is_an_error(name: str, lost: int, tmp_path: Path) -> None:
    path = write(tmp_path / name, PACKED[name][:-lost])
    with pytest.raises(
        EngineError, match=rf"{path}: cannot be read \(.*, after byte [\d,]+\): copy"
    ):
        list(read_lines(path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, b"hello there\n")
    with pytest.raises(EngineError, match="cannot be read") as raised:
        read_whole(path)
    assert "\n" not in str(raised.value)


def test_a_window_as_long_as_zstd_allows_is_read(tmp_path: Path) -> None:
    options = zstandard.ZstdCompressionParameters(window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    path = write(tmp_path / "long.jsonl.zst", packer.compress(PLAIN) + packer.flush())
    assert read_whole(path) == PLAIN


@pytest.mark.parametrize("name", ["empty.txt", "empty.txt.gz", "empty.txt.zst"])
def test_an_empty_file_has_no_line(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, b"")
    assert read_whole(path) == b""
    assert list(read_lines(path)) == []


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")
    assert list(read_lines(path)) == [b"one", b"\xef\xbb\xbftwo"]


def test_a_line_beyond_all_measure_is_passed_over(tmp_path: Path) -> None:
    long = b"x" * (MAX_DOCUMENT + 1)
    path = write(tmp_path / "a.jsonl", b"one\n" + long + b"\ntwo\n" + long[1:] + b"\n" + long)
    assert [len(line) if line else line for line in read_lines(path)] == [
        3,
        None,
        3,
        MAX_DOCUMENT,
        None,
    ]
    assert read_whole(path) is None


def test_memory_does_not_follow_the_lines_that_a_few_packed_bytes_become(tmp_path: Path) -> None:
    """32 MB of empty lines in a kilobyte: their bytes at most twice, never a list of them all."""
    path = write(tmp_path / "a.txt.zst", zst(b"\n" * 2**25))
    tracemalloc.start()
    assert next(read_lines(path)) == b""
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 2**25
