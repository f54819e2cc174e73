"""What is stored of a chunk, in which order, and what is left after an error."""

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stores import chunks
from stores.activations import layer_path, open_arrays
from stores.arrays import ChunkFile, find_chunks, write_payload
from stores.chunks import Block, ChunkWriter, write_behind, write_chunk
from stores.database import Connection, open_database
from stores.errors import EngineError, FingerprintMismatch
from stores.layers import read_layer
from stores.rows import ChunkPlan, pending_chunks, plan_rows, read_rows
from stores.workspace import Workspace
from tests.stores.arranged import (
    CHUNK_ROWS,
    HERE,
    LAYERS,
    READER,
    SETTINGS,
    add_texts,
    blocks,
    extract,
    files_below,
    outcomes,
)

RECEIPTS = """SELECT chunk, layer, sha256, bytes, rows, norm, done FROM receipts
              ORDER BY chunk, layer"""


def planned(
    conn: Connection, workspace: Workspace, layers: Sequence[int] = LAYERS, n: int = 4
) -> list[ChunkPlan]:
    add_texts(conn, n)
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    plan_rows(conn, *HERE)
    return pending_chunks(conn, *HERE, layers)


def hand_over(writer: ChunkWriter, chunk: ChunkPlan) -> None:
    writer.write(HERE, chunk.chunk, blocks(chunk), outcomes(chunk))


def receipts(conn: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in conn.execute(RECEIPTS)]


def written(conn: Connection) -> list[int]:
    return sorted({int(row["chunk"]) for row in conn.execute("SELECT chunk FROM receipts")})


def test_rows_given_up_are_nan_and_keep_their_reason(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace, [0])
    made = outcomes(chunk)
    made[1] = replace(made[1], status="rejected", reason="too_short", tokens=3)
    made[3] = replace(made[3], status="failed", reason="not_finite")
    found = blocks(chunk)
    found[0].means[3] = np.inf
    write_chunk(conn, workspace, *HERE, 0, found, made)
    stored = read_layer(workspace, *HERE, 0)
    np.testing.assert_array_equal(stored[[0, 2]], found[0].means[[0, 2]])
    assert np.isnan(stored[[1, 3]]).all()
    rows = read_rows(conn, *HERE)
    assert [row.status for row in rows] == ["done", "rejected", "done", "failed"]
    assert [row.reason for row in rows] == [None, "too_short", None, "not_finite"]
    assert rows[1].tokens == 3
    assert pending_chunks(conn, *HERE, [0]) == []


def test_a_row_done_at_one_layer_and_not_at_another_is_not_done(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace, [0])
    failed_first = outcomes(chunk)
    failed_first[0] = replace(failed_first[0], status="failed", reason="not_finite")
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), failed_first)
    (chunk,) = pending_chunks(conn, *HERE, [1])
    failed_second = outcomes(chunk)
    failed_second[1] = replace(failed_second[1], status="failed", reason="out_of_memory")
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), failed_second)
    rows = read_rows(conn, *HERE)
    assert [row.status for row in rows] == ["failed", "failed", "done", "done"]
    assert [row.reason for row in rows[:2]] == ["not_finite", "out_of_memory"]
    assert np.isnan(read_layer(workspace, *HERE, 1)[:2]).all()


def test_a_row_may_recover_when_all_its_layers_are_written_again(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace, LAYERS)
    failed = outcomes(chunk)
    failed[0] = replace(failed[0], status="failed", reason="out_of_memory")
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), failed)
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), outcomes(chunk))
    assert {row.status for row in read_rows(conn, *HERE)} == {"done"}


def test_other_tokens_than_at_another_layer_are_refused(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace, [0])
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), outcomes(chunk))
    (chunk,) = pending_chunks(conn, *HERE, [1])
    made = outcomes(chunk)
    made[2] = replace(made[2], tokens_sha="sha256:other")
    with pytest.raises(
        FingerprintMismatch, match=r"row 2 of toy/main/stories.*tokenizer.*--reader"
    ):
        write_chunk(conn, workspace, *HERE, 0, blocks(chunk), made)
    assert not layer_path(workspace, *HERE, 1).exists()


def test_a_chunk_that_does_not_fit_its_plan_is_refused_and_nothing_is_claimed(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace, [0])
    found, made = blocks(chunk), outcomes(chunk)
    means, norms = found[0].means, found[0].norms
    bad, bad_norms = means.copy(), norms.copy()
    bad[2, 1], bad_norms[1] = np.nan, np.inf
    for blocks_given, outcomes_given, message in (
        (found, made[:-1], "all planned rows"),
        ({0: Block(means[:3], norms)}, made, "3 rows of numbers and 4 norms for 4 outcomes"),
        ({0: Block(means, norms[:2])}, made, "4 rows of numbers and 2 norms for 4 outcomes"),
        ({0: Block(bad, norms)}, made, "not finite"),
        ({0: Block(means, bad_norms)}, made, "not finite"),
        ({0: Block(means[:, :4], norms)}, made, "does not fit"),
        ({}, made, "a layer"),
    ):
        with pytest.raises(ValueError, match=message):
            write_chunk(conn, workspace, *HERE, 0, blocks_given, outcomes_given)
    with pytest.raises(ValueError, match="all planned rows"):
        write_chunk(conn, workspace, *HERE, 1, {0: Block(means[:0], norms[:0])}, [])
    assert {row.status for row in read_rows(conn, *HERE)} == {"pending"}
    assert pending_chunks(conn, *HERE, [0]) == [chunk]


def test_blocks_may_come_in_any_order_of_rows(conn: Connection, workspace: Workspace) -> None:
    (chunk,) = planned(conn, workspace, [0])
    order = [2, 0, 3, 1]
    made = [outcomes(chunk)[i] for i in order]
    found = blocks(chunk)[0]
    mixed = {0: Block(found.means[order], found.norms[order])}
    write_chunk(conn, workspace, *HERE, 0, mixed, made)
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 0), found.means)


# ---- norms -------------------------------------------------------------------------------------


def test_a_receipt_keeps_the_mean_norm_of_the_rows_that_are_done(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace)
    made = outcomes(chunk)
    made[1] = replace(made[1], status="rejected", reason="too_short")
    found = blocks(chunk)
    found[0].norms[1] = np.nan
    write_chunk(conn, workspace, *HERE, 0, found, made)
    # the norm of row r at layer l is 1 + r + l
    assert [row[5:] for row in receipts(conn)] == [((1 + 3 + 4) / 3, 3), ((3 + 5 + 6) / 3, 3)]


def test_a_chunk_without_a_row_that_is_done_has_no_norm(
    conn: Connection, workspace: Workspace
) -> None:
    (chunk,) = planned(conn, workspace, [0])
    made = [replace(o, status="failed", reason="not_finite") for o in outcomes(chunk)]
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), made)
    assert [row[5:] for row in receipts(conn)] == [(None, 0)]
    assert np.isnan(read_layer(workspace, *HERE, 0)).all()


# ---- behind the caller's back ------------------------------------------------------------------


@pytest.mark.parametrize("queue", [1, 2, 5])
def test_written_behind_or_one_at_a_time_the_bytes_and_receipts_are_the_same(
    conn: Connection, workspace: Workspace, tmp_path: Path, queue: int
) -> None:
    with write_behind(conn, workspace, queue=queue) as writer:
        for chunk in planned(conn, workspace, n=18):
            hand_over(writer, chunk)
    assert writer.bytes_written == sum(
        row["bytes"] for row in conn.execute("SELECT * FROM receipts")
    )
    other = Workspace(tmp_path / "other")
    with closing(open_database(other.database)) as alone:
        for chunk in planned(alone, other, n=18):
            write_chunk(alone, other, *HERE, chunk.chunk, blocks(chunk), outcomes(chunk))
        assert receipts(alone) == receipts(conn)
        assert len(receipts(conn)) == 5 * len(LAYERS)
    assert files_below(workspace.activations(READER)) == files_below(other.activations(READER))


def test_the_caller_may_use_its_arrays_again(conn: Connection, workspace: Workspace) -> None:
    *busy, last = planned(conn, workspace, [0], n=4 * (chunks.WRITERS + 1))
    found = blocks(last)[0]
    means, norm = found.means.copy(), found.norms.mean()
    with held_disk() as disk, write_behind(conn, workspace, queue=9) as writer:
        for chunk in busy:
            hand_over(writer, chunk)
        writer.write(HERE, last.chunk, {0: found}, outcomes(last))
        found.means[:] = found.norms[:] = 7
        disk.set()
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 0, slice(-4, None)), means)
    assert receipts(conn)[-1][5] == norm


def test_no_more_chunks_are_taken_than_the_queue_holds(
    conn: Connection, workspace: Workspace
) -> None:
    plans = planned(conn, workspace, n=20)
    taken: list[int] = []
    seen: list[int] = []
    with held_disk() as disk, write_behind(conn, workspace, queue=2) as writer:

        def open_disk() -> None:
            while len(taken) < 2:
                time.sleep(0.01)
            time.sleep(0.3)
            seen.append(len(taken))
            disk.set()

        threading.Thread(target=open_disk, daemon=True).start()
        for chunk in plans:
            hand_over(writer, chunk)
            taken.append(chunk.chunk)
        assert writer.waited_s > 0.1
    assert seen == [2]
    assert written(conn) == [0, 1, 2, 3, 4]


def test_what_is_durable_is_committed_at_the_next_write_and_nothing_else(
    conn: Connection, workspace: Workspace
) -> None:
    plans = planned(conn, workspace, n=12)
    with write_behind(conn, workspace, queue=9) as writer:
        hand_over(writer, plans[0])
        assert written(conn) == []
        wait_for_threads(writer)
        with held_disk() as disk:
            hand_over(writer, plans[1])
            hand_over(writer, plans[2])
            assert written(conn) == [0]
            assert {row.status for row in read_rows(conn, *HERE)[4:]} == {"pending"}
            disk.set()
    assert written(conn) == [0, 1, 2]


def test_arrays_grow_with_the_texts_that_come_while_a_writer_is_at_work(
    conn: Connection, workspace: Workspace
) -> None:
    with write_behind(conn, workspace) as writer:
        for n in (2, 7):
            for chunk in planned(conn, workspace, n=n):
                hand_over(writer, chunk)
            writer.flush()
    assert len(read_layer(workspace, *HERE, 0)) == 7
    assert written(conn) == [0, 1]


def test_receipts_are_gone_before_their_bytes_change(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = planned(conn, workspace)
    claims: list[int] = []

    def spy(path: Path, chunk: int, payload: memoryview) -> ChunkFile:
        with closing(open_database(workspace.database, read_only=True)) as reader:
            claims.append(len(receipts(reader)))
        return write_payload(path, chunk, payload)

    monkeypatch.setattr(chunks, "write_payload", spy)
    with write_behind(conn, workspace) as writer:
        hand_over(writer, plans[0])
        hand_over(writer, plans[0])
    assert claims == [0] * 4
    assert len(receipts(conn)) == 2


def test_two_writes_of_one_chunk_never_meet_and_the_later_one_stays(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = planned(conn, workspace, n=8)
    active: Counter[tuple[Path, int]] = Counter()
    met: list[int] = []

    def spy(path: Path, chunk: int, payload: memoryview) -> ChunkFile:
        active[path, chunk] += 1
        met.append(active[path, chunk])
        file = write_payload(path, chunk, payload)
        active[path, chunk] -= 1
        return file

    monkeypatch.setattr(chunks, "write_payload", spy)
    with write_behind(conn, workspace, queue=50) as writer:
        for n in range(10):
            for chunk in plans:
                means = np.full((4, 5), n, np.float32)
                block = Block(means, np.full(4, n, np.float32))
                writer.write(HERE, chunk.chunk, {0: block}, outcomes(chunk))
    assert set(met) == {1}
    assert (read_layer(workspace, *HERE, 0) == 9).all()
    assert [row[5] for row in receipts(conn)] == [9, 9]


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [errno.ENOSPC, errno.EACCES])
def test_an_error_of_the_disk_is_told_at_the_next_write(
    conn: Connection, workspace: Workspace, refused: int
) -> None:
    plans = planned(conn, workspace, n=12)
    with write_behind(conn, workspace, queue=1) as writer, refusing_disk("/c/1/", refused):
        hand_over(writer, plans[0])
        hand_over(writer, plans[1])
        for _ in range(2):  # it does not go away by itself
            with pytest.raises(EngineError, match=r"layer_0/c/1/0 .*same command again") as raised:
                hand_over(writer, plans[2])
            assert os.strerror(refused) in str(raised.value)
        with pytest.raises(EngineError):
            writer.flush()
        writer.save_durable()
    assert written(conn) == [0]


def test_after_an_error_chunks_that_are_durable_have_receipts_and_no_others(
    conn: Connection, workspace: Workspace
) -> None:
    plans = planned(conn, workspace, n=16)
    with (
        pytest.raises(EngineError, match="layer_0/c/1/0 could not be written"),
        refusing_disk("layer_0/c/1/", errno.ENOSPC),
        held_disk() as disk,
        write_behind(conn, workspace, queue=9) as writer,
    ):
        for chunk in plans:
            hand_over(writer, chunk)
        disk.set()
        wait_for_threads(writer)
    assert written(conn) == [0, 2, 3]
    assert [row.status for row in read_rows(conn, *HERE)[4:8]] == ["pending"] * 4
    assert extract(conn, workspace) == [1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_is_durable_when_the_caller_stops_is_committed_and_no_thread_stays(
    conn: Connection, workspace: Workspace, stop: type[BaseException]
) -> None:
    plans = planned(conn, workspace, n=16)
    with pytest.raises(stop), write_behind(conn, workspace, queue=9) as writer:
        for chunk in plans[:3]:
            hand_over(writer, chunk)
        wait_for_threads(writer)
        raise stop
    assert written(conn) == [0, 1, 2]
    assert writing_threads() == []
    assert extract(conn, workspace) == [3]


def test_files_not_begun_when_the_caller_stops_are_never_written(
    conn: Connection, workspace: Workspace
) -> None:
    plans = planned(conn, workspace, n=40)
    with (
        pytest.raises(KeyboardInterrupt),
        held_disk() as disk,
        write_behind(conn, workspace, queue=99) as writer,
    ):
        for chunk in plans:
            hand_over(writer, chunk)
        threading.Timer(0.2, disk.set).start()
        raise KeyboardInterrupt
    assert writing_threads() == []
    assert len(find_chunks(workspace.activations(READER))) <= chunks.WRITERS
    saved = written(conn)
    assert saved == list(range(len(saved)))
    assert extract(conn, workspace) == list(range(len(saved), 10))


def test_an_interrupt_right_after_a_commit_changes_nothing(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = planned(conn, workspace, n=8)
    stops = iter([KeyboardInterrupt])

    def interrupt(name: str) -> None:
        if name == "receipts_written":
            for stop in stops:
                raise stop

    monkeypatch.setattr(chunks, "reach", interrupt)
    with pytest.raises(KeyboardInterrupt), write_behind(conn, workspace) as writer:
        for chunk in plans:
            hand_over(writer, chunk)
    assert written(conn)[0] == 0
    assert {row.status for row in read_rows(conn, *HERE)[:4]} == {"done"}


# ---- a disk that does what a test wants ----------------------------------------------------------


@contextmanager
def held_disk() -> Iterator[threading.Event]:
    """Until the event is set, no writing thread gets anything onto the disk."""
    real, released = os.fsync, threading.Event()

    def fsync(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            released.wait(20)
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield released


@contextmanager
def refusing_disk(part: str, code: int) -> Iterator[None]:
    """Every sync fails of a file with `part` in its path."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if part in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def wait_for_threads(writer: ChunkWriter) -> None:
    while not all(underway.is_over() for underway in writer._underway):
        time.sleep(0.01)


def writing_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "chunk-writer" in thread.name]
