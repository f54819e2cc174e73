"""kill -9 at random moments of the whole job: afterwards all is as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from engine.demo.job import DEMO_MODEL, NAME
from stores.database import Connection, open_database
from stores.integrity import inspect
from stores.texts import KINDS
from stores.workspace import Workspace
from tests.conftest import ROOT

KILLS = int(os.environ.get("EMOVEC_TEST_KILLS", "20"))
LONGEST_S = 9.0
DEMO = ("demo", "--topics", "1", "--no-suite")


def command(workspace: Path, *arguments: str) -> list[str]:
    return [sys.executable, "cli.py", "--workspace", str(workspace), *arguments]


def run(workspace: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(workspace, *arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_after(seconds: float, workspace: Path, *arguments: str) -> bool:
    """Start the engine and kill it; False when it had ended before."""
    child = subprocess.Popen(
        command(workspace, *arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return child.wait(timeout=seconds) != 0
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
        return True


def states(conn: Connection) -> dict[str, dict[str, int]]:
    query = "SELECT status, count(*) FROM {} GROUP BY status"
    return {kind: dict(conn.execute(query.format(kind)).fetchall()) for kind in KINDS}


def chunk_files(workspace: Workspace, reader: str) -> dict[str, bytes]:
    root = workspace.activations(reader)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("c/*/*")}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The job, uninterrupted."""
    workspace = Workspace(tmp_path_factory.mktemp("calm"))
    run(workspace.root, *DEMO)
    return workspace


@pytest.fixture(scope="module")
def stormy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The job, killed many times, then brought to its end by the same command."""
    workspace, rng = Workspace(tmp_path_factory.mktemp("stormy")), random.Random(0)
    killed = 0
    while killed < KILLS:
        if not kill_after(rng.uniform(0.2, LONGEST_S), workspace.root, *DEMO):
            # the job is done: what is left to interrupt are the steps of a finished one
            killed += kill_after(rng.uniform(0.2, 1.5), workspace.root, *DEMO)
            continue
        killed += 1
    run(workspace.root, *DEMO)
    return workspace


def test_counts_are_those_of_an_uninterrupted_run(calm: Workspace, stormy: Workspace) -> None:
    with closing(open_database(calm.database, read_only=True)) as conn:
        expected = states(conn)
    with closing(open_database(stormy.database, read_only=True)) as conn:
        assert states(conn) == expected
        keys = "SELECT corpus, emotion, topic, slot FROM stories GROUP BY 1, 2, 3, 4"
        slots = conn.execute(f"SELECT count(*) FROM ({keys} HAVING count(*) > 1)").fetchone()[0]
        empty = conn.execute("SELECT count(*) FROM stories WHERE status = 'done' AND text IS NULL")
        assert (slots, empty.fetchone()[0]) == (0, 0)


def test_nothing_is_damaged(stormy: Workspace) -> None:
    with closing(open_database(stormy.database, read_only=True)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert [finding for finding in inspect(conn, stormy) if finding.fault] == []


def test_arrays_are_bit_identical_to_ones_extracted_anew(stormy: Workspace) -> None:
    again = ("extract", "--model", str(DEMO_MODEL), "--reader", "again", "--device", "cpu")
    run(stormy.root, *again)
    found = chunk_files(stormy, NAME)
    assert len(found) >= 12
    assert found == chunk_files(stormy, "again")


def test_a_second_run_writes_nothing(stormy: Workspace) -> None:
    before = {path: path.stat().st_mtime_ns for path in stormy.activations(NAME).rglob("*")}
    with closing(open_database(stormy.database, read_only=True)) as conn:
        runs, replies = (
            conn.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("runs", "replies")
        )
    began = time.monotonic()
    run(stormy.root, *DEMO)
    seconds = time.monotonic() - began
    after = {path: path.stat().st_mtime_ns for path in stormy.activations(NAME).rglob("*")}
    with closing(open_database(stormy.database, read_only=True)) as conn:
        counts = tuple(
            conn.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("runs", "replies")
        )
    assert after == before
    assert counts == (runs, replies)
    assert seconds <= 15
