"""Stories and neutral dialogues of the demo language.

A story tells its emotion by cues, ambience and pace, and never names it. Knows nothing of
questions, tokens or models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.demo.chance import pick
from engine.demo.planting import Palette
from engine.demo.world import World

# Shares of the sentences after the opening; what is left is filler.
CUE, AMBIENCE, PACE = 0.57, 0.23, 0.09
# Of the cues. A text has no sentence twice, which takes more from its own family: 75 % are left.
OWN_CUES = 0.81
MIN_SENTENCES, MAX_SENTENCES = 11, 13
FIRST_PERSON, NAMED_AGAIN = 0.3, 0.25
EXCHANGES = 4

FORMS = {
    "I": {"s": "I", "p": "my", "o": "me", "S": "I", "P": "My"},
    "she": {"s": "she", "p": "her", "o": "her", "S": "She", "P": "Her"},
    "he": {"s": "he", "p": "his", "o": "him", "S": "He", "P": "His"},
}


@dataclass(frozen=True, slots=True)
class Person:
    """Who a text is about: the words for the slots of a sentence, by pronoun and by name."""

    called: dict[str, str]
    named: dict[str, str]

    def slots(self, rng: random.Random) -> dict[str, str]:
        """The slots of one sentence: mostly pronouns, now and then the name."""
        return self.named if rng.random() < NAMED_AGAIN else self.called


def choose_person(world: World, rng: random.Random) -> Person:
    """The writer, or somebody with a name."""
    if rng.random() < FIRST_PERSON:
        called = {**FORMS["I"], "n": "I", "N": "I", "whose": "my", "Whose": "My"}
        return Person(called, called)
    who = pick(rng, world.names)
    whose = f"{who.name}'s"
    called = {**FORMS[who.pronoun], "n": who.name, "N": who.name, "whose": whose, "Whose": whose}
    return Person(called, {**called, "S": who.name, "P": whose})


def write_story(world: World, emotion: str, topic: str, rng: random.Random) -> str:
    """One paragraph about a topic that conveys the emotion without naming it.

    Raises KeyError for an emotion or topic that the world lacks.
    """
    person = choose_person(world, rng)
    told = tell(world, world.palettes[emotion], person, rng)
    return " ".join([*introduce(world, topic, person, rng), *told.values()])


def introduce(world: World, topic: str, person: Person, rng: random.Random) -> list[str]:
    """The two sentences that open a text about a topic."""
    subject = world.topics[topic]
    slots = fill_slots(world, rng) | person.called
    slots["rel"] = subject.relation
    first = pick(rng, world.openings[subject.event]).format_map(slots)
    return [first, pick(rng, world.continuations[subject.event]).format_map(slots)]


def tell(
    world: World,
    palette: Palette,
    person: Person,
    rng: random.Random,
    *,
    sentences: int | None = None,
    lead: str | None = None,
) -> dict[str, str]:
    """Different sentences, by the template each was made from.

    There are 11 to 13 unless it is said how many; the first is made from `lead`, if given.
    """
    wanted = sentences or rng.randint(MIN_SENTENCES, MAX_SENTENCES)
    told = {lead: lead.format_map(person.slots(rng))} if lead else {}
    while len(told) < wanted:
        template = draw_template(world, palette, rng)
        if template not in told:
            told[template] = template.format_map(person.slots(rng))
    return told


def draw_template(world: World, palette: Palette, rng: random.Random) -> str:
    """A sentence to come: cue, ambience, pace or filler."""
    sort = rng.random()
    if sort < CUE:
        return draw_cue(palette, rng)
    if sort < CUE + AMBIENCE:
        return palette.ambience.draw(rng)
    if sort < CUE + AMBIENCE + PACE:
        return palette.pace.draw(rng)
    return pick(rng, world.filler)


def draw_cue(palette: Palette, rng: random.Random) -> str:
    """A cue of the emotion's own family, or of one near to it."""
    return (palette.own if rng.random() < OWN_CUES else palette.near).draw(rng)


def fill_slots(world: World, rng: random.Random) -> dict[str, str]:
    """A value for every slot that does not depend on the person."""
    return {slot: pick(rng, values) for slot, values in world.slots.items()}


def write_dialogue(world: World, topic: str, rng: random.Random) -> str:
    """Eight turns of plain questions and answers, "Person: ..." and "AI: ..." in turn.

    Raises KeyError for a topic that the world lacks.
    """
    subject = world.neutral_topics[topic]
    further = rng.sample(world.turns["any"], EXCHANGES - 1)
    lines = []
    for question, answer in (pick(rng, world.turns[subject.aspect]), *further):
        slots = fill_slots(world, rng)
        slots["object"] = subject.object
        lines += [f"Person: {question.format_map(slots)}", f"AI: {answer.format_map(slots)}"]
    return "\n".join(lines)
