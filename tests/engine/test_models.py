"""What a layer is, which models are refused, and how layers are named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from engine.checkpoints import describe_checkpoint
from engine.models import (
    Model,
    check_layers,
    choose_device,
    choose_dtype,
    default_layer,
    find_blocks,
    hooked,
    load_model,
    parse_layers,
)
from stores.errors import ModelError, UsageError
from tests.engine.tiny import EOS


def test_blocks_are_found_in_every_architecture(tiny_family: Model) -> None:
    assert (tiny_family.n_layers, tiny_family.d_model, len(tiny_family.blocks)) == (4, 32, 4)
    assert len({type(block) for block in tiny_family.blocks}) == 1


def test_layer_l_is_the_output_of_block_l(tiny_family: Model) -> None:
    """The input of block l + 1, seen by a hook of another kind, is the output of block l."""
    inputs: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}

    def note(layer: int) -> Any:
        def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[layer] = args[0] if args else kwargs["hidden_states"]

        return see

    pre = [
        block.register_forward_pre_hook(note(layer), with_kwargs=True)
        for layer, block in enumerate(tiny_family.blocks)
    ]
    with torch.inference_mode(), hooked(tiny_family, (0, 1, 2, 3), outputs.__setitem__):
        tiny_family.backbone(input_ids=torch.tensor([[1, 5, 6, 7]]), use_cache=False)
    for hook in pre:
        hook.remove()
    for layer in range(3):
        assert torch.equal(outputs[layer], inputs[layer + 1])


def test_the_last_layer_is_before_the_final_norm(tiny_family: Model) -> None:
    outputs: dict[int, torch.Tensor] = {}
    with torch.inference_mode(), hooked(tiny_family, (3,), outputs.__setitem__):
        run = tiny_family.backbone(input_ids=torch.tensor([[1, 5, 6, 7]]), use_cache=False)
        decoder: Any = tiny_family.backbone
        norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
        assert not torch.allclose(outputs[3], run.last_hidden_state)
        assert torch.allclose(norm(outputs[3]), run.last_hidden_state, atol=1e-6)


def test_blocks_in_another_order_are_refused(tiny: Model) -> None:
    swapped = (tiny.blocks[1], tiny.blocks[0], *tiny.blocks[2:])
    with pytest.raises(ModelError, match="block 0 is not layer 0"):
        check_layers(replace(tiny, blocks=swapped))


def test_blocks_that_lack_the_last_one_are_refused(tiny: Model) -> None:
    with pytest.raises(ModelError, match="block 2 does not end the residual stream"):
        check_layers(replace(tiny, blocks=tiny.blocks[:3], n_layers=3))


def test_blocks_that_lack_the_first_one_are_refused(tiny: Model) -> None:
    with pytest.raises(ModelError, match="block 0 is not layer 0"):
        check_layers(replace(tiny, blocks=tiny.blocks[1:], n_layers=3))


def test_modules_that_give_no_residual_stream_are_refused(tiny: Model) -> None:
    inner: Any = tiny.blocks[0]
    with pytest.raises(ModelError, match="block 0 gives no residual stream"):
        check_layers(replace(tiny, blocks=(inner.mlp.gate_proj, *tiny.blocks[1:])))


def test_an_unknown_arrangement_of_blocks_is_refused(tiny: Model) -> None:
    with pytest.raises(ModelError, match="0 lists of 5 decoder blocks"):
        find_blocks(tiny.model, 5)


def test_a_list_of_other_modules_as_long_as_the_blocks_is_not_taken(tiny_path: Path) -> None:
    """Nor is a tower inside the decoder, or a list inside every block."""
    network: Any = load_model(str(tiny_path), device="cpu").model
    blocks = tuple(network.model.layers)
    network.model.adapters = nn.ModuleList(nn.Linear(32, 32) for _ in blocks)
    network.model.inner = nn.Module()
    network.model.inner.layers = nn.ModuleList(type(blocks[0])(network.config, 0) for _ in blocks)
    blocks[0].experts = nn.ModuleList(nn.Linear(32, 32) for _ in blocks)
    assert find_blocks(network, 4) == blocks


def test_a_network_that_the_decoder_holds_is_the_decoder_only_if_it_is_of_text(
    tiny_path: Path,
) -> None:
    model = load_model(str(tiny_path), device="cpu")
    network: Any = model.model
    decoder, blocks = model.backbone, model.blocks
    shape: Any = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    network.model.tower = SiglipVisionModel(SiglipVisionConfig(**shape))
    assert model.backbone is decoder
    assert find_blocks(network, 4) == blocks


def test_two_lists_that_may_be_the_blocks_are_refused(tiny_path: Path) -> None:
    network: Any = load_model(str(tiny_path), device="cpu").model
    network.model.others = nn.ModuleList(network.model.layers)
    with pytest.raises(ModelError, match="2 lists of 4 decoder blocks"):
        find_blocks(network, 4)


def test_a_model_that_overflows_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "huge")
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= torch.inf
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="layer 1 overflows in float32"):
        load_model(str(copy), device="cpu")


def test_a_checkpoint_that_lacks_a_weight_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "partial")
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.2.mlp.down_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are not .* model\.layers\.2\.mlp\.down_proj"):
        load_model(str(copy), device="cpu")


def test_pickled_weights_are_never_loaded(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where nobody looked for safetensors beforehand, as with a hub repository."""
    copy = shutil.copytree(tiny_path, tmp_path / "pickled")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    monkeypatch.setattr("engine.checkpoints.weights_digest", lambda _folder: "sha256:0")
    with pytest.raises(ModelError, match=r"pickled: cannot be loaded: .*safetensors"):
        load_model(str(copy), device="cpu")


def test_a_torn_weights_file_is_one_line(tiny_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "torn")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="torn: cannot be loaded") as caught:
        load_model(str(copy), device="cpu")
    assert "\n" not in str(caught.value)


def test_remote_code_is_not_run_unasked(tiny_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "remote")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ModelError, match="remote"):
        load_model(str(copy), device="cpu")


def test_loading_is_silent(tiny_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(tiny_path), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_cpu_computes_in_float32_whatever_the_checkpoint_holds(
    tiny_path: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "half")
    config = json.loads((copy / "config.json").read_text()) | {"dtype": "float16"}
    (copy / "config.json").write_text(json.dumps(config))
    checkpoint = describe_checkpoint(str(copy))
    assert load_model(str(copy), device="cpu").dtype == "float32"
    assert choose_dtype(checkpoint, "auto", torch.device("cpu")) == "float32"
    assert choose_dtype(checkpoint, "auto", torch.device("cuda")) == "float16"
    assert load_model(str(copy), device="cpu", dtype="bfloat16").dtype == "bfloat16"


def test_unknown_devices_and_types_are_refused(tiny_path: Path) -> None:
    with pytest.raises(UsageError, match="device 'abacus': unknown"):
        choose_device("abacus")
    with pytest.raises(UsageError, match="dtype 'int3': unknown"):
        load_model(str(tiny_path), device="cpu", dtype="int3")


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="no CUDA card is visible here; use --device cpu"):
        choose_device("cuda:0")


def test_the_end_token_is_the_tokenizers_where_the_checkpoint_names_none(tiny: Model) -> None:
    settings: Any = tiny.model.generation_config
    named = settings.eos_token_id
    settings.eos_token_id = None
    try:
        assert tiny.end_tokens == {EOS}
    finally:
        settings.eos_token_id = named


def test_hooks_are_gone_after_an_error(tiny: Model) -> None:
    before = [len(block._forward_hooks) for block in tiny.blocks]
    with pytest.raises(RuntimeError), hooked(tiny, (0, 3), lambda _layer, _states: None):
        raise RuntimeError
    assert [len(block._forward_hooks) for block in tiny.blocks] == before


DEFAULTS = [(1, 0), (2, 0), (4, 2), (6, 3), (32, 20), (60, 39)]


@pytest.mark.parametrize(("n_layers", "layer"), DEFAULTS)
def test_the_default_layer_is_the_block_nearest_two_thirds(n_layers: int, layer: int) -> None:
    distances = [abs((block + 1) / n_layers - 2 / 3) for block in range(n_layers)]
    assert default_layer(n_layers) == layer
    assert distances[layer] == min(distances)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", tuple(range(12))),
        ("2:3", (7,)),
        ("1:9", (0,)),
        ("5,10", (5, 10)),
        ("10, 5,5", (5, 10)),
        ("every:5", (0, 5, 10)),
        ("3-5,11", (3, 4, 5, 11)),
        ("2:3,0", (0, 7)),
    ],
)
def test_layers_are_named_in_several_ways(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, 12) == layers


def test_two_thirds_is_the_default_layer() -> None:
    for n_layers in range(1, 100):
        assert parse_layers("2:3", n_layers) == (default_layer(n_layers),)


@pytest.mark.parametrize("text", ["", "12", "-1", "10:20", "3:2", "every:0", "some", "0-12", "9-3"])
def test_layers_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="layers"):
        parse_layers(text, 12)
