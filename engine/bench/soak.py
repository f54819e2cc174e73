"""Runs a whole plan of stories against a loopback server: what does the engine itself cost?

The server runs in a process of its own and answers at once, so that all the time that passes is the
engine's and its client's. Knows nothing of models.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from engine.bench.server import Script, serve_apart
from engine.settings import GenerationSettings
from engine.stages import plan_generation, run_generation
from engine.tally import GenerationProgress
from engine.writers import GeminiWriter, OpenAIWriter, Writer
from stores.database import open_database
from stores.protocol import DEFAULT_PROTOCOL, Protocol, load_protocol
from stores.workspace import Workspace

Dialect = Literal["gemini", "openai"]
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Soak:
    """What planning and writing one plan took."""

    stories: int
    done: int
    calls: int
    plan_s: float
    replan_s: float
    replan_added: int
    run_s: float
    cpu_s: float
    """Processor time of this process during the run, all of its threads."""
    rejections: dict[str, int]
    memory_growth_mib: float
    """Resident memory at the end less that at a tenth of the way."""
    most_open_files: int
    server_calls: int

    columns: ClassVar[tuple[str, ...]] = ("measured", "value")

    @property
    def ms_per_story(self) -> float:
        """Wall time of the run per story, the server's included."""
        return 1000 * self.run_s / max(self.done, 1)

    @property
    def cpu_ms_per_story(self) -> float:
        return 1000 * self.cpu_s / max(self.done, 1)

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to see first."""
        refused = ", ".join(f"{reason} {n}" for reason, n in sorted(self.rejections.items()))
        return [
            ("engine and client, wall time of a story", f"{self.ms_per_story:.2f} ms"),
            ("the same, processor time", f"{self.cpu_ms_per_story:.2f} ms"),
            ("stories written / planned", f"{self.done} / {self.stories}"),
            ("calls", f"{self.calls}, received by the server {self.server_calls}"),
            ("replies refused", refused or "none"),
            ("planning", f"{self.plan_s:.2f} s"),
            ("planning again", f"{self.replan_s:.2f} s, {self.replan_added} rows added"),
            ("the run", f"{self.run_s:.1f} s, {self.done / max(self.run_s, 1e-9):.0f} stories/s"),
            ("memory, from 10% to the end", f"{self.memory_growth_mib:+.1f} MiB"),
            ("open files at most", str(self.most_open_files)),
        ]


@dataclass(slots=True)
class _Gauge:
    """Reads this process's memory and open files as the run goes on."""

    early_bytes: int = 0
    last_bytes: int = 0
    most_open_files: int = 0
    read_at: float = field(default=0.0)

    def look(self, progress: GenerationProgress) -> None:
        if time.monotonic() - self.read_at < 0.2 and progress.done < progress.total:
            return
        self.read_at = time.monotonic()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.last_bytes = pages * os.sysconf("SC_PAGE_SIZE")
        if not self.early_bytes and progress.done * 10 >= progress.total:
            self.early_bytes = self.last_bytes
        self.most_open_files = max(self.most_open_files, len(list(Path("/proc/self/fd").iterdir())))

    @property
    def growth_mib(self) -> float:
        return (self.last_bytes - self.early_bytes) / MIB


def measure_soak(
    folder: Path,
    *,
    topics: int = 100,
    per_topic: int = 12,
    workers: int = 64,
    dialect: Dialect = "gemini",
    watch: Callable[[GenerationProgress], None] = lambda _: None,
) -> Soak:
    """Plan all emotions x `topics` x `per_topic`, plan again, and let the server write them all.

    `folder` becomes the workspace and must be empty.
    """
    protocol = load_protocol(DEFAULT_PROTOCOL)
    settings = _settings(protocol, topics, per_topic, workers)
    gauge = _Gauge()

    def look(progress: GenerationProgress) -> None:
        gauge.look(progress)
        watch(progress)

    with closing(open_database(Workspace(folder).database)) as conn:
        planned, plan_s = _timed(lambda: plan_generation(conn, protocol, settings))
        added, replan_s = _timed(lambda: plan_generation(conn, protocol, settings))
        with serve_apart(Script(by_seed=True)) as server:
            writer, cpu = _writer(dialect, server.url), time.process_time()
            stop = threading.Event()
            summary = run_generation(conn, protocol, settings, writer, progress=look, stop=stop)
            cpu_s, server_calls = time.process_time() - cpu, server.calls
    return Soak(
        stories=planned,
        done=summary.done,
        calls=summary.calls,
        plan_s=plan_s,
        replan_s=replan_s,
        replan_added=added,
        run_s=summary.elapsed_s,
        cpu_s=cpu_s,
        rejections=dict(summary.rejections),
        memory_growth_mib=gauge.growth_mib,
        most_open_files=gauge.most_open_files,
        server_calls=server_calls,
    )


def _settings(protocol: Protocol, topics: int, per_topic: int, workers: int) -> GenerationSettings:
    return GenerationSettings(
        corpus="soak",
        kind="stories",
        emotions=protocol.names,
        topics=protocol.topics[:topics],
        per_topic=per_topic,
        per_call=per_topic,
        seed=0,
        max_attempts=5,
        workers=workers,
    )


def _writer(dialect: Dialect, url: str) -> Writer:
    if dialect == "gemini":
        return GeminiWriter(model="loopback", key="loopback-key", base_url=url)
    return OpenAIWriter(model="loopback", key="loopback-key", base_urls=(f"{url}/v1",))


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began
