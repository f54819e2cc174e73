"""Models with random weights, for benchmarks.

A small one is written as a checkpoint and loaded as a user's is; a large one is drawn on the
device, module by module, so that no other copy of it is ever held. Knows nothing of texts or speed.
"""

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from engine.bench.shapes import BOS, EOS, PAD, Shape
from engine.checkpoints import model_errors
from engine.models import Model, check_layers, choose_device, find_blocks, load_model
from engine.weights import (
    DTYPES,
    FLASH,
    NF4,
    Quantize,
    fits_flash,
    import_bitsandbytes,
    require_bitsandbytes,
)
from stores.errors import UsageError

SPREAD = 0.02
"""The standard deviation that weights are drawn with."""


def draw_model(
    shape: Shape,
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    quantize: Quantize | None = None,
    seed: int = 0,
) -> Model:
    """A model of this shape; the same seed draws the same weights on the same device.

    `folder` keeps the tokenizer, and the checkpoint of a shape that is saved. `dtype` and
    `quantize` are what `load_model` takes. Raises UsageError.
    """
    save_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not shape.saved:
            return _on_device(shape, folder, choose_device(device), dtype, quantize)
        network = _build(shape.configuration(), torch.bfloat16)
    with model_errors(shape.name):
        network.save_pretrained(folder)
    return load_model(str(folder), device=device, dtype=dtype, quantize=quantize)


def save_tokenizer(folder: Path) -> None:
    """One token for each byte: texts of a benchmark are token ids, only the self-check writes."""
    special = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = special | {letter: len(special) + i for i, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.save_pretrained(folder)


def _build(config: PreTrainedConfig, compute: torch.dtype) -> Any:
    library: Any = AutoModelForCausalLM
    return library.from_config(config, dtype=compute)


def _on_device(
    shape: Shape, folder: Path, device: torch.device, dtype: str, quantize: Quantize | None
) -> Model:
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: unknown; use auto, {', '.join(DTYPES)}")
    config = shape.configuration()
    network = _draw_network(config, device, DTYPES[dtype], quantize)
    model = Model(
        model=network,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        blocks=find_blocks(network, config.num_hidden_layers),
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        device=device,
        dtype=f"{NF4}{dtype}" if quantize else dtype,
        attention=network.config._attn_implementation,
        name=shape.name,
        revision="",
        weights_sha="",
    )
    check_layers(model)
    return model


def _draw_network(
    config: PreTrainedConfig, device: torch.device, compute: torch.dtype, quantize: Quantize | None
) -> PreTrainedModel:
    """The network without weights first; then each module gets its own, in 4 bits at once."""
    with torch.device("meta"):
        network = _build(config, compute)
    if device.type == "cuda" and fits_flash(network, compute):
        network.set_attn_implementation(FLASH)
    if quantize:
        require_bitsandbytes()
        import_bitsandbytes()
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear

        replace_with_bnb_linear(network, ["lm_head"], _four_bits(compute))
    made: dict[nn.Parameter, nn.Parameter] = {}
    with torch.no_grad():
        for module in network.modules():
            _draw(network, module, device, compute, made)
    return cast("PreTrainedModel", network.eval())


def _four_bits(compute: torch.dtype) -> Any:
    config: Any = BitsAndBytesConfig
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _draw(
    network: Any,
    module: Any,
    device: torch.device,
    compute: torch.dtype,
    made: dict[nn.Parameter, nn.Parameter],
) -> None:
    """Give a module the parameters and buffers that are its own; `made` finds shared ones again."""
    if hasattr(module, "quant_state"):
        weight = torch.empty(module.weight.shape, dtype=compute, device=device).normal_(0, SPREAD)
        packed: Any = type(module.weight)
        kept = vars(module.weight)
        module.weight = packed(weight, requires_grad=False, **kept).to(device)
        # On some CPUs it would compute in bfloat16, whatever it was told.
        module.support_avx512bf16_for_cpu = False
        return
    for name, old in list(module.named_parameters(recurse=False)):
        if old not in made:
            made[old] = nn.Parameter(torch.empty_like(old, device=device), requires_grad=False)
        setattr(module, name, made[old])
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, torch.empty_like(buffer, device=device))
    network._init_weights(module)
