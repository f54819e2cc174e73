"""A model without its weights: what reading with it takes, found by going through the motions.

A network on torch's meta device has shapes and no memory. One batch is passed through it by the
code that reads texts, as far as the last wanted layer, and what would be held and multiplied is
counted: so any architecture counts, not only those somebody wrote a formula for. Knows nothing of
texts, disks or what this machine has.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoTokenizer

from engine.capture import capture
from engine.checkpoints import Checkpoint, model_errors
from engine.decoders import find_decoder
from engine.models import Model
from engine.outlines import Outline, check_quantizable, draw_outline
from engine.packing import Segment
from engine.weights import DTYPES, NF4

ASSUMED_WIDTHS = 24
"""Numbers held for each token, in widths of the model, where they cannot be counted."""

_aten: Any = torch.ops.aten
_QUESTIONS = {_aten._local_scalar_dense.default, _aten.item.default, _aten.is_nonzero.default}
_GROUPED = _aten._grouped_mm.default
_PRODUCTS = {_GROUPED} | {
    getattr(_aten, name).default for name in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm")
}


@dataclass(frozen=True, slots=True)
class Sketch:
    """A model without weights, and what its weights would take."""

    model: Model
    parameters: int
    """Numbers in all weights."""
    weight_bytes: int
    """Of all weights and buffers that are held while texts are read."""
    largest_bytes: int
    """Of the largest tensor among them, before it is quantised."""
    unpacked_bytes: int
    """Of the largest matrix that is taken back from 4 bits for a product; 0 without 4 bits."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What one batch takes: bytes at its widest moment, and floating-point operations."""

    tokens: int
    peak_bytes: int
    flops: int
    assumed: bool = False
    """True where the pass cannot be gone through without its numbers."""


def sketch_model(checkpoint: Checkpoint, dtype: str, *, trust_remote_code: bool = False) -> Sketch:
    """The model of a checkpoint with its tokenizer, without weights, on the meta device.

    `dtype` is what `compute_type` gives. Raises ModelError.
    """
    with model_errors(checkpoint.source):
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.source,
            revision=checkpoint.hub_revision,
            trust_remote_code=trust_remote_code,
            local_files_only=checkpoint.offline,
        )
        held = DTYPES[dtype.removeprefix(NF4)]
        outline = draw_outline(checkpoint, held, trust_remote_code=trust_remote_code)
    if quantized := dtype.startswith(NF4):
        check_quantizable(outline, checkpoint.name)
    network = cast("Any", outline.network).eval()
    model = Model(
        model=network,
        tokenizer=tokenizer,
        blocks=outline.blocks,
        n_layers=checkpoint.n_layers,
        d_model=checkpoint.d_model,
        device=torch.device("meta"),
        dtype=dtype,
        attention=cast("Any", find_decoder(network)).config._attn_implementation,
        name=checkpoint.name,
        revision=checkpoint.revision,
        weights_sha=checkpoint.weights_sha,
    )
    return Sketch(
        model=model,
        parameters=sum(weight.numel() for weight in network.parameters()),
        weight_bytes=outline.sizes(quantized=quantized).total,
        largest_bytes=max(weight.nbytes for weight in network.parameters()),
        unpacked_bytes=_largest_matrix(outline) if quantized else 0,
    )


def _largest_matrix(outline: Outline) -> int:
    modules = [module for block in outline.blocks for module in block.modules()]
    return max(m.weight.nbytes for m in modules if isinstance(m, nn.Linear))


def rehearse(sketch: Sketch, layers: Sequence[int], tokens: int, longest: int) -> Effort:
    """One padded batch of at least `tokens`, in rows as long as the longest text.

    A network whose code asks for numbers on its way gets an assumption in place of the count.
    """
    model, width = sketch.model, min(longest, tokens)
    segments = [Segment((0,) * width, slice(0, width))] * -(-tokens // width)
    held = width * len(segments)
    try:
        with capture(model, layers) as pooling, _Tally(model.model) as tally:
            pooling.start(segments)
    except (RuntimeError, TypeError, ValueError):
        return _assume(sketch, layers, held)
    return Effort(held, tally.peak + sketch.unpacked_bytes, tally.flops)


def _assume(sketch: Sketch, layers: Sequence[int], tokens: int) -> Effort:
    weights = [w for block in sketch.model.blocks[: layers[-1] + 1] for w in block.parameters()]
    peak = tokens * ASSUMED_WIDTHS * sketch.model.d_model * weights[0].element_size()
    flops = 2 * tokens * sum(weight.numel() for weight in weights)
    return Effort(tokens, peak + sketch.unpacked_bytes, flops, assumed=True)


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is alive and what is multiplied; the weights of `network` are there already."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = [*network.parameters(), *network.buffers()]
        self._alive = {weight.untyped_storage()._cdata for weight in weights}
        self._bytes = self.peak = self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _QUESTIONS:
            # Numbers that are not there cannot answer; yes is "these are no packed sequences".
            return True if args[0].dtype == torch.bool else 1
        found = self._stand_in(func, args, kwargs or {})
        if func in _PRODUCTS:
            factors = [each for each in args if isinstance(each, Tensor) and each.dim() > 1]
            self.flops += 2 * found.numel() * factors[-2].shape[-1]
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return found

    def _stand_in(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What `func` gives, also where it asks for more than meta tensors have."""
        if func is _GROUPED:  # its rule for meta tensors knows bfloat16 alone
            return args[0].new_empty(args[0].shape[0], args[1].shape[-1])
        if _leaves_the_device(args, kwargs):
            return torch.empty(args[0].shape, dtype=args[0].dtype)
        return func(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._bytes -= size


def _leaves_the_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    target = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.device)]
    source = args[0] if args else None
    return isinstance(source, Tensor) and source.is_meta and torch.device("cpu") in target
