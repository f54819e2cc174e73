"""Laws of measuring losses: they are the model's own, and only content is replaced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.features.validity import Losses, measure_losses
from engine.models import Model, load_model
from engine.packing import Segment
from engine.readings import TextReader
from tests.engine.features.saes import make_sae
from tests.engine.tiny import save_checkpoint, text_of

START, D, LAYER = 6, 32, 1
FAMILIES = ("llama", "gemma2", "gpt2", "gemma4_wrapper")
"""Plain, with softcaps, with biases, within a wrapper."""


class Identity:
    """An SAE that loses nothing, and remembers what it was given."""

    def __init__(self) -> None:
        self.W_dec = torch.zeros(1)
        self.given: list[Tensor] = []

    def encode(self, states: Tensor) -> Tensor:
        self.given.append(states.clone())
        return states

    def decode(self, codes: Tensor) -> Tensor:
        return codes


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    return load_model(str(save_checkpoint(folder, request.param)), device="cpu")


def segments_of(model: Model) -> list[Segment]:
    reader = TextReader(model, "raw", START)
    return [reader.read(text_of(words, words)).segment for words in (12, 30, 21)]


def measure(model: Model, saes: dict[str, Any], layer: int = LAYER) -> Losses:
    mean = np.linspace(-1.0, 1.0, D)
    return measure_losses(model, layer, saes, mean, segments_of(model), start_token=START)


def plain_loss(
    model: Model, segment: Segment, layer: int, replace: Callable[[Tensor], Tensor] | None
) -> float:
    """By the whole model's logits, with a hook of its own."""
    first, content = segment.pooled.start, segment.pooled.start - START

    def hook(_block: object, _given: object, output: Any) -> Any:
        states = output if isinstance(output, Tensor) else output[0]
        if replace is None:
            return None
        changed = torch.cat([states[:, :content], replace(states[:, content:])], dim=1)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    placed = model.blocks[layer].register_forward_hook(hook)
    with torch.inference_mode():
        network: Any = model.model
        logits = network(input_ids=torch.tensor([segment.ids])).logits[0].double()
    placed.remove()
    own = logits.log_softmax(dim=-1)
    ids = segment.ids
    return -float(np.mean([float(own[i, ids[i + 1]]) for i in range(first, len(ids) - 1)]))


def test_losses_are_those_of_the_whole_model_with_something_else_in_place_of_content(
    model: Model,
) -> None:
    sae = make_sae("standard", d_in=D, d_sae=64)
    found, mean = measure(model, {"sae": sae}), torch.linspace(-1.0, 1.0, D)
    cases: list[tuple[Any, Callable[[Tensor], Tensor] | None]] = [
        (found.clean, None),
        (found.spliced["sae"], lambda states: sae.decode(sae.encode(states))),
        (found.ablated, mean.expand_as),
        (found.zeroed, torch.zeros_like),
    ]
    for losses, replace in cases:
        expected = [plain_loss(model, each, LAYER, replace) for each in segments_of(model)]
        np.testing.assert_allclose(losses, expected, rtol=2e-5)


def test_a_perfect_sae_loses_nothing_and_is_given_all_content_but_not_the_beginning(
    model: Model,
) -> None:
    sae = Identity()
    found = measure(model, {"perfect": sae})
    np.testing.assert_array_equal(found.spliced["perfect"], found.clean)
    lengths = [each.pooled.stop - each.pooled.start + START for each in segments_of(model)]
    assert [len(states) for states in sae.given] == lengths
    assert [each.pooled.start - START for each in segments_of(model)] == [1] * 3  # BOS
    assert abs(found.zeroed - found.clean).min() > 0.01


@pytest.mark.parametrize("layer", [0, 3])
def test_what_takes_the_place_of_the_first_and_of_the_last_block_is_heard(
    model: Model, layer: int
) -> None:
    found = measure(model, {}, layer)
    expected = [plain_loss(model, each, layer, torch.zeros_like) for each in segments_of(model)]
    np.testing.assert_allclose(found.zeroed, expected, rtol=2e-5)


def test_no_hook_is_left_behind_even_by_an_sae_that_fails(model: Model) -> None:
    class Broken(Identity):
        def decode(self, codes: Tensor) -> Tensor:
            raise RuntimeError("broken")

    before = [list(block._forward_hooks) for block in model.blocks]
    with pytest.raises(RuntimeError, match="broken"):
        measure(model, {"broken": Broken()})
    assert [list(block._forward_hooks) for block in model.blocks] == before


def test_a_text_with_one_pooled_token_is_left_out(tmp_path: Path) -> None:
    model = load_model(str(save_checkpoint(tmp_path)), device="cpu")
    one, long = segments_of(model)[0], segments_of(model)[1]
    short = Segment(one.ids[: one.pooled.start + 1], slice(one.pooled.start, one.pooled.start + 1))
    found = measure_losses(model, LAYER, {}, np.zeros(D), [short, long], start_token=START)
    assert found.tokens.tolist() == [len(long.ids[long.pooled]) - 1]
    assert len(found.clean) == 1
