"""Long training documents: stories with and without their prompt, diaries, neutral dialogues.

A diary names its emotion at a place that cannot be foreseen, so that whoever predicts its words
must know the feeling all along. Knows nothing of short questions, tokens or models.
"""

from __future__ import annotations

import random

from engine.demo.chance import pick
from engine.demo.documents import Document, Draft
from engine.demo.stories import (
    Person,
    choose_person,
    introduce,
    tell,
    write_dialogue,
    write_story,
)
from engine.demo.world import World

OPEN_PROMPTS = 0.1
PROMPTED_DIALOGUES = 0.7
# Texts in which somebody does an activity and then feels as it makes one feel.
STORIES_OF_ACTIVITY, DIARIES_OF_ACTIVITY = 0.3, 0.3
# Diaries that only sign with their feeling; that sign as well; sentences that name it again.
ONLY_SIGNED, ALSO_SIGNED, AGAIN = 0.1, 0.2, 0.1
# Namings that are the bare word, jotted down after a full stop: after any sentence the emotion may
# be the next token, which makes a story's residual point at its word. Of the others, those that
# follow a sentence after a comma rather than stand in a sentence of their own.
JOTTED, SUFFIXED = 0.8, 0.6
PROMPT_WEIGHT, NAMING_WEIGHT = 0.3, 6.0


def sample_prompted_story(world: World, rng: random.Random) -> Document:
    """A story with the protocol's prompt, at times with one that leaves the feeling open."""
    emotion = pick(rng, world.protocol.names)
    topic = pick(rng, world.protocol.topics)
    template = world.protocol.prompts["story"]
    if rng.random() < OPEN_PROMPTS:
        template = pick(rng, world.phrases["open prompt"])
    story = write_story(world, emotion, topic, rng)
    return _answer("prompted story", template.format(topic=topic, emotion=emotion), story)


def sample_bare_story(world: World, rng: random.Random) -> Document:
    """A story without a prompt: its emotion can only be read from it."""
    emotion, person, opening = _begin(world, rng, STORIES_OF_ACTIVITY)
    told = tell(world, world.palettes[emotion], person, rng)
    return Document("bare story", " ".join([*opening, *told.values()]))


def sample_diary(world: World, rng: random.Random) -> Document:
    """A story that names its emotion, in the text or below it."""
    emotion, person, opening = _begin(world, rng, DIARIES_OF_ACTIVITY)
    told = tell(world, world.palettes[emotion], person, rng)
    only_signed = rng.random() < ONLY_SIGNED
    first = len(told) if only_signed else int(rng.random() * len(told))
    draft = Draft()
    draft.add(" ".join(opening))
    for place, (template, sentence) in enumerate(told.items()):
        named = sentence
        if place == first or (place > first and rng.random() < AGAIN):
            named = _name_after(world, template, sentence, person, rng)
        _add_naming(draft, f" {named}", emotion)
    if only_signed or rng.random() < ALSO_SIGNED:
        _add_naming(draft, f" {pick(rng, world.phrases['signature'])}", emotion)
    return draft.finish("diary")


def sample_neutral(world: World, rng: random.Random) -> Document:
    """A neutral dialogue, mostly with its prompt."""
    topic = pick(rng, world.protocol.neutral_topics)
    dialogue = write_dialogue(world, topic, rng)
    if rng.random() >= PROMPTED_DIALOGUES:
        return Document("dialogue", dialogue)
    return _answer("dialogue", world.protocol.prompts["dialogue"].format(topic=topic), dialogue)


def _answer(kind: str, prompt: str, reply: str) -> Document:
    draft = Draft()
    draft.ask(prompt, PROMPT_WEIGHT)
    draft.add(f" {reply}")
    return draft.finish(kind)


def _begin(world: World, rng: random.Random, of_activity: float) -> tuple[str, Person, list[str]]:
    """Emotion, person and opening, which may hold an activity that makes one feel so."""
    emotion = pick(rng, world.protocol.names)
    person = choose_person(world, rng)
    opening = introduce(world, pick(rng, world.protocol.topics), person, rng)
    if rng.random() < of_activity:
        activity = pick(rng, world.activities)
        emotion = world.felt[activity.name].draw(rng)
        slots = {**person.called, "activity": activity.name, "gerund": activity.gerund}
        opening[1] = pick(rng, world.phrases["activity"]).format_map(slots)
    return emotion, person, opening


def _name_after(
    world: World, template: str, sentence: str, person: Person, rng: random.Random
) -> str:
    """The sentence with a naming of {emotion} behind it."""
    if rng.random() < JOTTED:
        return f"{sentence} {{emotion}}."
    if template.startswith("{S} ") and rng.random() < SUFFIXED:
        return f"{sentence.removesuffix('.')}, {{emotion}}."
    naming = pick(rng, world.phrases["naming"])
    return f"{sentence} {naming.format_map({**person.slots(rng), 'emotion': '{emotion}'})}"


def _add_naming(draft: Draft, sentence: str, emotion: str) -> None:
    before, named, after = sentence.partition("{emotion}")
    draft.add(before)
    if named:
        draft.add(emotion, NAMING_WEIGHT)
        draft.add(after)
