"""The grammar of the demo language: which documents a model is trained on, and in which shares.

Every document is drawn from a world and a random generator and depends on nothing else. Knows
nothing of tokens or models.
"""

from __future__ import annotations

import random

from engine.demo import questions, tales
from engine.demo.chance import weigh
from engine.demo.documents import Document
from engine.demo.stories import write_dialogue, write_story
from engine.demo.world import World, load_world

__all__ = [
    "Document",
    "World",
    "load_world",
    "sample_long",
    "sample_short",
    "write_dialogue",
    "write_story",
]


LONG = weigh(
    {
        tales.sample_prompted_story: 0.34,
        tales.sample_bare_story: 0.16,
        tales.sample_diary: 0.40,
        tales.sample_neutral: 0.10,
    }
)
SHORT = weigh(
    {
        questions.sample_preference: 0.32,
        questions.sample_intensity: 0.23,
        questions.sample_scenario: 0.20,
        questions.sample_feeling: 0.13,
        questions.sample_fact: 0.06,
        questions.sample_definition: 0.06,
    }
)


def sample_long(world: World, rng: random.Random) -> Document:
    """A story, with or without its prompt, a diary or a neutral dialogue."""
    return LONG.draw(rng)(world, rng)


def sample_short(world: World, rng: random.Random) -> Document:
    """A question with its reply, or dictionary sentences."""
    return SHORT.draw(rng)(world, rng)
