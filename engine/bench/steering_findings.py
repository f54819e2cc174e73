"""What the steering bench found: a row for each way, and the figures beside them.

Knows nothing of how they were measured.
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.bench.savings import Saving


@dataclass(frozen=True, slots=True)
class Way:
    """One way: medians over the repeats."""

    way: str
    times: float | None
    """Ours is so many times as fast, within a repeat; None where logits are wrong or absent."""
    sweep_s: float | None
    """The whole sweep, from the sample by counting questions and vectors."""
    difference: float | None
    """The largest absolute difference of a logit from the plain way's."""
    note: str


@dataclass(frozen=True, slots=True)
class SteeringBench:
    """Ways to ask every pair of activities under every vector."""

    device: str
    dtype: str
    attention: str
    threads: int
    parameters: int
    layer: int
    n_layers: int
    method: str
    reason: str | None
    """Why it is not the replay's first method; None when it is."""
    questions: int
    vectors: int
    sampled: int
    """Questions that were asked."""
    repeats: int
    opening_s: float
    """Proving the method, once a sweep; it counts in ours."""
    moved: float
    """The largest change of a logit by steering: what a way that steers nothing is wrong by."""
    drift: float
    """The largest distance of the replay at strength 0 from the model as it is."""
    savings: tuple[Saving, ...]
    ways: tuple[Way, ...]
    """Ours first, the plain way second."""

    columns: ClassVar[tuple[str, ...]] = ("way", "ours is", "whole sweep", "difference", "note")

    def rows(self) -> list[tuple[str, ...]]:
        """What a reader wants to see first, under `columns`."""
        return [
            (
                way.way,
                "-" if way.times is None else f"{way.times:.2f} x",
                "-" if way.sweep_s is None else f"{way.sweep_s:,.0f} s",
                "-" if way.difference is None else f"{way.difference:.0e}",
                way.note,
            )
            for way in self.ways
        ]

    @property
    def allowed(self) -> float:
        """How many times as much the plain way computes: a ratio for equal speed of products."""
        return self.savings[0].flops / self.savings[-1].flops

    def facts(self) -> list[tuple[str, str]]:
        """(measured, value) of all that is not a row."""
        pairs = zip(self.savings, self.savings[1:], strict=False)
        reached = self.ways[1].times
        return [
            *(
                (f"saves: {late.name}", f"{early.flops / late.flops:.2f} x")
                for early, late in pairs
            ),
            ("the arithmetic allows at equal speed", f"{self.allowed:.2f} x"),
            ("reached", "-" if reached is None else f"{reached:.2f} x"),
            *self._speeds(),
            ("opening, in ours", f"{self.opening_s:.1f} s"),
            ("steering moves a logit by", f"{self.moved:.0e}"),
            ("strength 0 is off by", f"{self.drift:.0e}"),
            (
                "questions, vectors, asked of the former",
                f"{self.questions}, {self.vectors}, {self.sampled}",
            ),
            ("layer, of blocks, parameters", f"{self.layer}, {self.n_layers}, {self.parameters:,}"),
            ("on", f"{self.device}, {self.dtype}, {self.attention}, {self.threads} threads"),
        ]

    def _speeds(self) -> list[tuple[str, str]]:
        """Needed operations in a second: where these differ, the ratio is not the arithmetic's."""
        plain, ours = self.savings[0].flops, self.savings[-1].flops
        needed = [ours, *(plain for _ in self.ways[1:])]
        return [
            (f"GFLOP/s, {way.way}", f"{flops / way.sweep_s / 1e9:,.0f}")
            for way, flops in zip(self.ways, needed, strict=True)
            if way.sweep_s is not None
        ]
