"""A state's logits by final norm and a few rows of W_U are the model's own, in every family."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from engine import heads
from engine.heads import find_final_norm, norm_weight, open_head, unembed
from engine.models import Model, hooked, load_model
from engine.tokens import encode_raw
from stores.errors import ModelError
from tests.engine.tiny import FAMILIES, RECURRENT, SHAPE, build_tokenizer, save_checkpoint, text_of
from tests.engine.tiny import tf as transformers

EVERY = (*FAMILIES, *RECURRENT)
TOKENS = (7, 300, 8, 7)
TOLERANCE = 1e-5
# What the library's own product in 16 bits may round, as a share of the largest logit.
ROUNDED = {"bfloat16": 1e-2, "float16": 1e-3}
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """One model of each family and type, loaded once."""

    @cache
    def read(family: str = "llama", dtype: str = "float32") -> Model:
        folder = save_checkpoint(tmp_path_factory.mktemp(family), family)
        return load_model(str(folder), device="cpu", dtype=dtype)

    return read


def states_and_logits(model: Model, words: int = 30) -> tuple[Tensor, Tensor]:
    """The last block's output [t, d] on a text that is not the probe, and the model's logits."""
    states: dict[int, Tensor] = {}
    layer = model.n_layers - 1
    network: Any = model.model
    with torch.inference_mode(), hooked(model, (layer,), states.__setitem__):
        logits = network(torch.tensor([encode_raw(model, text_of(words)).ids])).logits
    return states[layer][0], logits[0]


@pytest.mark.parametrize("family", EVERY)
def test_logits_are_the_models_own(load: Load, family: str) -> None:
    model = load(family)
    head, (states, expected) = open_head(model), states_and_logits(model)
    everything, some = head.logits(states), head.logits(states, TOKENS)
    assert everything.dtype == some.dtype == torch.float32
    assert torch.allclose(everything, expected, atol=TOLERANCE)
    assert torch.allclose(some, expected[:, TOKENS], atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma4", "gpt2"])
def test_in_16_bits_products_are_float32_and_the_rest_is_the_models_own(
    load: Load, family: str, dtype: str
) -> None:
    model = load(family, dtype)
    head, (states, rounded) = open_head(model), states_and_logits(model)
    found = head.logits(states)
    with torch.inference_mode():
        exact = head.finish(head.norm(states).double() @ head.weight.double().T)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, atol=TOLERANCE)
    assert float((found - rounded).abs().max() / found.abs().max()) < ROUNDED[dtype]


def test_a_bias_of_the_unembedding_counts_for_its_tokens(tmp_path: Path) -> None:
    network = transformers.PhiForCausalLM(transformers.PhiConfig(vocab_size=390, **SHAPE))
    with torch.no_grad():
        network.lm_head.bias.normal_()
    model = saved(network, tmp_path)
    head, (states, expected) = open_head(model), states_and_logits(model)
    assert torch.allclose(head.logits(states, TOKENS), expected[:, TOKENS], atol=TOLERANCE)
    assert torch.allclose(head.logits(states), expected, atol=TOLERANCE)


def saved(network: Any, folder: Path) -> Model:
    network.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("Granite", {"logits_scaling": 4.0}),
        ("HyperCLOVAX", {"logits_scaling": 4.0}),
        ("Cohere", {"logit_scale": 0.125}),
    ],
)
def test_a_scale_is_used_as_the_family_uses_it(
    family: str, setting: dict[str, float], tmp_path: Path
) -> None:
    """Granite divides by what HyperCLOVA X multiplies with."""
    config = getattr(transformers, f"{family}Config")(vocab_size=390, **SHAPE, **setting)
    model = saved(getattr(transformers, f"{family}ForCausalLM")(config), tmp_path)
    head, (states, expected) = open_head(model), states_and_logits(model)
    assert torch.allclose(head.logits(states), expected, atol=TOLERANCE)


def test_slices_of_the_vocabulary_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given, weight = torch.randn(5, 16), torch.randn(70, 16, dtype=torch.bfloat16)
    whole = unembed(given, weight)
    monkeypatch.setattr(heads, "ROWS", 32)
    assert torch.allclose(unembed(given, weight), whole, atol=1e-6)


def own_weight(norm: nn.Module) -> Tensor:
    """What the sources of these families say, for the test alone."""
    weight = cast("Tensor", norm.weight)
    one_more = type(norm).__name__ in ("Gemma2RMSNorm", "Gemma3RMSNorm", "Qwen3_5RMSNorm")
    return (weight.float() + 1 if one_more else weight.float()).detach()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", EVERY)
def test_the_norms_weight_is_what_it_multiplies_by(load: Load, family: str, dtype: str) -> None:
    """1 + w in some, w in others, and a bias is none of it."""
    model = load(family, dtype)
    found = norm_weight(model)
    assert found.dtype == torch.float32
    assert torch.allclose(found, own_weight(find_final_norm(model)), atol=1e-6)


def test_the_final_norm_is_found_by_what_it_does(load: Load) -> None:
    names = {"gpt2": "ln_f", "llama": "norm", "mamba": "norm_f", "gpt_neox": "final_layer_norm"}
    for family, name in names.items():
        model = load(family)
        assert find_final_norm(model) is getattr(model.backbone, name)


def test_opening_a_head_leaves_no_hook(load: Load) -> None:
    model = load("llama")
    modules = list(model.model.modules())
    before = [len(module._forward_hooks) for module in modules]
    open_head(model)
    assert [len(module._forward_hooks) for module in modules] == before


def test_logits_that_are_changed_in_a_way_unknown_are_refused(tmp_path: Path) -> None:
    model = load_model(str(save_checkpoint(tmp_path)), device="cpu")
    network: Any = model.model
    network.lm_head.register_forward_hook(lambda _head, _given, came: came * 1.01)
    with pytest.raises(ModelError, match=r"miss its own logits by 1\.0%"):
        open_head(model)


def test_a_network_without_a_final_norm_is_refused(tmp_path: Path) -> None:
    model = load_model(str(save_checkpoint(tmp_path)), device="cpu")
    backbone: Any = model.backbone
    width = model.d_model
    backbone.norm = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
    with pytest.raises(ModelError, match="0 final norms found after block 3"):
        open_head(model)


def test_a_head_of_another_width_is_refused(load: Load) -> None:
    narrow = replace(load("llama"), d_model=16)
    with pytest.raises(ModelError, match="no unembedding"):
        open_head(narrow)
