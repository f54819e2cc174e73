"""What only a CUDA card can show of a replay: skipped where there is none."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models import load_model
from engine.replay import open_replay
from tests.engine.replays import LAYERS, TOKENS, draw_additions, draw_prompts
from tests.engine.tiny import FAMILIES, RECURRENT, save_checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

TOLERANCE = 1e-4

Write = Callable[[str], Path]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Write:
    @cache
    def write(family: str) -> Path:
        return save_checkpoint(tmp_path_factory.mktemp(family), family)

    return write


@pytest.mark.parametrize("family", [*FAMILIES, *RECURRENT])
def test_a_replay_on_a_card_equals_plain_hooks_on_the_processor(path: Write, family: str) -> None:
    card = load_model(str(path(family)), device="cuda:0", dtype="float32")
    here = load_model(str(path(family)), device="cpu")
    fast = open_replay(card, TOKENS, LAYERS)
    full = open_replay(here, TOKENS, LAYERS, method="full")
    found, expected = (each.answer(draw_prompts(), draw_additions()) for each in (fast, full))
    assert fast.method == ("upper" if family in RECURRENT else "prefix"), fast.reason
    assert np.abs(found.logits - expected.logits).max() <= TOLERANCE
    assert np.abs(found.clean - expected.clean).max() <= TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma4_shared"])
def test_in_bfloat16_on_a_card_the_fastest_method_holds(path: Write, family: str) -> None:
    card = load_model(str(path(family)), device="cuda:0", dtype="bfloat16")
    replay = open_replay(card, TOKENS, LAYERS)
    one, other = (replay.answer(draw_prompts(), draw_additions()) for _ in range(2))
    assert replay.method == "prefix", replay.reason
    assert np.array_equal(one.logits, other.logits)
    assert one.drift < 0.1
