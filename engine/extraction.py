"""Reads every finished text with a model and stores its pooled activations, chunk by chunk.

Texts get rows, rows come in chunks; a chunk is computed in batches that depend on its texts and the
token budget alone and is written whole, so that a run that was interrupted and resumed leaves the
same bytes as one that was not. A text that cannot be read becomes a status, not a crash. Knows
nothing of emotions.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.budget import ExtractionBudget
from engine.checkpoints import Checkpoint
from engine.models import Model
from engine.packing import Batching
from engine.pooling import ChunkPooler, Pools
from engine.readings import NOT_FINITE, OUT_OF_MEMORY, Fault, Reading, TextReader, outcome_of
from engine.tokens import BOS_COUNTED
from stores.activations import ArraySettings, open_arrays, sweep_partials
from stores.chunks import Block, ChunkWriter, write_behind
from stores.database import Connection
from stores.errors import NotReady
from stores.failpoints import reach
from stores.protocol import Protocol
from stores.rows import (
    ChunkPlan,
    pending_chunks,
    plan_rows,
    read_texts,
    retry_rows,
    row_extent,
)
from stores.texts import KINDS, Kind
from stores.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionSettings:
    """What to read and how; `format`, `start_token` and the model are stored with the arrays."""

    reader: str
    corpus: str
    layers: tuple[int, ...]
    """Ascending 0-based blocks."""
    kinds: tuple[Kind, ...] = KINDS
    start_token: int = 50
    """Content tokens skipped before pooling; BOS and template tokens are not content."""
    format: Literal["raw", "chat"] = "raw"
    tokens_per_batch: int | None = None
    """Tokens of one forward pass, padding included; None: what fitted before, or the default."""
    chunk_rows: int = 512
    """Counts at the first extraction of a corpus only: arrays keep their chunks."""
    batching: Batching | Literal["auto"] = "auto"
    retry_memory: bool = False
    """Whether chunks with texts that memory could not hold are read again."""

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be ascending block numbers, not {self.layers}")
        tokens = 1 if self.tokens_per_batch is None else self.tokens_per_batch
        if self.start_token < 0 or min(tokens, self.chunk_rows) < 1:
            raise ValueError("needed: start_token >= 0, tokens_per_batch >= 1, chunk_rows >= 1")


@dataclass(frozen=True, slots=True)
class ExtractionProgress:
    """How far this run has come, over all kinds."""

    done: int
    """Rows, whatever became of them."""
    total: int
    tokens: int
    elapsed_s: float

    @property
    def told(self) -> str:
        """What a progress line says beside the bar."""
        return f"{self.tokens / max(self.elapsed_s, 1e-9):.0f} tokens/s"


@dataclass(frozen=True, slots=True)
class ExtractionSummary:
    """What a run did. `outcomes` counts rows by status, or by reason where there is one."""

    chunks: int = 0
    rows: int = 0
    tokens: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    stopped: bool = False
    elapsed_s: float = 0.0
    model_s: float = 0.0
    """Seconds of `elapsed_s` spent in the model's passes."""
    written_bytes: int = 0
    tokens_per_batch: int | None = None
    """The budget at the end; None when nothing was read."""
    shrunk: bool = False
    """Whether memory ran short."""


def array_settings(
    source: Model | Checkpoint, dtype: str, protocol: Protocol, settings: ExtractionSettings
) -> ArraySettings:
    """What identifies the arrays; known from a checkpoint before any weight is loaded."""
    return ArraySettings(
        model=source.name,
        revision=source.revision,
        weights_sha=source.weights_sha,
        n_layers=source.n_layers,
        d_model=source.d_model,
        start_token=settings.start_token,
        format=settings.format,
        dtype=dtype,
        protocol_digest=protocol.digest,
        bos_counted=BOS_COUNTED,
    )


def plan_extraction(
    conn: Connection, workspace: Workspace, arrays: ArraySettings, settings: ExtractionSettings
) -> int:
    """Give every done text a row and return how many rows wait to be read; needs no model.

    Raises FingerprintMismatch when the arrays were made with other settings, NotReady when the
    corpus holds no done text.
    """
    reader, corpus = settings.reader, settings.corpus
    planned = waiting = 0
    for kind in settings.kinds:
        open_arrays(conn, workspace, reader, corpus, kind, arrays, settings.chunk_rows)
        plan_rows(conn, reader, corpus, kind)
        if settings.retry_memory:
            retry_rows(conn, reader, corpus, kind, OUT_OF_MEMORY[1])
        planned += row_extent(conn, reader, corpus, kind)
        chunks = pending_chunks(conn, reader, corpus, kind, settings.layers)
        waiting += sum(len(chunk.rows) for chunk in chunks)
    reach("rows_planned")
    if planned == 0:
        raise NotReady(
            f"corpus {corpus} has no finished {' or '.join(settings.kinds)}; "
            f"run `cli.py generate stories --corpus {corpus}` first"
        )
    return waiting


def extract(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    model: Model,
    settings: ExtractionSettings,
    *,
    batching: Batching,
    budget: ExtractionBudget,
    progress: Callable[[ExtractionProgress], None],
    stop: threading.Event,
) -> ExtractionSummary:
    """Read what is not read yet. After `stop` the chunk at hand is dropped: it has no receipt.

    Raises what `plan_extraction` raises, EngineError when the disk refuses, and ValueError for a
    layer that the model lacks.
    """
    arrays = array_settings(model, model.dtype, protocol, settings)
    total = plan_extraction(conn, workspace, arrays, settings)
    sweep_partials(workspace, settings.reader)
    with write_behind(conn, workspace) as writer:
        run = _Extraction(
            conn,
            settings,
            TextReader(model, settings.format, settings.start_token),
            ChunkPooler(model, batching, budget, stop),
            writer,
            progress,
            total,
        )
        for kind in settings.kinds:
            run.read_kind(kind)
    return run.summary()


@dataclass(slots=True)
class _Extraction:
    """One run: what it was given, and its tallies."""

    conn: Connection
    settings: ExtractionSettings
    reader: TextReader
    pooler: ChunkPooler
    writer: ChunkWriter
    progress: Callable[[ExtractionProgress], None]
    total: int
    rows: int = 0
    tokens: int = 0
    chunks: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def read_kind(self, kind: Kind) -> None:
        """Read the open chunks of one kind, in order; after a stop no more of them."""
        settings = self.settings
        for plan in pending_chunks(
            self.conn, settings.reader, settings.corpus, kind, settings.layers
        ):
            if self.pooler.stop.is_set() or not self._read_chunk(kind, plan):
                break

    def summary(self) -> ExtractionSummary:
        """What was done, once everything is written."""
        return ExtractionSummary(
            chunks=self.chunks,
            rows=self.rows,
            tokens=self.tokens,
            outcomes=dict(self.outcomes),
            stopped=self.pooler.stop.is_set(),
            elapsed_s=time.monotonic() - self.began,
            model_s=self.pooler.seconds,
            written_bytes=self.writer.bytes_written,
            tokens_per_batch=self.pooler.budget.tokens,
            shrunk=self.pooler.budget.shrunk,
        )

    def _read_chunk(self, kind: Kind, plan: ChunkPlan) -> bool:
        """Read one chunk and hand it to the writer; False when a stop came first."""
        texts = read_texts(self.conn, kind, [row.text_id for row in plan.rows])
        readings = [self.reader.read(texts.get(row.text_id, "")) for row in plan.rows]
        reach("chunk_started")
        sound = [i for i, reading in enumerate(readings) if reading.fault is None]
        self._advance(len(readings) - len(sound), 0)
        segments = [reading.segment for reading in readings]
        pools = self.pooler.pool(segments, sound, plan.layers_missing, self._advance)
        if pools is None:
            return False
        reach("chunk_computed")
        faults = find_faults(readings, pools)
        outcomes = [
            outcome_of(row.row, reading, fault)
            for row, reading, fault in zip(plan.rows, readings, faults, strict=True)
        ]
        blocks = {
            layer: Block(pools.means[:, i], pools.norms[:, i])
            for i, layer in enumerate(plan.layers_missing)
        }
        here = (self.settings.reader, self.settings.corpus, kind)
        self.writer.write(here, plan.chunk, blocks, outcomes)
        self.chunks += 1
        self.outcomes.update(outcome.reason or outcome.status for outcome in outcomes)
        return True

    def _advance(self, rows: int, tokens: int) -> None:
        self.rows += rows
        self.tokens += tokens
        elapsed = time.monotonic() - self.began
        self.progress(ExtractionProgress(self.rows, self.total, self.tokens, elapsed))


def find_faults(readings: Sequence[Reading], pools: Pools) -> list[Fault | None]:
    """Why each text of a chunk has no numbers to use, or None."""
    faults = []
    for i, (reading, means, norms) in enumerate(
        zip(readings, pools.means, pools.norms, strict=True)
    ):
        finite = np.isfinite(means).all() and np.isfinite(norms).all()
        read = OUT_OF_MEMORY if i in pools.too_large else None if finite else NOT_FINITE
        faults.append(reading.fault or read)
    return faults
