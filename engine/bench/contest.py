"""Lets ways to do the same work take turns under one clock, and compares what they bring.

Knows nothing of models: a way is a function that returns numbers, or nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from engine.memory import is_out_of_memory

Numbers = NDArray[np.float32]
Work = Callable[[], Numbers | None]

OUT_OF_MEMORY = "out of memory"
T = TypeVar("T")


@dataclass(slots=True)
class Entry:
    """One way: what it runs, and what was measured of it."""

    way: str
    work: Work | None
    """None for a way that cannot be measured; `note` says why."""
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    """One for each round."""
    numbers: Numbers | None = None
    """What the first round brought."""

    def run(self, device: torch.device) -> None:
        """One round, timed. A way that finds no memory is out of the contest."""
        if self.work is None:
            return
        seconds, numbers = timed(self.work, device)
        if seconds is None:
            self.work, self.note, self.seconds = None, OUT_OF_MEMORY, []
            return
        self.seconds.append(seconds)
        if self.numbers is None:
            self.numbers = numbers

    def times(self, other: "Entry") -> float | None:
        """How many times as long as `other` it took: the median over rounds, each its own ratio."""
        if not self.seconds or not other.seconds:
            return None
        pairs = zip(self.seconds, other.seconds, strict=True)
        return median(mine / theirs for mine, theirs in pairs)


def take_turns(entries: Sequence[Entry], rounds: int, device: torch.device) -> None:
    """Every entry once, then every entry again: what slows the machine down slows all alike."""
    for _ in range(rounds):
        for entry in entries:
            entry.run(device)


def fastest(choices: Sequence[T], run: Callable[[T], object], device: torch.device) -> T | None:
    """The choice that takes least time in one run each; None when none fits into memory."""
    measured = [(timed(partial(run, choice), device)[0], choice) for choice in choices]
    found = [(seconds, choice) for seconds, choice in measured if seconds is not None]
    return min(found, key=lambda each: each[0])[1] if found else None


def timed(work: Callable[[], T], device: torch.device) -> tuple[float | None, T | None]:
    """(seconds, what came of it), or (None, None) when memory ran out."""
    settle(device)
    began = time.perf_counter()
    try:
        came = work()
        settle(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return time.perf_counter() - began, came
    torch.cuda.empty_cache()  # out of the handler, whose traceback holds on to what was allocated
    return None, None


def settle(device: torch.device) -> None:
    """Wait for what a card still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def distance(numbers: Numbers, right: Numbers) -> float:
    """The largest distance of a vector [..., d] from the right one, relative to that one's size."""
    gaps = np.linalg.norm(numbers - right, axis=-1) / np.linalg.norm(right, axis=-1)
    return float(gaps.max())
