import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from stores.activations import (
    iter_layer_chunks,
    layer_path,
    open_arrays,
    read_layer,
    sweep_partials,
    write_chunk,
)
from stores.arrays import ChunkFile, chunk_fault, chunk_path
from stores.database import Connection, open_database
from stores.errors import FingerprintMismatch, NotReady, StoreCorrupt
from stores.rows import pending_chunks, plan_rows, read_rows
from stores.workspace import Workspace
from tests.conftest import StartChild
from tests.stores.arranged import (
    CHUNK_ROWS,
    CORPUS,
    HERE,
    LAYERS,
    READER,
    SETTINGS,
    add_texts,
    blocks,
    change_text,
    extract,
    files_below,
    numbers,
    outcomes,
    settings_with,
)


def damaged_receipts(conn: Connection, workspace: Workspace) -> list[str]:
    """Receipts whose chunk file is not what they say: there must be none, ever."""
    faults = []
    for row in conn.execute("SELECT * FROM receipts"):
        path = layer_path(workspace, row["reader"], row["corpus"], row["kind"], row["layer"])
        fault = chunk_fault(chunk_path(path, row["chunk"]), ChunkFile(row["sha256"], row["bytes"]))
        if fault:
            faults.append(f"layer {row['layer']} chunk {row['chunk']}: {fault}")
    return faults


def settled_without_receipt(conn: Connection) -> int:
    """Rows that are not pending though no layer has a receipt for them: there must be none."""
    query = f"""SELECT count(*) FROM activations WHERE status <> 'pending'
                AND row / {CHUNK_ROWS} NOT IN (SELECT chunk FROM receipts)"""
    return int(conn.execute(query).fetchone()[0])


def expected(conn: Connection, layer: int) -> np.ndarray:
    return np.stack([numbers(layer, row.text_sha, 5) for row in read_rows(conn, *HERE)])


def test_what_is_written_is_read_back_by_us_and_by_plain_zarr(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 10)
    assert extract(conn, workspace) == [0, 1, 2]
    for layer in LAYERS:
        ours = read_layer(workspace, *HERE, layer)
        np.testing.assert_array_equal(ours, expected(conn, layer))
        array = zarr.open_array(
            workspace.root / f"data/activations/toy.zarr/main/stories/layer_{layer}"
        )
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(array[:], ours)
        assert array.dtype == np.float32
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 2, slice(3, 6)), ours[3:6])
    assert {row.status for row in read_rows(conn, *HERE)} == {"done"}


def test_the_attributes_of_an_array_tell_what_it_is(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 1)
    extract(conn, workspace, [2])
    attributes = dict(zarr.open_array(layer_path(workspace, *HERE, 2), mode="r").attrs)
    assert attributes == {
        "model": "toy/model",
        "revision": "r1",
        "weights_sha": "sha256:1",
        "layer": 2,
        "n_layers": 3,
        "d_model": 5,
        "start_token": 50,
        "format": "raw",
        "dtype": "float32",
        "protocol_digest": "sha256:p",
    }


def test_a_second_run_finds_nothing_to_do(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 6)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    assert extract(conn, workspace) == []
    assert files_below(workspace.activations(READER)) == before


def test_new_layers_extend_what_is_there(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 6)
    extract(conn, workspace, [0])
    before = files_below(layer_path(workspace, *HERE, 0))
    assert extract(conn, workspace, [0, 1]) == [0, 1]
    assert files_below(layer_path(workspace, *HERE, 0)) == before
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 1), expected(conn, 1))


def test_growing_in_steps_gives_the_bytes_of_one_go(
    conn: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    for n in (3, 6, 7):
        add_texts(conn, n)
        extract(conn, workspace)
    other = Workspace(tmp_path / "other")
    with closing(open_database(other.database)) as fresh:
        add_texts(fresh, 7)
        extract(fresh, other)
    assert files_below(workspace.activations(READER)) == files_below(other.activations(READER))


@pytest.mark.parametrize(
    "field",
    ["model", "revision", "weights_sha", "n_layers", "start_token", "format", "dtype"],
)
@pytest.mark.parametrize("corpus", [CORPUS, "other"])
@pytest.mark.parametrize("kind", ["stories", "dialogues"])
def test_other_settings_are_refused_with_both_values_and_the_way_out(
    conn: Connection, workspace: Workspace, field: str, corpus: str, kind: str
) -> None:
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    changed = settings_with(**{field: 7 if field in ("n_layers", "start_token") else "chat"})
    with pytest.raises(FingerprintMismatch) as raised:
        open_arrays(conn, workspace, READER, corpus, kind, changed, CHUNK_ROWS)  # type: ignore[arg-type]
    stored, now = getattr(SETTINGS, field), getattr(changed, field)
    assert f"{field} (stored {stored!r}, now {now!r})" in str(raised.value)
    assert "--reader" in str(raised.value)
    assert conn.execute("SELECT count(*) FROM arrays").fetchone()[0] == 1


def test_every_difference_is_named(conn: Connection, workspace: Workspace) -> None:
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    changed = settings_with(model="m2", dtype="bfloat16")
    with pytest.raises(FingerprintMismatch, match=r"model \(.*\), dtype \(.*\)"):
        open_arrays(conn, workspace, *HERE, changed, CHUNK_ROWS)


def test_another_corpus_may_follow_another_protocol(conn: Connection, workspace: Workspace) -> None:
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    other = settings_with(protocol_digest="sha256:q")
    open_arrays(conn, workspace, READER, "other", "stories", other, CHUNK_ROWS)
    with pytest.raises(FingerprintMismatch, match="protocol_digest"):
        open_arrays(conn, workspace, READER, CORPUS, "dialogues", other, CHUNK_ROWS)


def test_another_reader_may_have_any_settings(conn: Connection, workspace: Workspace) -> None:
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    open_arrays(conn, workspace, "big", CORPUS, "stories", settings_with(model="b"), CHUNK_ROWS)


def test_arrays_keep_their_chunks(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 6)
    extract(conn, workspace, [0])
    extract(conn, workspace, [1], chunk_rows=512)
    assert zarr.open_array(layer_path(workspace, *HERE, 1)).chunks == (CHUNK_ROWS, 5)


def test_opening_restores_metadata_that_a_crash_tore(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 6)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    (layer_path(workspace, *HERE, 0) / "zarr.json").write_bytes(b"")
    (workspace.activations(READER) / "main" / "zarr.json").unlink()
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    assert files_below(workspace.activations(READER)) == before


@contextmanager
def one_chunk(conn: Connection, workspace: Workspace, n: int = 4) -> Iterator[None]:
    add_texts(conn, n)
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    plan_rows(conn, *HERE)
    yield


def test_rows_given_up_are_nan_and_keep_their_reason(
    conn: Connection, workspace: Workspace
) -> None:
    with one_chunk(conn, workspace):
        (chunk,) = pending_chunks(conn, *HERE, [0])
    made = outcomes(chunk)
    made[1] = replace(made[1], status="rejected", reason="too_short", tokens=3)
    made[3] = replace(made[3], status="failed", reason="not_finite")
    found = blocks(chunk)
    found[0][3] = np.inf
    write_chunk(conn, workspace, *HERE, 0, found, made)
    stored = read_layer(workspace, *HERE, 0)
    np.testing.assert_array_equal(stored[[0, 2]], found[0][[0, 2]])
    assert np.isnan(stored[[1, 3]]).all()
    rows = read_rows(conn, *HERE)
    assert [row.status for row in rows] == ["done", "rejected", "done", "failed"]
    assert [row.reason for row in rows] == [None, "too_short", None, "not_finite"]
    assert rows[1].tokens == 3
    assert pending_chunks(conn, *HERE, [0]) == []


def test_a_row_done_at_one_layer_and_not_at_another_is_not_done(
    conn: Connection, workspace: Workspace
) -> None:
    with one_chunk(conn, workspace):
        (chunk,) = pending_chunks(conn, *HERE, [0])
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
    with one_chunk(conn, workspace):
        (chunk,) = pending_chunks(conn, *HERE, LAYERS)
    failed = outcomes(chunk)
    failed[0] = replace(failed[0], status="failed", reason="out_of_memory")
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), failed)
    write_chunk(conn, workspace, *HERE, 0, blocks(chunk), outcomes(chunk))
    assert {row.status for row in read_rows(conn, *HERE)} == {"done"}


def test_other_tokens_than_at_another_layer_are_refused(
    conn: Connection, workspace: Workspace
) -> None:
    with one_chunk(conn, workspace):
        (chunk,) = pending_chunks(conn, *HERE, [0])
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
    with one_chunk(conn, workspace):
        (chunk,) = pending_chunks(conn, *HERE, [0])
    found, made = blocks(chunk), outcomes(chunk)
    bad = found[0].copy()
    bad[2, 1] = np.nan
    for blocks_given, outcomes_given, message in (
        (found, made[:-1], "all planned rows"),
        ({0: found[0][:3]}, made, "3 rows of numbers for 4 outcomes"),
        ({0: bad}, made, "not finite"),
        ({0: found[0][:, :4]}, made, "does not fit"),
        ({}, made, "a layer"),
    ):
        with pytest.raises(ValueError, match=message):
            write_chunk(conn, workspace, *HERE, 0, blocks_given, outcomes_given)
    with pytest.raises(ValueError, match="all planned rows"):
        write_chunk(conn, workspace, *HERE, 1, {0: found[0][:0]}, [])
    assert {row.status for row in read_rows(conn, *HERE)} == {"pending"}
    assert pending_chunks(conn, *HERE, [0]) == [chunk]


def test_blocks_may_come_in_any_order_of_rows(conn: Connection, workspace: Workspace) -> None:
    with one_chunk(conn, workspace):
        (chunk,) = pending_chunks(conn, *HERE, [0])
    order = [2, 0, 3, 1]
    made = [outcomes(chunk)[i] for i in order]
    write_chunk(conn, workspace, *HERE, 0, {0: blocks(chunk)[0][order]}, made)
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 0), expected(conn, 0))


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


def test_leftovers_of_a_killed_writer_are_swept(conn: Connection, workspace: Workspace) -> None:
    assert sweep_partials(workspace, READER) == 0
    add_texts(conn, 4)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    (layer_path(workspace, *HERE, 0) / "c" / "0" / "0.1f.partial").touch()
    assert sweep_partials(workspace, READER) == 1
    assert files_below(workspace.activations(READER)) == before


class PowerCut(BaseException):
    """Ends a run at a chosen moment, like a kill, without a new process."""


def test_cut_at_any_sync_no_receipt_lies_and_the_next_run_mends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Workspace(tmp_path / "whole")
    with closing(open_database(whole.database)) as conn:
        add_texts(conn, 6)
        extract(conn, whole)
    real, cuts = os.fsync, 0
    workspace = Workspace(tmp_path / "cut")
    with closing(open_database(workspace.database)) as conn:
        add_texts(conn, 3)
        extract(conn, workspace)
        add_texts(conn, 6)
        for sync_number in range(1, 1000):
            left = sync_number

            def fsync(descriptor: int) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise PowerCut
                real(descriptor)

            change_text(conn, 5, f"version {sync_number}")
            monkeypatch.setattr(os, "fsync", fsync)
            try:
                extract(conn, workspace)
            except PowerCut:
                cuts += 1
            finished = left > 0
            monkeypatch.setattr(os, "fsync", real)
            assert damaged_receipts(conn, workspace) == []
            assert settled_without_receipt(conn) == 0
            if finished:
                break
        change_text(conn, 5, "stories joyful rain 4")
        extract(conn, workspace)
    assert cuts > 20
    assert files_below(workspace.activations(READER)) == files_below(whole.activations(READER))


def test_all_bytes_are_on_the_disk_before_a_receipt_mentions_them(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, bytes] = {}
    entries: dict[Path, set[str]] = {}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            entries[path] = {entry.name for entry in path.iterdir()}
        else:
            synced[os.fstat(descriptor).st_ino] = path.read_bytes()
        real(descriptor)

    def lost_in_a_power_cut(path: Path) -> bool:
        named = path.name in entries.get(path.parent, set())
        whole = path.is_dir() or synced.get(path.stat().st_ino) == path.read_bytes()
        return not (named and whole)

    lost: list[Path] = []
    receipts = 0

    def watch(statement: str) -> None:
        nonlocal receipts
        if statement.startswith("INSERT INTO receipts"):
            receipts += 1
            below = (workspace.root / "data" / "activations").rglob("*")
            lost.extend(path for path in below if lost_in_a_power_cut(path))

    add_texts(conn, 6)
    conn.set_trace_callback(watch)
    monkeypatch.setattr(os, "fsync", fsync)
    extract(conn, workspace)
    assert receipts >= 4
    assert lost == []
    assert "activations" in entries[workspace.root / "data"]


EXTRACT = """
import sys
from pathlib import Path
from stores.database import open_database
from stores.workspace import Workspace
from tests.stores.arranged import extract, settings_with
workspace = Workspace(Path(sys.argv[1]))
print("ready", flush=True)
conn = open_database(workspace.database)
extract(conn, workspace, range(3), settings=settings_with(d_model=9000))
print("finished", flush=True)
"""


def test_killed_in_the_middle_of_chunks_a_run_resumes_to_the_same_bytes(
    tmp_path: Path, start_child: StartChild
) -> None:
    whole, killed = Workspace(tmp_path / "whole"), Workspace(tmp_path / "killed")
    for workspace in (whole, killed):
        with closing(open_database(workspace.database)) as conn:
            add_texts(conn, 60)
    with closing(open_database(whole.database)) as conn:
        extract(conn, whole, range(3), settings=settings_with(d_model=9000))
    with closing(open_database(killed.database)) as conn:
        for kill in range(4):
            child = start_child(EXTRACT, killed.root)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            wanted = receipts_of(conn) + 1 + 2 * kill
            while receipts_of(conn) < wanted:
                assert child.poll() is None
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            assert damaged_receipts(conn, killed) == []
            assert settled_without_receipt(conn) == 0
        assert extract(conn, killed, range(3), settings=settings_with(d_model=9000)) != []
        sweep_partials(killed, READER)
        assert {row.status for row in read_rows(conn, *HERE)} == {"done"}
    assert files_below(killed.activations(READER)) == files_below(whole.activations(READER))


def receipts_of(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM receipts").fetchone()[0])
