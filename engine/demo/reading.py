"""Reads a text of the demo language back: which cues it holds, and what they plant.

Lets a generated or steered text be scored without a judge. Knows nothing of models; sentences that
the grammar does not know are counted and otherwise ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from engine.demo.planting import level_value
from engine.demo.stories import FORMS
from engine.demo.world import World

SENTENCE = re.compile(r"[^.!?]+[.!?]")
WORD = re.compile(r"[\w']+")
PERSON = "*"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text plants. Means are None where nothing was found."""

    valence: float | None
    """Mean over cues (their family's valence) and ambience (its level), in [-1, 1]."""
    arousal: float | None
    """Mean over cues (their family's arousal) and pace (its level), in [-1, 1]."""
    families: Mapping[str, int]
    """Cue sentences by family."""
    known: int
    """Sentences that the grammar knows, filler and all."""
    sentences: int
    own_share: float | None
    """Share of the cues that belong to the family of the emotion asked about."""


def planted_reading(world: World, text: str, emotion: str | None = None) -> Reading:
    """Match every sentence of a text with the phrases of the world.

    Raises KeyError for an emotion that the world lacks.
    """
    known, people = _phrases(world), _people(world)
    keys = [_key(people, sentence) for sentence in SENTENCE.findall(text)]
    found = [known[key] for key in keys if key in known]
    families = Counter(phrase.family for phrase in found if phrase.family)
    own = families[world.palettes[emotion].family.name] if emotion else 0
    cues = families.total()
    return Reading(
        valence=_mean([p.valence for p in found if p.valence is not None]),
        arousal=_mean([p.arousal for p in found if p.arousal is not None]),
        families=dict(families),
        known=len(found),
        sentences=len(keys),
        own_share=own / cues if emotion and cues else None,
    )


@dataclass(frozen=True, slots=True)
class _Phrase:
    family: str | None = None
    valence: float | None = None
    arousal: float | None = None


@lru_cache(maxsize=1)
def _phrases(world: World) -> dict[tuple[str, ...], _Phrase]:
    people = _people(world)
    found = {
        text: _Phrase(family.name, family.valence, family.arousal)
        for family in world.families.values()
        for text in world.cues[family.name]
    }
    found |= {text: _Phrase() for text in world.filler}
    for level, texts in world.ambience.items():
        found |= {text: _Phrase(valence=level_value(level)) for text in texts}
    for level, texts in world.pace.items():
        found |= {text: _Phrase(arousal=level_value(level)) for text in texts}
    return {_key(people, text.format_map(FORMS["I"])): phrase for text, phrase in found.items()}


@lru_cache(maxsize=1)
def _people(world: World) -> frozenset[str]:
    """Every word that stands for a person, in lower case."""
    names = [name.name.lower() for name in world.names]
    pronouns = [word.lower() for forms in FORMS.values() for word in forms.values()]
    return frozenset([*names, *(f"{name}'s" for name in names), *pronouns])


def _key(people: frozenset[str], sentence: str) -> tuple[str, ...]:
    """A sentence's words, with one sign for whoever it is about."""
    words = WORD.findall(sentence.lower())
    return tuple(PERSON if word in people else word for word in words)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
