"""Loads a model and finds its decoder blocks. The only definition of "layer".

Layer `l` is the 0-based index of a decoder block; `resid_post[l]` is the output of block `l`, taken
by a hook. `hidden_states[l + 1]` is mentioned here alone, in a check at load: the last entry of
that tuple is after the final norm in most models, and is never used. Knows nothing of stores.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from engine.checkpoints import Checkpoint, describe_checkpoint, model_errors
from engine.decoders import find_blocks, find_decoder
from engine.depths import parse_layers
from engine.placement import choose_device
from engine.tokens import encode_raw
from engine.weights import Quantize, choose_dtype, compute_type, load_weights
from stores.errors import ModelError

__all__ = [
    "Model",
    "Quantize",
    "check_layers",
    "choose_device",
    "choose_dtype",
    "compute_type",
    "default_layer",
    "find_blocks",
    "hooked",
    "load_model",
    "parse_layers",
    "residual",
]

PROBE = "The door opened and a letter lay on the floor."

BlockHook = Callable[[nn.Module, tuple[Any, ...], Any], None]


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model: `blocks[l]` is the decoder block of layer `l`.

    `device` is where token ids go; a block on another card gives its residual stream there.
    `dtype` is what `compute_type` says, `attention` the library's name of the attention in force.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    blocks: tuple[nn.Module, ...]
    n_layers: int
    d_model: int
    device: torch.device
    dtype: str
    attention: str
    name: str
    revision: str
    weights_sha: str

    @property
    def backbone(self) -> nn.Module:
        """The text decoder without its unembedding."""
        return find_decoder(self.model)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: the checkpoint's own list, or the tokenizer's one."""
        settings: Any = self.model.generation_config
        ends = settings.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    @property
    def pad_token(self) -> int:
        """What fills the padding; masked out everywhere, so any token will do."""
        return cast("int", self.tokenizer.pad_token_id or 0)

    @property
    def context(self) -> int | None:
        """The longest sequence the positions allow; None when the configuration sets no bound."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load_model(
    name_or_path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: Quantize | None = None,
    offload: bool = False,
    attention: str | None = None,
) -> Model:
    """Load a checkpoint for reading and generating, in evaluation mode, with its layers checked.

    Weights come from safetensors only. `device` 'auto' is the first card that holds them, else all
    cards together, or the CPU where there is no card; blocks in host memory beside a card only with
    `offload`. `dtype` 'auto' is float32 on a CPU and the checkpoint's own type on a card.
    `quantize` '4bit' holds the blocks' weights as NF4 (see `compute_type`). `attention` None is the
    fastest kind that is installed. Raises ModelError, UsageError.
    """
    checkpoint = describe_checkpoint(
        name_or_path, revision=revision, trust_remote_code=trust_remote_code
    )
    held = compute_type(checkpoint, dtype, device, quantize)
    with model_errors(name_or_path):
        tokenizer = _load_tokenizer(checkpoint, trust_remote_code)
        network: Any = load_weights(
            checkpoint,
            device=device,
            dtype=held,
            attention=attention,
            offload=offload,
            trust_remote_code=trust_remote_code,
        )
    model = Model(
        model=network,
        tokenizer=tokenizer,
        blocks=find_blocks(network, checkpoint.n_layers),
        n_layers=checkpoint.n_layers,
        d_model=checkpoint.d_model,
        device=network.get_input_embeddings().weight.device,
        dtype=held,
        attention=cast("Any", find_decoder(network)).config._attn_implementation,
        name=checkpoint.name,
        revision=checkpoint.revision,
        weights_sha=checkpoint.weights_sha,
    )
    with model_errors(name_or_path):
        check_layers(model)
    return model


def _load_tokenizer(checkpoint: Checkpoint, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    auto: Any = AutoTokenizer
    tokenizer = auto.from_pretrained(
        checkpoint.source,
        revision=checkpoint.hub_revision,
        trust_remote_code=trust_remote_code,
        local_files_only=checkpoint.offline,
    )
    return cast("PreTrainedTokenizerBase", tokenizer)


def residual(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The residual stream [b, t, d] out of what a block returned: it alone, or before others."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def hooked(
    model: Model, layers: tuple[int, ...], hook: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Call `hook(layer, resid_post)` whenever one of `layers` has run; removed on leaving."""

    def attach(layer: int) -> BlockHook:
        def call(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            hook(layer, residual(output))

        return call

    hooks = [model.blocks[layer].register_forward_hook(attach(layer)) for layer in layers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def check_layers(model: Model) -> None:
    """Refuse a model whose blocks are not what `hidden_states` calls layers, or that overflows.

    Every block's output must be its entry there; the last one's, which has none, must be what the
    final norm is given.
    """
    outputs: dict[int, Tensor] = {}
    ids = torch.tensor([encode_raw(model, PROBE).ids], device=model.device)
    every = tuple(range(model.n_layers))
    with torch.inference_mode(), hooked(model, every, outputs.__setitem__), _steps(model) as steps:
        run = model.backbone(input_ids=ids, use_cache=False, output_hidden_states=True)
    for layer in every:
        found = outputs.get(layer)
        shape = (1, ids.shape[1], model.d_model)
        if not isinstance(found, Tensor) or found.shape != shape:
            raise ModelError(f"model {model.name}: block {layer} gives no residual stream {shape}")
        if not bool(torch.isfinite(found).all()):
            raise ModelError(
                f"model {model.name}: layer {layer} overflows in {model.dtype}; use --dtype float32"
            )
    if wrong := _strangers(outputs, run.hidden_states):
        raise ModelError(
            f"model {model.name}: block {wrong[0]} is not layer {wrong[0]} of hidden_states; "
            "this architecture is not supported"
        )
    normed = [given for given, came in steps if _equal(came, run.last_hidden_state)]
    if not any(_equal(each, outputs[every[-1]]) for each in (*normed, run.last_hidden_state)):
        raise ModelError(
            f"model {model.name}: block {every[-1]} does not end the residual stream; "
            "this architecture is not supported"
        )


@contextmanager
def _steps(model: Model) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(given, came) of the simple modules outside the blocks, such as the final norm."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_module: nn.Module, given: tuple[Any, ...], came: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(came, Tensor):
            seen.append((given[0], came))

    inside = {module for block in model.blocks for module in block.modules()}
    outside = (module for module in model.backbone.modules() if module not in inside)
    simple = [module for module in outside if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(note) for module in simple]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()


def _strangers(outputs: dict[int, Tensor], states: tuple[Any, ...]) -> list[int]:
    """Blocks but the last that `states` has no entry for, in order; most begin with the embedding,
    a few with the first block."""
    inner = sorted(outputs)[:-1]
    unlike = (
        [layer for layer in inner if not _equal(outputs[layer], states[layer + skipped])]
        for skipped in (1, 0)
    )
    return min(unlike, key=len)


def _equal(one: Tensor, other: Any) -> bool:
    same = isinstance(other, Tensor) and one.shape == other.shape
    return same and torch.equal(one, other.to(one.device))


def default_layer(n_layers: int) -> int:
    """The block whose depth (l + 1) / n_layers is nearest to two thirds: 20 of 32, 3 of 6."""
    return (2 * n_layers + 1) // 3 - 1
