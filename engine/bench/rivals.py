"""Ways to get pooled means out of a model: the extraction's own, and those that others take.

Each reads the same token ids with the same weights and gives the same numbers; a projection gives
theirs along its directions. TransformerLens and nnsight are used where they are installed; the
project does not need them. Knows nothing of clocks.
"""

import copy
import threading
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.bench.shapes import FIRST_TOKEN
from engine.budget import ExtractionBudget
from engine.models import Model, residual
from engine.packing import Batching, Segment, pad
from engine.pooling import ChunkPooler
from engine.projection.chunks import ChunkReader, CutDocument
from engine.projection.cutting import Beginning
from engine.projection.job import ProjectionSettings
from engine.projection.passes import TokenProjector
from engine.readings import Reading, TextReader
from stores.projections import KEPT_SNIPPETS, LayerChunk
from stores.samples import Document

Means = NDArray[np.float32]
"""Pooled means [n, l, d] in host memory, texts and layers in the order of the task."""

NAIVE_BATCH = 8
FILLER = FIRST_TOKEN
"""An ordinary token: behind a text it is seen by none of the text's own."""


@dataclass(frozen=True, slots=True)
class Task:
    """What every way is asked for: the means of `segments` at `layers`, which ascend."""

    model: Model
    segments: tuple[Segment, ...]
    layers: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens to be read, padding not counted."""
        return sum(len(segment.ids) for segment in self.segments)


Read = Callable[[Task, int], Means]
"""Reads all texts in batches of the size given: texts, or tokens for the extraction's own way."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Why a way is not measured, and what would help."""

    reason: str


def read_with_extraction(batching: Batching) -> Read:
    """The extraction's own code, under a budget of so many tokens a batch."""

    def read(task: Task, tokens: int) -> Means:
        pooler = ChunkPooler(task.model, batching, ExtractionBudget(tokens), threading.Event())
        every = range(len(task.segments))
        pools = pooler.pool(task.segments, every, task.layers, lambda _texts, _tokens: None)
        if pools is None or pools.too_large:
            raise torch.OutOfMemoryError(f"a text does not fit into a batch of {tokens} tokens")
        return pools.means

    return read


def read_with_projection(batching: Batching, directions: NDArray[np.float64]) -> Read:
    """A projection's own code in chunks of its own size, from token ids to the rows of its chunks.

    Each token is projected on `directions` [e, d], the same at each layer; what is kept are scores,
    summaries and snippets, which from the second chunk on must beat those that are kept. Left out
    are cutting and encoding texts, and the ledger. The means are along the directions: [n, l, e].
    """

    def read(task: Task, tokens: int) -> Means:
        along, stop = dict.fromkeys(task.layers, directions), threading.Event()
        projector = TokenProjector(task.model, batching, ExtractionBudget(tokens), stop, along)
        emotions = tuple(map(str, range(len(directions))))
        reader = _DrawnReader(
            TextReader(task.model, "raw", 0), projector, emotions, 0, task.segments
        )
        scores, best = [], _Best()
        for chunk in _chunks(task):
            part = reader.read(chunk, best.bars, lambda *_: None)
            if part is None or any(outcome.status != "done" for outcome in part.outcomes):
                raise torch.OutOfMemoryError(f"a text does not fit into a batch of {tokens} tokens")
            best.add(part.layers)
            scores.append(np.stack([part.layers[layer].scores for layer in task.layers], axis=1))
        return np.concatenate(scores)

    return read


class _Best:
    """The scores of the snippets that would be kept, of every layer and emotion."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], list[float]] = defaultdict(list)

    def add(self, layers: Mapping[int, LayerChunk]) -> None:
        for layer, part in layers.items():
            for each in part.snippets:
                insort(self._kept[layer, each.emotion], each.score)

    def bars(self, layer: int) -> dict[str, float]:
        return {
            emotion: kept[-KEPT_SNIPPETS]
            for (at, emotion), kept in self._kept.items()
            if at == layer and len(kept) >= KEPT_SNIPPETS
        }


def _chunks(task: Task) -> Iterator[list[Document]]:
    """As many documents as a projection reads together, each the number of a segment."""
    size = ProjectionSettings(
        reader="", corpus="", layers=task.layers, format="raw", start_token=0
    ).chunk_documents
    for first in range(0, len(task.segments), size):
        numbers = range(first, min(first + size, len(task.segments)))
        yield [Document(i, i, "", None, "", 0, "") for i in numbers]


@dataclass(frozen=True, slots=True)
class _DrawnReader(ChunkReader):
    """Documents that are segments already; each token is a letter."""

    segments: tuple[Segment, ...]

    def cut(self, documents: Sequence[Document]) -> list[CutDocument]:
        return [CutDocument(each, self._beginning(self.segments[each.id])) for each in documents]

    def _beginning(self, segment: Segment) -> Beginning:
        length = len(segment.ids)
        edges = tuple(range(length + 1))
        return Beginning("a" * length, False, Reading(segment, length, None), edges)


def read_plainly(task: Task, size: int = NAIVE_BATCH) -> Means:
    """The loop of many a replication: the whole model in the order given, with its unembedding.

    All hidden states are kept, those wanted are copied to the host, and pooled there.
    """
    network: Any = task.model.model
    means = _empty(task)
    for members in _batches(task, size, ordered=False):
        ids, mask, shares = _rectangle(task, members, task.model.pad_token)
        device = task.model.device
        with torch.inference_mode():
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            states = network(**inputs, output_hidden_states=True).hidden_states
        hosted = [states[layer + 1].cpu() for layer in task.layers]
        means[members] = _pool(shares, hosted).numpy()
    return means


def transformer_lens(task: Task) -> Read | Absent:
    """TransformerLens' own loader around a copy of the weights, leaving after the last layer."""
    if not find_spec("transformer_lens"):
        return Absent("not installed: pip install transformer-lens")
    bridge = import_module("transformer_lens.model_bridge").TransformerBridge
    wrapped = bridge.boot_transformers(
        task.model.name,
        # A copy: the loader changes the modules it is given.
        hf_model=copy.deepcopy(task.model.model),
        tokenizer=task.model.tokenizer,
        dtype=task.model.model.dtype,
        device=str(task.model.device),
    )

    def read(task: Task, size: int) -> Means:
        names = [f"blocks.{layer}.hook_resid_post" for layer in task.layers]
        means = _empty(task)
        for members in _batches(task, size, ordered=True):
            ids, _, shares = _rectangle(task, members, FILLER)
            with torch.inference_mode():
                _, cache = wrapped.run_with_cache(
                    ids.to(task.model.device),
                    names_filter=names,
                    stop_at_layer=task.layers[-1] + 1,
                )
                means[members] = _pool(shares, [cache[name] for name in names]).cpu().numpy()
        return means

    return read


def nnsight(task: Task) -> Read | Absent:
    """nnsight around the text decoder, stopping after the last layer."""
    if not find_spec("nnsight"):
        return Absent("not installed: pip install nnsight==0.8.1")
    library = import_module("nnsight")
    # A copy: it replaces the forward of every module that it wraps.
    traced, saved = library.NNsight(copy.deepcopy(task.model.backbone)), library.save

    def read(task: Task, size: int) -> Means:
        means = _empty(task)
        for members in _batches(task, size, ordered=True):
            ids, _, shares = _rectangle(task, members, FILLER)
            ids = ids.to(task.model.device)
            with torch.inference_mode():
                with traced.trace(input_ids=ids, use_cache=False) as tracer:
                    states = [residual(traced.layers[layer].output) for layer in task.layers]
                    pooled = saved(_pool(shares, states))
                    tracer.stop()
                means[members] = pooled.cpu().numpy()
        return means

    return read


def _empty(task: Task) -> Means:
    shape = (len(task.segments), len(task.layers), task.model.d_model)
    return np.empty(shape, np.float32)


def _batches(task: Task, size: int, *, ordered: bool) -> Iterator[list[int]]:
    """Positions of `size` texts at a time, `ordered` by length or as they come."""
    order = list(range(len(task.segments)))
    if ordered:
        order.sort(key=lambda i: len(task.segments[i].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _rectangle(task: Task, members: list[int], filler: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, shares), all [b, t], padded at the right; a row's shares add up to 1."""
    chosen = [task.segments[i] for i in members]
    ids, mask = pad([segment.ids for segment in chosen], filler, "right")
    shares = np.zeros(ids.shape, np.float32)
    for row, segment in zip(shares, chosen, strict=True):
        row[segment.pooled] = 1 / len(segment.ids[segment.pooled])
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(shares)


def _pool(shares: Tensor, states: list[Tensor]) -> Tensor:
    """Weighted means over tokens, float32 [b, l, d], where the states [b, t, d] are."""
    weights = shares.to(states[0].device).unsqueeze(1)
    return torch.cat([torch.bmm(weights, state.float()) for state in states], dim=1)
