"""The documents that the grammar draws from the shipped world."""

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from engine.demo.grammar import (
    Document,
    World,
    sample_long,
    sample_short,
    write_dialogue,
    write_story,
)
from engine.demo.reading import planted_reading
from engine.quality import check_dialogue, check_story, leak_pattern
from engine.splitting import split_reply

Sampler = Callable[[World, random.Random], Document]


def draw(sampler: Sampler, world: World, n: int, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)
    return [sampler(world, rng) for _ in range(n)]


def reply(document: Document) -> str:
    return document.text.partition("\n\nAssistant:")[2]


@pytest.mark.parametrize("sampler", [sample_long, sample_short])
def test_a_seed_determines_the_documents(world: World, sampler: Sampler) -> None:
    assert draw(sampler, world, 100, seed=1) == draw(sampler, world, 100, seed=1)
    assert draw(sampler, world, 100, seed=1) != draw(sampler, world, 100, seed=2)


def test_no_story_names_any_emotion_and_every_story_passes_the_engines_checks(world: World) -> None:
    rng = random.Random(0)
    emotions = world.protocol.emotions
    patterns = [leak_pattern(emotion) for emotion in emotions]
    for n in range(500):
        emotion = emotions[n % len(emotions)]
        story = write_story(world, emotion.name, rng.choice(world.protocol.topics), rng)
        assert check_story(story, emotion, world.protocol, cut=False) is None
        assert split_reply(story, "stories", 1) == [story]
        assert not any(pattern.search(story) for pattern in patterns)


def test_every_dialogue_passes_the_engines_checks_and_is_long_enough_to_pool(world: World) -> None:
    rng = random.Random(0)
    for topic in world.protocol.neutral_topics:
        dialogue = write_dialogue(world, topic, rng)
        assert check_dialogue(dialogue, world.protocol, cut=False) is None
        assert split_reply(dialogue, "dialogues", 1) == [dialogue]
        assert len(re.findall(r"\w+|[^\w\s]", dialogue)) >= 75


def test_dialogues_hold_no_cue(world: World) -> None:
    rng = random.Random(0)
    read = [planted_reading(world, write_dialogue(world, t, rng)) for t in world.neutral_topics]
    assert all(reading.known == 0 for reading in read)


def test_long_documents_come_in_their_shares(world: World) -> None:
    shares = Counter(document.kind for document in draw(sample_long, world, 4000))
    assert shares["prompted story"] / 4000 == pytest.approx(0.34, abs=0.03)
    assert shares["bare story"] / 4000 == pytest.approx(0.16, abs=0.03)
    assert shares["diary"] / 4000 == pytest.approx(0.40, abs=0.03)
    assert shares["dialogue"] / 4000 == pytest.approx(0.10, abs=0.03)


def test_every_document_is_text_or_one_chat_turn(world: World) -> None:
    chat = re.compile(r"Human: [^\n]+\n\nAssistant: \S(.|\n)*")
    for document in draw(sample_long, world, 500) + draw(sample_short, world, 500):
        asked = document.text.startswith("Human:")
        assert bool(chat.fullmatch(document.text)) == asked
        assert "{" not in document.text
        assert "  " not in document.text


def test_weights_lie_within_the_text_and_apart(world: World) -> None:
    for document in draw(sample_long, world, 500) + draw(sample_short, world, 500):
        ends = [0]
        for start, end, weight in document.weights:
            assert ends[-1] <= start < end <= len(document.text)
            assert weight > 0
            ends.append(end)


def test_a_sampled_scenario_is_never_a_held_out_one(world: World) -> None:
    held_out = {scenario.prompt for scenario in world.protocol.scenarios}
    asked = {d.text.removeprefix("Human: ").split("\n")[0] for d in draw(sample_short, world, 9000)}
    assert len(asked) > 4000
    assert not asked & held_out
