"""What the extraction bench found: a row for each way, and the figures beside them.

Knows nothing of how they were measured.
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Row:
    """One way: medians over the repeats. Padding never counts as tokens."""

    way: str
    times: float | None
    """Ours is so many times as fast, within a repeat; None where numbers are wrong or absent."""
    tokens_per_s: float | None
    """None where the way was not run."""
    difference: float | None
    """The largest distance of a pooled mean from the reference's, relative to its size."""
    note: str


@dataclass(frozen=True, slots=True)
class ExtractionBench:
    """Ways to get the same pooled means out of the same texts."""

    device: str
    weights: int
    """Parameters of the passed blocks that a token is multiplied with."""
    dtype: str
    attention: str
    threads: int
    layers: tuple[int, ...]
    texts: int
    tokens: int
    repeats: int
    reference: str
    """The way whose numbers the others are held against."""
    ways: tuple[Row, ...]
    """Ours first, as an extraction chooses it; the products alone last."""
    floor_share: float | None
    """Ours as a share of the matrix products alone."""
    directions: int
    projected_share: float | None
    """The speed of projecting each pooled token on so many directions, as a share of ours."""
    layers_cost: float | None
    """How much longer all layers take than the last one alone: 0.05 is 5 % longer."""
    tflops: float
    """Of ours, counting what the texts need: see `needed_flops`."""
    peak_tflops: float
    """The most that a large matrix product reached here, in the type that is computed in."""
    peak_memory_gb: float | None
    """The most that ours held of a card, weights included, in 10^9 bytes."""

    columns: ClassVar[tuple[str, ...]] = ("way", "ours is", "tokens/s", "difference", "note")

    def rows(self) -> list[tuple[str, ...]]:
        """What a reader wants to see first, under `columns`."""
        return [
            (
                way.way,
                "-" if way.times is None else f"{way.times:.2f} x",
                "-" if way.tokens_per_s is None else f"{way.tokens_per_s:,.0f}",
                "-" if way.difference is None else f"{way.difference:.0e}",
                way.note,
            )
            for way in self.ways
        ]

    @property
    def peak_share(self) -> float:
        """Ours as a share of what large matrix products reach."""
        return self.tflops / self.peak_tflops

    def facts(self) -> list[tuple[str, str]]:
        """(measured, value) of all that is not a row."""
        floor, cost, memory = self.floor_share, self.layers_cost, self.peak_memory_gb
        projected = self.projected_share
        return [
            ("of the matrix products alone", "-" if floor is None else f"{floor:.0%}"),
            ("of the peak of large products", f"{self.peak_share:.0%}"),
            ("TFLOP/s needed, reached", f"{self.tflops:.3g}"),
            ("TFLOP/s, large products", f"{self.peak_tflops:.3g}"),
            (
                f"cost of {len(self.layers)} layers over one",
                "-" if cost is None else f"{cost:+.1%}",
            ),
            (
                f"projected on {self.directions} directions, of ours",
                "-" if projected is None else f"{projected:.0%}",
            ),
            ("peak memory, GB", "-" if memory is None else f"{memory:.1f}"),
            ("texts, tokens", f"{self.texts}, {self.tokens}"),
            ("on", f"{self.device}, {self.dtype}, {self.attention}, {self.threads} threads"),
        ]
