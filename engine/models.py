"""Loads a model and finds its decoder blocks. The only definition of "layer".

Layer `l` is the 0-based index of a decoder block; `resid_post[l]` is the output of block `l`, taken
by a hook. `hidden_states[l + 1]` is mentioned here alone, in a check at load: the last entry of
that tuple is after the final norm in most models, and is never used. Knows nothing of stores.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.checkpoints import Checkpoint, describe_checkpoint, model_errors
from engine.tokens import encode_raw
from stores.errors import ModelError, UsageError

PROBE = "The door opened and a letter lay on the floor."
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

BlockHook = Callable[[nn.Module, tuple[Any, ...], Any], None]


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model: `blocks[l]` is the decoder block of layer `l`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    blocks: tuple[nn.Module, ...]
    n_layers: int
    d_model: int
    device: torch.device
    dtype: str
    name: str
    revision: str
    weights_sha: str

    @property
    def backbone(self) -> nn.Module:
        """The text decoder without its unembedding."""
        return _decoder(self.model)

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
) -> Model:
    """Load a checkpoint for reading and generating, in evaluation mode, with its layers checked.

    Weights come from safetensors only. `device` 'auto' is CUDA when there is one; `dtype` 'auto' is
    float32 on a CPU and the checkpoint's own type on a GPU. Raises ModelError, UsageError.
    """
    checkpoint = describe_checkpoint(
        name_or_path, revision=revision, trust_remote_code=trust_remote_code
    )
    where = choose_device(device)
    with model_errors(name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.source,
            revision=checkpoint.hub_revision,
            trust_remote_code=trust_remote_code,
            local_files_only=checkpoint.offline,
        )
        network = _load_weights(
            checkpoint, choose_dtype(checkpoint, dtype, where), trust_remote_code
        )
        network = network.to(where).eval()  # type: ignore[arg-type]
    model = Model(
        model=network,
        tokenizer=tokenizer,
        blocks=find_blocks(network, checkpoint.n_layers),
        n_layers=checkpoint.n_layers,
        d_model=checkpoint.d_model,
        device=where,
        dtype=str(network.dtype).removeprefix("torch."),
        name=checkpoint.name,
        revision=checkpoint.revision,
        weights_sha=checkpoint.weights_sha,
    )
    check_layers(model)
    return model


def choose_device(device: str = "auto") -> torch.device:
    """'auto' is the first CUDA card, or the CPU. Raises UsageError for an unknown name."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: unknown; use auto, cpu, cuda or cuda:<n>") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: no CUDA card is visible here; use --device cpu")
    return chosen


def choose_dtype(checkpoint: Checkpoint, dtype: str, device: torch.device) -> str:
    """The type weights are computed in, known before they are read: 'float32', 'bfloat16', ..."""
    if dtype == "auto":
        own = checkpoint.config.get_text_config().dtype
        dtype = "float32" if device.type == "cpu" or own is None else str(own)
        dtype = dtype.removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: unknown; use auto, {', '.join(DTYPES)}")
    return dtype


def _load_weights(checkpoint: Checkpoint, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    """Weights of the checkpoint on the CPU. A weight left to chance is an error, not a warning."""
    loader: Any = AutoModelForCausalLM
    network, report = loader.from_pretrained(
        checkpoint.source,
        revision=checkpoint.hub_revision,
        dtype=DTYPES[dtype],
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        local_files_only=checkpoint.offline,
        output_loading_info=True,
    )
    absent = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if absent:
        raise ModelError(
            f"model {checkpoint.source}: {len(absent)} weights are not in its safetensors files "
            f"(first: {absent[0]}); download it again or choose a complete checkpoint"
        )
    # The checkpoint's own sampling habits would be added to ours; only its end tokens are kept.
    settings: Any = GenerationConfig
    network.generation_config = settings(eos_token_id=network.generation_config.eos_token_id)
    return cast("PreTrainedModel", network)


def _decoder(network: Any) -> nn.Module:
    return cast("nn.Module", network.get_decoder())


def find_blocks(network: PreTrainedModel, n_layers: int) -> tuple[nn.Module, ...]:
    """The decoder blocks, found by class inside the text decoder, never by module names."""
    lists = [m for m in _decoder(network).children() if isinstance(m, nn.ModuleList)]
    lists = [m for m in lists if len(m) == n_layers]
    blocks = [m for m in lists if all(isinstance(b, GradientCheckpointingLayer) for b in m)]
    found = blocks or lists
    if len(found) != 1:
        raise ModelError(
            f"model {network.name_or_path}: {len(found)} lists of {n_layers} decoder blocks found "
            f"in {type(network).__name__}, expected 1; this architecture is not supported"
        )
    return tuple(found[0])


def residual(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The residual stream [b, t, d] out of what a block returned: a tensor, or a tuple's first."""
    return output[0] if isinstance(output, tuple) else output


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
    """Refuse a model whose blocks are not what `hidden_states` calls layers, or that overflows."""
    outputs: dict[int, Tensor] = {}
    ids = torch.tensor([encode_raw(model, PROBE).ids], device=model.device)
    every = tuple(range(model.n_layers))
    with torch.inference_mode(), hooked(model, every, outputs.__setitem__):
        run = model.backbone(input_ids=ids, use_cache=False, output_hidden_states=True)
    for layer in every:
        found = outputs.get(layer)
        shape = (1, ids.shape[1], model.d_model)
        if found is None or found.shape != shape:
            raise ModelError(f"model {model.name}: block {layer} gives no residual stream {shape}")
        if not bool(torch.isfinite(found).all()):
            raise ModelError(
                f"model {model.name}: layer {layer} overflows in {model.dtype}; use --dtype float32"
            )
        if layer < model.n_layers - 1 and not torch.equal(found, run.hidden_states[layer + 1]):
            raise ModelError(
                f"model {model.name}: block {layer} is not layer {layer} of hidden_states; "
                "this architecture is not supported"
            )


def default_layer(n_layers: int) -> int:
    """The block whose depth (l + 1) / n_layers is nearest to two thirds: 20 of 32, 3 of 6."""
    return (2 * n_layers + 1) // 3 - 1


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """0-based layers, ascending, from a comma-separated list of terms.

    'all'; 'every:5' = 0, 5, 10, ...; 'a:b' = the block nearest to a/b of the depth ('2:3' is two
    thirds); '7' = block 7; '7-9' = blocks 7, 8, 9. Raises UsageError.
    """
    layers: set[int] = set()
    for term in text.split(","):
        layers.update(_parse_term(term.strip(), n_layers))
    outside = [layer for layer in layers if not 0 <= layer < n_layers]
    if outside:
        raise UsageError(
            f"layers {text!r}: no layer {min(outside)} in a model of {n_layers} blocks "
            f"(0 to {n_layers - 1})"
        )
    return tuple(sorted(layers))


def _parse_term(term: str, n_layers: int) -> range:
    if term == "all":
        return range(n_layers)
    if match := re.fullmatch(r"every:([1-9]\d*)", term):
        return range(0, n_layers, int(match[1]))
    if match := re.fullmatch(r"([1-9]):([1-9])", term):
        share = Fraction(int(match[1]), int(match[2]))
        if share <= 1:
            nearest = max(round(share * n_layers), 1) - 1
            return range(nearest, nearest + 1)
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", term):
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last:
            return range(first, last + 1)
    raise UsageError(
        f"layers {term!r}: not understood; use all, every:5, 2:3 (a fraction of the depth), "
        "5,10,15 or 5-10"
    )
