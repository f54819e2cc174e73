"""How weights are read: in 4 bits, with which attention, over which devices, from where."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma4TextConfig,
    Llama4TextConfig,
    LlamaConfig,
)

from engine import weights
from engine.checkpoints import describe_checkpoint
from engine.models import Model, compute_type, load_model
from engine.outlines import draw_outline
from engine.placement import Sizes, place
from engine.weights import fits_flash
from stores.errors import ModelError, UsageError
from tests.engine.tiny import BOS, FAMILIES, save_checkpoint

bnb: Any = weights.import_bitsandbytes()
ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[BOS, 5, 90, 17, 300, 41]])
IN_4_BITS = tuple(family for family in FAMILIES if family not in {"qwen3_moe", "gpt_oss"})

Write = Callable[[str], Path]
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Write:
    @cache
    def write(family: str) -> Path:
        return save_checkpoint(tmp_path_factory.mktemp(family), family)

    return write


@pytest.fixture(scope="module")
def load(path: Write) -> Load:
    @cache
    def read(family: str, **settings: Any) -> Model:
        return load_model(str(path(family)), device="cpu", **settings)

    return read


def in_4_bits(network: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in network.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def last_state(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return model.backbone(input_ids=IDS, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", IN_4_BITS)
def test_only_linear_modules_of_blocks_and_towers_are_in_4_bits(load: Load, family: str) -> None:
    model = load(family, quantize="4bit")
    network: Any = model.model
    inside = {m for block in model.blocks for m in block.modules()}
    found = set(in_4_bits(network).values())
    assert found & set(model.backbone.modules()) <= inside
    assert not any(type(module) is nn.Linear for module in inside)
    assert network.get_output_embeddings() not in found
    embedding = network.get_input_embeddings().weight
    assert embedding.dtype == network.get_output_embeddings().weight.dtype == torch.float32
    kept = [p for p in network.parameters() if p.dim() == 1]
    assert {parameter.dtype for parameter in kept} == {torch.float32}


def test_the_blocks_are_nf4_with_double_quantisation(load: Load, path: Write) -> None:
    """Each weight is what bitsandbytes itself makes of the checkpoint's own."""
    auto: Any = AutoModelForCausalLM
    plain = auto.from_pretrained(path("llama"), dtype=torch.float32)
    four = in_4_bits(load("llama", quantize="4bit").model)
    assert len(four) == 4 * 7
    for name, module in four.items():
        own = plain.get_submodule(name).weight
        small, state = bnb.functional.quantize_4bit(
            own.data, quant_type="nf4", compress_statistics=True
        )
        expected = bnb.functional.dequantize_4bit(small, state)
        found = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        assert torch.equal(found, expected)
        assert module.weight.quant_state.nested
        assert module.compute_dtype == torch.float32


def test_float32_is_computed_in_float32_whatever_the_processor_offers(
    load: Load, path: Write
) -> None:
    model = load("llama", quantize="4bit")
    auto: Any = AutoModelForCausalLM
    plain = auto.from_pretrained(path("llama"), dtype=torch.float32)
    for name, module in in_4_bits(model.model).items():
        state = module.weight.quant_state
        plain.get_submodule(name).weight.data = bnb.functional.dequantize_4bit(
            module.weight.data, state
        )
    with torch.inference_mode():
        expected = plain.model(IDS).last_hidden_state
    for _again in range(2):
        assert torch.allclose(last_state(model), expected, rtol=1e-5, atol=1e-5)


def test_the_compute_type_names_how_weights_are_held(load: Load, path: Write) -> None:
    llama = describe_checkpoint(str(path("llama")))
    assert compute_type(llama, "auto", "cpu") == "float32" == load("llama").dtype
    assert compute_type(llama, "bfloat16", "cpu") == "bfloat16"
    four = compute_type(llama, "auto", "cpu", "4bit")
    assert four == "nf4+float32" == load("llama", quantize="4bit").dtype
    wide = load("llama", quantize="4bit", dtype="bfloat16")
    assert wide.dtype == compute_type(llama, "bfloat16", "cpu", "4bit") == "nf4+bfloat16"
    assert last_state(wide).dtype == torch.bfloat16
    assert {m.compute_dtype for m in in_4_bits(wide.model).values()} == {torch.bfloat16}
    for dtype in ("float16", "int3"):
        with pytest.raises(UsageError, match="not for these 4-bit weights; use auto or float32"):
            compute_type(llama, dtype, "cpu", "4bit")
    unknown: Any = "8bit"
    with pytest.raises(UsageError, match="quantize '8bit': unknown; use 4bit"):
        compute_type(llama, "auto", "cpu", unknown)


def test_4_bits_on_a_card_compute_in_bfloat16(path: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    llama = describe_checkpoint(str(path("llama")))
    assert compute_type(llama, "auto", "auto", "4bit") == "nf4+bfloat16"


@pytest.mark.parametrize("found", [None, "0.46.1", "0.49.2.dev0"])
def test_bitsandbytes_that_is_absent_or_old_is_one_line(
    path: Write, monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(weights, "version", version)
    with pytest.raises(UsageError, match=r'pip install "bitsandbytes>=0\.50"') as caught:
        load_model(str(path("llama")), device="cpu", quantize="4bit")
    assert "\n" not in str(caught.value)
    assert (found or "none is installed") in str(caught.value)


def test_what_is_quantised_already_is_left_alone(path: Write, tmp_path: Path) -> None:
    copy = shutil.copytree(path("llama"), tmp_path / "fp8")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="quantised already; leave out --quantize"):
        load_model(str(copy), device="cpu", quantize="4bit")
    with pytest.raises(UsageError, match="leave out --offload"):
        load_model(str(copy), device="cpu", offload=True)


def test_4_bits_and_host_memory_do_not_go_together(path: Write) -> None:
    with pytest.raises(UsageError, match="leave out --offload"):
        load_model(str(path("llama")), device="cpu", quantize="4bit", offload=True)


def test_experts_that_cannot_be_in_4_bits_are_refused(path: Write) -> None:
    with pytest.raises(ModelError, match="most of its weights are fused experts"):
        load_model(str(path("qwen3_moe")), device="cpu", quantize="4bit")


def test_no_kernel_is_fetched_and_nothing_is_said(path: Write, tmp_path: Path) -> None:
    """Even where the package that fetches kernels from the hub is installed."""
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*_args, **_settings):\n"
        f"    open({str(tmp_path / 'fetched')!r}, 'w').close()\n"
    )
    script = (
        "import sys; from engine.models import load_model\n"
        f"model = load_model({str(path('llama'))!r}, device='cpu', quantize='4bit')\n"
        "import kernels; assert sys.modules['kernels'] is kernels\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not (tmp_path / "fetched").exists()


def test_attention_is_the_fastest_that_the_architecture_allows(load: Load) -> None:
    assert load("llama").attention == "sdpa"
    assert load("gemma2").attention == "eager"
    assert load("gemma4_wrapper").attention == "sdpa"


@pytest.mark.parametrize("family", ["llama", "gemma3_wrapper", "gpt2"])
def test_attention_can_be_asked_for(load: Load, family: str) -> None:
    asked = load(family, attention="eager")
    assert asked.attention == "eager"
    assert torch.allclose(last_state(asked), last_state(load(family)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("flash_attention_2", "pip install flash-attn"),
        ("kernels-community/flash-attn2", "unknown; use eager, sdpa"),
        ("fast", "unknown; use eager, sdpa"),
    ],
)
def test_attention_that_is_not_installed_is_refused(
    path: Write, monkeypatch: pytest.MonkeyPatch, asked: str, message: str
) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=message):
        load_model(str(path("llama")), device="cpu", attention=asked)


def test_flash_attention_is_for_networks_its_kernels_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(config: Any = None, *, flash: bool = True, named: Any = None) -> Any:
        return SimpleNamespace(
            config=config or LlamaConfig(),
            _supports_flash_attn=flash,
            _compatible_flash_implementations=named,
        )

    monkeypatch.setattr(weights, "find_spec", lambda _name: None)
    assert not fits_flash(network(), torch.bfloat16)
    monkeypatch.setattr(weights, "find_spec", lambda _name: object())
    assert fits_flash(network(), torch.bfloat16)
    assert fits_flash(network(), torch.float16)
    assert fits_flash(network(named=["flash_attention_2"]), torch.bfloat16)
    assert not fits_flash(network(), torch.float32)
    assert not fits_flash(network(flash=False), torch.bfloat16)
    assert not fits_flash(network(named=["kernels-community/flash-mla"]), torch.bfloat16)
    assert not fits_flash(network(Llama4TextConfig()), torch.bfloat16)
    # Some of its heads are 512 wide.
    assert not fits_flash(network(Gemma4TextConfig()), torch.bfloat16)


def test_an_outline_counts_what_is_loaded(load: Load, path: Write) -> None:
    for family in FAMILIES:
        checkpoint = describe_checkpoint(str(path(family)))
        outline = draw_outline(checkpoint, torch.float32, trust_remote_code=False)
        sizes = outline.sizes(quantized=False)
        network: Any = load(family).model
        tensors = [*network.parameters(), *network.buffers()]
        assert sizes.total == sum(t.numel() * t.element_size() for t in tensors), family
        names = {m: name for name, m in network.named_modules()}
        assert list(sizes.blocks) == [names[block] for block in load(family).blocks]


def test_an_outline_counts_4_bits_as_half_a_byte(load: Load, path: Write) -> None:
    checkpoint = describe_checkpoint(str(path("gemma4_shared")))
    outline = draw_outline(checkpoint, torch.float32, trust_remote_code=False)
    parameters = load("gemma4_shared", quantize="4bit").model.parameters()
    held = sum(p.numel() * p.element_size() for p in parameters)
    assert held < outline.sizes(quantized=True).total < 1.1 * held


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What takes the place of two cards here: the processor, and weights left on disk."""
    stand_ins = {"cuda:0": "cpu", "cuda:1": "disk"}
    maps = []

    def place_here(name: str, sizes: Sizes, _cards: Any, *, offload: bool) -> dict[str, str]:
        too_small = round(0.8 * sizes.total)
        placed = place(name, sizes, dict.fromkeys(stand_ins, too_small), offload=offload)
        maps.append({part: stand_ins[card] for part, card in placed.items()})
        return maps[-1]

    monkeypatch.setattr(weights, "choose_device", lambda _device: torch.device("cuda"))
    monkeypatch.setattr(weights, "free_memory", lambda _device: {})
    monkeypatch.setattr(weights, "place", place_here)
    return maps


@pytest.mark.parametrize("family", ["llama", "gemma3_wrapper", "gemma4_shared"])
def test_a_model_over_two_devices_is_the_same_model(
    load: Load, path: Write, two_cards: list[dict[str, str]], family: str
) -> None:
    apart = load_model(str(path(family)), device="auto", dtype="float32")
    assert set(two_cards[-1].values()) == {"cpu", "disk"}
    assert apart.device == torch.device("cpu")
    assert torch.equal(last_state(apart), last_state(load(family)))


def test_a_checkpoint_in_4_bits_already_says_so(load: Load, path: Write, tmp_path: Path) -> None:
    settings: Any = BitsAndBytesConfig
    auto: Any = AutoModelForCausalLM
    network = auto.from_pretrained(
        path("llama"),
        quantization_config=settings(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    network.save_pretrained(tmp_path)
    load("llama").tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    assert model.dtype == "nf4+float32"
    assert torch.equal(last_state(model), last_state(load("llama", quantize="4bit")))
    with pytest.raises(UsageError, match="use auto or float32"):
        load_model(str(tmp_path), device="cpu", dtype="bfloat16")
