"""Whether two sources rank the emotions alike, and what centring takes from that.

Subject "a~b" for every two sources, at each layer; n counts the emotions.

    agreement.raw      Spearman rho of the mean scores: near 1 for any two texts with one offset
    agreement.neutral  of the means less those of neutral texts, in these texts' standard
                       deviations; each source against its own half of them and then the other half,
                       the mean of both: one mean under both would agree with itself. What sets both
                       sources apart from neutral texts alike, such as their form, still counts as
                       agreement
    agreement.first    of the shares of documents that each emotion is first in, own-centred
    agreement.spread   of the standard deviations over documents
    agreement.change   agreement.raw less agreement.neutral

Every rho is that of samples of this size: what chance puts into few documents brings it nearer to 0
than all texts of the two sources would come to, most of all agreement.first, where few documents
tell many emotions apart. Intervals are about such a rho, from halves of the documents (and of the
neutral texts) on the angle; documents drawn twice would blur it once more and lie below it. Of
agreement.change they are put together from those of its two (Zou 2007).

Chance and p (one-sided) of the first two: two random contrasts of documents, one of each source,
for probes go with their neighbours and are fewer than they seem. The others have none: a part of
them is the probes' own geometry, for one far from the others is first more often in any text, and
no order of emotions that could be drawn has it. The mean of two sources is never what they are
centred on: of each probe one would be as far above it as the other is below, and rho would be -1
whatever they say.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analyses.external_measures import Measured
from analyses.methods.offsets import (
    angle_interval,
    halve_moments,
    random_contrasts,
    rank_correlations,
    ratio,
)
from analyses.methods.resampling import against_chance, draw_halves
from stores.results import Metric

Floats = NDArray[np.float64]
Drawn = tuple[Floats, Floats]
"""What emotions are ranked by (e,), and the same in halves of the documents (m, e)."""
About = tuple[int, str, int]
"""Layer, subject, n."""
Randomness = Callable[..., np.random.Generator]
"""Gives the same generator for the same words."""

FEWEST_EMOTIONS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """All that emotions are ranked by in one source."""

    source: str
    n: int
    """Documents."""
    rankings: dict[str, tuple[Drawn, ...]]
    """One way, or against either part of the neutral texts."""
    contrasts: dict[str, Floats]
    """(permutations, e) of rankings that chance alone has made."""


@dataclass(frozen=True, slots=True)
class Rho:
    """A rank correlation with its interval."""

    value: float
    low: float
    high: float

    def less(self, other: "Rho") -> "Rho":
        """Their difference; as if they were independent, so rather too wide."""
        value = self.value - other.value
        below = np.hypot(self.value - self.low, other.high - other.value)
        above = np.hypot(self.high - self.value, other.value - other.low)
        return Rho(value, value - float(below), value + float(above))


def compare_sources(
    measured: Sequence[Measured], permutations: int, rng_of: Randomness
) -> Iterator[Metric]:
    """The rows of every two sources of one layer; none for one source alone.

    `rng_of` is asked with a purpose and a source: what two sources come to hangs on no third one.
    """
    if len(measured) < 2:
        return
    sides = [_side(each, permutations, rng_of) for each in measured]
    layer, e = measured[0].layer, len(measured[0].emotions)
    for a, b in combinations(sides, 2):
        yield from _compare((layer, f"{a.source}~{b.source}", e), a, b)


def _side(found: Measured, permutations: int, rng_of: Randomness) -> Side:
    n, source = found.draws.n, found.source
    halves = draw_halves(n, rng_of("halves", source))
    moments = halve_moments(found.scores, halves)
    counts = halves @ np.eye(len(found.emotions))[found.z.argmax(axis=1)]
    contrasts = random_contrasts(
        found.scores - moments.mean, rng_of("contrasts", source), permutations
    )
    rankings: dict[str, tuple[Drawn, ...]] = {
        "raw": ((moments.mean, moments.means),),
        "first": ((found.first_counts / n, counts),),
        "spread": ((moments.sd, moments.sds),),
    }
    by_chance = {"raw": contrasts}
    if found.reference is not None and found.reference.parts:
        rankings["neutral"] = tuple(moments.against(part) for part in found.reference.parts)
        by_chance["neutral"] = ratio(contrasts, found.reference.whole.draws.sd)
    return Side(source, n, rankings, by_chance)


def _compare(about: About, a: Side, b: Side) -> Iterator[Metric]:
    agreed = {name: _agree(a, b, name) for name in a.rankings}
    for name, rho in agreed.items():
        chance = p = None
        if name in a.contrasts and np.isfinite(rho.value):
            drawn = rank_correlations(a.contrasts[name], b.contrasts[name])
            found = against_chance(rho.value, drawn)
            chance, p = float(found.mean), float(found.p)
        yield _row(name, rho, about, chance, p)
    if "neutral" in agreed:
        yield _row("change", agreed["raw"].less(agreed["neutral"]), about, None, None)


def _agree(a: Side, b: Side, name: str) -> Rho:
    """NaN where fewer than 3 emotions are ranked, or one has no value."""
    # crossed: one source's part of the neutral texts is never the other's
    pairs = list(zip(a.rankings[name], reversed(b.rankings[name]), strict=True))
    if len(pairs[0][0][0]) < FEWEST_EMOTIONS:
        return Rho(np.nan, np.nan, np.nan)
    value = float(np.mean([rank_correlations(x, y) for (x, _), (y, _) in pairs]))
    drawn = np.mean([rank_correlations(xs, ys) for (_, xs), (_, ys) in pairs], axis=0)
    return Rho(value, *angle_interval(value, drawn, min(a.n, b.n)))


def _row(name: str, rho: Rho, about: About, chance: float | None, p: float | None) -> Metric:
    return Metric(f"agreement.{name}", rho.value, *about, chance, rho.low, rho.high, p_value=p)
