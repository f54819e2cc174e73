"""Projects the tokens of one chunk on directions where they are computed, in one pass of a model.

What leaves the device is a number for each token and direction, and a norm for each token. Knows
nothing of texts, emotions or the ledger: segments and directions go in, scores come out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.capture import Recorder
from engine.models import Model
from engine.packing import Batching, Layout, Segment
from engine.pooling import Batch, BatchReader, Told
from engine.products import has_onednn, multiply


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Projections of the pooled tokens of n segments, text after text in the order of the segments.

    `scores` is float32 [e, t] for each layer, C-contiguous: column `bounds[i]` is the first pooled
    token of segment i, column `bounds[i + 1]` the first that is no longer its own. A segment that
    was not wanted has no columns and NaN norms; one in `too_large` has columns of NaN.
    """

    scores: Mapping[int, NDArray[np.float32]]
    bounds: NDArray[np.int64]
    """[n + 1], ascending from 0 to t."""
    norms: NDArray[np.float32]
    """Mean Euclidean norms of the residual stream over a text's pooled tokens, [n, l]."""
    too_large: set[int] = field(default_factory=set)
    """Positions of segments that do not fit the memory even alone."""

    def without(self, texts: Collection[int]) -> "TokenScores":
        """The same, but without the columns of these texts; the others' columns move up."""
        if not texts:
            return self
        lengths = np.diff(self.bounds)
        left = np.where(np.isin(np.arange(len(lengths)), list(texts)), 0, lengths)
        columns = np.repeat(left > 0, lengths)
        kept = {layer: rows.compress(columns, axis=1) for layer, rows in self.scores.items()}
        return TokenScores(kept, _bounds(left), self.norms, self.too_large)


@dataclass(slots=True)
class TokenProjector(BatchReader):
    """Reads segments and keeps the projections of their pooled tokens, in float32 throughout.

    `directions` are [e, d] for each layer, with the same e in all. Raises ValueError for others,
    and for layers that the model does not have.
    """

    directions: Mapping[int, NDArray[np.float64]]

    def project(
        self, segments: Sequence[Segment], wanted: Sequence[int], told: Told
    ) -> TokenScores | None:
        """Scores of those of `segments` at `wanted`; None after a stop.

        `told` hears the texts and the tokens of every batch that is done. Which texts share a batch
        depends on their lengths and on the budget at the start alone, as long as memory suffices.
        """
        projecting = Projecting(self.model, self.directions, self.batching)
        lengths = np.zeros(len(segments), dtype=np.int64)
        lengths[list(wanted)] = [_pooled_tokens(segments[i]) for i in wanted]
        bounds = _bounds(lengths)
        shape = (len(projecting.layers), projecting.directions, int(bounds[-1]))
        scores = np.full(shape, np.nan, np.float32)
        norms = np.full((len(segments), len(projecting.layers)), np.nan, np.float32)

        def keep(batch: Batch, rows: NDArray[np.float32]) -> None:
            edges = np.cumsum(lengths[list(batch)])[:-1]
            for i, own in zip(batch, np.split(rows, edges, axis=1), strict=True):
                scores[:, :, bounds[i] : bounds[i + 1]] = own[:, :, :-1].transpose(0, 2, 1)
                if lengths[i]:
                    norms[i] = own[:, :, -1].mean(axis=1)

        too_large = self.read(projecting, segments, wanted, keep, told)
        if too_large is None:
            return None
        by_layer = dict(zip(projecting.layers, scores, strict=True))
        return TokenScores(by_layer, bounds, norms, too_large)


class Projecting(Recorder[NDArray[np.float32]]):
    """Keeps a row of each pooled token, [l, t, e + 1]: its projections and, last, its norm."""

    def __init__(
        self, model: Model, directions: Mapping[int, NDArray[np.float64]], batching: Batching
    ) -> None:
        shapes = {each.shape for each in directions.values()}
        if len(shapes) != 1 or [shape[1:] for shape in shapes] != [(model.d_model,)]:
            raise ValueError(f"directions {sorted(shapes)}: expected [e, {model.d_model}], one e")
        self.directions = shapes.pop()[0]
        Recorder.__init__(self, model, sorted(directions), batching, self.directions + 1)
        self._weights = {
            layer: torch.from_numpy(np.array(each, np.float32, order="C")).to(model.device)
            for layer, each in directions.items()
        }

    def _rows_of(self, segment: Segment) -> int:
        return _pooled_tokens(segment)

    def _places(self, layout: Layout) -> NDArray[np.int64]:
        return layout.index[~layout.spare]

    def _fill(self, layer: int, tokens: Tensor, rows: Tensor) -> None:
        weight = self._weights[layer] = self._weights[layer].to(tokens.device)
        tokens = tokens.float()
        with _whole_products():
            rows[:, :-1] = _product(tokens, weight)
        rows[:, -1] = torch.linalg.vector_norm(tokens, dim=-1)

    def _read(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows


def _pooled_tokens(segment: Segment) -> int:
    return len(segment.ids[segment.pooled])


def _bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _product(tokens: Tensor, weight: Tensor) -> Tensor:
    """[t, e] of tokens [t, d] and weight [e, d]."""
    if tokens.device.type == "cpu" and has_onednn():
        return multiply(tokens, weight)
    return tokens @ weight.T


@contextmanager
def _whole_products() -> Iterator[None]:
    """No product of float32 is cut to TF32 or bfloat16 in the block, whatever the program allows.

    What the model itself may use stays as it was set: its states are to be those it always has.
    """
    backends: Any = torch.backends
    products = (backends.cuda.matmul, backends.mkldnn.matmul)
    allowed = [each.fp32_precision for each in products]
    try:
        for each in products:
            each.fp32_precision = "ieee"
        yield
    finally:
        for each, before in zip(products, allowed, strict=True):
            each.fp32_precision = before
