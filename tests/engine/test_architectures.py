"""The central law: pooled means equal a plain loop over single texts, in every architecture.

The loop is written here with nothing but transformers: one text at a time, the whole network, every
state kept, and a hook of its own on the last block, whose output `hidden_states` does not hold.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.capture import capture
from engine.models import Model, load_model
from engine.packing import Batching, Segment, pack
from engine.selfcheck import choose_batching
from engine.tokens import encode_raw
from tests.engine.tiny import BOS, FAMILIES, RECURRENT, UNPACKABLE, WINDOW, save_checkpoint, text_of

EVERY = (*FAMILIES, *RECURRENT)
WRAPPERS = ("mistral3_wrapper", "gemma3_wrapper", "gemma4_wrapper")
# Fused experts are no linear modules, and Mamba takes a weight out of its module.
IN_4_BITS = tuple(family for family in EVERY if family not in {"qwen3_moe", "gpt_oss", "mamba"})
LAYERS = (0, 1, 2, 3)
BUDGETS = (24, 100, 1000)
START = 4
# Sums in another order; relative to the norm of the row they make.
TOLERANCE = 1e-5
TEXTS = tuple(text_of(words, start=words) for words in (60, 1, 9, 33, 2, 21, 45, 5))
BLOCKS = {
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "mamba": "backbone.layers",
    **dict.fromkeys(WRAPPERS, "model.language_model.layers"),
}

Rows = NDArray[np.float32]
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a family's checkpoint, written once."""

    @cache
    def write(family: str, side: Any = "right") -> Path:
        return save_checkpoint(tmp_path_factory.mktemp(family), family, padding_side=side)

    return write


@pytest.fixture(scope="module")
def load(path: Callable[..., Path]) -> Load:
    """A family's model through the real loading code, once per setting."""

    @cache
    def read(family: str, side: str = "right", **settings: Any) -> Model:
        return load_model(str(path(family, side)), device="cpu", **settings)

    return read


@pytest.fixture(scope="module")
def plain(path: Callable[..., Path]) -> Callable[[str], Rows]:
    """What a family's activations are, by the plain loop."""

    @cache
    def loop(family: str) -> Rows:
        auto: Any = AutoModelForMultimodalLM if family in WRAPPERS else AutoModelForCausalLM
        network = auto.from_pretrained(path(family), dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path(family))
        return plain_loop(network, tokenizer, family)

    return loop


def plain_loop(network: Any, tokenizer: Any, family: str) -> Rows:
    """Means over the text after its first tokens, [n, l, d]; BOS is no part of the text."""
    last: list[torch.Tensor] = []
    blocks = network.get_submodule(BLOCKS.get(family, "model.layers"))
    hook = blocks[-1].register_forward_hook(
        lambda _m, _i, out: last.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            run = network(torch.tensor([[BOS, *ids]]), output_hidden_states=True)
        # The embedding comes first, but not in Mamba.
        skipped = 0 if family == "mamba" else 1
        states = [*run.hidden_states[skipped:][: len(LAYERS) - 1], last[-1]]
        first = 1 + min(START, len(ids) - 1)
        rows.append(torch.stack([state[0, first:].float().mean(dim=0) for state in states]))
    hook.remove()
    return torch.stack(rows).numpy()


def segments(model: Model) -> list[Segment]:
    encoded = [encode_raw(model, text) for text in TEXTS]
    firsts = [min(e.content.start + START, e.content.stop - 1) for e in encoded]
    return [
        Segment(e.ids, slice(first, e.content.stop))
        for e, first in zip(encoded, firsts, strict=True)
    ]


def captured(
    model: Model,
    batching: Batching,
    budget: int,
    *,
    layers: Sequence[int] = LAYERS,
    order: Sequence[int] = range(len(TEXTS)),
) -> Rows:
    """Means [n, l, d] in the order of TEXTS, computed in another."""
    every = segments(model)
    given = [every[i] for i in order]
    found = np.full((len(given), len(layers), model.d_model), np.nan, np.float32)
    lengths = [len(segment.ids) for segment in given]
    with capture(model, layers, batching) as pooling:
        for batch in pack(lengths, budget, padded=batching == "padded"):
            rows = pooling.start([given[i] for i in batch]).wait()
            found[[order[i] for i in batch]] = rows.means
    return found


def distance(found: Rows, expected: Rows) -> float:
    """The largest difference, relative to the norm of its row."""
    norms = np.linalg.norm(expected, axis=-1, keepdims=True)
    return float((np.abs(found - expected) / norms).max())


def test_the_texts_are_long_and_short_enough_to_tell(load: Load) -> None:
    lengths = [segment.pooled.stop - segment.pooled.start for segment in segments(load("llama"))]
    assert min(lengths) == 1
    assert max(lengths) > 3 * WINDOW


@pytest.mark.parametrize("batching", ["packed", "padded", "alone"])
@pytest.mark.parametrize("family", EVERY)
def test_pooled_means_equal_a_plain_loop(
    load: Load, plain: Callable[[str], Rows], family: str, batching: Batching
) -> None:
    """And where packing is wrong, the self-check sees it and pads."""
    if batching == "packed" and family in UNPACKABLE:
        assert distance(captured(load(family), batching, 1000), plain(family)) > 100 * TOLERANCE
        assert choose_batching(load(family), LAYERS, "packed").batching == "padded"
        return
    assert choose_batching(load(family), LAYERS, batching).batching == batching
    order = random.Random(family).sample(range(len(TEXTS)), len(TEXTS))
    for side in ("right", "left"):
        for budget in BUDGETS:
            found = captured(load(family, side), batching, budget, order=order)
            assert distance(found, plain(family)) <= TOLERANCE, (side, budget)


@pytest.mark.parametrize("family", IN_4_BITS)
def test_4_bit_means_equal_the_same_weights_run_plainly(load: Load, family: str) -> None:
    model = load(family, quantize="4bit")
    expected = plain_loop(model.model, model.tokenizer, family)
    batchings: tuple[Batching, ...] = ("padded",) if family in UNPACKABLE else ("padded", "packed")
    for batching in batchings:
        assert distance(captured(model, batching, 100), expected) <= TOLERANCE


@pytest.mark.parametrize("family", EVERY)
def test_the_last_layer_is_before_the_final_norm(
    load: Load, plain: Callable[[str], Rows], family: str
) -> None:
    model = load(family)
    normed = []
    for segment in segments(model):
        with torch.inference_mode():
            run: Any = model.model(torch.tensor([segment.ids]), output_hidden_states=True)
        normed.append(run.hidden_states[-1][0, segment.pooled].mean(dim=0))
    assert distance(plain(family)[:, -1], torch.stack(normed).numpy()) > 0.01


@pytest.mark.parametrize("family", EVERY)
def test_every_block_changes_the_stream(plain: Callable[[str], Rows], family: str) -> None:
    """Else a test could not tell one layer from the next."""
    rows = plain(family)
    steps = np.linalg.norm(np.diff(rows, axis=1), axis=-1) / np.linalg.norm(rows[:, 1:], axis=-1)
    assert steps.min() > 0.1


@pytest.mark.parametrize("family", EVERY)
def test_the_backbone_runs_without_the_unembedding(load: Load, family: str) -> None:
    model = load(family)

    def refuse(*_args: Any) -> None:
        raise AssertionError("the unembedding ran")

    network: Any = model.model
    hook = network.get_output_embeddings().register_forward_pre_hook(refuse)
    try:
        with torch.inference_mode():
            run = model.backbone(input_ids=torch.tensor([[BOS, 5, 6]]), use_cache=False)
    finally:
        hook.remove()
    assert run.last_hidden_state.shape == (1, 3, model.d_model)


@pytest.mark.parametrize("family", WRAPPERS)
def test_a_vision_tower_of_as_many_blocks_is_not_the_decoder(load: Load, family: str) -> None:
    model = load(family)
    network: Any = model.model
    tower = set(network.model.vision_tower.modules())
    alike = [m for m in tower if isinstance(m, GradientCheckpointingLayer)]
    assert len(alike) == model.n_layers
    assert not tower & set(model.blocks)
    assert not tower & set(model.backbone.modules())
