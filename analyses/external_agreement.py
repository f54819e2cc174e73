"""Whether two sources rank the emotions alike, and what centring takes from that.

Subject "a~b" for every two sources, at each layer; n counts the emotions.

    agreement.raw      Spearman rho of the mean scores: near 1 for any two texts with one offset
    agreement.neutral  of the means less those of neutral texts, in standard deviations; each source
                       against its own half of them and then the other half, the mean of both: one
                       mean under both would agree with itself. What sets both sources apart from
                       neutral texts alike, such as their form, still counts as agreement
    agreement.first    of the shares of documents that each emotion is first in, own-centred
    agreement.spread   of the standard deviations over documents. Of these two a part is the probes'
                       own geometry: one far from the others is first more often in any text
    agreement.change   agreement.raw less agreement.neutral

Intervals: documents of both sources (and neutral texts) drawn anew. Chance and p: the emotions of
one source in random orders; of agreement.neutral two random contrasts of documents, one of each
source, for probes go with their neighbours and are fewer than they seem. p is one-sided, of
agreement.change two-sided by its draws. The mean of two sources is never what they are centred on:
of each probe one would be as far above it as the other is below, and rho would be -1 whatever they
say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analyses.external_measures import Measured
from analyses.methods.offsets import (
    judge_draws,
    random_contrasts,
    rank_correlations,
    shuffled_agreement,
)
from analyses.methods.resampling import against_chance
from stores.results import Metric

Floats = NDArray[np.float64]
Drawn = tuple[Floats, Floats]
"""What emotions are ranked by (e,), and draws of it (m, e)."""
Rho = tuple[float, Floats]
"""A rank correlation, and draws of it (m,)."""
Randomness = Callable[..., np.random.Generator]
"""Gives the same generator for the same words."""

FEWEST_EMOTIONS = 3


def compare_sources(
    measured: Sequence[Measured], permutations: int, rng_of: Randomness
) -> Iterator[Metric]:
    """The rows of every two sources of one layer; none for one source alone.

    `rng_of` is asked with a purpose and sources: what two sources come to hangs on no third one.
    """
    if len(measured) < 2:
        return
    rankings = [_rankings(each, rng_of("firsts", each.source)) for each in measured]
    contrasts = [
        random_contrasts(each.z, rng_of("contrasts", each.source), permutations)
        for each in measured
    ]
    for i, j in combinations(range(len(measured)), 2):
        a, b = measured[i], measured[j]
        about = (a.layer, f"{a.source}~{b.source}", len(a.emotions))
        by_chance = rank_correlations(contrasts[i], contrasts[j])
        rng = rng_of("orders", a.source, b.source)
        yield from _compare(about, rankings[i], rankings[j], by_chance, permutations, rng)


def _rankings(found: Measured, rng: np.random.Generator) -> dict[str, tuple[Drawn, ...]]:
    """All that emotions are ranked by: in one way, or against either half of the neutral texts."""
    draws, n, counts = found.draws, found.draws.n, found.first_counts
    halves = () if found.reference is None else found.reference.halves
    firsts = rng.multinomial(n, counts / n, size=len(draws.means))
    return {
        "raw": ((draws.mean, draws.means),),
        "neutral": tuple(draws.against(half) for half in halves),
        "first": ((counts / n, firsts / n),),
        "spread": ((draws.sd, draws.sds),),
    }


def _compare(
    about: tuple[int, str, int],
    left: Mapping[str, tuple[Drawn, ...]],
    right: Mapping[str, tuple[Drawn, ...]],
    by_chance: Floats,
    permutations: int,
    rng: np.random.Generator,
) -> Iterator[Metric]:
    agreed: dict[str, Rho] = {}
    for name in left:
        # crossed: one source's half of the neutral texts is never the other's
        pairs = list(zip(left[name], reversed(right[name]), strict=True))
        if not pairs:
            continue
        rhos = [_rho(a, b) for a, b in pairs]
        value = float(np.mean([rho for rho, _ in rhos]))
        agreed[name] = value, np.mean([drawn for _, drawn in rhos], axis=0)
        if np.isnan(value):
            yield Metric(f"agreement.{name}", None, *about)
        elif name == "neutral":
            chance = against_chance(value, by_chance)
            yield _row(name, agreed[name], about, float(chance.mean), float(chance.p))
        else:
            (a, _), (b, _) = pairs[0]
            yield _row(name, agreed[name], about, *shuffled_agreement(a, b, rng, permutations))
    if "neutral" in agreed and np.isfinite([agreed["raw"][0], agreed["neutral"][0]]).all():
        (raw, raws), (neutral, neutrals) = agreed["raw"], agreed["neutral"]
        yield _row("change", (raw - neutral, raws - neutrals), about, 0.0, None)


def _rho(a: Drawn, b: Drawn) -> Rho:
    """NaN where fewer than 3 emotions are ranked, or one has no value."""
    if len(a[0]) < FEWEST_EMOTIONS:
        return np.nan, np.full(len(a[1]), np.nan)
    return float(rank_correlations(a[0], b[0])), rank_correlations(a[1], b[1])


def _row(
    name: str, rho: Rho, about: tuple[int, str, int], chance: float, p: float | None
) -> Metric:
    """A p that was not given is that of the draws, two-sided."""
    found = judge_draws(np.array([rho[0]]), rho[1][:, None], chance)
    return Metric(
        f"agreement.{name}",
        rho[0],
        *about,
        chance,
        found.low[0],
        found.high[0],
        p_value=found.p[0] if p is None else p,
    )
