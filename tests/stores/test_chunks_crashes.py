"""Killed at any moment, no receipt lies, and the next run makes the bytes of a whole run."""

import os
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stores.activations import layer_path, sweep_partials
from stores.arrays import ChunkFile, chunk_fault, chunk_path
from stores.database import Connection, open_database
from stores.rows import read_rows
from stores.workspace import Workspace
from tests.conftest import StartChild
from tests.stores.arranged import (
    CHUNK_ROWS,
    HERE,
    READER,
    add_texts,
    change_text,
    extract,
    files_below,
    settings_with,
)

RECEIPT = re.compile(r"INTO receipts VALUES \('toy', 'main', 'stories', (\d+), (\d+),")


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
        inode = os.fstat(descriptor).st_ino
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        whole = b"" if path.is_dir() else path.read_bytes()
        real(descriptor)  # what comes while it works may be lost
        entries[path] = names
        synced[inode] = whole

    def lost_in_a_power_cut(path: Path) -> bool:
        named = path.name in entries.get(path.parent, set())
        whole = path.is_dir() or synced.get(path.stat().st_ino) == path.read_bytes()
        return not (named and whole)

    data = workspace.root / "data"
    lost: list[Path] = []
    mentioned: list[Path] = []

    def watch(statement: str) -> None:
        if found := RECEIPT.search(statement):
            layer, chunk = map(int, found.groups())
            file = chunk_path(layer_path(workspace, *HERE, layer), chunk)
            above = [folder for folder in file.parents if data in folder.parents]
            documents = [path for folder in above for path in folder.glob("zarr.json")]
            assert len(documents) == 4
            mentioned.append(file)
            lost.extend(path for path in (file, *above, *documents) if lost_in_a_power_cut(path))

    add_texts(conn, 18)
    for chunk in range(5):  # left by a killed run, and not synced
        chunk_path(layer_path(workspace, *HERE, 0), chunk).parent.mkdir(parents=True)
    conn.set_trace_callback(watch)
    monkeypatch.setattr(os, "fsync", fsync)
    extract(conn, workspace)
    assert len(mentioned) == 10
    assert lost == []
    assert "activations" in entries[data]


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
