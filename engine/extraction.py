"""Reads every finished text with a model and stores its pooled activations, chunk by chunk.

Texts get rows, rows come in chunks; a chunk is computed in batches that depend on its texts alone
and is written whole, so that a run that was interrupted and resumed leaves the same bytes as one
that was not. A text that cannot be read becomes a status, not a crash. Knows nothing of emotions.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from engine.capture import Pooling, capture
from engine.checkpoints import Checkpoint
from engine.models import Model
from engine.packing import pack, pad
from engine.tokens import TokenizedText, encode_chat, encode_raw
from stores.activations import ArraySettings, RowOutcome, open_arrays, sweep_partials, write_chunk
from stores.database import Connection, digest
from stores.errors import NotReady
from stores.protocol import Protocol
from stores.rows import ChunkPlan, pending_chunks, plan_rows, read_texts, row_extent
from stores.texts import KINDS, Kind
from stores.workspace import Workspace

Fault = tuple[Literal["rejected", "failed"], str]


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as tokens; `length` counts its content, `fault` says why it is not read."""

    text: TokenizedText
    length: int
    fault: Fault | None


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
    tokens_per_batch: int = 4096
    """Rows times longest row of one forward pass, padding included."""
    chunk_rows: int = 512

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be ascending block numbers, not {self.layers}")
        if self.start_token < 0 or min(self.tokens_per_batch, self.chunk_rows) < 1:
            raise ValueError("needed: start_token >= 0, tokens_per_batch >= 1, chunk_rows >= 1")


@dataclass(frozen=True, slots=True)
class ExtractionProgress:
    """How far this run has come, over all kinds."""

    rows: int
    total: int
    tokens: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ExtractionSummary:
    """What a run did. `outcomes` counts rows by status, or by reason where there is one."""

    chunks: int
    rows: int
    tokens: int
    outcomes: Mapping[str, int]
    stopped: bool
    elapsed_s: float


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
        planned += row_extent(conn, reader, corpus, kind)
        chunks = pending_chunks(conn, reader, corpus, kind, settings.layers)
        waiting += sum(len(chunk.rows) for chunk in chunks)
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
    progress: Callable[[ExtractionProgress], None],
    stop: threading.Event,
) -> ExtractionSummary:
    """Read what is not read yet. After `stop` the chunk at hand is dropped: it has no receipt.

    Raises what `plan_extraction` raises, and ValueError for a layer that the model lacks.
    """
    arrays = array_settings(model, model.dtype, protocol, settings)
    total = plan_extraction(conn, workspace, arrays, settings)
    sweep_partials(workspace, settings.reader)
    reader = _Reader(conn, workspace, model, settings, progress, stop, total)
    return reader.run()


@dataclass(slots=True)
class _Reader:
    """One run: what it was given, and its tallies."""

    conn: Connection
    workspace: Workspace
    model: Model
    settings: ExtractionSettings
    progress: Callable[[ExtractionProgress], None]
    stop: threading.Event
    total: int
    rows: int = 0
    tokens: int = 0
    chunks: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def run(self) -> ExtractionSummary:
        settings = self.settings
        for kind in settings.kinds:
            here = (settings.reader, settings.corpus, kind)
            for plan in pending_chunks(self.conn, *here, settings.layers):
                if self.stop.is_set() or not self._read_chunk(kind, plan):
                    break
        elapsed = time.monotonic() - self.began
        outcomes, stopped = dict(self.outcomes), self.stop.is_set()
        return ExtractionSummary(self.chunks, self.rows, self.tokens, outcomes, stopped, elapsed)

    def _read_chunk(self, kind: Kind, plan: ChunkPlan) -> bool:
        """Read and write one chunk; False when a stop came first and nothing was written."""
        texts = read_texts(self.conn, kind, [row.text_id for row in plan.rows])
        found = [texts.get(row.text_id, "") for row in plan.rows]
        readings = [tokenize(self.model, text, self.settings) for text in found]
        pooled = self._pool(readings, plan.layers_missing)
        if pooled is None:
            return False
        finite = [bool(np.isfinite(means).all()) for means in pooled]
        outcomes = [
            _outcome(row.row, reading, sound)
            for row, reading, sound in zip(plan.rows, readings, finite, strict=True)
        ]
        blocks = {layer: pooled[:, i] for i, layer in enumerate(plan.layers_missing)}
        place = (self.settings.reader, self.settings.corpus, kind)
        write_chunk(self.conn, self.workspace, *place, plan.chunk, blocks, outcomes)
        self.chunks += 1
        self.outcomes.update(outcome.reason or outcome.status for outcome in outcomes)
        self._advance(sum(reading.fault is not None for reading in readings), 0)
        return True

    def _pool(
        self, readings: Sequence[Reading], layers: tuple[int, ...]
    ) -> NDArray[np.float32] | None:
        """Pooled means [n, l, d], NaN for texts that are not to be read; None after a stop."""
        sound = [i for i, reading in enumerate(readings) if reading.fault is None]
        lengths = [len(readings[i].text.ids) for i in sound]
        pooled = np.full((len(readings), len(layers), self.model.d_model), np.nan, np.float32)
        with capture(self.model, layers) as pooling:
            for batch in pack(lengths, self.settings.tokens_per_batch):
                if self.stop.is_set():
                    return None
                members = [sound[i] for i in batch]
                texts = [readings[i].text for i in members]
                pooled[members] = self._pool_batch(pooling, texts)
                self._advance(len(members), sum(len(text.ids) for text in texts))
        return pooled

    def _pool_batch(self, pooling: Pooling, texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
        ids, mask = pad([text.ids for text in texts], self.model.pad_token, "right")
        weights = np.zeros(ids.shape, np.float32)
        for i, text in enumerate(texts):
            weights[i, text.content.start + self.settings.start_token : text.content.stop] = 1
        means = pooling.pool(*(torch.from_numpy(array) for array in (ids, mask, weights)))
        return cast("NDArray[np.float32]", means.cpu().numpy())

    def _advance(self, rows: int, tokens: int) -> None:
        self.rows += rows
        self.tokens += tokens
        elapsed = time.monotonic() - self.began
        self.progress(ExtractionProgress(self.rows, self.total, self.tokens, elapsed))


def tokenize(model: Model, text: str, settings: ExtractionSettings) -> Reading:
    """Token ids of one text, and what forbids to read it, if anything does.

    At least one content token must be left after `start_token`. No text is cut to fit the model,
    and none may bring control tokens of its own into a chat.
    """
    encode = encode_raw if settings.format == "raw" else encode_chat
    tokenized = encode(model, text)
    length = tokenized.content.stop - tokenized.content.start
    control = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    forged = control.intersection(tokenized.ids[tokenized.content])
    fault: Fault | None = None
    if not text.strip():
        fault = ("failed", "empty")
    elif model.context is not None and len(tokenized.ids) > model.context:
        fault = ("failed", "too_long")
    elif length == 0 or forged:
        fault = ("failed", "unreadable")
    elif length <= settings.start_token:
        fault = ("rejected", "too_short")
    return Reading(tokenized, length, fault)


def _outcome(row: int, reading: Reading, finite: bool) -> RowOutcome:
    status, reason = reading.fault or ("done", None)
    if reading.fault is None and not finite:
        status, reason = "failed", "not_finite"
    ids = np.asarray(reading.text.ids, dtype="<i4")
    return RowOutcome(row, reading.length, digest(ids.tobytes()), status, reason)
