"""A network without its weights: which of them may be held in 4 bits, and how large each part is.

Built from a configuration alone, so that where a model goes is decided before its files are read.
Knows nothing of devices or kernels.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

from engine.checkpoints import Checkpoint
from engine.decoders import find_blocks, find_decoder
from engine.placement import Sizes
from stores.errors import ModelError

NF4_BYTES = 0.5 + 1 / 64
"""Bytes of a weight in 4 bits, with the scales that double quantisation leaves of it."""


@dataclass(frozen=True)
class Outline:
    """A network on torch's meta device, and its decoder blocks."""

    network: PreTrainedModel
    blocks: tuple[nn.Module, ...]

    @property
    def names(self) -> dict[nn.Module, str]:
        """The name of every module."""
        return {module: name for name, module in self.network.named_modules()}

    @property
    def unquantized(self) -> tuple[str, ...]:
        """Linear modules that stay as they are: the unembedding, and the decoder's own ones.

        Embeddings and norms are no linear modules, and are never held in 4 bits.
        """
        inside = {module for block in self.blocks for module in block.modules()}
        own = set(_linear(find_decoder(self.network).modules())) - inside
        unembedding = cast("Any", self.network).get_output_embeddings()
        return tuple(n for m, n in self.names.items() if m in own or m is unembedding)

    def sizes(self, *, quantized: bool) -> Sizes:
        """Bytes of every part; a tensor that two parts share is counted once."""
        small = self._small_weights() if quantized else set()
        counted: set[int] = set()

        def size(tensors: Iterable[torch.Tensor]) -> int:
            new = {id(t): t for t in tensors if id(t) not in counted}
            counted.update(new)
            each = (NF4_BYTES if i in small else t.element_size() for i, t in new.items())
            return round(sum(b * t.numel() for b, t in zip(each, new.values(), strict=True)))

        names = self.names
        blocks = {names[block]: size(_tensors(block)) for block in self.blocks}
        return Sizes(blocks, {name: size(part) for name, part in self._rest(self.network, "")})

    def _small_weights(self) -> set[int]:
        names, kept = self.names, set(self.unquantized)
        linear = [m for m in _linear(self.network.modules()) if names[m] not in kept]
        taken_apart = [m for m in names if type(m).__name__ in MODULES_TO_PATCH_FOR_QUANTIZATION]
        fused = {id(weight) for module in taken_apart for weight in module.parameters()}
        return {id(module.weight) for module in linear} | fused

    def _rest(self, module: nn.Module, name: str) -> Iterator[tuple[str, list[torch.Tensor]]]:
        """The largest parts that hold no block, by name."""
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        yield from ((f"{name}{part}", [tensor]) for part, tensor in own)
        for child_name, child in module.named_children():
            if child in self.blocks:
                continue
            if any(inner in self.blocks for inner in child.modules()):
                yield from self._rest(child, f"{name}{child_name}.")
            else:
                yield f"{name}{child_name}", list(_tensors(child))


def draw_outline(checkpoint: Checkpoint, dtype: torch.dtype, *, trust_remote_code: bool) -> Outline:
    """The network of a checkpoint without its weights. Raises ModelError."""
    with torch.device("meta"):
        network = auto_class(checkpoint).from_config(
            copy.deepcopy(checkpoint.config), dtype=dtype, trust_remote_code=trust_remote_code
        )
    return Outline(network, find_blocks(network, checkpoint.n_layers))


def auto_class(checkpoint: Checkpoint) -> Any:
    """What loads a checkpoint: causal models; wrappers around one where there is no causal form."""
    config = type(checkpoint.config)
    causal, wrappers = MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING
    only_wrapped = config in wrappers and config not in causal
    return AutoModelForMultimodalLM if only_wrapped else AutoModelForCausalLM


def check_quantizable(outline: Outline, name: str) -> None:
    """Raise ModelError where most of the blocks' weights are no linear modules (fused experts)."""
    small = outline._small_weights()
    tensors = [tensor for block in outline.blocks for tensor in _tensors(block)]
    held = sum(t.numel() for t in tensors if id(t) in small)
    if 2 * held < sum(t.numel() for t in tensors):
        raise ModelError(
            f"model {name}: most of its weights are fused experts, which bitsandbytes cannot hold "
            "in 4 bits; leave out --quantize, or use --offload or another card"
        )


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _linear(modules: Iterable[nn.Module]) -> Iterator[nn.Linear]:
    """What the library replaces: these two classes exactly, and none derived from the first."""
    for module in modules:
        if type(module) is nn.Linear or isinstance(module, Conv1D):
            yield cast("nn.Linear", module)
