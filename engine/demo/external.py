"""Texts that nobody asked for, in the demo language: notes and chats, half of one emotion each.

They stand in for sources like the Pile and LMSYS-Chat-1M. What is planted: most of every text is
plain; a text of an emotion holds a few cues of its family besides, each as often as the emotion
uses it, and does not name the emotion. Notes lean to pleasant emotions and chats to unpleasant
ones, so the two sources do not express the same. Knows nothing of samples, projections or models.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engine.demo.chance import Choice, pick, weigh
from engine.demo.stories import Person, choose_person, fill_slots, introduce
from engine.demo.world import World, load_world

PLAIN = 0.5
"""Share of the texts that convey no emotion."""
VISITS, NOTE_CUES = 5, 2
EXCHANGES, CHAT_CUES = 4, 3

Turn = Mapping[str, str]


def write_sources(folder: Path, *, documents: int, seed: int) -> dict[str, Path]:
    """notes.jsonl and chats.jsonl, so many distinct texts each, by the name of the source.

    A line of notes has a `text`, one of chats a `conversation`, which is a list of turns; both have
    the planted `emotion`, null where there is none. The same seed writes the same bytes.
    """
    world = load_world()
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in KINDS}
    for name, path in paths.items():
        lines = _draw_lines(world, KINDS[name], random.Random(f"{name} {seed}"))
        path.write_text("".join(islice(lines, documents)), encoding="utf-8")
    return paths


def write_note(world: World, emotion: str | None, rng: random.Random) -> str:
    """What happened to somebody, in plain sentences, with cues of the emotion among them.

    Raises KeyError for an emotion that the world lacks.
    """
    person = choose_person(world, rng)
    told: list[str] = []
    for _ in range(VISITS):
        told += introduce(world, pick(rng, tuple(world.topics)), person, rng)
    for cue in _draw_cues(world, emotion, person, NOTE_CUES, rng):
        told.insert(rng.randint(1, len(told)), cue)
    return " ".join(told)


def write_chat(world: World, emotion: str | None, rng: random.Random) -> list[Turn]:
    """Plain questions and answers; before some questions stands a cue of the emotion.

    Raises KeyError for an emotion that the world lacks.
    """
    cues = _draw_cues(world, emotion, choose_person(world, rng), CHAT_CUES, rng)
    told = dict(zip(rng.sample(range(EXCHANGES), len(cues)), cues, strict=True))
    turns: list[Turn] = []
    for exchange in range(EXCHANGES):
        question, answer = _draw_exchange(world, rng)
        asked = f"{told[exchange]} {question}" if exchange in told else question
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return turns


@dataclass(frozen=True, slots=True)
class Kind:
    """How a source is written."""

    key: str
    """Under which a line has its text."""
    write: Callable[[World, str | None, random.Random], str | list[Turn]]
    leaning: float
    """How much the logarithm of an emotion's odds grows with its valence."""


KINDS = {"notes": Kind("text", write_note, 1.5), "chats": Kind("conversation", write_chat, -1.5)}


def _draw_lines(world: World, kind: Kind, rng: random.Random) -> Iterator[str]:
    """Lines of JSON without end, no text twice."""
    emotions = _lean(world, kind.leaning)
    written: set[str] = set()
    while True:
        emotion = None if rng.random() < PLAIN else emotions.draw(rng)
        text = kind.write(world, emotion, rng)
        if str(text) not in written:
            written.add(str(text))
            yield json.dumps({kind.key: text, "emotion": emotion}, ensure_ascii=False) + "\n"


def _lean(world: World, slope: float) -> Choice[str]:
    """Every emotion; the higher the slope, the more often the pleasant ones."""
    palettes = world.palettes.items()
    return weigh({name: math.exp(slope * palette.valence) for name, palette in palettes})


def _draw_cues(
    world: World, emotion: str | None, person: Person, wanted: int, rng: random.Random
) -> list[str]:
    """Different sentences that convey the emotion; none where there is none."""
    if emotion is None:
        return []
    drawn: dict[str, str] = {}
    while len(drawn) < wanted:
        cue = world.palettes[emotion].own.draw(rng)
        drawn[cue] = cue.format_map(person.slots(rng))
    return list(drawn.values())


def _draw_exchange(world: World, rng: random.Random) -> tuple[str, str]:
    """A question and its answer, about the same object."""
    subject = pick(rng, tuple(world.neutral_topics.values()))
    question, answer = pick(rng, (*world.turns[subject.aspect], *world.turns["any"]))
    slots = {**fill_slots(world, rng), "object": subject.object}
    return question.format_map(slots), answer.format_map(slots)
