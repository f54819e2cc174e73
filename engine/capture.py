"""Records the residual stream of chosen layers and pools it where it is computed.

Only pooled means leave the device: [b, l, d] instead of [b, t, l, d]. The forward pass runs the
text backbone without its unembedding and stops after the last wanted block. Knows nothing of texts
or files: what is content is said by the weights given.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from engine.models import Model, hooked


class _LastLayerReached(Exception):
    """Leaves the forward pass early. Raised and caught in this module, never seen outside."""


class Pooling:
    """Runs batches through a model whose wanted blocks are hooked; made by `capture`."""

    def __init__(self, model: Model, layers: tuple[int, ...]) -> None:
        self._model = model
        self._layers = layers
        self._shares = torch.empty(0)
        self._pooled: dict[int, Tensor] = {}

    def pool(self, ids: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """Weighted means over tokens of resid_post: float32 [b, l, d], layers as asked.

        ids, mask, weights are [b, t]; mask is 1 on tokens and 0 on padding, at either side;
        weights say how much a token counts, and a row without any gives NaN.
        """
        weights = weights.to(self._model.device, torch.float32)
        self._shares = (weights / weights.sum(dim=1, keepdim=True)).unsqueeze(1)
        self._pooled.clear()
        mask = mask.to(self._model.device)
        with suppress(_LastLayerReached):
            self._model.backbone(
                input_ids=ids.to(self._model.device),
                attention_mask=mask,
                # Positions count tokens, not columns: padding at the left does not shift them.
                position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
                use_cache=False,
            )
        return torch.stack([self._pooled[layer] for layer in self._layers], dim=1)

    def record(self, layer: int, resid_post: Tensor) -> None:
        """Pool one layer's output [b, t, d] in float32; leave the pass after the last one."""
        self._pooled[layer] = torch.bmm(self._shares, resid_post.float()).squeeze(1)
        if layer == self._layers[-1]:
            raise _LastLayerReached


@contextmanager
def capture(model: Model, layers: Sequence[int]) -> Iterator[Pooling]:
    """Hook `layers` (ascending) while the block runs; no hook is left behind, whatever happens."""
    wanted = tuple(layers)
    if not wanted or list(wanted) != [n for n in range(model.n_layers) if n in wanted]:
        raise ValueError(f"layers {wanted}: not ascending blocks of {model.n_layers}")
    pooling = Pooling(model, wanted)
    with torch.inference_mode(), hooked(model, wanted, pooling.record):
        yield pooling
