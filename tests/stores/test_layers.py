"""Laws of reading a layer back: the same numbers as zarr's, checked, a few chunks at a time."""

import threading
import time
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import zarr

from stores import layers
from stores.activations import layer_path
from stores.arrays import chunk_path
from stores.database import Connection
from stores.errors import NotReady, StoreCorrupt
from stores.layers import AHEAD, iter_layer_chunks
from stores.rows import read_rows
from stores.workspace import Workspace
from tests.stores.arranged import HERE, add_texts, extract, numbers, settings_with


def expected(conn: Connection, layer: int) -> np.ndarray:
    return np.stack([numbers(layer, row.text_sha, 5) for row in read_rows(conn, *HERE)])


def whole(conn: Connection, workspace: Workspace, layer: int) -> np.ndarray:
    return np.vstack([block for _, block in iter_layer_chunks(conn, workspace, *HERE, layer)])


def count_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The chunk files that are read without zarr, as they are."""
    read, seen = layers._read_file, []

    def watched(file: Path, *shape: int) -> np.ndarray:
        seen.append(file)
        return read(file, *shape)

    monkeypatch.setattr(layers, "_read_file", watched)
    return seen


def test_a_layer_is_read_chunk_by_chunk(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    read = list(iter_layer_chunks(conn, workspace, *HERE, 2, verify=True))
    assert [(first, block.shape) for first, block in read] == [
        (0, (4, 5)),
        (4, (4, 5)),
        (8, (2, 5)),
    ]
    np.testing.assert_array_equal(np.vstack([block for _, block in read]), expected(conn, 2))


def test_an_incomplete_layer_is_not_ready(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    conn.execute("DELETE FROM receipts WHERE layer = 2 AND chunk = 1")
    with pytest.raises(NotReady, match=r"layer 2 .* lacks 1 of 3 chunks; run .*--layers 2"):
        next(iter_layer_chunks(conn, workspace, *HERE, 2))
    with pytest.raises(NotReady, match="lacks 3 of 3 chunks"):
        next(iter_layer_chunks(conn, workspace, *HERE, 1))
    conn.execute("UPDATE receipts SET rows = 1 WHERE layer = 2 AND chunk = 2")
    with pytest.raises(NotReady, match="lacks 2 of 3 chunks"):
        next(iter_layer_chunks(conn, workspace, *HERE, 2))
    next(iter_layer_chunks(conn, workspace, *HERE, 0))


def test_bytes_of_another_chunk_are_found_by_verifying(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 8)
    extract(conn, workspace)
    path = layer_path(workspace, *HERE, 0)
    chunk_path(path, 1).write_bytes(chunk_path(path, 0).read_bytes())  # a valid chunk, elsewhere
    assert len(list(iter_layer_chunks(conn, workspace, *HERE, 0))) == 2
    with pytest.raises(StoreCorrupt, match=r"c/1/0: sha256:.*doctor --repair"):
        list(iter_layer_chunks(conn, workspace, *HERE, 0, verify=True))


def test_what_is_read_straight_from_the_files_is_what_zarr_reads(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    seen = count_files(monkeypatch)
    array = zarr.open_array(layer_path(workspace, *HERE, 2), mode="r")
    np.testing.assert_array_equal(whole(conn, workspace, 2), array[:])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("dtype", "compressors"), [("float32", "auto"), ("float32", None), ("float64", None)]
)
def test_an_array_stored_in_another_way_is_read_through_zarr(
    conn: Connection,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    compressors: Literal["auto"] | None,
) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    path, seen = layer_path(workspace, *HERE, 2), count_files(monkeypatch)
    other = zarr.create_array(
        path, shape=(10, 5), chunks=(4, 5), dtype=dtype, compressors=compressors, overwrite=True
    )
    other[:] = expected(conn, 2)
    np.testing.assert_array_equal(whole(conn, workspace, 2), expected(conn, 2))
    assert seen == []


@pytest.mark.parametrize("byte", [0, 41, 79, 80, 83])
def test_a_flipped_bit_is_never_read_as_a_number(
    conn: Connection, workspace: Workspace, byte: int
) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    file = chunk_path(layer_path(workspace, *HERE, 2), 1)
    payload = bytearray(file.read_bytes())
    assert len(payload) == 84
    payload[byte] ^= 4
    file.write_bytes(payload)
    with closing(iter_layer_chunks(conn, workspace, *HERE, 2)) as chunks:
        next(chunks)
        with pytest.raises(StoreCorrupt, match=r"c/1/0: .*checksum.*doctor --repair"):
            next(chunks)


def test_a_file_that_is_cut_or_gone_is_named(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    file = chunk_path(layer_path(workspace, *HERE, 0), 2)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(StoreCorrupt, match=r"c/2/0: 76 bytes instead of 84.*doctor --repair"):
        whole(conn, workspace, 0)
    file.unlink()
    with pytest.raises(StoreCorrupt, match=r"c/2/0: the file is missing.*doctor --repair"):
        whole(conn, workspace, 0)


def test_an_array_shorter_than_its_plan_is_never_read_as_if_whole(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 10)
    extract(conn, workspace)
    metadata = layer_path(workspace, *HERE, 0) / "zarr.json"
    for rows in (9, 6, 3):
        text = metadata.read_text()
        metadata.write_text(text.replace(text[: text.index("]")], f'{{"shape": [{rows}, 5'))
        with pytest.raises(StoreCorrupt, match=r"shorter than the 10 rows.*doctor --repair"):
            whole(conn, workspace, 0)


def test_no_more_than_a_few_chunks_are_read_ahead(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_texts(conn, 40)
    extract(conn, workspace, [0])
    seen = count_files(monkeypatch)
    for taken, _ in enumerate(iter_layer_chunks(conn, workspace, *HERE, 0), 1):
        time.sleep(0.005)  # long enough to read further ahead than is allowed
        assert len(seen) <= taken + AHEAD
    assert len(seen) == 10


def test_memory_holds_a_few_chunks_however_many_there_are(
    conn: Connection, workspace: Workspace
) -> None:
    chunk_bytes = 4 * 20_000 * 4
    add_texts(conn, 4 * 30)
    extract(conn, workspace, [0], settings=settings_with(d_model=20_000))
    tracemalloc.start()
    try:
        for _ in iter_layer_chunks(conn, workspace, *HERE, 0):
            time.sleep(0.002)  # long enough to read further ahead than is allowed
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 2 * chunk_bytes < most < (AHEAD + 3) * chunk_bytes


@pytest.mark.parametrize("taken", [1, 2, 10])
def test_a_reading_that_is_stopped_leaves_no_thread(
    conn: Connection, workspace: Workspace, taken: int
) -> None:
    add_texts(conn, 40)
    extract(conn, workspace, [0])
    before = set(threading.enumerate())
    with closing(iter_layer_chunks(conn, workspace, *HERE, 0)) as chunks:
        for _ in range(taken):
            next(chunks)
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before


def test_a_reading_that_fails_leaves_no_thread(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 40)
    extract(conn, workspace, [0])
    chunk_path(layer_path(workspace, *HERE, 0), 3).unlink()
    before = set(threading.enumerate())
    with pytest.raises(StoreCorrupt) as raised:
        whole(conn, workspace, 0)
    assert set(threading.enumerate()) == before, raised
