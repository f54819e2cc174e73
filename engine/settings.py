"""What a run of generation is asked to do, as one frozen value that is stored with the run.

Knows nothing of how it is done.
"""

from dataclasses import dataclass
from math import inf

from stores.errors import BadValue
from stores.prices import Price
from stores.texts import Kind

CHARACTERS_PER_TOKEN = 2.0
"""Fewer than any tokenizer needs for prose: a bound, so that a cost is never guessed too low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """What to write and how. Raises BadValue when a value makes no sense."""

    corpus: str
    kind: Kind
    emotions: tuple[str, ...]
    """Planned for; empty for dialogues."""
    topics: tuple[str, ...]
    per_topic: int
    seed: int
    max_attempts: int
    """Replies asked for one row before it is rejected or failed for good."""
    workers: int
    """Calls in flight at once, at each endpoint."""
    per_call: int = 1
    """Texts of one emotion and topic that one call asks for."""
    limit: int | None = None
    """Texts to finish in this run; None for all."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 400
    """Tokens of one text; a call for n texts may use n times as many."""
    price: Price | None = None
    """What tokens cost; None when that is not known."""
    max_cost: float | None = None
    """US dollars that this run may spend."""

    def __post_init__(self) -> None:
        for name in ("per_topic", "per_call", "max_attempts", "workers", "max_tokens"):
            if (found := getattr(self, name)) < 1:
                raise BadValue(f"--{name.replace('_', '-')} must be at least 1, not {found}")
        if self.limit is not None and self.limit < 0:
            raise BadValue(f"--limit must not be negative, not {self.limit}")
        if not 0 <= self.temperature < inf:  # so that NaN is refused too
            raise BadValue(f"--temperature must not be negative, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise BadValue(f"--top-p must be above 0 and at most 1, not {self.top_p}")
        if self.price and not (
            0 <= self.price.input_usd < inf and 0 <= self.price.output_usd < inf
        ):
            raise BadValue("--price must not be negative")
        if self.max_cost is not None and not 0 <= self.max_cost < inf:
            raise BadValue(f"--max-cost must not be negative, not {self.max_cost}")
        if self.max_cost is not None and self.price is None:
            raise BadValue(
                "--max-cost needs to know what tokens cost: give --price INPUT OUTPUT, in US "
                "dollars for a million tokens"
            )

    def dearest_call(self, prompt: str) -> float:
        """US dollars that one call with this prompt can cost at most; 0 without a price."""
        if self.price is None:
            return 0.0
        tokens = int(len(prompt) / CHARACTERS_PER_TOKEN) + 1
        return self.price.cost(tokens, self.max_tokens * self.per_call, 0)
