"""Records the residual stream of chosen layers and pools it where it is computed.

Only pooled means leave the device: [n, l, d] instead of [n, t, l, d]. The forward pass runs the
text backbone without its unembedding and stops after the last wanted block. Knows nothing of texts
or files: which tokens count is said by the segments given.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.models import Model, hooked
from engine.packing import Batching, Layout, Segment, lay_end_to_end, lay_side_by_side
from engine.products import fast_products
from stores.errors import ModelError

IN_FLIGHT = 2


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
class Pending:
    """A batch on its way to host memory."""

    _host: Tensor
    _arrived: torch.cuda.Event | None

    def wait(self) -> Pooled:
        """Rows in the order of the segments. What the device raised in the meantime is raised."""
        if self._arrived is not None:
            self._arrived.synchronize()
        rows = self._host.numpy()
        return Pooled(rows[:, :, :-1].transpose(1, 0, 2), rows[:, :, -1].T)


class Pooling:
    """Runs batches through a model whose wanted blocks are hooked; made by `capture`."""

    def __init__(self, model: Model, layers: tuple[int, ...], batching: Batching) -> None:
        self._model = model
        self._layers = layers
        self._batching = batching
        self._in_flight: deque[torch.cuda.Event] = deque()
        self._copies: torch.cuda.Stream | None = None
        self._index = self._spare = self._rows = torch.empty(0)

    def start(self, segments: Sequence[Segment]) -> Pending:
        """Run one batch; its pooled rows come in the order of `segments`.

        A segment without pooled tokens gives NaN. With batching 'alone' each text is a pass of its
        own. What the device raises passes through, and the next call works.
        """
        if len(self._in_flight) == IN_FLIGHT:
            self._in_flight.popleft().synchronize()
        # One buffer for all that is to be copied: the norm is the last column.
        shape = (len(self._layers), len(segments), self._model.d_model + 1)
        buffer = torch.empty(shape, dtype=torch.float32, device=self._model.device)
        if self._batching == "packed":
            self._run(lay_end_to_end(segments), buffer)
        elif self._batching == "padded":
            self._run(lay_side_by_side(segments), buffer)
        else:
            for i, segment in enumerate(segments):
                self._run(lay_side_by_side([segment]), buffer[:, i : i + 1])
        return self._send(buffer)

    def _run(self, layout: Layout, rows: Tensor) -> None:
        """One forward pass, whose hooks fill `rows` [l, n, d + 1]."""
        device = self._model.device
        self._rows = rows
        self._index = torch.from_numpy(layout.index).flatten().to(device)
        self._spare = torch.from_numpy(layout.spare).unsqueeze(-1).to(device)
        try:
            self._model.backbone(**_inputs(layout, self._model))
        except _LastLayerReached:
            return
        finally:
            self._index = self._spare = self._rows = torch.empty(0)
        raise ModelError(
            f"model {self._model.name}: a pass went by without block {self._layers[-1]}; "
            "this architecture is not supported"
        )

    def record(self, layer: int, resid_post: Tensor) -> None:
        """Pool one layer's output [b, t, d] in float32; leave the pass after the last one.

        Pooled tokens are gathered text by text before they are summed, so that nothing outside a
        text's own span touches its mean, be it infinite; no sum here is atomic or falls to TF32,
        as a matrix product with weights might, and a sum is the more exact of the two.
        """
        here = resid_post.device
        index, spare = self._index.to(here), self._spare.to(here)
        tokens = resid_post.flatten(0, 1).index_select(0, index).view(*spare.shape[:2], -1)
        tokens.masked_fill_(spare, 0)
        counts = spare.logical_not().sum(dim=1)
        norms = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True, dtype=torch.float32)
        rows = self._rows[self._layers.index(layer)]
        rows[:, :-1] = tokens.sum(dim=1, dtype=torch.float32) / counts
        rows[:, -1:] = norms.sum(dim=1) / counts
        if layer == self._layers[-1]:
            raise _LastLayerReached

    def _send(self, buffer: Tensor) -> Pending:
        """Copy to host memory beside the next batch's work; nothing to copy on a CPU."""
        if buffer.device.type != "cuda":
            return Pending(buffer.cpu(), None)
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
        return Pending(host, arrived)


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


@contextmanager
def capture(
    model: Model, layers: Sequence[int], batching: Batching = "padded"
) -> Iterator[Pooling]:
    """Hook `layers` (ascending) while the block runs; no hook is left behind, whatever happens."""
    wanted = tuple(layers)
    if not wanted or list(wanted) != [n for n in range(model.n_layers) if n in wanted]:
        raise ValueError(f"layers {wanted}: not ascending blocks of {model.n_layers}")
    pooling = Pooling(model, wanted, batching)
    products = fast_products(model.backbone.modules())
    with torch.inference_mode(), products, hooked(model, wanted, pooling.record):
        yield pooling
