"""One text being written by a local model, and how many of them fit its memory at once.

Knows nothing of models, caches or threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Request

IDLE_SHARE = 8
"""Places stand idle until they are one in so many: to fill them costs a pass and a copy."""


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """A request with its prompt in tokens and what has been written so far."""

    request: Request
    prompt: tuple[int, ...]
    limit: int
    """As many tokens as it asks for and the context allows."""
    numbers: NDArray[np.float64]
    """The uniform numbers [limit + 1, 2] that its tokens are drawn with."""
    started: float = 0.0
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    """Its last token is an end token."""

    @property
    def done(self) -> bool:
        """Nothing more will be written."""
        return self.ended or len(self.tokens) >= self.limit

    @property
    def length(self) -> int:
        """Tokens of the prompt and of what has been written."""
        return len(self.prompt) + len(self.tokens)

    @property
    def cost(self) -> int:
        """The tokens it may come to hold in memory."""
        return len(self.prompt) + self.limit


@dataclass(slots=True)
class TokenBudget:
    """At most `workers` rows at once, and rows times the longest one's cost within `tokens`."""

    workers: int
    tokens: int | None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("tokens_per_batch", self.tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")

    def places(self, cost: int) -> int:
        """How many rows fit that take `cost` tokens each; one always may try."""
        if self.tokens is None:
            return self.workers
        return max(1, min(self.workers, self.tokens // max(cost, 1)))

    def halve(self, rows: Sequence[Row]) -> int:
        """Make it half of what `rows`, which did not fit, would have taken; returns the tokens."""
        self.tokens = max(1, len(rows) * longest(rows) // 2)
        return self.tokens


def longest(rows: Sequence[Row]) -> int:
    """What each of these rows may take when they are padded to one another, in tokens."""
    prompts = max((len(row.prompt) for row in rows), default=0)
    return prompts + max((row.limit for row in rows), default=0)
