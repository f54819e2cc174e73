"""What a sketch says is what the loaded model holds and what its passes take."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from engine.capture import capture
from engine.checkpoints import describe_checkpoint
from engine.forecasting.sketch import Sketch, rehearse, sketch_model
from engine.models import Model, load_model
from engine.packing import Segment
from stores.errors import ModelError
from tests.engine.tiny import FAMILIES, RECURRENT, build_tokenizer, save_checkpoint

LAYERS, WIDTH, ROWS = (0, 2), 50, 16


def sketch(folder: Path, dtype: str = "float32") -> Sketch:
    return sketch_model(describe_checkpoint(str(folder)), dtype)


def held_bytes(network: Any) -> int:
    """Bytes of all weights and buffers, with the tables of those in 4 bits."""
    tensors = [*network.parameters(), *network.buffers()]
    for weight in network.parameters():
        if state := getattr(weight, "quant_state", None):
            nested = state.state2
            tensors += [state.absmax, state.code, nested.absmax, nested.code]
    return sum(tensor.nbytes for tensor in tensors)


def measured_peak(model: Model, rows: int, width: int, layers: tuple[int, ...] = LAYERS) -> int:
    """Bytes that torch's own profiler sees alive at the widest moment of one batch."""
    ids = torch.arange(rows * width).remainder(300).view(rows, width)
    segments = [Segment(tuple(row), slice(0, width)) for row in ids.tolist()]
    with capture(model, layers) as pooling:
        pooling.start(segments).wait()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            pooling.start(segments).wait()
    recorder: Any = seen.profiler
    events = [event for event in recorder.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@pytest.mark.parametrize("family", (*FAMILIES, *RECURRENT))
def test_weights_and_a_batch_of_any_architecture_are_foretold(tmp_path: Path, family: str) -> None:
    folder = save_checkpoint(tmp_path, family)
    model, found = load_model(str(folder), device="cpu"), sketch(folder)
    assert found.weight_bytes == held_bytes(model.model)
    predicted = rehearse(found, LAYERS, ROWS * WIDTH, WIDTH)
    measured = measured_peak(model, ROWS, WIDTH)
    assert predicted.tokens == ROWS * WIDTH
    assert measured <= 1.25 * predicted.peak_bytes <= 3 * measured


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_weights_are_no_part_of_a_batch(tmp_path: Path, family: str) -> None:
    found = sketch(save_checkpoint(tmp_path, family))
    assert rehearse(found, LAYERS, 1, 1).peak_bytes < found.weight_bytes / 4


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two blocks, wide enough for tables and scales to be small beside its weights."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = build_tokenizer()
    config: Any = LlamaConfig
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 256}
    network: Any = LlamaForCausalLM(config(vocab_size=len(tokenizer), **shape, **heads))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "nf4+float32"])
def test_a_type_decides_what_weights_and_batches_take(wide: Path, dtype: str) -> None:
    quantize: Any = "4bit" if dtype.startswith("nf4+") else None
    if quantize and not find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed")
    plain = dtype.removeprefix("nf4+")
    model = load_model(str(wide), device="cpu", dtype=plain, quantize=quantize)
    found = sketch(wide, model.dtype)
    assert model.dtype == dtype
    assert found.weight_bytes == pytest.approx(held_bytes(model.model), rel=0.02)
    predicted = rehearse(found, (0, 1), 100, 50).peak_bytes
    measured = measured_peak(model, 2, 50, (0, 1))
    assert measured <= 1.25 * predicted <= 2 * measured, "of which unpacked weights are most"


def test_a_batch_costs_by_its_tokens_and_by_how_deep_it_goes(wide: Path) -> None:
    found = sketch(wide)
    small, large = rehearse(found, (1,), 1000, 100), rehearse(found, (1,), 4000, 100)
    assert large.peak_bytes == pytest.approx(4 * small.peak_bytes, rel=0.02)
    assert large.flops == 4 * small.flops
    assert small.flops == 2 * rehearse(found, (0,), 1000, 100).flops


def test_every_product_with_a_weight_is_counted_once(wide: Path) -> None:
    found = sketch(wide)
    matrices = [w for b in found.model.blocks for w in b.parameters() if w.dim() == 2]
    effort = rehearse(found, (0, 1), 1000, 100)
    assert effort.flops == 2 * effort.tokens * sum(weight.numel() for weight in matrices)


def test_a_network_that_asks_for_its_numbers_gets_an_assumption(wide: Path) -> None:
    found, counted = sketch(wide), rehearse(sketch(wide), (0, 1), 1000, 100)

    def ask(_module: Any, inputs: Any) -> None:
        inputs[0].nonzero()

    found.model.blocks[0].register_forward_pre_hook(ask)
    assumed = rehearse(found, (0, 1), 1000, 100)
    assert (assumed.assumed, counted.assumed) == (True, False)
    assert assumed.tokens == counted.tokens
    assert assumed.flops == pytest.approx(counted.flops, rel=0.01)
    assert counted.peak_bytes / 3 < assumed.peak_bytes < 3 * counted.peak_bytes


def test_a_sketch_reads_no_weights(wide: Path, tmp_path: Path) -> None:
    for file in wide.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing that could be read")
    assert sketch(tmp_path).weight_bytes == sketch(wide).weight_bytes
    assert all(weight.is_meta for weight in sketch(tmp_path).model.model.parameters())


def test_weights_that_cannot_be_quantised_are_refused_before_they_are_read(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_moe")
    with pytest.raises(ModelError, match="fused experts"):
        sketch(folder, "nf4+float32")
