"""A batch in which texts see each other, or lose their places, is found out before it is used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import selfcheck
from engine.capture import Pooled
from engine.models import Model, load_model
from engine.packing import Batching
from engine.selfcheck import Choice, choose_batching
from tests.engine.tiny import FAMILIES, UNPACKABLE, save_checkpoint

LAYERS = (0, 1, 3)
DTYPES = ("float32", "bfloat16", "float16")
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A fresh model of a family in a type; its checkpoint is written once."""

    @cache
    def write(family: str) -> Path:
        return save_checkpoint(tmp_path_factory.mktemp(family), family)

    def read(family: str = "llama", dtype: str = "float32", **settings: Any) -> Model:
        return load_model(str(write(family)), device="cpu", dtype=dtype, **settings)

    return read


@contextmanager
def called_otherwise(model: Model, change: Callable[[dict[str, Any]], Any]) -> Iterator[None]:
    """The backbone with its inputs changed on the way in."""
    backbone: Any = model.backbone
    plain = backbone.forward
    backbone.forward = lambda **inputs: plain(**change(inputs))
    try:
        yield
    finally:
        del backbone.forward


def without_positions(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "position_ids"}


def refusing_positions(inputs: dict[str, Any]) -> dict[str, Any]:
    if "position_ids" in inputs:
        raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
    return inputs


def see_everything(model: Model) -> None:
    """Attention in both directions, as in an encoder."""
    model.model.config.is_causal = False
    for module in model.backbone.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_batch_raises_no_alarm_in_any_type(load: Load, family: str, dtype: str) -> None:
    model = load(family, dtype)
    assert choose_batching(model, LAYERS, "padded") == Choice("padded", None)
    if dtype != "float16" and family not in UNPACKABLE:
        assert choose_batching(model, LAYERS, "packed") == Choice("packed", None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_batch_raises_no_alarm_with_weights_in_4_bits(load: Load, dtype: str) -> None:
    model = load("llama", dtype, quantize="4bit")
    assert choose_batching(model, LAYERS, "packed") == Choice("packed", None)
    assert choose_batching(model, LAYERS, "padded") == Choice("padded", None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_texts_that_see_each_other_are_padded_instead(load: Load, dtype: str) -> None:
    model = load("llama", dtype)
    # Else float16 is not even tried.
    model = replace(model, attention="flash_attention_2")
    with called_otherwise(model, without_positions):
        choice = choose_batching(model, LAYERS, "packed")
    assert choice.batching == "padded"
    assert choice.reason is not None
    assert choice.reason.startswith("packed texts change each other (layer ")
    assert choice.reason.endswith("so texts are padded instead")


@pytest.mark.parametrize("dtype", DTYPES)
def test_texts_that_see_their_padding_are_read_one_by_one(load: Load, dtype: str) -> None:
    model = load("llama", dtype)
    see_everything(model)
    choice = choose_batching(model, LAYERS)
    assert choice.batching == "alone"
    assert choice.reason is not None
    assert choice.reason.startswith("padded texts change each other")
    assert choose_batching(model, LAYERS, "packed").batching == "alone"


@pytest.mark.parametrize("layers", [(0,), (3,)])
def test_a_leak_shows_at_the_first_layer_as_at_the_last(
    load: Load, layers: tuple[int, ...]
) -> None:
    model = load("llama", "bfloat16")
    see_everything(model)
    assert choose_batching(model, layers).batching == "alone"


@pytest.mark.parametrize("family", UNPACKABLE)
def test_families_that_packing_disturbs_are_padded(load: Load, family: str) -> None:
    choice = choose_batching(load(family), LAYERS, "packed")
    assert choice.batching == "padded"
    assert choice.reason is not None


def test_a_model_that_takes_no_positions_is_padded(load: Load) -> None:
    model = load()
    with called_otherwise(model, refusing_positions):
        choice = choose_batching(model, LAYERS, "packed")
    assert choice.batching == "padded"
    assert choice.reason is not None
    assert choice.reason.startswith("the model takes no packed texts (TypeError: forward()")


def test_float16_is_not_packed_under_a_mask(load: Load) -> None:
    choice = choose_batching(load("llama", "float16"), LAYERS, "packed")
    assert choice == Choice(
        "padded",
        "in float16 packed texts that overflow spoil their neighbours, so texts are padded instead",
    )


def test_alone_needs_no_check(load: Load) -> None:
    model = load()
    passes: list[int] = []

    def count(inputs: dict[str, Any]) -> dict[str, Any]:
        passes.append(1)
        return inputs

    with called_otherwise(model, count):
        assert choose_batching(model, LAYERS, "alone") == Choice("alone", None)
    assert not passes


@pytest.mark.parametrize(
    ("device", "attention", "expected"),
    [
        ("cpu", "sdpa", "padded"),
        ("cuda", "sdpa", "padded"),
        ("cuda", "flash_attention_2", "packed"),
        ("cuda", "kernels-community/flash-attn3", "packed"),
        ("cuda", "eager", "padded"),
    ],
)
def test_packing_is_the_habit_of_flash_kernels_only(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, device: str, attention: str, expected: Batching
) -> None:
    pooled = Pooled(np.ones((3, 3, 4), np.float32), np.ones((3, 3), np.float32))
    monkeypatch.setattr(selfcheck, "_run", lambda *_: pooled)
    model = replace(tiny, device=torch.device(device), attention=attention)
    assert choose_batching(model, LAYERS) == Choice(expected, None)


@pytest.mark.parametrize("window", [40, 64, 100, 150])
def test_a_fault_beyond_the_sliding_window_is_found(load: Load, window: int) -> None:
    model = load("gemma3")
    model.model.config.get_text_config().sliding_window = window

    def lose_the_window(inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        wrong = ids.shape[0] > 1 and ids.shape[1] > window
        return inputs | {"input_ids": ids.roll(1, dims=1)} if wrong else inputs

    with called_otherwise(model, lose_the_window):
        assert choose_batching(model, LAYERS).batching == "alone"


def test_probes_stay_within_the_context_of_the_model(load: Load) -> None:
    model = load()
    model.model.config.max_position_embeddings = 20
    longest: list[int] = []

    def measure(inputs: dict[str, Any]) -> dict[str, Any]:
        longest.append(inputs["input_ids"].shape[1])
        return inputs

    with called_otherwise(model, measure):
        assert choose_batching(model, LAYERS) == Choice("padded", None)
    assert max(longest) == 20


def test_a_check_leaves_no_hook(load: Load) -> None:
    model = load()
    before = [len(block._forward_hooks) for block in model.blocks]
    with called_otherwise(model, refusing_positions):
        choose_batching(model, LAYERS, "packed")
    assert [len(block._forward_hooks) for block in model.blocks] == before
