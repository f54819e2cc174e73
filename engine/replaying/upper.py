"""Answers prompts by running only what an addition changes.

Prompts are read clean in bundles; then each bundle is launched with several variants at a time, the
first of which adds nothing. Knows nothing of whether that is right for a model: that is proved
elsewhere.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.heads import Head
from engine.models import Model
from engine.products import fast_products
from engine.replaying.anatomy import Anatomy
from engine.replaying.calls import Cut
from engine.replaying.keys import Pair, Stems
from engine.replaying.launching import Launch, Upper
from engine.replaying.plan import Bundle, bundle_apart, bundle_stems
from engine.replaying.prompts import Addition, Answers, Method, Steered, heed
from engine.replaying.reading import Reading, read

T = TypeVar("T")
Vectors = Mapping[int, Tensor]
"""Of each variant by layer, [v, d]; zeros for the first."""


class Sweeper:
    """Answers by one of the methods that run the upper blocks alone."""

    def __init__(
        self, model: Model, head: Head, tokens: Sequence[int], anatomy: Anatomy, method: Method
    ) -> None:
        self._model, self._head, self._tokens = model, head, tuple(tokens)
        self._anatomy = anatomy
        self.method = method

    def answer(
        self,
        prompts: Sequence[Steered],
        additions: Sequence[Addition],
        budget: int,
        stop: threading.Event | None = None,
    ) -> Answers:
        """As a replay answers, with `budget` tokens in a launch at most, if that can be."""
        shape = (len(prompts), len(self._tokens))
        clean, zero = np.empty(shape, np.float32), np.empty(shape, np.float32)
        logits = np.empty((len(additions), *shape), np.float32)
        drift = 0.0
        starts = {min(each.vectors) for each in additions} or {self._anatomy.first - 1}
        with torch.inference_mode(), fast_products(self._model.backbone.modules()):
            for bundle in self._bundle(prompts, 1 + len(additions), budget):
                members = list(bundle.members)
                reading = self._read([prompts[i] for i in members], starts)
                clean[members] = reading.logits.cpu().numpy()
                launches = self._launch(reading, bundle, additions, budget)
                for n, (chosen, came) in enumerate(launches):
                    heed(stop)
                    if n == 0:
                        zero[members] = came[0]
                    logits[np.ix_(chosen, members)] = came[1:]
                    # Unlike max, this keeps what is not a number.
                    drift = np.maximum(drift, np.abs(came[0] - clean[members]).max())
        return Answers(clean, zero, logits, float(drift))

    def _bundle(self, prompts: Sequence[Steered], runs: int, budget: int) -> list[Bundle]:
        if self.method == "prefix":
            return bundle_stems(prompts, runs, budget)
        return bundle_apart(prompts, budget)

    def _read(self, prompts: Sequence[Steered], starts: set[int]) -> Reading:
        axes = self._anatomy.axes
        return read(self._model, self._head, self._tokens, prompts, sorted(starts), axes)

    def _launch(
        self, reading: Reading, bundle: Bundle, additions: Sequence[Addition], budget: int
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Positions of some additions, and logits [1 + v, n, k] at strength 0 and with them."""
        keyed = self.method != "upper"
        longest = max(reading.lengths) - bundle.stem
        costliest = max(longest, bundle.groups * bundle.stem if bundle.steered else 0)
        for start in sorted(reading.states):
            upper = Upper(self._model, self._anatomy, start, keyed)
            own = [i for i, each in enumerate(additions) if min(each.vectors) == start]
            stems: dict[int, Pair] = {}
            for n, chosen in enumerate(_share(own, budget // costliest - 1) or [[]]):
                vectors = self._stack([additions[i] for i in chosen])
                runs = 1 + len(chosen)
                if bundle.stem and (bundle.steered or n == 0):
                    stems = _run_stems(upper, reading, bundle, vectors, runs)
                yield chosen, self._finish(upper, reading, bundle, vectors, runs, stems, budget)

    def _stack(self, additions: Sequence[Addition]) -> Vectors:
        nothing = np.zeros(self._model.d_model, np.float32)
        layers = sorted({layer for each in additions for layer in each.vectors})
        return {
            layer: torch.from_numpy(
                np.stack([nothing, *(each.vectors.get(layer, nothing) for each in additions)])
            )
            for layer in layers
        }

    def _finish(
        self,
        upper: Upper,
        reading: Reading,
        bundle: Bundle,
        vectors: Vectors,
        runs: int,
        stems: Mapping[int, Pair],
        budget: int,
    ) -> np.ndarray:
        """Logits [v, n, k] of all prompts of a bundle."""
        logits = np.empty((runs, len(reading.lengths), len(self._tokens)), np.float32)
        group = torch.tensor(bundle.group)
        order = sorted(range(len(reading.lengths)), key=lambda i: reading.lengths[i])
        for length, alike in groupby(order, key=lambda i: reading.lengths[i]):
            own = slice(bundle.stem, length)
            for part in _share(list(alike), budget // (runs * (length - bundle.stem))):
                rows = torch.tensor(part)
                launch = Launch(upper, reading, Cut(rows, own, length, runs), vectors)
                kept = {i: Stems(pair, bundle.groups, group[rows]) for i, pair in stems.items()}
                states = launch.finish(kept)
                came = self._head.logits(states, self._tokens).cpu().numpy()
                logits[:, part] = came.reshape(runs, len(part), -1)
        return logits


def _run_stems(
    upper: Upper, reading: Reading, bundle: Bundle, vectors: Vectors, runs: int
) -> dict[int, Pair]:
    """Keys and values of a bundle's stems, one run of them for all variants if none is steered."""
    firsts = torch.tensor([bundle.group.index(i) for i in range(bundle.groups)])
    cut = Cut(firsts, slice(0, bundle.stem), bundle.stem, runs if bundle.steered else 1)
    return Launch(upper, reading, cut, vectors if bundle.steered else {}).stems()


def _share(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut into parts of `size` at most (but at least 1), as even as can be."""
    parts = -(-len(items) // max(size, 1))
    edges = [len(items) * i // max(parts, 1) for i in range(parts + 1)]
    return [list(items[a:b]) for a, b in pairwise(edges)]
