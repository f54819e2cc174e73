"""Where a model runs: one device, or several cards that hold some of its blocks each.

A decision about bytes alone, made before any weight is read. Knows nothing of files, types or
architectures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from stores.errors import ModelError, UsageError

SPARE = 0.1
"""The share of a card left free of weights, for the batches it computes."""
STEPS = 20
"""How finely the cards are filled evenly: each to 1/20 of its room, to 2/20, ..."""
HOST = "cpu"
WHOLE = ""
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of weights by module name: the decoder blocks in their order, and all the rest."""

    blocks: Mapping[str, int]
    rest: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of the whole network."""
        return sum(self.blocks.values()) + sum(self.rest.values())


def choose_device(device: str = "auto") -> torch.device:
    """'auto' is the first CUDA card, or the CPU. Raises UsageError for an unknown name."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: unknown; use auto, cpu, cuda or cuda:<n>") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: no CUDA card is visible here; use --device cpu")
    return chosen


def free_memory(device: str = "auto") -> dict[str, int]:
    """Free bytes of every card that `device` allows: all for 'auto', else the one named."""
    chosen = choose_device(device)
    if device == "auto":
        cards = range(torch.cuda.device_count())
    else:
        named = torch.cuda.current_device() if chosen.index is None else chosen.index
        cards = range(named, named + 1)
    return {f"cuda:{card}": torch.cuda.mem_get_info(card)[0] for card in cards}


def place(
    name: str, sizes: Sizes, cards: Mapping[str, int], *, offload: bool = False
) -> dict[str, str]:
    """Module names to devices; '' is the whole network. `cards` are free bytes by device.

    The first card that holds everything; else all of them, as evenly filled as they allow, with
    everything but the blocks on the first. With `offload` the last blocks wait in host memory when
    the cards are full. Raises ModelError when the weights of model `name` do not fit.
    """
    rooms = {card: int(free * (1 - SPARE)) for card, free in cards.items()}
    for card, room in rooms.items():
        if sizes.total <= room:
            return {WHOLE: card}
    found: dict[str, str] = {}
    for share in range(1, STEPS + 1):
        found = _fill(sizes, {card: room * share // STEPS for card, room in rooms.items()})
        if HOST not in found.values():
            return found
    if offload and HOST not in {found[part] for part in sizes.rest}:
        return found
    takes = ", ".join(f"{card} takes {_gib(room)}" for card, room in rooms.items())
    advice = "" if offload else ", or --offload (slow: blocks wait in host memory)"
    raise ModelError(
        f"model {name}: {_gib(sizes.total)} of weights do not fit ({takes}); "
        f"use a smaller --dtype, --quantize 4bit, another card{advice}"
    )


def _fill(sizes: Sizes, rooms: Mapping[str, int]) -> dict[str, str]:
    """Card after card, in the order the blocks run; what is left over goes to the host."""
    (card, room), *others = rooms.items()
    room -= sum(sizes.rest.values())
    found = dict.fromkeys(sizes.rest, card if room >= 0 else HOST)
    for block, size in sizes.blocks.items():
        while size > room and others:
            card, room = others.pop(0)
        room -= size
        found[block] = card if room >= 0 else HOST
    return found


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
