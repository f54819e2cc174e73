"""kill -9 at any moment of a training: afterwards the weights are as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.models import load_model
from stores.database import open_database
from stores.failpoints import EXIT_CODE, TRAINING
from stores.files import PARTIAL_SUFFIX
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.engine.features.training.made import bytes_of, make_reader
from tests.engine.tiny import save_checkpoint
from tests.killing import Engine

KILLS = int(os.environ.get("EMOVEC_TEST_TRAINING_KILLS", "8"))
FILES = ["cfg.json", "sae_weights.safetensors", "training.json"]
BUFFERS = 10
"""Of 4 batches of 60 tokens each: together the 2,400 tokens to train on."""

# Every training is a process of its own, forked after the slow imports.
ENGINE = """
import json, os, signal, sys, threading, time
from contextlib import closing
from pathlib import Path
import torch
torch.set_num_threads(1)
from engine.features.library import sae_lens
from engine.features.training import loop
from engine.loading import LazyModel
from stores import failpoints
from stores.database import open_database
from stores.workspace import Workspace
from tests.engine.features.training.made import train

sae_lens()
loop.CHECKPOINT_SHARE = 1e9
model = LazyModel(name=sys.argv[1], device="cpu")
model.loaded
step, stop = loop.train_step, threading.Event()

def slowly(*given):
    time.sleep(0.004)  # so that kills fall everywhere, not in what surrounds the steps alone
    return step(*given)

loop.train_step = slowly
signal.signal(signal.SIGINT, lambda *_: stop.set())
for line in sys.stdin:
    root, place, number, seconds = json.loads(line)
    started, ended = time.monotonic(), 0
    child = os.fork()
    if child == 0:
        os.environ[failpoints.VARIABLE] = place
        with closing(open_database(Workspace(Path(root)).database)) as conn:
            os._exit(130 if train(conn, Path(root), model, stop=stop).stopped else 0)
    while not ended and time.monotonic() < started + seconds:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - started, flush=True)
"""

SECOND = """
import sys
from contextlib import closing
from pathlib import Path
import engine.features.training.job
assert "torch" not in sys.modules
from stores.database import open_database
from stores.workspace import Workspace
from tests.engine.features.training.made import train
from engine.loading import LazyModel
root = Path(sys.argv[1])
with closing(open_database(Workspace(root).database)) as conn:
    summary = train(conn, root, LazyModel(name=sys.argv[2], device="cpu"))
assert "sae_lens" not in sys.modules
print(summary.tokens, summary.held_out["tokens"])
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
        stderr=subprocess.DEVNULL,
    ) as child:
        yield Engine(child)


@dataclass(frozen=True, slots=True)
class Calm:
    """What a training that nobody disturbed leaves, and its seconds."""

    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def calm(engine: Engine, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    root = read(tmp_path_factory.mktemp("calm"), checkpoint)
    code, seconds = engine.run(root)
    assert (code, sorted(bytes_of(sae(root)))) == (0, FILES)
    return Calm(bytes_of(sae(root)), seconds)


def read(root: Path, checkpoint: Path) -> Path:
    """A workspace whose reader has read its texts, and nothing is trained."""
    root.mkdir(exist_ok=True)
    with closing(open_database(Workspace(root).database)) as conn:
        make_reader(conn, Workspace(root), load_model(str(checkpoint), device="cpu"))
    return root


def sae(root: Path) -> Path:
    return Workspace(root).saes("tiny") / "small"


def resume(engine: Engine, root: Path, calm: Calm) -> None:
    """Bring a training to its end: the bytes of one that nobody disturbed, and nothing beside."""
    assert engine.run(root)[0] == 0
    assert bytes_of(sae(root)) == calm.files
    assert [each.name for each in sae(root).parent.iterdir()] == ["small"]


def is_whole_or_missing(root: Path, calm: Calm) -> bool:
    return not sae(root).exists() or bytes_of(sae(root)) == calm.files


def test_kills_at_random_moments_change_no_weight(
    engine: Engine, calm: Calm, checkpoint: Path, tmp_path: Path
) -> None:
    """As many kills as asked for; one that gets to its end is compared, and another begins."""
    rng, killed, ended, halfway = random.Random(0), 0, 0, 0
    while killed < KILLS:
        root = read(tmp_path / str(ended), checkpoint)
        while killed < KILLS:
            code, _ = engine.run(root, seconds=rng.uniform(0.2, 0.9) * calm.seconds)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            assert is_whole_or_missing(root, calm)
            killed += 1
            halfway += bool(list(sae(root).parent.glob(".small.training/checkpoint.safetensors")))
        resume(engine, root, calm)
        ended += 1
    assert halfway >= KILLS / 4


@pytest.mark.parametrize("name", TRAINING)
def test_a_hard_exit_between_two_durable_steps_changes_nothing(
    name: str, engine: Engine, calm: Calm, checkpoint: Path, tmp_path: Path
) -> None:
    root = read(tmp_path, checkpoint)
    for times in (1, 3) if name in ("buffer_trained", "checkpoint_written") else (1,):
        assert engine.run(root, place=f"{name}:{times}")[0] == EXIT_CODE
        assert sae(root).exists() == (name == "sae_kept")
        assert is_whole_or_missing(root, calm)
    resume(engine, root, calm)


def test_every_buffer_has_its_checkpoint_and_none_is_trained_again(
    engine: Engine, calm: Calm, checkpoint: Path, tmp_path: Path
) -> None:
    """One buffer a process: n processes for n buffers."""
    root, processes = read(tmp_path, checkpoint), 0
    while engine.run(root, place="checkpoint_written:1")[0] == EXIT_CODE:
        processes += 1
    assert processes == BUFFERS
    assert bytes_of(sae(root)) == calm.files


def test_a_stop_keeps_every_step_and_the_next_run_goes_on(
    engine: Engine, calm: Calm, checkpoint: Path, tmp_path: Path
) -> None:
    root = read(tmp_path, checkpoint)
    code, took = engine.run(root, number=signal.SIGINT, seconds=0.5 * calm.seconds)
    assert (code, took < 0.5 * calm.seconds + 2.0) == (130, True)
    assert not list(sae(root).parent.rglob(f"*{PARTIAL_SUFFIX}"))
    resume(engine, root, calm)


def test_a_second_call_needs_neither_model_nor_sae_lens(
    engine: Engine, calm: Calm, checkpoint: Path, tmp_path: Path
) -> None:
    root = read(tmp_path, checkpoint)
    resume(engine, root, calm)
    found = subprocess.run(
        [sys.executable, "-c", SECOND, str(root), str(checkpoint)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    tokens = json.loads(calm.files["training.json"])["held_out"]["tokens"]
    assert (found.stdout.split(), found.returncode) == (["0", str(tokens)], 0), found.stderr
