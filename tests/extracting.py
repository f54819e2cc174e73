"""Extraction from outside: the real command line in processes of their own, which may be killed.

Every command is forked from one process that has imported torch already, so that dozens of them
cost no more than their work. What is asked of the ledger is asked through `sql`.
"""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from stores.corpora import open_corpus
from stores.database import open_database
from stores.planning import PlannedText, plan
from stores.protocol import Protocol, load_protocol
from stores.texts import Kind, commit, lease
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.engine.protocols import EMOTIONS, TOPICS, write_protocol
from tests.engine.tiny import SENTENCES, save_checkpoint
from tests.test_cli import run as run_here

CORPUS, READER = "main", "tiny"
START_TOKEN, CHUNK_ROWS = 5, 32
# float32 sums in another order, relative to the norm of the row
TOLERANCE = 1e-5
ALIVE = "activations:"

Table = list[dict[str, Any]]
Place = tuple[str, int, int]
Stamps = dict[Place, tuple[dict[str, Any], int, int]]

PARENT = """
import gc, json, os, signal, sys, threading, time

import torch

torch.set_num_threads(1)  # a fork must not inherit a pool of threads
import cli
import engine.extraction, engine.loading, engine.models, engine.stages
import rich.table, sqlite_utils, stores.integrity, transformers.models.llama.modeling_llama, zarr

gc.freeze()
running = set()

def become(order):
    for place, number in ((os.devnull, 0), (order["out"], 1), (order["err"], 2)):
        opened = os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.update(order["environment"])
    exec(order["before"], {})
    sys.argv = ["cli.py", *order["arguments"]]
    try:
        cli.cli()
    except SystemExit as ended:
        # the interpreter would wait for these as well; what it does afterwards takes a second
        threading._shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code or 0)

def wait(pid, seconds):
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            running.discard(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)

for line in sys.stdin:
    order = json.loads(line)
    if "pid" in order:
        print(json.dumps(wait(order["pid"], order["seconds"])), flush=True)
        continue
    child = os.fork()
    if child == 0:
        become(order)
    running.add(child)
    print(child, flush=True)
for pid in running:
    os.kill(pid, signal.SIGKILL)
"""

WHAT_FOR = """
import sys

def what_for(named):
    if "output_hidden_states" in named:
        return "loading"
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.endswith("selfcheck.py"):
        frame = frame.f_back
    return "probing" if frame else "reading"
"""
"""Says why a pass of the model runs, by the names of what it is called with; to be run first."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left: its exit code (below 0: the signal that ended it) and its words."""

    code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> int:
        """How many rows an extraction says it read."""
        found = re.search(r"(\d+) rows read", self.stdout)
        assert found, self.stdout + self.stderr
        return int(found[1])


@dataclass(frozen=True, slots=True)
class Command:
    """A command that runs."""

    shell: "Shell"
    pid: int
    out: Path
    err: Path

    def kill(self, *signals: int) -> None:
        for number in signals:
            os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> Ended:
        code = self.shell.wait(self.pid, seconds)
        assert code is not None, f"still running after {seconds} s: {self.err.read_text()}"
        return Ended(code, self.out.read_text(), self.err.read_text())

    def is_over(self) -> bool:
        return self.shell.wait(self.pid, 0) is not None

    def wait_for(self, word: str, seconds: float = 60) -> bool:
        """Until stderr holds the word; False when the command ended without it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            over = self.is_over()
            if self.err.exists() and word in self.err.read_text():
                return True
            if over:
                return False
            time.sleep(0.001)
        raise TimeoutError(f"no {word!r} within {seconds} s: {self.err.read_text()}")


@dataclass(slots=True)
class Shell:
    """Starts commands of `cli.py`, each in a process of its own."""

    parent: "subprocess.Popen[str]"
    folder: Path
    started: int = 0
    codes: dict[int, int] = field(default_factory=dict)

    def ask(self, order: dict[str, Any]) -> Any:
        assert self.parent.stdin
        assert self.parent.stdout
        self.parent.stdin.write(json.dumps(order) + "\n")
        self.parent.stdin.flush()
        return json.loads(self.parent.stdout.readline())

    def wait(self, pid: int, seconds: float) -> int | None:
        """The exit code of a command; None when it runs for longer than that."""
        if pid not in self.codes:
            code = self.ask({"pid": pid, "seconds": seconds})
            if code is None:
                return None
            self.codes[pid] = code
        return self.codes[pid]

    def start(
        self, root: Path, *arguments: object, before: str = "", **environment: str
    ) -> Command:
        """Start a command; `before` is Python that its process executes first."""
        self.started += 1
        out, err = (self.folder / f"{self.started}.{name}" for name in ("out", "err"))
        order = {
            "arguments": ["--workspace", str(root), *map(str, arguments)],
            "environment": environment,
            "before": before,
            "out": str(out),
            "err": str(err),
        }
        return Command(self, self.ask(order), out, err)

    def run(self, root: Path, *arguments: object, before: str = "", **environment: str) -> Ended:
        return self.start(root, *arguments, before=before, **environment).wait()


@contextmanager
def open_shell(folder: Path) -> Iterator[Shell]:
    """The process that commands are forked from; whatever still runs at the end is killed."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Shell(parent, folder)
    finally:
        parent.communicate(timeout=10)


# ---- a workspace ---------------------------------------------------------------------------------


def words(n: int, seed: int) -> str:
    """A sentence of `n` plain words, another one for another seed."""
    known, rng = " ".join(SENTENCES).replace(".", "").replace(",", "").split(), random.Random(seed)
    return " ".join(rng.choices(known, k=n)).capitalize() + "."


def stories(n: int, seed: int = 0) -> list[dict[str, object]]:
    """Records for `import stories`: short and long, and now and then one too short to be read."""
    rng = random.Random(seed)
    lengths = [rng.choice([3, *[rng.randint(10, 90)] * 19]) for _ in range(n)]
    return [
        {
            "emotion": EMOTIONS[i % len(EMOTIONS)],
            "topic": TOPICS[i % len(TOPICS)],
            "text": words(length, hash((seed, i))),
            "generator": "hand",
        }
        for i, length in enumerate(lengths)
    ]


@dataclass(frozen=True, slots=True)
class Scene:
    """A model and a protocol, which many workspaces share."""

    model: Path
    protocol: Protocol

    def extract(self, **changes: object) -> list[str]:
        """The command that reads every text at layers 1 and 3; options by name, flags by True."""
        options = {
            "model": self.model,
            "device": "cpu",
            "reader": READER,
            "layers": "1,3",
            "start_token": START_TOKEN,
            "tokens_per_batch": 512,
            "chunk_rows": CHUNK_ROWS,
            **changes,
        }
        spelled = ["extract"]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            spelled += [flag] if value is True else [flag, str(value)]
        return spelled


def open_scene(folder: Path) -> Scene:
    model = save_checkpoint(folder / "model")
    write_protocol(folder)
    return Scene(model, load_protocol(folder / "protocol"))


def import_stories(shell: Shell, scene: Scene, root: Path, records: Sequence[object]) -> None:
    file = root.parent / f"{root.name}.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    protocol = ("--protocol", str(scene.protocol.root))
    done = shell.run(root, "import", "stories", file, *protocol, "--corpus", CORPUS)
    assert done.code == 0, done.stderr
    assert f"{len(records)} stories taken" in done.stdout, done.stdout


def add_texts(scene: Scene, root: Path, texts: Sequence[str], kind: Kind = "stories") -> None:
    """Put finished texts into the ledger as they are, unchecked; the emotions take turns."""
    n = len(texts)
    with closing(open_database(Workspace(root).database)) as conn:
        protocol = scene.protocol
        open_corpus(conn, CORPUS, protocol.digest, protocol.files, protocol.root)
        first = conn.execute(f"SELECT count(*) FROM {kind}").fetchone()[0]
        emotions = EMOTIONS if kind == "stories" else (None,)
        planned = [
            PlannedText(emotions[i % len(emotions)], TOPICS[0], first + i, i) for i in range(n)
        ]
        plan(conn, kind, CORPUS, planned, now=0.0)
        held = lease(conn, kind, CORPUS, "w", limit=n, now=0.0, seconds=9.0, max_attempts=1)
        for row, text in zip(held, texts, strict=True):
            commit(conn, row, text=text, words=1, generator="hand", reply_id=None, now=0.0)


def change_weights(model: Path) -> None:
    """Train a checkpoint a little."""
    (file,) = model.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] * np.float32(1.01)
    save_file(tensors, file, metadata={"format": "pt"})


# ---- what is on the disk -------------------------------------------------------------------------


def query(root: Path, statement: str) -> Table:
    """The answer of `sql`."""
    told = run_here("sql", statement, "--json", workspace=root)
    assert told.exit_code == 0, told.output
    found: Table = json.loads(told.stdout)
    return found


def statuses(root: Path, reader: str = READER) -> Table:
    """Every row with what became of it."""
    columns = "kind, row, text_id, text_sha, tokens_sha, tokens, status, reason"
    where = f"reader = '{reader}' ORDER BY kind, row"
    return query(root, f"SELECT {columns} FROM activations WHERE {where}")


def receipts(root: Path, reader: str = READER) -> dict[Place, dict[str, Any]]:
    """Every receipt by kind, layer and chunk."""
    found = query(root, f"SELECT * FROM receipts WHERE reader = '{reader}'")
    return {(row["kind"], row["layer"], row["chunk"]): row for row in found}


def chunk_file(root: Path, place: Place, reader: str = READER) -> Path:
    """Where the numbers of a receipt are."""
    kind, layer, chunk = place
    folder = Workspace(root).activations(reader) / CORPUS / kind / f"layer_{layer}"
    return folder / "c" / str(chunk) / "0"


def stamps(root: Path, reader: str = READER) -> Stamps:
    """Every receipt with the identity of its file; fails when the file is not as it says."""
    found: Stamps = {}
    for place, receipt in receipts(root, reader).items():
        file = chunk_file(root, place, reader)
        payload, node = file.read_bytes(), file.stat()
        assert receipt["sha256"] == f"sha256:{hashlib.sha256(payload).hexdigest()}"
        found[place] = (receipt, node.st_ino, node.st_mtime_ns)
    return found


def arrays(root: Path, reader: str = READER) -> dict[str, bytes]:
    """Every file of a reader's arrays with its bytes."""
    group = Workspace(root).activations(reader)
    files = [path for path in sorted(group.rglob("*")) if path.is_file()]
    return {path.relative_to(group).as_posix(): path.read_bytes() for path in files}


def layer(root: Path, number: int, reader: str = READER) -> NDArray[np.float32]:
    """A layer as any reader of Zarr sees it."""
    import zarr

    folder = Workspace(root).activations(reader) / CORPUS / "stories" / f"layer_{number}"
    return np.asarray(zarr.open_array(folder, mode="r")[:], np.float32)


def is_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Within the tolerance of each row's norm, and missing in the same places."""
    if found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
        return False
    norms = np.linalg.norm(np.nan_to_num(expected), axis=1, keepdims=True)
    return bool((np.abs(np.nan_to_num(found) - np.nan_to_num(expected)) <= TOLERANCE * norms).all())


def doctor(root: Path, *arguments: str) -> tuple[int, Table]:
    """Its exit code, and what it finds at fault."""
    told = run_here("doctor", "--json", *arguments, workspace=root)
    found: Table = json.loads(told.stdout)
    return told.exit_code, [finding for finding in found if finding["thing"] != "SQLite"]


def expect_health(root: Path) -> None:
    assert doctor(root) == (0, [])
