"""Reads the texts of one chunk, batch by batch, and asks for less at once when memory runs short.

Knows nothing of texts, arrays or the ledger: segments go in, rows of numbers come out.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray

from engine.budget import ExtractionBudget
from engine.capture import Kept, Pending, Pooled, Pooling, Recorder, recording
from engine.memory import is_out_of_memory
from engine.models import Model
from engine.packing import Batching, Segment, pack

IN_FLIGHT = 2
"""Batches begun and not yet collected: one computes while the other is copied to the host."""

Batch = tuple[int, ...]
Told = Callable[[int, int], None]
"""Is told the texts and the tokens of every batch that is done."""


@dataclass(slots=True)
class Pools:
    """Pooled rows of n segments: means [n, l, d], norms [n, l], float32; NaN where not read."""

    means: NDArray[np.float32]
    norms: NDArray[np.float32]
    too_large: set[int] = field(default_factory=set)
    """Positions of segments that do not fit the memory even alone."""


@dataclass(slots=True)
class BatchReader:
    """Reads segments in batches with one model under one token budget; keeps the time that took."""

    model: Model
    batching: Batching
    budget: ExtractionBudget
    stop: threading.Event
    seconds: float = field(default=0.0, init=False)

    def read(
        self,
        recorder: Recorder[Kept],
        segments: Sequence[Segment],
        wanted: Sequence[int],
        keep: Callable[[Batch, Kept], None],
        told: Told,
    ) -> set[int] | None:
        """Hand each batch of the segments at `wanted` to `keep`, in any order; None after a stop.

        Returned are the positions of those that do not fit the memory even alone. Which texts share
        a batch depends on their lengths and on the budget at the start alone, as long as the memory
        suffices.
        """
        began = time.monotonic()
        try:
            with recording(recorder):
                work = _Work(self, recorder, segments, keep, told)
                return work.too_large if work.run(wanted) else None
        finally:
            self.seconds += time.monotonic() - began


@dataclass(slots=True)
class ChunkPooler(BatchReader):
    """Keeps the pooled means and norms of what is read."""

    def pool(
        self,
        segments: Sequence[Segment],
        wanted: Sequence[int],
        layers: tuple[int, ...],
        told: Told,
    ) -> Pools | None:
        """Rows of `segments`, of which only those at `wanted` are read; None after a stop."""
        shape = (len(segments), len(layers))
        means = np.full((*shape, self.model.d_model), np.nan, np.float32)
        norms = np.full(shape, np.nan, np.float32)

        def keep(batch: Batch, pooled: Pooled) -> None:
            rows = list(batch)
            means[rows], norms[rows] = pooled.means, pooled.norms

        pooling = Pooling(self.model, layers, self.batching)
        too_large = self.read(pooling, segments, wanted, keep, told)
        return None if too_large is None else Pools(means, norms, too_large)


@dataclass(slots=True)
class _Work(Generic[Kept]):
    """The batches of one chunk: waiting, under way, done."""

    reader: BatchReader
    recorder: Recorder[Kept]
    segments: Sequence[Segment]
    keep: Callable[[Batch, Kept], None]
    told: Told
    too_large: set[int] = field(default_factory=set)
    waiting: deque[Batch] = field(default_factory=deque)
    under_way: deque[tuple[Batch, Pending[Kept]]] = field(default_factory=deque)
    tried: set[Batch] = field(default_factory=set)
    """Texts for which memory ran short alone, once."""

    def run(self, wanted: Sequence[int]) -> bool:
        """Read them all; False when a stop came first."""
        self._cut(wanted)
        while self.waiting or self.under_way:
            if self.reader.stop.is_set():
                return False
            if self.waiting and len(self.under_way) < IN_FLIGHT:
                self._start(self.waiting.popleft())
            else:
                self._collect()
        return True

    def _cut(self, wanted: Sequence[int]) -> None:
        """Batches of what is wanted, by the budget as it is now."""
        lengths = [len(self.segments[i].ids) for i in wanted]
        padded = self.reader.batching != "packed"
        batches = pack(lengths, self.reader.budget.tokens, padded=padded)
        self.waiting = deque(tuple(wanted[i] for i in batch) for batch in batches)

    def _start(self, batch: Batch) -> None:
        try:
            pending = self.recorder.start([self.segments[i] for i in batch])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            self.under_way.append((batch, pending))
            return
        self._retry(batch)  # out of the handler, whose traceback holds on to what was allocated

    def _retry(self, batch: Batch) -> None:
        """A batch did not fit: its texts again in halves, at last one alone, and that twice."""
        while self.under_way:
            self._collect()
        torch.cuda.empty_cache()
        if len(batch) > 1:
            self.reader.budget.shrink(self._size(batch))
            self._cut(sorted([*batch, *(i for later in self.waiting for i in later)]))
        elif batch not in self.tried:  # something beside it may have held the memory
            self.tried.add(batch)
            self.waiting.appendleft(batch)
        else:
            self.too_large.update(batch)
            self.told(1, 0)

    def _size(self, batch: Batch) -> int:
        """What a batch counts against the budget: tokens, padding included where there is any."""
        lengths = [len(self.segments[i].ids) for i in batch]
        packed = self.reader.batching == "packed"
        return sum(lengths) if packed else len(lengths) * max(lengths)

    def _collect(self) -> None:
        """Wait for the oldest batch and hand its rows on."""
        batch, pending = self.under_way.popleft()
        self.keep(batch, pending.wait())
        self.reader.budget.succeed()
        self.told(len(batch), sum(len(self.segments[i].ids) for i in batch))
