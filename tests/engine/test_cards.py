"""What only a CUDA card can show of loading: skipped where there is none."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import weights
from engine.capture import capture
from engine.models import Model, load_model
from engine.packing import Segment
from engine.placement import HOST, SPARE, Sizes, place
from stores.errors import ModelError
from tests.engine.tiny import BOS, FAMILIES, RECURRENT, save_checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

TEXTS = [Segment((BOS, *range(5, 5 + n)), slice(5, None)) for n in (40, 12, 25)]

Write = Callable[[str], Path]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Write:
    @cache
    def write(family: str) -> Path:
        return save_checkpoint(tmp_path_factory.mktemp(family), family)

    return write


def means(model: Model) -> torch.Tensor:
    with capture(model, (0, 1, 2, 3), "padded") as pooling:
        return torch.from_numpy(pooling.start(TEXTS).wait().means)


def alike(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    norms = torch.linalg.vector_norm(expected, dim=-1, keepdim=True)
    return bool(((found - expected).abs() <= tolerance * norms).all())


@pytest.mark.parametrize("family", [*FAMILIES, *RECURRENT])
def test_a_card_gives_what_the_processor_gives(path: Write, family: str) -> None:
    card = load_model(str(path(family)), device="cuda:0", dtype="float32")
    assert card.device == torch.device("cuda:0")
    assert {p.device for p in card.model.parameters()} == {card.device}
    assert alike(means(card), means(load_model(str(path(family)), device="cpu")), 1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3_wrapper", "gemma4_shared"])
def test_4_bits_on_a_card_are_the_same_4_bits(path: Write, family: str) -> None:
    card, here = (
        load_model(str(path(family)), device=device, dtype="float32", quantize="4bit")
        for device in ("cuda", "cpu")
    )
    assert card.dtype == "nf4+float32"
    # The two round a scale now and then to neighbouring steps.
    assert alike(means(card), means(here), 3e-2)


def test_4_bits_on_a_card_compute_in_bfloat16(path: Write) -> None:
    card = load_model(str(path("llama")), device="auto", quantize="4bit")
    assert card.dtype == "nf4+bfloat16"
    assert torch.isfinite(means(card)).all()


@pytest.mark.parametrize("family", ["llama", "gemma3_wrapper", "gemma4_shared"])
def test_blocks_that_wait_in_host_memory_give_the_same(
    path: Write, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """With a card too small for all blocks; refused unless asked for."""
    placed: list[Any] = []

    def place_small(name: str, sizes: Sizes, cards: Any, *, offload: bool) -> dict[str, str]:
        room = sum(sizes.rest.values()) + 2 * max(sizes.blocks.values())
        small = {card: round(room / (1 - SPARE)) + 1 for card in cards}
        placed.append(place(name, sizes, small, offload=offload))
        return placed[-1]  # type: ignore[no-any-return]

    expected = means(load_model(str(path(family)), device="cpu"))
    monkeypatch.setattr(weights, "place", place_small)
    with pytest.raises(ModelError, match="--offload"):
        load_model(str(path(family)), device="cuda:0", dtype="float32")
    apart = load_model(str(path(family)), device="cuda:0", dtype="float32", offload=True)
    assert list(placed[-1].values()).count(HOST) == 2
    assert apart.device == torch.device("cuda:0")
    assert alike(means(apart), expected, 1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA cards")
@pytest.mark.parametrize("family", ["llama", "gemma3_wrapper", "gemma4_shared"])
def test_a_model_over_two_cards_gives_the_same(
    path: Write, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    def place_small(name: str, sizes: Sizes, cards: Any, *, offload: bool) -> dict[str, str]:
        return place(name, sizes, dict.fromkeys(cards, round(0.8 * sizes.total)), offload=offload)

    expected = means(load_model(str(path(family)), device="cpu"))
    monkeypatch.setattr(weights, "place", place_small)
    apart = load_model(str(path(family)), device="auto", dtype="float32")
    assert len({p.device for p in apart.model.parameters()}) == 2
    assert alike(means(apart), expected, 1e-4)
