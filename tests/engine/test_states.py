"""A state is what the model alone with that prompt has at that token, whatever shares its batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.asking import Prompt, ask
from engine.models import Model, hooked, load_model
from engine.states import read_states
from stores.errors import ModelError, NoRoom
from tests.engine.tiny import save_checkpoint, text_of

LENGTHS = (3, 40, 11, 40, 1, 25)
ODD = "Zebra"
"""A word of letters that the other prompts lack."""


@pytest.fixture(scope="module", params=["llama", "gemma3", "gemma4_shared", "mamba"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family: str = request.param
    folder = save_checkpoint(tmp_path_factory.mktemp(f"states_{family}"), family)
    return load_model(str(folder), device="cpu")


def prompts_for(model: Model) -> list[Prompt]:
    parts = [text_of(words, start) for start, words in enumerate(LENGTHS)]
    return [ask(model, "chat", f"What of ({part})?", parts=[part]) for part in parts]


def alone(model: Model, prompt: Prompt, layer: int) -> NDArray[np.float64]:
    """resid_post [t, d] of one prompt in a plain pass of the whole model."""
    seen: dict[int, torch.Tensor] = {}
    with torch.inference_mode(), hooked(model, (layer,), seen.__setitem__):
        model.model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
    return np.asarray(seen[layer][0].double())


@pytest.mark.parametrize("tokens", [None, 1, 60])
def test_the_last_token_is_read_whatever_shares_the_batch(model: Model, tokens: int | None) -> None:
    prompts = prompts_for(model)
    states = read_states(model, prompts, [1, 3], at="last", tokens_per_batch=tokens)
    assert states.dtype == np.float64
    for found, prompt in zip(states, prompts, strict=True):
        expected = [alone(model, prompt, layer)[-1] for layer in (1, 3)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_span_is_the_mean_over_all_its_tokens_and_no_other(model: Model) -> None:
    prompts = prompts_for(model)
    states = read_states(model, prompts, [2], at="spans")
    for found, prompt in zip(states[:, 0], prompts, strict=True):
        expected = alone(model, prompt, 2)[prompt.spans[0]].mean(axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_no_prompts_give_no_states(tiny: Model) -> None:
    assert read_states(tiny, [], [0, 2], at="last").shape == (0, 2, 32)


@contextmanager
def spoiling(model: Model, layer: int, spoil: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Let `spoil` change the residual stream [b, t, d] that a block is given."""

    def before(_module: Any, given: tuple[Any, ...]) -> None:
        spoil(given[0])

    hook = model.blocks[layer].register_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()


def test_a_state_that_is_not_finite_is_refused_by_prompt_and_layer(tiny: Model) -> None:
    prompts = [*prompts_for(tiny)[:2], ask(tiny, "chat", f"What of a {ODD}?")]
    longest = max(len(prompt.ids) for prompt in prompts)
    odd_rows = [(len(prompts[2].ids), longest)]

    def spoil(stream: torch.Tensor) -> None:
        rows, width = stream.shape[:2]
        if (rows, width) == (1, odd_rows[0][0]):
            stream[0, -1, 5] = torch.nan

    with spoiling(tiny, 2, spoil), pytest.raises(ModelError) as caught:
        read_states(tiny, prompts, [1, 2, 3], at="last", tokens_per_batch=1)
    line = str(caught.value)
    assert "\n" not in line
    assert tiny.name in line
    assert "layer 2 " in line
    assert f"What of a {ODD}?" in line


def test_a_batch_that_memory_does_not_hold_is_halved(tiny: Model) -> None:
    prompts = prompts_for(tiny)
    expected = read_states(tiny, prompts, [1], at="last")

    def refuse(stream: torch.Tensor) -> None:
        if stream.shape[0] > 3:
            raise torch.OutOfMemoryError("no room")

    with spoiling(tiny, 0, refuse):
        found = read_states(tiny, prompts, [1], at="last")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_prompt_that_fits_no_memory_is_named(tiny: Model) -> None:
    prompts = [ask(tiny, "chat", f"What of a {ODD}?"), ask(tiny, "chat", text_of(50))]
    length = len(prompts[1].ids)

    def refuse(stream: torch.Tensor) -> None:
        if stream.shape[1] == length:
            raise torch.OutOfMemoryError("no room")

    model = replace(tiny, name="the/model")
    with (
        spoiling(tiny, 0, refuse),
        pytest.raises(
            NoRoom, match=f"the/model: memory runs short on the {length} tokens of '<bos>"
        ),
    ):
        read_states(model, prompts, [1], at="last")
