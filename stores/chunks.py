"""Writes whole chunks durably, with their receipts: behind the caller's back, or one at a time.

A chunk's bytes are durable first; its receipt comes last, in one transaction with the statuses of
its rows. Two laws follow, even under kill -9: the file of every receipt holds the bytes the receipt
says, and a row that is not pending has a receipt. Threads write files; the ledger is written by the
caller's thread alone. Knows nothing of models, or of which text is which row.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.activations import RowOutcome, layer_metadata, layer_path, require_layer
from stores.arrays import ChunkFile, encode_chunk, write_payload
from stores.database import Connection, now_text, transaction
from stores.errors import FingerprintMismatch
from stores.failpoints import reach
from stores.receipts import HERE, Here, chunk_length, drop_receipts
from stores.texts import Kind
from stores.workspace import Workspace

QUEUE = 2
WRITERS = 4  # more than cores: a file waits for the disk longer than it is digested


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One layer of a chunk: a row per outcome, in the order of the outcomes."""

    means: NDArray[np.float32]
    """[rows, d_model]: the pooled mean of each text."""
    norms: NDArray[np.float32]
    """[rows]: the mean residual norm of each text, over the tokens that are pooled."""


@dataclass(frozen=True, slots=True, eq=False)
class _Underway:
    """A chunk whose files are being written, and what its receipts will say."""

    here: Here
    chunk: int
    outcomes: Sequence[RowOutcome]
    norms: Mapping[int, float | None]
    files: Mapping[int, Future[ChunkFile]]

    def is_over(self) -> bool:
        """True when no thread works for it any more, with whatever result."""
        return all(file.done() for file in self.files.values())

    def is_durable(self) -> bool:
        """True when every file is on the disk; waits for nothing."""
        files = self.files.values()
        return self.is_over() and not any(file.cancelled() or file.exception() for file in files)

    def is_at(self, here: Here, chunk: int) -> bool:
        return (self.here, self.chunk) == (here, chunk)


class ChunkWriter:
    """Takes chunks one after the other and commits each once its files are durable.

    Made by `write_behind`, for the thread that opened the ledger. After an error of the disk every
    further call raises it again.
    """

    def __init__(
        self, conn: Connection, workspace: Workspace, queue: int, threads: ThreadPoolExecutor
    ) -> None:
        self._conn = conn
        self._workspace = workspace
        self._queue = queue
        self._threads = threads
        self._underway: deque[_Underway] = deque()
        self._required: dict[Path, dict[str, Any]] = {}
        self.waited_s = 0.0
        """Seconds for which files and ledger held the caller back."""
        self.bytes_written = 0
        """Bytes of the chunk files that have got a receipt."""

    def write(
        self, here: Here, chunk: int, blocks: Mapping[int, Block], outcomes: Sequence[RowOutcome]
    ) -> None:
        """Hand over one chunk of some layers; wait first while the queue is full.

        `outcomes` are of all the rows planned in the chunk; the blocks follow their order and are
        copied, so that the caller may use the arrays again. A row that is not done is stored as
        NaN, and one that was given up at another layer stays given up. What is durable by now is
        committed.

        Raises:
            ValueError: rows, shapes or numbers do not fit the plan.
            FingerprintMismatch: the same text has other tokens than at another layer.
            EngineError: the disk refuses, now or for an earlier chunk.
        """
        self._make_room(here, chunk)
        settled = _agree_with_other_layers(self._conn, here, chunk, tuple(blocks), outcomes)
        done = np.array([outcome.status == "done" for outcome in settled])
        norms = {layer: _mean_norm(block, done) for layer, block in blocks.items()}
        first = chunk * chunk_length(self._conn, *here)
        wanted = {layer: layer_metadata(self._conn, *here, layer) for layer in blocks}
        places = np.array([outcome.row for outcome in settled]) - first
        kept = slice(None) if done.all() else done  # a slice costs no copy
        payloads = {
            layer: encode_chunk(wanted[layer], chunk, block.means[kept], places[kept])
            for layer, block in blocks.items()
        }
        with transaction(self._conn):  # the bytes of these receipts are about to be replaced
            drop_receipts(self._conn, *here, chunk, blocks)
        reach("receipts_dropped")
        paths = {layer: self._require(here, layer, wanted[layer]) for layer in blocks}
        files = {
            layer: self._threads.submit(write_payload, paths[layer], chunk, payload)
            for layer, payload in payloads.items()
        }
        self._underway.append(_Underway(here, chunk, settled, norms, files))

    def flush(self) -> None:
        """Wait until every chunk is durable and has its receipts; raises what a thread raised."""
        while self._underway:
            self._commit_oldest()

    def save_durable(self) -> None:
        """Begin no more files; commit the chunks that are durable and drop the others."""
        self._threads.shutdown(cancel_futures=True)
        while self._underway:
            if self._underway[0].is_durable():
                self._commit_oldest()
            else:
                self._underway.popleft()

    def _make_room(self, here: Here, chunk: int) -> None:
        """Commit the oldest chunks until there is a place in the queue, and none is this one."""
        while self._underway and (
            self._underway[0].is_over()
            or len(self._underway) >= self._queue
            or any(underway.is_at(here, chunk) for underway in self._underway)
        ):
            self._commit_oldest()

    def _require(self, here: Here, layer: int, wanted: dict[str, Any]) -> Path:
        """The folder of a layer's array; looked at once, and again when the array grows."""
        path = layer_path(self._workspace, *here, layer)
        if self._required.get(path) != wanted:
            require_layer(self._conn, self._workspace, *here, layer)
            self._required[path] = wanted
        return path

    def _commit_oldest(self) -> None:
        oldest = self._underway[0]
        began = time.monotonic()
        try:
            files = {layer: file.result() for layer, file in oldest.files.items()}
            reach("bytes_written")
            with transaction(self._conn):
                _record_chunk(self._conn, oldest, files)
        finally:
            self.waited_s += time.monotonic() - began
        reach("receipts_written")
        self.bytes_written += sum(file.size for file in files.values())
        self._underway.popleft()


@contextmanager
def write_behind(
    conn: Connection, workspace: Workspace, *, queue: int = QUEUE
) -> Iterator[ChunkWriter]:
    """A writer for the block, with threads of its own; memory holds at most `queue` of its chunks.

    Leaving the block flushes. After an exception in it, whatever it was, what is durable gets its
    receipts and the rest is dropped; no thread is left.
    """
    with ThreadPoolExecutor(WRITERS, "chunk-writer") as threads:
        writer = ChunkWriter(conn, workspace, queue, threads)
        try:
            yield writer
            writer.flush()
        except BaseException:
            writer.save_durable()
            raise


def write_chunk(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str,
    kind: Kind,
    chunk: int,
    blocks: Mapping[int, Block],
    outcomes: Sequence[RowOutcome],
) -> None:
    """Store one chunk of some layers and return when it has its receipts; see `ChunkWriter.write`.

    The same bytes as behind the caller's back, without the speed.
    """
    with write_behind(conn, workspace) as writer:
        writer.write((reader, corpus, kind), chunk, blocks, outcomes)


def _agree_with_other_layers(
    conn: Connection,
    here: Here,
    chunk: int,
    layers: Sequence[int],
    outcomes: Sequence[RowOutcome],
) -> list[RowOutcome]:
    """The outcomes to record: a row is done only if it is done at every layer of its chunk."""
    size = chunk_length(conn, *here)
    query = f"SELECT * FROM activations WHERE {HERE} AND row >= ? AND row < ?"
    span = (*here, chunk * size, (chunk + 1) * size)
    planned = {row["row"]: row for row in conn.execute(query, span)}
    given = sorted(outcome.row for outcome in outcomes)
    if not layers or not planned or given != sorted(planned):
        raise ValueError(f"chunk {chunk} of {'/'.join(here)}: give all planned rows, and a layer")
    query = f"SELECT layer FROM receipts WHERE {HERE} AND chunk = ?"
    others = {layer for (layer,) in conn.execute(query, (*here, chunk))} - set(layers)
    if not others:
        return list(outcomes)
    return [_merge(planned[outcome.row], outcome, here) for outcome in outcomes]


def _merge(stored: sqlite3.Row, outcome: RowOutcome, here: Here) -> RowOutcome:
    known = stored["tokens_sha"]
    if known and outcome.tokens_sha and known != outcome.tokens_sha:
        raise FingerprintMismatch(
            f"row {outcome.row} of {'/'.join(here)} has other tokens now than at the layers stored "
            "before: the tokenizer changed; name another --reader"
        )
    if stored["status"] in ("rejected", "failed"):
        return replace(outcome, status=stored["status"], reason=stored["reason"])
    return outcome


def _mean_norm(block: Block, done: NDArray[np.bool_]) -> float | None:
    """The mean norm of the rows that are done; None when none is."""
    if not len(block.means) == len(block.norms) == len(done):
        given = f"{len(block.means)} rows of numbers and {len(block.norms)} norms"
        raise ValueError(f"{given} for {len(done)} outcomes")
    finite = np.isfinite(block.means).all(axis=1) & np.isfinite(block.norms)
    if not finite[done].all():
        raise ValueError("a row that is done has numbers that are not finite; fail it instead")
    return float(block.norms[done].mean(dtype=np.float64)) if done.any() else None


def _record_chunk(conn: Connection, written: _Underway, files: Mapping[int, ChunkFile]) -> None:
    """Receipts and row statuses; also a second time, when an interrupt came right after."""
    here, outcomes, now = written.here, written.outcomes, now_text()
    done = sum(outcome.status == "done" for outcome in outcomes)
    conn.executemany(
        "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(*here, layer, written.chunk, file.sha256, file.size, len(outcomes), now),
                *(written.norms[layer], done),
            )
            for layer, file in sorted(files.items())
        ],
    )
    conn.executemany(
        "UPDATE activations SET status = ?, reason = ?, tokens = ?, tokens_sha = ? "
        f"WHERE {HERE} AND row = ?",
        [(o.status, o.reason, o.tokens, o.tokens_sha, *here, o.row) for o in outcomes],
    )
