"""How meaning becomes frequency: which emotions use which phrases, and how often.

Knows nothing of files, sentences or documents; takes coordinates and phrases, returns choices.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.demo.chance import Choice, weigh

# Log-normal spread of a word's weights over its family's cues: what tells synonyms apart.
CUE_SPREAD = 1.1
# Widths of "near" in the plane. Valence is narrower, so that borrowed cues keep their valence.
VALENCE_WIDTH, AROUSAL_WIDTH = 0.35, 0.45
# Width of a level of ambience or pace, in levels of 0 to 4.
LEVEL_WIDTH = 0.7
# How near an emotion's valence must be to an activity's value.
VALUE_WIDTH = 0.15
# Share of replies about a family that use the word its scenario is named after.
ANCHOR_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Family:
    """A cluster of emotions that share cue phrases."""

    name: str
    valence: float
    arousal: float
    interjections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Palette:
    """What a text about one emotion is drawn from."""

    emotion: str
    valence: float
    arousal: float
    family: Family
    own: Choice[str]
    """Cues of the emotion's own family."""
    near: Choice[str]
    """Cues of the other families, nearer ones in the plane more often."""
    fragments: Choice[str]
    """Own cues without their subject and full stop."""
    ambience: Choice[str]
    """Scenery that tells the valence."""
    pace: Choice[str]
    """Events that tell the arousal."""


def mix_palette(
    emotion: str,
    place: tuple[float, float],
    family: Family,
    *,
    families: Mapping[str, Family],
    cues: Mapping[str, Sequence[str]],
    ambience: Mapping[str, Sequence[str]],
    pace: Mapping[str, Sequence[str]],
) -> Palette:
    """The palette of an emotion that lies at `place` = (valence, arousal)."""
    own = own_cues(emotion, cues[family.name])
    others = {f.name: (f.valence, f.arousal) for f in families.values() if f is not family}
    subject, stop = "{S} ", "."
    return Palette(
        emotion=emotion,
        valence=place[0],
        arousal=place[1],
        family=family,
        own=own,
        near=near_cues(place, others, cues),
        fragments=weigh(
            {
                cue.removeprefix(subject).removesuffix(stop): share
                for cue, share in own.shares().items()
                if cue.startswith(subject)
            }
        ),
        ambience=at_level(place[0], ambience),
        pace=at_level(place[1], pace),
    )


def own_cues(emotion: str, cues: Sequence[str]) -> Choice[str]:
    """A family's cues with the emotion's own weights, which depend on its name alone."""
    rng = random.Random(f"cues of {emotion}")
    return weigh({cue: rng.lognormvariate(0.0, CUE_SPREAD) for cue in cues})


def near_cues(
    place: tuple[float, float],
    centres: Mapping[str, tuple[float, float]],
    cues: Mapping[str, Sequence[str]],
) -> Choice[str]:
    """Cues of other families, each family by its distance from `place` = (valence, arousal)."""
    weights = {
        cue: nearness(place, centre) / len(cues[family])
        for family, centre in centres.items()
        for cue in cues[family]
    }
    return weigh(weights)


def nearness(one: tuple[float, float], other: tuple[float, float]) -> float:
    """A Gaussian in the plane of valence and arousal, 1 at distance 0."""
    valence = (one[0] - other[0]) / VALENCE_WIDTH
    arousal = (one[1] - other[1]) / AROUSAL_WIDTH
    return math.exp(-(valence**2 + arousal**2) / 2)


def at_level(value: float, texts: Mapping[str, Sequence[str]]) -> Choice[str]:
    """Texts of the five levels "0" to "4", those near to `value` in [-1, 1] most often."""
    wanted = 2 + 2 * value
    return weigh(
        {
            text: math.exp(-(((int(level) - wanted) / LEVEL_WIDTH) ** 2) / 2)
            for level, group in texts.items()
            for text in group
        }
    )


def level_value(level: str) -> float:
    """The value in [-1, 1] that a level "0" to "4" stands for."""
    return (int(level) - 2) / 2


def nearest_level(value: float) -> str:
    """The level "0" to "4" that stands for a value in [-1, 1]."""
    return str(max(0, min(4, round(2 + 2 * value))))


def by_valence(valences: Mapping[str, float], value: float) -> Choice[str]:
    """Emotions whose valence is near to `value`."""
    return weigh(
        {name: math.exp(-(((v - value) / VALUE_WIDTH) ** 2) / 2) for name, v in valences.items()}
    )


def around_anchor(words: Sequence[str], anchor: str | None) -> Choice[str]:
    """A family's words: the anchor with its fixed share, the others equally often."""
    if anchor is None or len(words) == 1:
        return weigh(dict.fromkeys(words, 1.0))
    rest = (1 - ANCHOR_SHARE) / (len(words) - 1)
    return weigh({word: ANCHOR_SHARE if word == anchor else rest for word in words})


def ramp(
    lowest: Mapping[str, float], highest: Mapping[str, float], steps: int
) -> tuple[Choice[str], ...]:
    """Choices that change evenly from `lowest` to `highest` in `steps` >= 2 steps."""
    return tuple(
        weigh({k: low + (highest[k] - low) * step / (steps - 1) for k, low in lowest.items()})
        for step in range(steps)
    )
