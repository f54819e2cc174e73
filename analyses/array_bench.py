"""Measures arrays larger than memory on this machine: writing, plain reading, building vectors.

What is written is made up, but goes through the stores' own doors; what is read is read by a child
process, whose memory is counted by itself. Knows nothing of models.
"""

import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from analyses.synthetic import (
    CORPUS,
    READER,
    Planted,
    plan_arrays,
    planted,
    story_labels,
    write_arrays,
    write_texts,
)
from analyses.vectors import build_vectors
from stores.activations import layer_path
from stores.arrays import chunk_path
from stores.database import Connection, open_database
from stores.errors import UsageError
from stores.files import sync
from stores.layers import layer_receipts
from stores.protocol import DEFAULT_PROTOCOL, load_protocol
from stores.texts import KINDS
from stores.vectors import read_vectors
from stores.workspace import Workspace

MIB = 1024 * 1024
PLAIN_FILES = 64
"""Files written plainly before the arrays, and as many after them."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading of every chunk file, in seconds: plainly, and to build all vectors."""

    plain_s: float
    vectors_s: float
    cpu_s: float
    """Processor time of building, all threads: far below `vectors_s`, building waits for bytes."""

    @property
    def share(self) -> float:
        """How fast vectors are built, as a share of how fast the files can be read."""
        return self.plain_s / self.vectors_s


@dataclass(frozen=True, slots=True)
class ArrayBench:
    """What writing and reading one synthetic set of arrays took. Rates are bytes a second."""

    stories: int
    dialogues: int
    layers: int
    d_model: int
    array_bytes: int
    ledger_s: float
    """Making the ledger: planning, finishing and hashing the texts."""
    write_rate: float
    """Arrays with checksums, digests, fsync and receipts."""
    plain_write_rate: float
    """Files of the same size with nothing but fsync, one after the other."""
    cold: Pass | None
    """Nothing of the files in memory; None where the system cannot be told to forget them."""
    warm: Pass
    """The files read just before: in memory, if they fit."""
    peak_memory: int
    """Most bytes resident in the process that read."""
    worst_error: float
    """Largest deviation of a raw vector from what was planted, as a share of the largest value."""

    columns: ClassVar[tuple[str, ...]] = ("measured", "value")

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to see first."""
        size = f"{self.array_bytes / 1e9:.2f} GB"
        shape = f"{self.stories:,} stories, {self.dialogues:,} dialogues x {self.d_model:,}"
        written = self.write_rate / self.plain_write_rate
        return [
            ("arrays", f"{shape}, {self.layers} layers: {size}"),
            *(self._describe("cold", self.cold) if self.cold else []),
            *self._describe("warm", self.warm),
            ("memory at most, to read", f"{self.peak_memory / MIB:,.0f} MiB"),
            ("vectors, largest error", f"{self.worst_error:.1e}"),
            ("writing, with receipts", f"{self.write_rate / 1e6:,.0f} MB/s"),
            ("plain writing with fsync", f"{self.plain_write_rate / 1e6:,.0f} MB/s"),
            ("writing / plain writing", f"{written:.0%}"),
            ("making the ledger", f"{self.ledger_s:.1f} s"),
        ]

    def _describe(self, name: str, found: Pass) -> list[tuple[str, str]]:
        plain, vectors = self.array_bytes / found.plain_s, self.array_bytes / found.vectors_s
        seconds = f"{found.vectors_s:.1f} s, processor {found.cpu_s:.1f} s"
        return [
            (f"vectors, {name}", f"{vectors / 1e6:,.0f} MB/s, {seconds}"),
            (f"plain reading, {name}", f"{plain / 1e6:,.0f} MB/s, {found.plain_s:.1f} s"),
            (f"vectors / plain reading, {name}", f"{found.share:.0%}"),
        ]


@dataclass(frozen=True, slots=True)
class _Reading:
    cold: Pass | None
    warm: Pass
    peak_memory: int


def measure_arrays(
    folder: Path,
    *,
    rows: int = 205_200,
    layers: int = 4,
    d_model: int = 4096,
    chunk_rows: int = 512,
    keep: bool = False,
    watch: Callable[[str], None] = lambda _: None,
) -> ArrayBench:
    """Write a workspace of made-up activations into `folder`, read it plainly, build its vectors.

    `rows` counts stories; there is a dialogue for each round of the emotions. `folder` must be
    empty, and is deleted afterwards unless it is to be kept. `watch` hears of each step. Raises
    UsageError when the folder is not empty, the disk too small, or an emotion would get no two
    stories.
    """
    _check(folder, rows, rows * layers * d_model * 4)
    try:
        return _measure(folder, rows, layers, d_model, chunk_rows, watch)
    finally:
        if not keep:
            shutil.rmtree(folder)


def _check(folder: Path, rows: int, size: int) -> None:
    fewest = 2 * len(load_protocol(DEFAULT_PROTOCOL).names)
    if rows < fewest:
        raise UsageError(f"{rows} rows are too few: halves of every emotion need {fewest}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give a folder that is, or that is not there")
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < 1.2 * size:
        raise UsageError(
            f"{folder} has room for {free / 1e9:.1f} GB and {1.2 * size / 1e9:.1f} GB are needed; "
            "give a folder on another disk, or fewer rows"
        )


def _measure(
    folder: Path,
    rows: int,
    layers: int,
    d_model: int,
    chunk_rows: int,
    watch: Callable[[str], None],
) -> ArrayBench:
    workspace, protocol = Workspace(folder), load_protocol(DEFAULT_PROTOCOL)
    worlds = [planted(layer, len(protocol.names), d_model) for layer in range(layers)]
    sample = worlds[0].noise[np.arange(chunk_rows) % len(worlds[0].noise)].tobytes()
    with closing(open_database(workspace.database)) as conn:
        watch("making the ledger")
        began = time.perf_counter()
        write_texts(conn, protocol, rows)
        plan_arrays(
            conn, workspace, protocol, layers=layers, d_model=d_model, chunk_rows=chunk_rows
        )
        ledger_s = time.perf_counter() - began
        watch("writing")
        plain_s = _write_plainly(folder / "plain", sample)
        began = time.perf_counter()
        written = write_arrays(conn, workspace, worlds)
        write_s = time.perf_counter() - began
        plain_s += _write_plainly(folder / "plain", sample)
        files = chunk_files(conn, workspace, layers)
    watch("reading")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        reading = child.submit(_read, folder, layers, files).result()
    return ArrayBench(
        stories=rows,
        dialogues=-(-rows // len(protocol.names)),
        layers=layers,
        d_model=d_model,
        array_bytes=written,
        ledger_s=ledger_s,
        write_rate=written / write_s,
        plain_write_rate=2 * PLAIN_FILES * len(sample) / plain_s,
        cold=reading.cold,
        warm=reading.warm,
        peak_memory=reading.peak_memory,
        worst_error=_worst_error(workspace, worlds, rows),
    )


def _write_plainly(folder: Path, payload: bytes) -> float:
    folder.mkdir()
    began = time.perf_counter()
    for number in range(PLAIN_FILES):
        file = folder / str(number)
        file.write_bytes(payload)
        sync(file)
    took = time.perf_counter() - began
    shutil.rmtree(folder)
    return took


def chunk_files(conn: Connection, workspace: Workspace, layers: int) -> list[Path]:
    """Every chunk file in the order in which building vectors reads them."""
    return [
        chunk_path(layer_path(workspace, READER, CORPUS, kind, layer), chunk)
        for layer in range(layers)
        for kind in KINDS
        for chunk in layer_receipts(conn, READER, CORPUS, kind, layer)
    ]


def _read(folder: Path, layers: int, files: Sequence[Path]) -> _Reading:
    """Read everything cold, then warm; runs in a process of its own."""
    cold = None
    if _forget(files):
        before = _read_plainly(files)
        _forget(files)
        built = _build(folder, layers, 0.5)
        _forget(files)
        cold = Pass(min(before, _read_plainly(files)), *built)
    plain_s = min(_read_plainly(files) for _ in range(2))
    # another share of variance: what is built already would not be built again
    warm = Pass(plain_s, *_build(folder, layers, 0.4))
    return _Reading(cold, warm, peak_memory())


def _read_plainly(files: Sequence[Path]) -> float:
    buffer = bytearray(max(file.stat().st_size for file in files))
    began = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as source:
            source.readinto(buffer)
    return time.perf_counter() - began


def _build(folder: Path, layers: int, denoise: float) -> tuple[float, float]:
    """Build all vectors; seconds by the clock and of the processor."""
    workspace, protocol = Workspace(folder), load_protocol(DEFAULT_PROTOCOL)
    began, cpu = time.perf_counter(), time.process_time()
    with closing(open_database(workspace.database)) as conn:
        build_vectors(conn, workspace, protocol, READER, CORPUS, range(layers), denoise=denoise)
    return time.perf_counter() - began, time.process_time() - cpu


def _forget(files: Sequence[Path]) -> bool:
    """Drop the files from the system's memory; False where there is no way to ask for it."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        with file.open("rb") as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def peak_memory() -> int:
    """Bytes; on Linux of this program alone, where getrusage also counts what started it."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _worst_error(workspace: Workspace, worlds: Sequence[Planted], rows: int) -> float:
    worst = 0.0
    labels = story_labels(rows, len(worlds[0].centres))
    with closing(open_database(workspace.database, read_only=True)) as conn:
        for layer, world in enumerate(worlds):
            expected = world.vectors(labels)
            found = read_vectors(conn, workspace, READER, CORPUS, layer, "raw").vectors
            worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst
