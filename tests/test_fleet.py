"""Two servers of another project share a run, and one of them dies half-way."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.backends.faults import RetryPolicy
from engine.demo.job import DEMO_MODEL, generation_settings
from engine.stages import run_generation
from engine.tally import GenerationProgress
from engine.writers import OpenAIWriter
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace

START_SECONDS = 120.0
STORIES = 24


class TransformersServe:
    """`transformers serve` on the embedded model, as a user would start it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = Path(sys.executable).parent / "transformers"
        place = ("--host", "127.0.0.1", "--port", str(port), "--device", "cpu")
        self.log = folder / f"{port}.log"
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with self.log.open("w") as log:
            self.child = subprocess.Popen(
                [command, "serve", str(DEMO_MODEL), *place],
                stdout=log,
                stderr=log,
                env={**os.environ, **quiet},
            )

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                    return
            except OSError:
                if time.monotonic() > deadline or self.child.poll() is not None:
                    raise RuntimeError(self.log.read_text()[-2000:]) from None
                time.sleep(0.2)

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[list[TransformersServe]]:
    servers = [TransformersServe(tmp_path) for _ in range(2)]
    try:
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.kill()


def test_a_run_survives_the_death_of_one_of_its_servers(
    fleet: list[TransformersServe], tmp_path: Path
) -> None:
    protocol = load_protocol(DEMO_MODEL / "protocol")
    whole = generation_settings(protocol, "stories", 1)
    settings = replace(whole, emotions=protocol.names[:STORIES], workers=2, max_attempts=1)
    # the server knows its model by the path it was given
    policy = RetryPolicy(first_delay_s=0.1, longest_delay_s=1.0)
    urls = tuple(f"{server.url}/v1" for server in fleet)
    writer = OpenAIWriter(
        model=str(DEMO_MODEL), key="none", base_urls=urls, timeout_s=60.0, policy=policy
    )
    calls_at_death: list[int] = []

    def watch(progress: GenerationProgress) -> None:
        if progress.calls >= STORIES // 2 and not calls_at_death:
            calls_at_death.append(progress.calls)
            fleet[0].kill()

    with closing(open_database(Workspace(tmp_path).database)) as conn:
        summary = run_generation(
            conn, protocol, settings, writer, progress=watch, stop=threading.Event()
        )
        answered = dict(
            conn.execute("SELECT endpoint, count(*) FROM replies GROUP BY endpoint").fetchall()
        )
    assert (summary.calls, summary.left, summary.failures) == (STORIES, 0, 0)
    assert calls_at_death[0] < STORIES
    assert answered.keys() == set(urls)
    assert min(answered.values()) >= 1
    # this server decodes greedily, whatever it is asked for, so that the toy repeats itself
    assert summary.done + sum(summary.rejections.values()) == STORIES
    assert summary.rejections.keys() <= {"duplicate", "near_duplicate", "same_opening"}
