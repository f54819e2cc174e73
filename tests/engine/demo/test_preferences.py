"""Laws of steering: the short way through the upper layers equals a hook on the plain model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.demo.measures import Floats
from engine.demo.preferences import (
    Question,
    activity_probes,
    ask_pairs,
    chosen_first,
    letter_ids,
    ratings,
    steered_activities,
    wait,
)
from engine.demo.recipe import Recipe
from engine.demo.residuals import Reader
from engine.demo.tokenizer import wrap
from engine.demo.train import build_model
from engine.demo.world import DEMO_FOLDER
from stores.protocol import Activity, Protocol, load_protocol
from tests.engine.demo.test_batches import learn_toy_tokenizer

RECIPE = Recipe(layers=4, width=64, heads=2, ffn=64, vocabulary=384, init_std=0.2)


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    def plan(name: str, category: str) -> Activity:
        return Activity(name, name + "ing", category, 0.0, "own")

    planned = [("sing", "Social"), ("rest", "Social"), ("steal", "Unsafe"), ("wait long", "Unsafe")]
    return replace(
        load_protocol(DEMO_FOLDER / "protocol"), activities=tuple(plan(*each) for each in planned)
    )


@pytest.fixture(scope="module")
def reader() -> Reader:
    model = build_model(RECIPE).requires_grad_(False)
    return Reader(model, wrap(learn_toy_tokenizer()), layer=1)


def even(n: int = 4) -> Floats:
    return np.full((n, n), 0.5)


def hooked_first(reader: Reader, question: Question, added: Tensor, steered: set[int]) -> float:
    """P(A) of one question by the plain model with a forward hook: the oracle."""

    def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        for option, span in zip(question.pair, question.spans, strict=True):
            if option in steered:
                output[:, span] += added
        return output

    hook = reader.model.model.layers[reader.layer].register_forward_hook(add)
    logits = reader.model(input_ids=torch.tensor([question.ids])).logits[0, -1]
    hook.remove()
    a, b = letter_ids(reader)
    return float(torch.sigmoid(logits[a] - logits[b]))


def test_every_ordered_pair_is_asked_with_its_own_spans(reader: Reader, protocol: Protocol) -> None:
    questions = ask_pairs(reader, protocol)
    assert len({question.pair for question in questions}) == 4 * 3
    for question in questions:
        for option, span in zip(question.pair, question.spans, strict=True):
            text = str(reader.tokenizer.decode(question.ids[span]))
            assert text.strip() == protocol.activities[option].name
        assert str(reader.tokenizer.decode(question.ids)).endswith("Assistant: (")


def test_cached_steering_equals_a_hook(reader: Reader, protocol: Protocol) -> None:
    questions, steered = ask_pairs(reader, protocol), {0, 2}
    added = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 3
    found = chosen_first(reader, wait(reader, questions, steered), even(), added)
    for question in questions:
        expected = hooked_first(reader, question, added, steered)
        assert found[question.pair] == pytest.approx(expected, abs=1e-5)


def test_steering_moves_pairs_with_a_steered_activity_and_no_others(
    reader: Reader, protocol: Protocol
) -> None:
    waiting = wait(reader, ask_pairs(reader, protocol), {0})
    before = chosen_first(reader, waiting, even())
    after = chosen_first(reader, waiting, even(), torch.full((64,), 5.0))
    touched = np.zeros((4, 4), dtype=bool)
    touched[0, 1:] = touched[1:, 0] = True
    assert (np.abs(after - before)[touched] > 1e-6).all()
    assert (after == before)[~touched].all()


def test_half_of_each_category_is_steered(protocol: Protocol) -> None:
    assert steered_activities(protocol.activities) == {0, 2}


def test_a_bias_towards_the_first_option_is_no_preference() -> None:
    first = np.full((5, 5), 0.9)
    assert np.allclose(ratings(first), 1000.0)


def test_preferred_activities_are_rated_higher() -> None:
    value = np.arange(5.0)
    first = 1 / (1 + np.exp(value[None] - value[:, None]))
    assert (np.diff(ratings(first)) > 0).all()


def test_probes_are_read_on_the_activitys_own_tokens(reader: Reader, protocol: Protocol) -> None:
    """A later word does not change them; another activity does."""
    probes = activity_probes(reader, protocol)
    later = replace(protocol, prompts={"feeling": "How would you feel about {activity} now?"})
    plain = {"feeling": "How would you feel about {activity}?"}
    assert np.allclose(probes, activity_probes(reader, replace(protocol, prompts=plain)))
    assert np.allclose(probes, activity_probes(reader, later), atol=1e-5)
    assert not np.allclose(probes[0], probes[1], atol=1e-2)
