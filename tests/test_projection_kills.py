"""kill -9 at any moment of a pass: afterwards all is as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from stores.database import open_database
from stores.failpoints import EXIT_CODE, PROJECTION
from stores.projections import known_projections
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.engine.tiny import save_checkpoint
from tests.killing import Engine
from tests.projecting import LAYERS, draw_texts, rows_of, texts_of

KILLS = int(os.environ.get("EMOVEC_TEST_PROJECTION_KILLS", "12"))
DOCUMENTS, CHUNK = 72, 16
"""The last chunk is not full."""

Rows = dict[str, list[tuple[Any, ...]]]

# Every pass is a process of its own, forked after the slow imports and the loading of the model.
ENGINE = """
import json, os, signal, sys, threading, time
from contextlib import closing
from pathlib import Path
import torch
torch.set_num_threads(1)
import stores.projections
from engine.loading import LazyModel
from engine.projection import job
from stores import failpoints
from stores.database import open_database
from stores.workspace import Workspace
from tests.projecting import project

job.CHUNK_SCORES = job.SMALLEST_CHUNK = 16
model = LazyModel(name=sys.argv[1], device="cpu")
model.loaded
write, stop = stores.projections._write_scores, threading.Event()

def slowly(*given):
    time.sleep(0.004)  # so that kills fall between the rows of a transaction, too
    write(*given)

stores.projections._write_scores = slowly
signal.signal(signal.SIGINT, lambda *_: stop.set())
for line in sys.stdin:
    workspace, place, number, seconds = json.loads(line)
    started, ended = time.monotonic(), 0
    child = os.fork()
    if child == 0:
        os.environ[failpoints.VARIABLE] = place
        with closing(open_database(Workspace(Path(workspace)).database)) as conn:
            os._exit(130 if project(conn, model, stop=stop).stopped else 0)
    while not ended and time.monotonic() < started + seconds:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - started, flush=True)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("killed_llama"))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", ENGINE, str(checkpoint)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        yield Engine(child)


@dataclass(frozen=True, slots=True)
class Calm:
    """What a pass that nobody disturbed leaves, and its seconds."""

    rows: Rows
    seconds: float


@pytest.fixture(scope="module")
def calm(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    root = drawn(tmp_path_factory.mktemp("calm"))
    code, seconds = engine.run(root)
    found = rows(root)
    assert (code, len(found["projected"]), is_finished(root)) == (0, DOCUMENTS, True)
    return Calm(found, seconds)


def drawn(root: Path) -> Path:
    """A workspace with a sample that nobody has read."""
    with closing(open_database(Workspace(root).database)) as conn:
        draw_texts(conn, texts_of(DOCUMENTS))
    return root


def rows(root: Path) -> Rows:
    """What is there, every chunk of it whole."""
    with closing(open_database(Workspace(root).database)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        found = rows_of(conn)
    for chunk, members in groupby(found["projected"], key=lambda row: row[2]):
        expected = min(CHUNK, DOCUMENTS - chunk * CHUNK)
        done = [row[1] for row in members]
        assert len(done) == len(set(done)) == expected
    read = {row[1] for row in found["projected"] if row[3] == "done"}
    for layer in LAYERS:
        assert {row[2] for row in found["document_scores"] if row[1] == layer} == read
        summarised = [row[2] for row in found["token_summaries"] if row[1] == layer]
        assert summarised == sorted({row[2] for row in found["projected"]})
    assert {row[3] for row in found["snippets"]} <= read
    return found


def is_finished(root: Path) -> bool:
    with closing(open_database(Workspace(root).database, read_only=True)) as conn:
        return len(known_projections(conn, "toy", "toy")) == 1


def resume(engine: Engine, root: Path, calm: Calm) -> None:
    """Bring a pass to its end: the rows of one that nobody disturbed, to the bit."""
    assert engine.run(root)[0] == 0
    assert rows(root) == calm.rows
    assert is_finished(root)


def expect_part(before: Rows, found: Rows, calm: Calm) -> None:
    """What was there is there, and nothing but what belongs there; snippets give way to others."""
    for table in set(calm.rows) - {"snippets"}:
        assert set(before[table]) <= set(found[table]) <= set(calm.rows[table])


def test_kills_at_random_moments_change_no_row(engine: Engine, calm: Calm, tmp_path: Path) -> None:
    """As many kills as asked for; a pass that gets to its end is compared, and another begins."""
    rng, killed, ended, halfway = random.Random(0), 0, 0, 0
    while killed < KILLS:
        root = drawn(tmp_path / str(ended))
        before = rows(root)
        while killed < KILLS:
            code, _ = engine.run(root, seconds=rng.uniform(0.3, 1.0) * calm.seconds)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed, found = killed + 1, rows(root)
            expect_part(before, found, calm)
            halfway += len(before["projected"]) < len(found["projected"]) < DOCUMENTS
            before = found
        resume(engine, root, calm)
        ended += 1
    assert halfway >= KILLS / 4


def kept_before(name: str, times: int) -> int:
    """The chunks that a run has kept when it comes to a place for the n-th time."""
    if name == "pass_opened":
        return 0
    if name == "scores_written":
        return (times - 1) // len(LAYERS)
    return times - 1 + (name == "chunk_kept")


@pytest.mark.parametrize("name", PROJECTION)
def test_a_hard_exit_between_two_durable_steps_changes_nothing(
    name: str, engine: Engine, calm: Calm, tmp_path: Path
) -> None:
    root = drawn(tmp_path)
    for times in (1,) if name == "pass_opened" else (1, 3):
        before = rows(root)
        assert engine.run(root, place=f"{name}:{times}")[0] == EXIT_CODE
        found = rows(root)
        expect_part(before, found, calm)
        new = {row[2] for row in found["projected"]} - {row[2] for row in before["projected"]}
        assert len(new) == kept_before(name, times)
        assert not is_finished(root)
    resume(engine, root, calm)


def test_a_stop_keeps_whole_chunks_and_the_next_run_goes_on(
    engine: Engine, calm: Calm, tmp_path: Path
) -> None:
    for attempt in range(5):  # it may have ended, or not have begun
        root = drawn(tmp_path / str(attempt))
        code, _ = engine.run(root, number=signal.SIGINT, seconds=0.7 * calm.seconds)
        kept = rows(root)["projected"]
        assert code == (0 if len(kept) == DOCUMENTS else 130)
        resume(engine, root, calm)
        if code and kept:
            break
    assert code == 130
    assert kept
