"""What one source shows at one layer: raw, against neutral texts, and which emotion comes first.

    raw.S               mean score over the documents of source S, by emotion
    neutral.S           (mean - mean over neutral texts) / sd over neutral texts; chance 0; p is not
                        corrected for the many emotions (`ranking` has q). Never over the sd of the
                        documents, which is largest where some of them express the emotion
    first.S             share of documents whose highest own-centred score it is; chance 1 / e
    offset_share        by source: share of the scores' variance about their grand mean that is the
                        same in every document
    same_first.raw      by source: share of documents in which the most frequent first is first, and
    same_first.centred  the same when each emotion is centred on its mean over the documents; chance
                        is the largest share among emotions that are all as likely
    token_rank_error    by source: how far off, at most, a quantile's share of the tokens can be

Intervals are of 95%, over documents drawn anew; those of neutral.S, of the symmetric bootstrap-t,
over neutral texts as well; those of shares are Wilson's. Computes rows; knows nothing of texts or
other sources.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.methods.offsets import (
    Draws,
    Ints,
    Judged,
    Reference,
    count_first,
    draw_moments,
    draw_reference,
    expected_largest,
    halve_moments,
    judge_distance,
    judge_draws,
    shares_of,
    standard_scores,
)
from analyses.methods.resampling import draw_halves
from stores.results import Metric

Floats = NDArray[np.float64]

FEWEST_NEUTRAL = 10
"""Neutral texts below which their spread is no unit to measure in."""


@dataclass(frozen=True, slots=True, eq=False)
class Neutral:
    """The scores of neutral texts: of all, and of every other one and the rest."""

    whole: Reference
    parts: tuple[Draws, ...]
    """Two, with their own halves drawn; none where they would be too few."""

    @property
    def n(self) -> int:
        return self.whole.draws.n


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The scores (n, e) of one source at one layer and what they come to."""

    source: str
    layer: int
    emotions: tuple[str, ...]
    ids: NDArray[np.int64]
    """(n,) of the documents."""
    scores: Floats
    z: Floats
    """(n, e) own-centred."""
    draws: Draws
    reference: Neutral | None
    """None where there are no neutral texts."""
    first_raw: Ints
    """(e,) documents in which it is first."""
    first_counts: Ints
    """The same, own-centred."""

    @property
    def raw(self) -> Judged:
        """Mean scores; a p against 0 would only tell of the offset."""
        return judge_draws(self.draws.mean, self.draws.means)

    @property
    def neutral(self) -> Judged:
        """NaN without neutral texts."""
        if self.reference is None:
            nothing = np.full(len(self.emotions), np.nan)
            return Judged(nothing, nothing, nothing, nothing)
        return judge_distance(self.draws, self.reference.whole)

    @property
    def first(self) -> Judged:
        return shares_of(self.first_counts, self.draws.n)


def draw_neutral(scores: Floats, rng: np.random.Generator) -> Neutral | None:
    """Of scores (n, e) of neutral texts; None for fewer than 10."""
    if len(scores) < FEWEST_NEUTRAL:
        return None
    parts = [scores[::2], scores[1::2]] if len(scores) >= 2 * FEWEST_NEUTRAL else []
    whole = draw_reference(scores, rng)
    halved = [halve_moments(part, draw_halves(len(part), rng)) for part in parts]
    return Neutral(whole, tuple(halved))


def measure(
    source: str,
    layer: int,
    emotions: tuple[str, ...],
    ids: NDArray[np.int64],
    scores: Floats,
    reference: Neutral | None,
    rng: np.random.Generator,
) -> Measured:
    """What scores (n, e) come to; the same `rng` at each layer draws the same documents."""
    z = standard_scores(scores)
    draws = draw_moments(scores, rng)
    firsts = (count_first(scores), count_first(z))
    return Measured(source, layer, emotions, ids, scores, z, draws, reference, *firsts)


def describe(
    found: Measured, rank_error: float, tokens: int, rng: np.random.Generator
) -> Iterator[Metric]:
    """The rows of one source at one layer; `rng` draws what chance alone makes first."""
    n, e = found.scores.shape
    names, layer = found.emotions, found.layer
    yield from _rows(f"raw.{found.source}", found.raw, layer, names, n, None)
    if found.reference is not None:
        yield from _rows(f"neutral.{found.source}", found.neutral, layer, names, n, 0.0)
    yield from _rows(f"first.{found.source}", found.first, layer, names, n, 1.0 / e)
    share, drawn = found.draws.offset_share()
    offset = judge_draws(np.array([share]), drawn[:, None])
    yield Metric(
        *("offset_share", share, layer, found.source, n),
        ci_low=offset.low[0],
        ci_high=offset.high[0],
    )
    chance = expected_largest(n, e, rng)
    for name, counts in (("raw", found.first_raw), ("centred", found.first_counts)):
        most = int(counts.argmax())
        yield from _rows(
            f"same_first.{name}", shares_of(counts[[most]], n), layer, (found.source,), n, chance
        )
    yield Metric("token_rank_error", rank_error, layer, found.source, tokens)


def tell_offset(found: Measured) -> str:
    """In words, what the raw scores share and what centring leaves of it."""
    n, share = found.draws.n, found.draws.offset_share()[0]
    raw, own = int(found.first_raw.argmax()), int(found.first_counts.argmax())
    return (
        f"Raw, {found.emotions[raw]} is first in {found.first_raw[raw] / n:.1%} of the documents "
        f"of {found.source}, and {share:.1%} of what the scores vary by is the same in every "
        "document, whatever it says: an offset, not an emotion. Centred on the documents, none "
        f"is first in more than {found.first_counts[own] / n:.1%} ({found.emotions[own]})."
    )


def _rows(
    metric: str,
    found: Judged,
    layer: int,
    subjects: tuple[str, ...],
    n: int,
    chance: float | None,
) -> Iterator[Metric]:
    for i, subject in enumerate(subjects):
        about = (layer, subject, n, chance, found.low[i], found.high[i])
        p = None if np.isnan(found.p[i]) else found.p[i]
        yield Metric(metric, found.values[i], *about, p_value=p)
