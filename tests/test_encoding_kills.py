"""kill -9 at any moment of a pass under an SAE: afterwards all is as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.loading import LazyModel
from stores.database import open_database
from stores.encodings import BANKS, known_encodings
from stores.failpoints import ENCODING, EXIT_CODE
from stores.texts import KINDS
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.encoding import CORPUS, FEATURES, READER, add_texts, pool, rows_of, texts_of
from tests.engine.features.saes import make_sae, save_sae
from tests.engine.tiny import save_checkpoint
from tests.killing import Engine

KILLS = int(os.environ.get("EMOVEC_TEST_ENCODING_KILLS", "12"))
TEXTS, CHUNK = 30, 8
"""Of each kind; a tenth of them is too short, and the last chunks are not full."""
DONE = 54

Rows = list[tuple[Any, ...]]

# Every pass is a process of its own, forked after the slow imports and the loading of the model.
ENGINE = """
import json, os, signal, sys, threading, time
from contextlib import closing
from pathlib import Path
import torch
torch.set_num_threads(1)
import stores.encodings
from engine.features import job
from engine.features.library import sae_lens
from engine.features.opening import describe_folder
from engine.loading import LazyModel
from stores import failpoints
from stores.database import open_database
from stores.workspace import Workspace
from tests.encoding import encode

job.CHUNK_TEXTS = 8
model, identity = LazyModel(name=sys.argv[1], device="cpu"), describe_folder(Path(sys.argv[2]))
model.loaded
sae_lens().SAE.load_from_disk(sys.argv[2])
spell, stop = stores.encodings._cells, threading.Event()

def slowly(text):
    time.sleep(0.001)  # so that kills fall between the rows of a transaction, too
    return spell(text)

stores.encodings._cells = slowly
signal.signal(signal.SIGINT, lambda *_: stop.set())
for line in sys.stdin:
    workspace, place, number, seconds = json.loads(line)
    started, ended = time.monotonic(), 0
    child = os.fork()
    if child == 0:
        os.environ[failpoints.VARIABLE] = place
        with closing(open_database(Workspace(Path(workspace)).database)) as conn:
            os._exit(130 if encode(conn, model, identity, stop=stop).stopped else 0)
    while not ended and time.monotonic() < started + seconds:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), time.monotonic() - started, flush=True)
"""

# Everything is encoded: neither the model nor the SAE is needed.
AGAIN = """
import sys
from contextlib import closing
from pathlib import Path
from engine.features import job
from engine.features.opening import describe_folder
from engine.loading import LazyModel
from stores.database import open_database
from stores.workspace import Workspace
from tests.encoding import encode

job.CHUNK_TEXTS = 8
model, identity = LazyModel(name=sys.argv[1], device="cpu"), describe_folder(Path(sys.argv[2]))
with closing(open_database(Workspace(Path(sys.argv[3])).database)) as conn:
    summary = encode(conn, model, identity)
print(summary.texts, summary.encoding.finished, "loaded" in vars(model), "sae_lens" in sys.modules)
"""


@dataclass(frozen=True, slots=True)
class Materials:
    """A model, an SAE, and a workspace with texts that the model has pooled."""

    checkpoint: Path
    sae: Path
    pooled: Path

    def copy(self, root: Path) -> Path:
        """A workspace that nobody has encoded."""
        return Path(shutil.copytree(self.pooled, root, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    root = tmp_path_factory.mktemp("materials")
    checkpoint = save_checkpoint(root / "llama")
    sae = save_sae(make_sae("standard", d_in=32, d_sae=FEATURES, norm=7.0), root / "sae")
    with closing(open_database(Workspace(root / "pooled").database)) as conn:
        for kind in KINDS:
            add_texts(conn, texts_of(TEXTS, kind), kind)
        lazy = LazyModel(name=str(checkpoint), device="cpu")
        pool(conn, Workspace(root / "pooled"), lazy)
    return Materials(checkpoint, sae, root / "pooled")


@pytest.fixture(scope="module")
def engine(materials: Materials) -> Iterator[Engine]:
    arguments = [str(materials.checkpoint), str(materials.sae)]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-u", "-c", ENGINE, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        yield Engine(child)


@dataclass(frozen=True, slots=True)
class Calm:
    """What a pass that nobody disturbed leaves, and its seconds."""

    root: Path
    rows: Rows
    seconds: float


@pytest.fixture(scope="module")
def calm(engine: Engine, materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    root = materials.copy(tmp_path_factory.mktemp("calm"))
    code, seconds = engine.run(root)
    found = rows(root)
    assert (code, len(found), is_finished(root)) == (0, DONE * len(BANKS), True)
    return Calm(root, found, seconds)


def rows(root: Path) -> Rows:
    """What is there, every chunk of it whole."""
    with closing(open_database(Workspace(root).database)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        assert conn.execute("SELECT count(*) FROM encodings").fetchone()[0] <= 1
        found = rows_of(conn)
    for kind in KINDS:
        by_bank = [[row[2] for row in found if row[:2] == (kind, bank)] for bank in BANKS]
        assert by_bank[0] == by_bank[1]
        assert len(by_bank[0]) % CHUNK == 0 or len(by_bank[0]) == DONE // 2
    return found


def is_finished(root: Path) -> bool:
    with closing(open_database(Workspace(root).database, read_only=True)) as conn:
        return len(known_encodings(conn, READER, CORPUS)) == 1


def resume(engine: Engine, root: Path, calm: Calm) -> None:
    """Bring a pass to its end: the rows of one that nobody disturbed, to the bit."""
    assert engine.run(root)[0] == 0
    assert rows(root) == calm.rows
    assert is_finished(root)


def test_kills_at_random_moments_change_no_row(
    engine: Engine, materials: Materials, calm: Calm, tmp_path: Path
) -> None:
    """As many kills as asked for; a pass that gets to its end is compared, and another begins."""
    rng, killed, ended, halfway = random.Random(0), 0, 0, 0
    while killed < KILLS:
        root = materials.copy(tmp_path / str(ended))
        before: Rows = []
        while killed < KILLS:
            code, _ = engine.run(root, seconds=rng.uniform(0.3, 1.0) * calm.seconds)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed, found = killed + 1, rows(root)
            assert set(before) <= set(found) <= set(calm.rows)
            halfway += len(before) < len(found) < len(calm.rows)
            before = found
        resume(engine, root, calm)
        ended += 1
    assert halfway >= KILLS / 4


@pytest.mark.parametrize("name", ENCODING)
def test_a_hard_exit_between_two_durable_steps_changes_nothing(
    name: str, engine: Engine, materials: Materials, calm: Calm, tmp_path: Path
) -> None:
    root = materials.copy(tmp_path)
    for times in (1,) if name == "encoding_opened" else (1, 3):
        before = rows(root)
        assert engine.run(root, place=f"{name}:{times}")[0] == EXIT_CODE
        found = rows(root)
        assert set(before) <= set(found) <= set(calm.rows)
        kept = 0 if name == "encoding_opened" else times - 1 + (name == "codes_kept")
        new = len(found) - len(before)
        assert 0 <= kept * CHUNK * len(BANKS) - new < CHUNK * len(BANKS)
        assert not is_finished(root)
    resume(engine, root, calm)


def test_a_stop_keeps_whole_chunks_and_the_next_run_goes_on(
    engine: Engine, materials: Materials, calm: Calm, tmp_path: Path
) -> None:
    for attempt in range(5):  # it may have ended, or not have begun
        root = materials.copy(tmp_path / str(attempt))
        code, _ = engine.run(root, number=signal.SIGINT, seconds=0.7 * calm.seconds)
        kept = rows(root)
        assert code == (0 if len(kept) == len(calm.rows) else 130)
        resume(engine, root, calm)
        if code and kept:
            break
    assert code == 130
    assert kept


def test_a_second_run_loads_neither_the_model_nor_what_reads_saes(
    materials: Materials, calm: Calm
) -> None:
    arguments = [str(path) for path in (materials.checkpoint, materials.sae, calm.root)]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "True", "False", "False"]
