"""Compares ways to read texts with a model and pool its residual stream, side by side in one run.

Weights and token ids are random; every way reads the same ids with the same weights, and one whose
numbers are wrong gets no ratio. Knows nothing of databases or terminals.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from engine.bench.contest import OUT_OF_MEMORY, Entry, distance, fastest, take_turns, timed
from engine.bench.drawing import draw_model
from engine.bench.findings import ExtractionBench, Row
from engine.bench.floor import Floor, libraries, needed_flops, passed_products, peak_side, peak_work
from engine.bench.rivals import (
    NAIVE_BATCH,
    Absent,
    Read,
    Task,
    nnsight,
    read_plainly,
    read_with_extraction,
    read_with_projection,
    transformer_lens,
)
from engine.bench.shapes import BOS, FIRST_TOKEN, find_shape
from engine.budget import DEFAULT_ELSEWHERE, DEFAULT_TOKENS
from engine.checkpoints import one_line
from engine.models import choose_device
from engine.packing import Batching, Segment, pack
from engine.selfcheck import TOLERANCES, choose_batching
from engine.weights import NF4, Quantize
from stores.errors import UsageError

__all__ = ["ExtractionBench", "Row", "measure_extraction"]

TEXTS, TEXTS_ELSEWHERE = {"cpu": 64}, 512
LENGTHS = (100, 200)
"""The shortest and the longest text, in tokens; lengths between them are drawn alike."""
START = 50
"""Content tokens before the pooled ones, as an extraction skips them."""
DIRECTIONS = 171
PROJECTED = f"ours, projected on {DIRECTIONS} directions"
RIVAL_SIZES = (4, 8, 16, 32, 64)
FLOOR_SHARES = (1, 2, 4, 8)
"""The floor's batches hold a whole, a half, ... of what the extraction's hold."""
BATCHINGS: tuple[Batching, ...] = ("padded", "packed", "alone")
PEAK_RUNS = 5
# Code of others may fail in ways of its own on a model that it does not know.
FOREIGN_ERRORS = (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError)


def measure_extraction(
    *,
    shape: str = "small",
    device: str = "cpu",
    dtype: str = "auto",
    quantize: Quantize | None = None,
    layers: str | None = None,
    texts: int | None = None,
    repeats: int = 3,
    memory_limit_gb: float | None = None,
    seed: int = 0,
) -> ExtractionBench:
    """Let each way read the same texts, in turns, `repeats` times.

    `shape` is a name in SHAPES; `layers` what `parse_layers` takes, None the shape's own; `dtype`
    and `quantize` what `load_model` takes; `texts` None is 64 on a CPU, 512 on a card.
    `memory_limit_gb` (10^9 bytes) makes a larger card as small as that. Raises UsageError.
    """
    found, where = find_shape(shape), choose_device(device)
    wanted = found.wanted(layers)
    limit_memory(where, memory_limit_gb)
    with TemporaryDirectory() as folder:
        model = draw_model(
            found, Path(folder), device=device, dtype=dtype, quantize=quantize, seed=seed
        )
        vocabulary = found.configuration().vocab_size
        count = texts or TEXTS.get(where.type, TEXTS_ELSEWHERE)
        task = Task(model, draw_texts(count, vocabulary, seed), wanted)
        return _Bench(task, draw_directions(DIRECTIONS, model.d_model, seed), repeats).measure()


def limit_memory(device: torch.device, gb: float | None) -> None:
    """Let this program use no more than `gb` * 10^9 bytes of a card. Raises UsageError."""
    if gb is None:
        return
    if device.type != "cuda":
        raise UsageError(f"memory limit {gb} GB: only a card's memory can be limited; leave it out")
    share = gb * 1e9 / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)


def draw_texts(texts: int, vocabulary: int, seed: int) -> tuple[Segment, ...]:
    """Random ids after one BOS, in lengths of stories; pooled from where an extraction would."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(LENGTHS[0], LENGTHS[1] + 1, texts)
    drawn = (rng.integers(FIRST_TOKEN, vocabulary, length - 1).tolist() for length in lengths)
    return tuple(Segment((BOS, *ids), slice(1 + START, len(ids) + 1)) for ids in drawn)


def draw_directions(directions: int, width: int, seed: int) -> NDArray[np.float64]:
    """Random directions [e, d] of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((directions, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


class _Bench:
    """One task, and the ways that take turns at it."""

    def __init__(self, task: Task, directions: NDArray[np.float64], repeats: int) -> None:
        self._task, self._model, self._device = task, task.model, task.model.device
        self._half = replace(task, segments=task.segments[::2])
        self._lengths = [len(segment.ids) for segment in task.segments]
        self._products = passed_products(self._model, task.layers[-1])
        self._directions, self._repeats = directions, repeats
        self._budget = DEFAULT_TOKENS.get(self._device.type, DEFAULT_ELSEWHERE)

    def measure(self) -> ExtractionBench:
        chosen = choose_batching(self._model, self._task.layers).batching
        ours = self._ours(f"ours ({chosen}, as chosen)", chosen, self._task)
        memory = self._peak_memory(ours)  # before a rival holds any
        last = replace(self._task, layers=self._task.layers[-1:])
        one = self._ours("ours, the last layer alone", chosen, last)
        others = [self._ours(f"ours, {b}", b, self._task) for b in BATCHINGS if b != chosen]
        projected = self._projected(chosen)
        plain = self._plain()
        rivals = [
            self._rival("TransformerLens", transformer_lens),
            self._rival("nnsight", nnsight),
        ]
        floor, peaks = self._floor(), self._peaks()
        entries = [ours, *others, plain, *rivals, one, projected, floor]
        take_turns([*entries, *peaks], self._repeats, self._device)
        if not ours.seconds:
            raise UsageError("the texts find no memory; give a smaller shape, or 4-bit weights")
        reference = next(e for e in (plain, *others, ours) if e.numbers is not None)
        rows = tuple(self._rows(entries, ours, reference))
        times = {row.way: row.times for row in rows}
        alone, slower = times[one.way], times[projected.way]
        least = min(seconds for peak in peaks for seconds in peak.seconds)
        return ExtractionBench(
            device=_name(self._device),
            weights=sum(products.weights for products in self._products),
            dtype=self._model.dtype,
            attention=self._model.attention,
            threads=torch.get_num_threads(),
            layers=self._task.layers,
            texts=len(self._task.segments),
            tokens=self._task.tokens,
            repeats=self._repeats,
            reference=reference.way,
            ways=rows,
            floor_share=times[floor.way],
            directions=DIRECTIONS,
            projected_share=None if slower is None else 1 / slower,
            layers_cost=None if alone is None else 1 / alone - 1,
            tflops=needed_flops(self._products, self._lengths) / median(ours.seconds) / 1e12,
            peak_tflops=2 * peak_side(self._device) ** 3 / least / 1e12,
            peak_memory_gb=memory,
        )

    def _ours(self, way: str, batching: Batching, task: Task) -> Entry:
        read = read_with_extraction(batching)
        return Entry(way, partial(read, task, self._budget), f"{self._budget} tokens a batch")

    def _projected(self, batching: Batching) -> Entry:
        read = read_with_projection(batching, self._directions)
        note = "token by token, up to the rows of the ledger, from token ids"
        return Entry(PROJECTED, partial(read, self._task, self._budget), note)

    def _plain(self) -> Entry:
        note = f"batches of {NAIVE_BATCH} as they come, whole model, pooled on the host"
        return Entry("plain loop", partial(read_plainly, self._task, NAIVE_BATCH), note)

    def _rival(self, way: str, prepare: Callable[[Task], Read | Absent]) -> Entry:
        """A rival at its own best batch size, found on half of the texts."""
        half = len(self._half.segments)
        sizes = [size for size in RIVAL_SIZES if size <= half] or [half]
        try:
            _, made = timed(partial(prepare, self._task), self._device)
            read = made or Absent(OUT_OF_MEMORY)
            if isinstance(read, Absent):
                return Entry(way, None, read.reason)
            size = fastest(sizes, partial(read, self._half), self._device)
        except FOREIGN_ERRORS as error:
            return Entry(way, None, f"does not take this model: {one_line(error)}")
        if size is None:
            return Entry(way, None, OUT_OF_MEMORY)
        note = f"early stop, sorted, batches of {size}: its best"
        return Entry(way, partial(read, self._task, size), note)

    def _floor(self) -> Entry:
        """The products in padded batches, by the library and of the size that suit them best."""
        way = "matrix products alone"
        build = partial(Floor, self._model, self._task.layers[-1], self._budget)
        _, floor = timed(build, self._device)
        if floor is None:
            return Entry(way, None, OUT_OF_MEMORY)
        half = [len(segment.ids) for segment in self._half.segments]
        sizes = [self._budget // share for share in FLOOR_SHARES]
        best = fastest(
            list(product(libraries(self._model), sizes)),
            lambda choice: floor.run(choice[0], _batches(half, choice[1])),
            self._device,
        )
        if best is None:
            return Entry(way, None, OUT_OF_MEMORY)
        library, tokens = best
        work = partial(floor.run, library, _batches(self._lengths, tokens))
        return Entry(way, work, f"the floor; by {library}, {tokens} tokens a batch: its best")

    def _peaks(self) -> list[Entry]:
        """Large products, several in a round: the fastest of all is the peak."""
        works = [
            peak_work(self._device, self._model.dtype, library)
            for library in libraries(self._model)
        ]
        return [Entry("large product", work) for work in works for _ in range(PEAK_RUNS)]

    def _peak_memory(self, ours: Entry) -> float | None:
        """One run of ours, which warms up as well; in 10^9 bytes."""
        card = self._device.type == "cuda"
        if card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        if ours.work is not None:
            timed(ours.work, self._device)
        return torch.cuda.max_memory_reserved(self._device) / 1e9 if card else None

    def _rows(self, entries: Sequence[Entry], ours: Entry, reference: Entry) -> Iterator[Row]:
        """No ratio for a way whose numbers are wrong, and none at all where ours are."""
        tolerance = TOLERANCES[self._model.dtype.removeprefix(NF4)]
        gaps = {entry.way: self._gap(entry, reference) for entry in entries}
        wrong = {way for way, gap in gaps.items() if gap is not None and not gap <= tolerance}
        for entry in entries:
            times = None if {entry.way, ours.way} & wrong else entry.times(ours)
            note = f"wrong numbers; {entry.note}" if entry.way in wrong else entry.note
            rate = self._task.tokens / median(entry.seconds) if entry.seconds else None
            yield Row(entry.way, times, rate, gaps[entry.way], note)

    def _gap(self, entry: Entry, reference: Entry) -> float | None:
        """How far the numbers are from the reference's; a way with fewer layers has the last ones,
        and one that projects has what they are along the directions."""
        if entry.numbers is None or reference.numbers is None:
            return None
        right = reference.numbers[:, -entry.numbers.shape[1] :]
        if entry.way == PROJECTED:
            right = (right @ self._directions.T).astype(np.float32)
        return distance(entry.numbers, right)


def _batches(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """(rows, longest row) of padded batches."""
    packed = pack(lengths, tokens)
    return [(len(batch), max(lengths[i] for i in batch)) for batch in packed]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
