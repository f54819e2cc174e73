"""kill -9 at random moments of a sweep: afterwards all is as if nothing had happened."""

import os
import random
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from analyses.methods import rating
from engine.sweep import BASELINE, read_answers
from stores.database import open_database
from stores.sweeps import read_steered
from stores.workspace import Workspace
from tests.conftest import StartChild, line_of
from tests.engine.tiny import SHAPE, save_checkpoint
from tests.sweeping import ACTIVITIES, arms_of

KILLS = int(os.environ.get("EMOVEC_TEST_SWEEP_KILLS", "10"))
N = len(ACTIVITIES)
ARMS = arms_of(SHAPE["hidden_size"])
WHOLE = 1e9

# Every sweep is a process of its own, forked after the slow imports and the loading of the model.
ENGINE = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import stores.sweeps
from engine.models import load_model
from tests.sweeping import sweep_into

model = load_model(sys.argv[1], device="cpu")
write = stores.sweeps.write_answers

def slowly(*given):
    time.sleep(0.004)  # so that kills fall between the rows of a transaction, too
    write(*given)

stores.sweeps.write_answers = slowly
for line in sys.stdin:
    workspace, seconds = line.rsplit(" ", 1)
    started, ended = time.monotonic(), 0
    child = os.fork()
    if child == 0:
        sweep_into(Path(workspace), model)
        os._exit(0)
    while not ended and time.monotonic() < started + float(seconds):
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - started, flush=True)
"""

Row = tuple[str, int, float, float]
Child = subprocess.Popen[str]


def sweep(engine: Child, workspace: Path, seconds: float) -> tuple[bool, float]:
    """Let a sweep run, for so many seconds at most; whether it got to its end, and the time."""
    assert engine.stdin is not None
    engine.stdin.write(f"{workspace} {seconds}\n")
    engine.stdin.flush()
    code, took = line_of(engine).split()
    assert int(code) in (0, -9)
    return code == "0", float(took)


def rows(workspace: Path) -> set[Row]:
    database = Workspace(workspace).database
    if not database.exists():
        return set()
    query = """
        SELECT m.digest, a.question, a.logit_a, a.logit_b FROM answers a
        JOIN arms m ON m.id = a.arm_id"""
    with closing(open_database(database)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return {tuple(row) for row in conn.execute(query)}


def scores(workspace: Path) -> NDArray[np.float64]:
    """Elo of every activity in every arm."""
    with closing(open_database(Workspace(workspace).database, read_only=True)) as conn:
        pairs = conn.execute("SELECT first, second FROM questions ORDER BY question").fetchall()
        (sweep_id,) = [row["id"] for row in conn.execute("SELECT id FROM sweeps")]
        answers = read_answers(conn, sweep_id, [BASELINE, *ARMS])
    chosen = rating.choose_first(answers)
    first, second = ([pair[name] for pair in pairs] for name in ("first", "second"))
    return rating.elo(rating.soft_wins(rating.arrange(chosen, first, second, N)))


def expect_whole_units(workspace: Path, found: set[Row]) -> None:
    """Of the questions with one first option, all arms have all that they are asked, or none."""
    with closing(open_database(Workspace(workspace).database, read_only=True)) as conn:
        steered = read_steered(conn, 1).tolist()
    for first in range(N):
        unit = range(first * (N - 1), (first + 1) * (N - 1))
        there = sum(question in unit for _, question, _, _ in found)
        per_unit = (N - 1) + (len(ARMS) + 2) * sum(steered[question] for question in unit)
        assert there in (0, per_unit)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("killed_llama"))


def test_ten_kills_at_random_moments_change_no_row_and_no_score(
    checkpoint: Path, tmp_path: Path, start_child: StartChild
) -> None:
    """As many kills as asked for; a sweep that gets to its end is compared, and another begins."""
    engine, rng = start_child(ENGINE, checkpoint), random.Random(0)
    calm = tmp_path / "calm"
    done, seconds = sweep(engine, calm, WHOLE)
    assert done
    expected, elo = rows(calm), scores(calm)
    kills, halfway, ended = 0, 0, 0
    while kills < KILLS or not ended:
        workspace = tmp_path / str(ended)
        kept: set[Row] = set()
        done = False
        while not done:
            limit = rng.uniform(0.0, seconds / 2) if kills < KILLS else WHOLE
            done, _ = sweep(engine, workspace, limit)
            kills += not done
            found = rows(workspace)
            # what was there before a kill is there after it, bit for bit
            assert kept <= found <= expected
            if found:
                expect_whole_units(workspace, found)
            halfway += not done and 0 < len(found) < len(expected)
            kept = found
        assert kept == expected
        assert (scores(workspace) == elo).all()
        ended += 1
    assert halfway >= KILLS // 5  # the others fell before the first unit
