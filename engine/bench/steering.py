"""Compares the plain way to steer with the replay, on a sample of one sweep, in one run.

Weights and token ids are random. Both ways answer the same questions with the same vectors; one
whose logits are wrong gets no ratio. Knows nothing of databases or terminals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from engine.bench.contest import Entry, Numbers, take_turns, timed
from engine.bench.drawing import draw_model
from engine.bench.pairs import PLAIN_BATCH, Pair, Sweep, draw_sweep, steer_plainly
from engine.bench.savings import count_savings
from engine.bench.shapes import find_shape
from engine.bench.steering_findings import SteeringBench, Way
from engine.models import default_layer
from engine.products import fast_products, has_onednn
from engine.replay import Addition, Replay, Steered, open_replay
from engine.replaying.proof import tolerance
from engine.weights import Quantize
from stores.errors import UsageError

__all__ = ["SteeringBench", "Way", "measure_steering"]

ACTIVITIES = 64
EMOTIONS, RANDOMS = 35, 8
PLAIN_VECTORS = 2
"""Vectors that the plain way is timed with: each costs it the same."""
NO_ROOM = "the questions find no memory; give a smaller shape, or 4-bit weights"


def measure_steering(
    *,
    shape: str = "small",
    device: str = "cpu",
    dtype: str = "auto",
    quantize: Quantize | None = None,
    layer: int | None = None,
    vectors: int = EMOTIONS + RANDOMS,
    activities: int = ACTIVITIES,
    firsts: int = 2,
    repeats: int = 3,
    seed: int = 0,
) -> SteeringBench:
    """Let each way answer the questions of `firsts` first options, in turns, `repeats` times.

    The replay answers them under every one of `vectors`, the plain way under two; both are brought
    to the whole sweep by counting questions and vectors. `layer` None is the block at two thirds of
    the depth; `shape` is a name in SHAPES, `dtype` and `quantize` what `load_model` takes. Raises
    UsageError.
    """
    found = find_shape(shape)
    n_layers = found.configuration().num_hidden_layers
    chosen = default_layer(n_layers) if layer is None else layer
    if not 0 <= chosen < n_layers - 1:
        raise UsageError(
            f"layer {chosen}: there must be blocks above the steered one; "
            f"choose from 0 to {n_layers - 2}"
        )
    if firsts % 2 or not 2 <= firsts <= activities:
        raise UsageError(
            f"{firsts} first options: one half is steered, the other not; choose an even number "
            f"from 2 to {activities}"
        )
    with TemporaryDirectory() as folder:
        model = draw_model(
            found, Path(folder), device=device, dtype=dtype, quantize=quantize, seed=seed
        )
        return _Bench(
            draw_sweep(model, chosen, activities, vectors, seed), firsts, repeats
        ).measure()


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A way that was timed on a sample, and what makes the whole sweep of it."""

    entry: Entry
    factor: float
    once_s: float = 0.0

    @property
    def whole(self) -> list[float]:
        """Seconds of the whole sweep, one for each round."""
        return [self.once_s + self.factor * each for each in self.entry.seconds]

    def times(self, other: "_Sampled") -> float | None:
        """How many times as long as `other` it takes: the median over rounds."""
        ratios = [mine / theirs for mine, theirs in zip(self.whole, other.whole, strict=False)]
        return median(ratios) if ratios else None


class _Bench:
    """One sweep, its sample, and the ways that take turns at it."""

    def __init__(self, sweep: Sweep, firsts: int, repeats: int) -> None:
        self._sweep, self._model = sweep, sweep.model
        self._pairs = sweep.sample(firsts)
        self._few = sweep.vectors[:PLAIN_VECTORS]
        self._repeats = repeats
        self._drift = 0.0

    def measure(self) -> SteeringBench:
        device = self._model.device
        opening = partial(open_replay, self._model, self._sweep.answers, (self._sweep.layer,))
        opening_s, replay = timed(opening, device)
        if opening_s is None or replay is None:
            raise UsageError(NO_ROOM)
        ways = [self._ours(replay, opening_s), *self._plain_ways()]
        take_turns([way.entry for way in ways], self._repeats, device)
        ours, plain = ways[0].entry.numbers, ways[1].entry.numbers
        if ours is None or plain is None:
            raise UsageError(NO_ROOM)
        still = steer_plainly(self._sweep, self._pairs, np.zeros_like(self._few[:1]))
        return SteeringBench(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            dtype=self._model.dtype,
            attention=self._model.attention,
            threads=torch.get_num_threads(),
            parameters=sum(each.numel() for each in self._model.model.parameters()),
            layer=self._sweep.layer,
            n_layers=self._model.n_layers,
            method=replay.method,
            reason=replay.reason,
            questions=len(self._sweep.pairs),
            vectors=len(self._sweep.vectors),
            sampled=len(self._pairs),
            repeats=self._repeats,
            opening_s=opening_s,
            moved=float(np.abs(plain - still).max()),
            drift=self._drift,
            savings=tuple(count_savings(self._sweep)),
            ways=self._compare(ways, plain),
        )

    @property
    def _share(self) -> float:
        return len(self._sweep.pairs) / len(self._pairs)

    def _ours(self, replay: Replay, opening_s: float) -> _Sampled:
        note = f"all {len(self._sweep.vectors)} vectors asked"
        entry = Entry(f"ours ({replay.method})", partial(self._replay, replay), note)
        return _Sampled(entry, self._share, opening_s)

    def _plain_ways(self) -> list[_Sampled]:
        """By torch's own products, and where ours uses others, by those too."""
        works: dict[str, Callable[[], Numbers]] = {"plain way": self._plain}
        if self._model.device.type == "cpu" and self._model.dtype == "float32" and has_onednn():
            works["plain way by oneDNN"] = self._plain_fast
        note = f"{len(self._few)} vectors asked, batches of {PLAIN_BATCH}, whole model, all logits"
        arms = (len(self._sweep.vectors) + 1) / len(self._few)
        return [_Sampled(Entry(way, work, note), self._share * arms) for way, work in works.items()]

    def _plain(self) -> Numbers:
        return steer_plainly(self._sweep, self._pairs, self._few)

    def _plain_fast(self) -> Numbers:
        with fast_products(self._model.model.modules()):
            return self._plain()

    def _replay(self, replay: Replay) -> Numbers:
        """Logits [m, n, 2] of all vectors, first option by first option, as a sweep asks them."""
        parts = [
            self._answer(replay, list(pairs))
            for _, pairs in groupby(self._pairs, lambda pair: pair.first)
        ]
        return np.concatenate(parts, axis=1)

    def _answer(self, replay: Replay, pairs: Sequence[Pair]) -> Numbers:
        """Pairs of controls are asked once: no vector touches them."""
        additions = [Addition({self._sweep.layer: vector}) for vector in self._sweep.vectors]
        found = np.empty((len(additions), len(pairs), 2), np.float32)
        touched = [bool(pair.where(self._sweep.steered)) for pair in pairs]
        for moved in set(touched):
            rows = [i for i, each in enumerate(touched) if each is moved]
            prompts = [Steered(pairs[i].ids, pairs[i].where(self._sweep.steered)) for i in rows]
            answers = replay.answer(prompts, additions if moved else ())
            found[:, rows] = answers.logits if moved else answers.clean
            self._drift = max(self._drift, answers.drift)
        return found

    def _compare(self, ways: Sequence[_Sampled], plain: Numbers) -> tuple[Way, ...]:
        """No ratio for a way whose logits are wrong, and none at all where ours are."""
        limit = tolerance(self._model.dtype, plain)
        rows = [self._row(way, ways[0], plain, limit) for way in ways]
        if rows[0].times is None:
            return tuple(replace(row, times=None) for row in rows)
        return tuple(rows)

    def _row(self, way: _Sampled, ours: _Sampled, plain: Numbers, limit: float) -> Way:
        numbers, note = way.entry.numbers, way.entry.note
        gap = None if numbers is None else float(np.abs(numbers[: len(plain)] - plain).max())
        wrong = gap is not None and not gap <= limit
        return Way(
            way=way.entry.way,
            times=None if wrong else way.times(ours),
            sweep_s=median(way.whole) if way.whole else None,
            difference=gap,
            note=f"wrong logits; {note}" if wrong else note,
        )
