"""kill -9 at random moments of a run against a server: afterwards all is as without them."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.bench.server import Script, Server, serve_apart
from stores.database import open_database
from stores.failpoints import EXIT_CODE, GENERATION, VARIABLE
from stores.replies import orphaned_calls
from stores.workspace import Workspace
from tests.conftest import ROOT

KILLS = int(os.environ.get("EMOVEC_TEST_API_KILLS", "15"))
WORKERS, PER_CALL = 8, 4
EMOTIONS, TOPICS = "happy,sad,angry,calm,proud,afraid,bored,guilty,tired,hopeful", 12
CALLS = 10 * TOPICS
SCRIPT = Script(
    latency_s=0.3,
    # none that lets the text hang on how often a prompt was seen: a kill hides an answer
    faults={"error_500": 0.1, "disconnect": 0.1, "empty_text": 0.1, "blocked_prompt": 0.05},
    remember=True,
)

State = dict[tuple[str, str, int], tuple[object, ...]]


def command(workspace: Path, url: str) -> list[str]:
    what = ("--emotions", EMOTIONS, "--topics", str(TOPICS), "--per-topic", str(PER_CALL))
    how = ("--backend", "openai", "--model", "m", "--base-url", f"{url}/v1")
    place = ("--workspace", str(workspace), "generate", "stories")
    return [sys.executable, "cli.py", *place, *what, *how, "--workers", str(WORKERS)]


def run(workspace: Path, url: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(workspace, url),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def kill_after(seconds: float, workspace: Path, url: str) -> bool:
    """Start the engine and kill it; False when it had ended before."""
    child = subprocess.Popen(
        command(workspace, url), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return child.wait(timeout=seconds) != 0
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
        return True


def state(workspace: Path) -> State:
    """What every slot came to. Ids, times and the number of tries may differ between runs."""
    query = "SELECT emotion, topic, slot, status, reason, text, words, generator FROM stories"
    with closing(open_database(Workspace(workspace).database, read_only=True)) as conn:
        found = [tuple(row) for row in conn.execute(query)]
    assert len({row[:3] for row in found}) == len(found)
    return {row[:3]: row[3:] for row in found}


def done_texts(workspace: Path) -> dict[int, str]:
    database = Workspace(workspace).database
    if not database.exists():
        return {}
    with closing(open_database(database)) as conn:
        return dict(conn.execute("SELECT id, text FROM stories WHERE status = 'done'").fetchall())


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The run, uninterrupted."""
    folder = tmp_path_factory.mktemp("calm")
    with serve_apart(SCRIPT) as server:
        done = run(folder, server.url)
    assert done.returncode == 0, done.stderr
    return state(folder)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve_apart(replace(SCRIPT, latency_s=0.02)) as server:
        yield server


def expect_as_if_nothing_happened(workspace: Path, calm: State, server: Server) -> None:
    assert state(workspace) == calm
    with closing(open_database(Workspace(workspace).database, read_only=True)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        replies = conn.execute("SELECT count(*) FROM replies").fetchone()[0]
        lost = orphaned_calls(conn)
    # what was paid for and is not there: at most the calls that were in flight at the kills
    assert server.answered - replies <= lost
    told = subprocess.run(
        [sys.executable, "cli.py", "--workspace", str(workspace), "status", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout)["orphaned_calls"] == lost


def test_kills_at_random_moments_change_nothing(calm: State, tmp_path: Path) -> None:
    """As many kills as asked for; a run that gets to its end is compared, and another begins."""
    rng, killed, ended = random.Random(0), 0, 0
    while killed < KILLS or not ended:
        workspace = tmp_path / str(ended)
        with serve_apart(SCRIPT) as server:
            killed += kill_until_done(workspace, server.url, rng, KILLS - killed)
            expect_as_if_nothing_happened(workspace, calm, server)
        ended += 1


def kill_until_done(workspace: Path, url: str, rng: random.Random, kills: int) -> int:
    """Kill one run again and again, `kills` times at most, until it is done; how often it was."""
    acknowledged: dict[int, str] = {}
    for killed in range(kills):
        if not kill_after(rng.uniform(0.4, 2.0), workspace, url):
            return killed
        now = done_texts(workspace)
        # what was done before a kill is there after it, byte for byte
        assert acknowledged.items() <= now.items()
        acknowledged = now
    finished = run(workspace, url)
    assert finished.returncode == 0, finished.stderr
    return kills


@pytest.mark.parametrize("name", GENERATION)
def test_a_hard_exit_between_two_durable_steps_changes_nothing(
    name: str, calm: State, server: Server, tmp_path: Path
) -> None:
    for times in (1, 3) if name != "planned" else (1,):
        died = run(tmp_path, server.url, **{VARIABLE: f"{name}:{times}"})
        assert died.returncode == EXIT_CODE, died.stderr
    finished = run(tmp_path, server.url)
    assert finished.returncode == 0, finished.stderr
    expect_as_if_nothing_happened(tmp_path, calm, server)
