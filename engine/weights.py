"""Reads the weights of a checkpoint: in which type, with which attention, onto which devices.

Nothing is fetched but the checkpoint itself: kernels come from installed packages alone. Knows
nothing of layers, tokens or texts.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, cast

import torch
from transformers import BitsAndBytesConfig, GenerationConfig, PretrainedConfig, PreTrainedModel

from engine.checkpoints import Checkpoint
from engine.outlines import Outline, auto_class, check_quantizable, draw_outline
from engine.placement import WHOLE, choose_device, free_memory, place
from stores.errors import ModelError, UsageError

Quantize = Literal["4bit"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NF4 = "nf4+"
BITSANDBYTES = (0, 50)
FLASH = "flash_attention_2"
FLASH_WIDTH = 256
"""The widest attention head that the flash kernels take."""
PORTABLE = ("eager", "sdpa")
ATTENTION = (*PORTABLE, "flex_attention", FLASH)


def choose_dtype(checkpoint: Checkpoint, dtype: str, device: torch.device) -> str:
    """The type unquantised weights are computed in: 'float32', 'bfloat16' or 'float16'."""
    if dtype == "auto":
        own = checkpoint.config.get_text_config().dtype
        dtype = "float32" if device.type == "cpu" or own is None else str(own)
        dtype = dtype.removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: unknown; use auto, {', '.join(DTYPES)}")
    return dtype


def compute_type(
    checkpoint: Checkpoint, dtype: str, device: str, quantize: Quantize | None = None
) -> str:
    """What weights are held and computed in, known before any is read.

    'float32', 'bfloat16', 'float16'; with `quantize` 'nf4+bfloat16' or 'nf4+float32': 4-bit weights
    taken back to that type for every product. With `dtype` 'auto' that is float32 on a CPU, where
    bfloat16 products are the slower ones, and bfloat16 on a card. A checkpoint that was saved in
    4 bits says itself. Raises UsageError.
    """
    where, stored = choose_device(device), _stored_type(checkpoint)
    if quantize not in {None, "4bit"}:
        raise UsageError(f"quantize {quantize!r}: unknown; use 4bit")
    if quantize and _stored_otherwise(checkpoint):
        raise UsageError(f"model {checkpoint.name}: quantised already; leave out --quantize")
    if quantize is None and stored is None:
        return choose_dtype(checkpoint, dtype, where)
    require_bitsandbytes()
    if dtype == "auto":
        dtype = stored or ("float32" if where.type == "cpu" else "bfloat16")
    if dtype not in {"float32", "bfloat16"} or dtype != (stored or dtype):
        choice = stored or "float32 or bfloat16"
        raise UsageError(f"dtype {dtype!r}: not for these 4-bit weights; use auto or {choice}")
    return f"{NF4}{dtype}"


def _stored(checkpoint: Checkpoint) -> dict[str, Any]:
    return getattr(checkpoint.config, "quantization_config", None) or {}


def _stored_otherwise(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint was saved quantised by other means than bitsandbytes' 4 bits."""
    stored = _stored(checkpoint)
    return bool(stored) and not stored.get("load_in_4bit")


def _stored_type(checkpoint: Checkpoint) -> str | None:
    """The type that a checkpoint saved in 4 bits computes in; None for any other."""
    stored = _stored(checkpoint)
    named = str(stored.get("bnb_4bit_compute_dtype", "float32")).removeprefix("torch.")
    return named if stored.get("load_in_4bit") else None


def require_bitsandbytes() -> None:
    """Raise UsageError unless the package for 4-bit weights is there, and new enough."""
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        found = "none"
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < BITSANDBYTES:
        raise UsageError(
            f"quantize 4bit: bitsandbytes 0.50 or newer is needed, {found} is installed; "
            'pip install "bitsandbytes>=0.50"'
        )


def load_weights(
    checkpoint: Checkpoint,
    *,
    device: str,
    dtype: str,
    attention: str | None = None,
    offload: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The network in evaluation mode, on its devices; `dtype` is what `compute_type` gives.

    Linear modules of the decoder blocks (and of a vision tower, which never runs) are the only
    weights held in 4 bits. Several cards, or host memory, only as `place` says. A weight left to
    chance is an error, not a warning. Raises ModelError, UsageError.
    """
    where, quantized = choose_device(device), dtype.startswith(NF4)
    foreign = _stored_otherwise(checkpoint)
    if offload and (quantized or foreign):
        raise UsageError("quantised weights cannot wait in host memory; leave out --offload")
    compute = DTYPES[dtype.removeprefix(NF4)]
    options: dict[str, Any] = {"dtype": compute}
    if quantized or where.type != "cpu":
        options["device_map"] = {WHOLE: str(where)}
    flash = False
    if quantized or where.type == "cuda":
        outline = draw_outline(checkpoint, compute, trust_remote_code=trust_remote_code)
        if quantized:
            options |= _in_4_bits(checkpoint, outline, compute)
        if where.type == "cuda":
            flash = fits_flash(outline.network, compute)
        # How large weights are that were quantised by other means is not known: one card, or none.
        if where.type == "cuda" and not foreign:
            sizes = outline.sizes(quantized=quantized)
            cards = free_memory(device)
            options["device_map"] = place(checkpoint.name, sizes, cards, offload=offload)
    asked = check_attention(attention, where) if attention else FLASH if flash else None
    options["attn_implementation"] = _for_text(checkpoint.config, asked)
    return _read(checkpoint, options, trust_remote_code=trust_remote_code)


def check_attention(attention: str, device: torch.device) -> str:
    """The kind of attention asked for. Raises UsageError where it cannot be had."""
    if attention not in ATTENTION:
        raise UsageError(f"attention {attention!r}: unknown; use {', '.join(ATTENTION)}")
    if attention == FLASH and not find_spec("flash_attn"):
        raise UsageError(f"attention {FLASH}: its package is missing; pip install flash-attn")
    if attention not in PORTABLE and device.type == "cpu":
        raise UsageError(f"attention {attention}: needs a card; on a CPU use {', '.join(PORTABLE)}")
    return attention


def fits_flash(network: PreTrainedModel, compute: torch.dtype) -> bool:
    """Whether the flash kernels are installed and serve this network (which may lack weights)."""
    named = getattr(network, "_compatible_flash_implementations", None)
    text = network.config.get_text_config()
    return (
        find_spec("flash_attn") is not None
        and compute != torch.float32
        and network._supports_flash_attn
        # A network that names other kernels than the package's would fetch them.
        and (named is None or FLASH in named)
        and getattr(text, "attention_chunk_size", None) is None
        and _head_width(text) <= FLASH_WIDTH
    )


def _head_width(text: Any) -> int:
    """The width of the widest attention head; it may differ between layers."""
    layers = [text.per_layer_config[layer] for layer in range(text.num_hidden_layers)]
    own = (getattr(layer, "head_dim", None) for layer in layers)
    return max(int(width or text.hidden_size // text.num_attention_heads) for width in own)


def _for_text(config: PretrainedConfig, attention: str | None) -> dict[str, str] | None:
    """The setting for the text decoder, also where the library drops the wrapper around it, but not
    for a vision tower, which may not know that attention.

    None leaves it to the library: torch's fused attention where the architecture allows it, else
    the plain form; and whatever kernel the checkpoint names is not asked for.
    """
    if attention is None:
        return None
    text = config.get_text_config()
    parts = [part for part in config.sub_configs if getattr(config, part, None) is text]
    return dict.fromkeys(("", *parts), attention)


def _in_4_bits(checkpoint: Checkpoint, outline: Outline, compute: torch.dtype) -> dict[str, Any]:
    """The settings of NF4; none for a checkpoint that brings its own."""
    import_bitsandbytes()
    if _stored_type(checkpoint):
        return {}
    check_quantizable(outline, checkpoint.name)
    config: Any = BitsAndBytesConfig
    settings = config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(outline.unquantized),
    )
    return {"quantization_config": settings}


def import_bitsandbytes() -> ModuleType:
    """Import it without its own look for a kernel on the hub, and without its word about that."""
    quiet = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with _hidden("kernels"):
            return import_module("bitsandbytes")
    finally:
        quiet.setLevel(level)


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """No import finds `package` while the block runs."""
    kept = sys.modules.get(package)
    sys.modules[package] = cast("Any", None)
    try:
        yield
    finally:
        del sys.modules[package]
        if kept is not None:
            sys.modules[package] = kept


def _read(
    checkpoint: Checkpoint, options: dict[str, Any], *, trust_remote_code: bool
) -> PreTrainedModel:
    network, report = auto_class(checkpoint).from_pretrained(
        checkpoint.source,
        revision=checkpoint.hub_revision,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        local_files_only=checkpoint.offline,
        output_loading_info=True,
        **options,
    )
    absent = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if absent:
        raise ModelError(
            f"model {checkpoint.source}: {len(absent)} weights are not in its safetensors files "
            f"(first: {absent[0]}); download it again or choose a complete checkpoint"
        )
    for module in network.modules():
        # On some CPUs a 4-bit module would repack its weights at its first use, and compute in
        # bfloat16 whatever it was told.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # The checkpoint's own sampling habits would be added to ours; only its end tokens are kept.
    settings: Any = GenerationConfig
    network.generation_config = settings(eos_token_id=network.generation_config.eos_token_id)
    return cast("PreTrainedModel", network.eval())
