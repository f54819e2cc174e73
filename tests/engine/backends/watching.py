"""Watches the passes of a model, and lets a test act before any of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.models import Model

Before = Callable[[int, tuple[int, int]], None]
"""Called with how many passes there were before, and the rows and columns of this one."""


@contextmanager
def watched(model: Model, before: Before = lambda _count, _shape: None) -> Iterator[list[Any]]:
    """The rows and columns of every pass inside the block, in order."""
    shapes: list[tuple[int, int]] = []

    def note(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        rows, columns = named["input_ids"].shape
        before(len(shapes), (rows, columns))
        shapes.append((rows, columns))

    hook = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


def exhaust_memory() -> None:
    """Ask the allocator for more than any machine has; it raises what it really raises."""
    torch.empty(10**17)
