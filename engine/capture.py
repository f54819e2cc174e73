"""Records the residual stream of chosen layers and pools it where it is computed.

Only what is kept of a text leaves the device: its pooled means, [n, l, d] instead of [n, t, l, d],
or what another recorder makes of its tokens. The forward pass runs the text backbone without its
unembedding and stops after the last wanted block. Knows nothing of texts or files: which tokens
count is said by the segments given.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.models import Model, hooked
from engine.packing import Batching, Layout, Segment, lay_end_to_end, lay_side_by_side
from engine.products import fast_products
from stores.errors import ModelError

IN_FLIGHT = 2

Kept = TypeVar("Kept")
"""What a recorder keeps of a batch, in host memory."""


class _LastLayerReached(Exception):
    """Leaves the forward pass early. Raised and caught in this module, never seen outside."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """What is left of n texts: pooled means [n, l, d] and mean residual norms [n, l], float32.

    The norm is the mean over a text's pooled tokens of the Euclidean norm of resid_post.
    """

    means: NDArray[np.float32]
    norms: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pending(Generic[Kept]):
    """A batch on its way to host memory."""

    _host: Tensor
    _arrived: torch.cuda.Event | None
    _read: Callable[[NDArray[np.float32]], Kept]

    def wait(self) -> Kept:
        """Rows in the order of the segments. What the device raised in the meantime is raised."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._read(self._host.numpy())


class Recorder(ABC, Generic[Kept]):
    """Runs batches through a model whose wanted blocks are hooked, in a block of `recording`.

    A subclass says which tokens it is given, what it makes of them on the device, row by row, and
    how the rows are read. Raises ValueError for layers that are not ascending blocks.
    """

    def __init__(
        self, model: Model, layers: Sequence[int], batching: Batching, columns: int
    ) -> None:
        self.model = model
        self.layers = tuple(layers)
        ascending = [n for n in range(model.n_layers) if n in self.layers]
        if not self.layers or list(self.layers) != ascending:
            raise ValueError(f"layers {self.layers}: not ascending blocks of {model.n_layers}")
        self._batching = batching
        self._columns = columns
        self._in_flight: deque[torch.cuda.Event] = deque()
        self._copies: torch.cuda.Stream | None = None
        self._index = self._spare = self._rows = torch.empty(0)

    @abstractmethod
    def _rows_of(self, segment: Segment) -> int:
        """How many rows are kept of a text."""

    @abstractmethod
    def _places(self, layout: Layout) -> NDArray[np.int64]:
        """Where the tokens lie that `_fill` is given, counted through the batch."""

    @abstractmethod
    def _fill(self, layer: int, tokens: Tensor, rows: Tensor) -> None:
        """Make of one layer's `tokens` [t, d] the `rows` [r, columns] of the texts, in order."""

    @abstractmethod
    def _read(self, rows: NDArray[np.float32]) -> Kept:
        """What is kept, out of all `rows` [l, r, columns] of a batch."""

    def start(self, segments: Sequence[Segment]) -> Pending[Kept]:
        """Run one batch; what is kept comes in the order of `segments`.

        With batching 'alone' each text is a pass of its own. What the device raises passes through,
        and the next call works.
        """
        if len(self._in_flight) == IN_FLIGHT:
            self._in_flight.popleft().synchronize()
        counts = [self._rows_of(segment) for segment in segments]
        # One buffer for all that is to be copied.
        shape = (len(self.layers), sum(counts), self._columns)
        buffer = torch.empty(shape, dtype=torch.float32, device=self.model.device)
        if self._batching == "packed":
            self._run(lay_end_to_end(segments), buffer)
        elif self._batching == "padded":
            self._run(lay_side_by_side(segments), buffer)
        else:
            for segment, rows in zip(segments, torch.split(buffer, counts, dim=1), strict=True):
                self._run(lay_side_by_side([segment]), rows)
        return self._send(buffer)

    def _run(self, layout: Layout, rows: Tensor) -> None:
        """One forward pass, whose hooks fill `rows` [l, r, columns]."""
        device = self.model.device
        self._rows = rows
        self._index = torch.from_numpy(self._places(layout)).to(device)
        self._spare = torch.from_numpy(layout.spare).unsqueeze(-1).to(device)
        try:
            self.model.backbone(**_inputs(layout, self.model))
        except _LastLayerReached:
            return
        finally:
            self._index = self._spare = self._rows = torch.empty(0)
        raise ModelError(
            f"model {self.model.name}: a pass went by without block {self.layers[-1]}; "
            "this architecture is not supported"
        )

    def record(self, layer: int, resid_post: Tensor) -> None:
        """Take one layer's output [b, t, d]; leave the pass after the last one.

        The tokens that count are gathered text by text first, so that nothing outside a text's own
        span touches what is kept of it, be it infinite.
        """
        tokens = resid_post.flatten(0, 1).index_select(0, self._index.to(resid_post.device))
        self._fill(layer, tokens, self._rows[self.layers.index(layer)])
        if layer == self.layers[-1]:
            raise _LastLayerReached

    def _send(self, buffer: Tensor) -> Pending[Kept]:
        """Copy to host memory beside the next batch's work; nothing to copy on a CPU."""
        if buffer.device.type != "cuda":
            return Pending(buffer.cpu(), None, self._read)
        if self._copies is None:
            self._copies = torch.cuda.Stream(buffer.device)  # type: ignore[no-untyped-call]
        host = torch.empty(buffer.shape, dtype=buffer.dtype, pin_memory=True)
        self._copies.wait_stream(torch.cuda.current_stream(buffer.device))
        with torch.cuda.stream(self._copies):
            host.copy_(buffer, non_blocking=True)
            arrived = self._copies.record_event()
        # Its memory must not be given to the next batch before it is copied.
        buffer.record_stream(self._copies)
        self._in_flight.append(arrived)
        return Pending(host, arrived, self._read)


class Pooling(Recorder[Pooled]):
    """Keeps one row of each text: its mean and, in the last column, its norm.

    A segment without pooled tokens gives NaN.
    """

    def __init__(self, model: Model, layers: Sequence[int], batching: Batching) -> None:
        Recorder.__init__(self, model, layers, batching, model.d_model + 1)

    def _rows_of(self, segment: Segment) -> int:
        return 1

    def _places(self, layout: Layout) -> NDArray[np.int64]:
        return layout.index.flatten()

    def _fill(self, layer: int, tokens: Tensor, rows: Tensor) -> None:
        """Pool in float32. No sum here is atomic or falls to TF32, as a matrix product with weights
        might, and a sum is the more exact of the two."""
        spare = self._spare.to(tokens.device)
        tokens = tokens.view(*spare.shape[:2], -1)
        tokens.masked_fill_(spare, 0)
        counts = spare.logical_not().sum(dim=1)
        norms = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True, dtype=torch.float32)
        rows[:, :-1] = tokens.sum(dim=1, dtype=torch.float32) / counts
        rows[:, -1:] = norms.sum(dim=1) / counts

    def _read(self, rows: NDArray[np.float32]) -> Pooled:
        return Pooled(rows[:, :, :-1].transpose(1, 0, 2), rows[:, :, -1].T)


def _inputs(layout: Layout, model: Model) -> dict[str, Any]:
    """What the backbone is called with. No mask: a causal model's tokens never see what is behind
    them, padding included, and without a mask the fast causal kernels apply."""
    inputs: dict[str, Any] = {
        "input_ids": torch.from_numpy(layout.ids).to(model.device),
        "use_cache": False,
    }
    if layout.positions is not None and layout.bounds is not None:
        inputs["position_ids"] = torch.from_numpy(layout.positions).to(model.device)
        if "flash" in model.attention:
            # Else every layer would read the positions back from the device to find the edges.
            edges = torch.from_numpy(layout.bounds).to(model.device)
            longest = int(np.diff(layout.bounds).max())
            inputs |= {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges}
            inputs |= {"max_length_q": longest, "max_length_k": longest}
    return inputs


Some = TypeVar("Some", bound=Recorder[Any])


@contextmanager
def recording(recorder: Some) -> Iterator[Some]:
    """Hook its layers while the block runs; no hook is left behind, whatever happens."""
    model = recorder.model
    products = fast_products(model.backbone.modules())
    hooks = hooked(model, recorder.layers, recorder.record)
    with torch.inference_mode(), products, hooks:
        yield recorder


@contextmanager
def capture(
    model: Model, layers: Sequence[int], batching: Batching = "padded"
) -> Iterator[Pooling]:
    """Pool at `layers` (ascending) while the block runs; see `recording`."""
    with recording(Pooling(model, layers, batching)) as pooling:
        yield pooling
