"""Long training documents: what names its emotion, what does not, and what is asked for."""

import random
from collections.abc import Callable

from engine.demo.documents import Document
from engine.demo.reading import planted_reading
from engine.demo.tales import (
    NAMING_WEIGHT,
    sample_bare_story,
    sample_diary,
    sample_neutral,
    sample_prompted_story,
)
from engine.demo.world import World
from engine.quality import leak_pattern

Sampler = Callable[[World, random.Random], Document]


def draw(sampler: Sampler, world: World, n: int) -> list[Document]:
    rng = random.Random(0)
    return [sampler(world, rng) for _ in range(n)]


def named(world: World, document: Document) -> set[str]:
    """The spans of a diary that weigh as namings."""
    return {document.text[a:b] for a, b, weight in document.weights if weight == NAMING_WEIGHT}


def test_a_diary_names_one_emotion_which_its_cues_convey(world: World) -> None:
    own = []
    for diary in draw(sample_diary, world, 300):
        (emotion,) = named(world, diary)
        assert emotion in world.palettes
        own.append(planted_reading(world, diary.text, emotion).own_share or 0.0)
    assert 0.65 < sum(own) / len(own) < 0.85


def test_a_diary_may_first_name_its_emotion_anywhere(world: World) -> None:
    places = [d.weights[0][0] / len(d.text) for d in draw(sample_diary, world, 300)]
    quarters = [sum(low <= p < low + 0.25 for p in places) for low in (0.0, 0.25, 0.5, 0.75)]
    assert min(quarters[1:]) > 50


def test_bare_stories_name_nothing(world: World) -> None:
    patterns = [leak_pattern(emotion) for emotion in world.protocol.emotions]
    for story in draw(sample_bare_story, world, 200):
        assert story.weights == ()
        assert not any(pattern.search(story.text) for pattern in patterns)


def test_some_bare_stories_hold_an_activity_and_feel_as_it_makes_one_feel(world: World) -> None:
    pairs = []
    for story in draw(sample_bare_story, world, 400):
        opening = ". ".join(story.text.split(". ")[:2])
        done = [a for a in world.activities if a.name in opening or a.gerund in opening]
        if done:
            reading = planted_reading(world, story.text)
            pairs.append((world.values[done[0].name], reading.valence or 0.0))
    assert 80 < len(pairs) < 160
    pleasant = [valence for value, valence in pairs if value > 0.3]
    unpleasant = [valence for value, valence in pairs if value < -0.3]
    assert sum(pleasant) / len(pleasant) > 0.4
    assert sum(unpleasant) / len(unpleasant) < -0.4


def test_a_prompted_story_is_what_was_asked_for(world: World) -> None:
    opened = 0
    for document in draw(sample_prompted_story, world, 300):
        prompt, _, story = document.text.partition("\n\nAssistant: ")
        asked = prompt.removeprefix("Human: ")
        template = world.protocol.prompts["story"]
        fits = [
            e
            for e in world.protocol.names
            if any(template.format(topic=t, emotion=e) == asked for t in world.topics)
        ]
        opened += not fits
        if fits:
            share = planted_reading(world, story, fits[0]).own_share
            assert share is None or share >= 0.2
    assert 10 < opened < 60


def test_neutral_dialogues_come_with_and_without_the_protocols_prompt(world: World) -> None:
    documents = draw(sample_neutral, world, 200)
    asked = [d for d in documents if d.text.startswith("Human: Write a dialogue about the ")]
    bare = [d for d in documents if d.text.startswith("Person: ")]
    assert len(asked) + len(bare) == 200
    assert min(len(asked), len(bare)) > 30
