"""Counts what a run of generation did, for its progress line and its last word.

Knows nothing of rows, backends or printing.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.backends.base import Reply


@dataclass(frozen=True, slots=True)
class GenerationProgress:
    """How far this run has come. `rejections` counts refused texts by reason, not rows."""

    done: int
    rejections: Mapping[str, int]
    failures: int
    total: int
    """Texts that this run was to finish when it began."""
    calls: int
    tokens: int
    """Tokens written, thinking included."""
    cost_usd: float | None
    """None when no price is known."""
    elapsed_s: float
    note: str = ""
    """What the backend wants a user to know."""

    @property
    def rate(self) -> float:
        """Texts finished per second."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def projected_cost_usd(self) -> float | None:
        """What the whole run will cost if it goes on like this."""
        if self.cost_usd is None or not self.done:
            return None
        return self.cost_usd * self.total / self.done

    @property
    def told(self) -> str:
        """What a progress line says beside the bar."""
        seconds = max(self.elapsed_s, 1e-9)
        said = [
            f"{self.rate:.1f}/s",
            f"{self.calls / seconds:.1f} calls/s",
            f"{self.tokens} tokens",
        ]
        if self.cost_usd is not None:
            projected = self.projected_cost_usd
            expected = f" of about ${projected:.2f}" if projected else ""
            said.append(f"${self.cost_usd:.4f}{expected}")
        if self.rejections:
            refused = ", ".join(f"{reason} {n}" for reason, n in sorted(self.rejections.items()))
            said.append(f"refused: {refused}")
        if self.failures:
            said.append(f"failed: {self.failures}")
        if self.done and self.total > self.done:
            said.append(f"{(self.total - self.done) / self.rate:.0f} s left")
        return ", ".join([*said, self.note] if self.note else said)


@dataclass(frozen=True, slots=True)
class GenerationSummary:
    """What a run did, and how many rows it leaves open (0 when there is nothing to resume)."""

    done: int = 0
    rejections: Mapping[str, int] = field(default_factory=dict)
    failures: int = 0
    calls: int = 0
    tokens: int = 0
    cost_usd: float | None = None
    left: int = 0
    stopped: bool = False
    """By the user."""
    over_budget: bool = False
    """The next call might have gone beyond `max_cost`."""
    elapsed_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """The running counts of one run."""

    total: int
    priced: bool
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    failures: int = 0
    late: int = 0
    """Texts that came back after their lease was lost; their replies are kept."""
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    rejections: Counter[str] = field(default_factory=Counter)

    def add_reply(self, reply: Reply, cost_usd: float | None) -> None:
        self.calls += 1
        self.tokens += (reply.output_tokens or 0) + (reply.thinking_tokens or 0)
        self.cost_usd += cost_usd or 0.0

    def progress(self, note: str) -> GenerationProgress:
        """The counts now."""
        return GenerationProgress(
            done=self.done,
            rejections=dict(self.rejections),
            failures=self.failures,
            total=self.total,
            calls=self.calls,
            tokens=self.tokens,
            cost_usd=self.cost_usd if self.priced else None,
            elapsed_s=time.monotonic() - self.began,
            note=note,
        )

    def summary(self, *, left: int, stopped: bool, over_budget: bool) -> GenerationSummary:
        """The counts at the end."""
        return GenerationSummary(
            done=self.done,
            rejections=dict(self.rejections),
            failures=self.failures,
            calls=self.calls,
            tokens=self.tokens,
            cost_usd=self.cost_usd if self.priced else None,
            left=left,
            stopped=stopped,
            over_budget=over_budget,
            elapsed_s=time.monotonic() - self.began,
        )
