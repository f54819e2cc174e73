"""Where a model goes is decided by bytes alone, before any weight is read."""

import pytest
import torch

from engine.placement import SPARE, Sizes, free_memory, place
from stores.errors import ModelError

GIB = 1 << 30
# 10 blocks of 2 GiB, and 4 GiB beside them.
SIZES = Sizes({f"layers.{i}": 2 * GIB for i in range(10)}, {"embed": 3 * GIB, "norm": GIB})


def cards(*gib: float) -> dict[str, int]:
    """Cards with room for that many GiB of weights."""
    return {f"cuda:{i}": round(size * GIB / (1 - SPARE)) + 1 for i, size in enumerate(gib)}


def test_one_card_that_holds_everything_is_enough() -> None:
    assert place("m", SIZES, cards(24)) == {"": "cuda:0"}
    assert place("m", SIZES, cards(24, 24)) == {"": "cuda:0"}
    assert place("m", SIZES, cards(10, 24)) == {"": "cuda:1"}


def test_room_is_left_for_what_is_computed() -> None:
    with pytest.raises(ModelError):
        place("m", SIZES, {"cuda:0": 24 * GIB})


def test_blocks_are_spread_in_their_order_and_evenly() -> None:
    found = place("m", SIZES, cards(20, 20))
    order = [found[block] for block in SIZES.blocks]
    assert order == sorted(order)
    assert order.count("cuda:0") in {4, 5}
    assert found["embed"] == found["norm"] == "cuda:0"
    assert set(found) == {*SIZES.blocks, *SIZES.rest}


@pytest.mark.parametrize("rooms", [(8, 8, 8), (6, 18.1), (20, 4.1), (5, 2, 2, 2, 16)])
def test_no_card_gets_more_than_its_room(rooms: tuple[float, ...]) -> None:
    found = place("m", SIZES, cards(*rooms))
    every = {**SIZES.blocks, **SIZES.rest}
    for i, room in enumerate(rooms):
        here = sum(size for name, size in every.items() if found[name] == f"cuda:{i}")
        assert here <= room * GIB


@pytest.mark.parametrize("rooms", [(20,), (10, 10), (3, 22)])
def test_weights_that_fit_nowhere_are_refused_with_advice(rooms: tuple[float, ...]) -> None:
    with pytest.raises(ModelError, match=r"model m: 24\.0 GiB of weights do not fit") as caught:
        place("m", SIZES, cards(*rooms))
    message = str(caught.value)
    assert "\n" not in message
    for advice in ("smaller --dtype", "--quantize 4bit", "another card", "--offload"):
        assert advice in message


def test_host_memory_takes_the_last_blocks_only_when_asked() -> None:
    found = place("m", SIZES, cards(10, 10), offload=True)
    order = [found[block] for block in SIZES.blocks]
    assert order == ["cuda:0"] * 3 + ["cuda:1"] * 5 + ["cpu"] * 2
    assert place("m", SIZES, cards(24), offload=True) == {"": "cuda:0"}


def test_what_every_token_needs_never_waits_in_host_memory() -> None:
    with pytest.raises(ModelError) as caught:
        place("m", SIZES, cards(3, 22), offload=True)
    assert "--offload" not in str(caught.value)


def test_auto_means_every_card_and_a_name_means_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (100 + card, 200))
    assert free_memory() == {"cuda:0": 100, "cuda:1": 101, "cuda:2": 102}
    assert free_memory("cuda:1") == {"cuda:1": 101}
    assert free_memory("cuda") == {"cuda:2": 102}
