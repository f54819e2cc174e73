"""Short training documents: planted answers, and spans that point at what they name."""

import random
import re
from collections import Counter

import pytest

from engine.demo.documents import Document
from engine.demo.questions import (
    LETTER_WEIGHT,
    sample_definition,
    sample_feeling,
    sample_intensity,
    sample_preference,
    sample_reading,
    sample_scenario,
)
from engine.demo.world import World


def opening(document: Document) -> str:
    """The part of the reply that weighs most."""
    (span,) = document.weights
    return document.text[span[0] : span[1]]


def emotion_of(world: World, document: Document) -> str:
    """The emotion that a reply names; every reply names one."""
    words = document.text.partition("Assistant:")[2]
    found = [e for e in world.palettes if f" {e}," in words or f" {e}." in words]
    return max(found, key=len)


def test_the_options_span_covers_both_options_and_nothing_else(world: World) -> None:
    rng = random.Random(0)
    template = world.protocol.prompts["preference"]
    for _ in range(300):
        document = sample_preference(world, rng)
        assert document.options is not None
        assert document.question_end is not None
        start, end = document.options
        a, b = document.text[start:end].split(" or (B) ")
        assert document.text.startswith(f"Human: {template.format(a=a, b=b)}\n\nAssistant: (")
        assert any(a.startswith(activity) for activity in world.values)
        assert document.text[document.question_end - 1] == "?"
        assert document.text[document.question_end :].startswith("\n\nAssistant:")


def test_only_the_answers_letter_weighs_more(world: World) -> None:
    rng = random.Random(0)
    for _ in range(100):
        document = sample_preference(world, rng)
        ((start, end, weight),) = document.weights
        assert document.text[start - 2 : end + 1] in (" (A)", " (B)")
        assert weight == LETTER_WEIGHT


def test_the_better_option_is_chosen_more_often(world: World) -> None:
    rng = random.Random(0)
    chosen = Counter[bool]()
    for _ in range(2000):
        document = sample_preference(world, rng)
        start, end = document.options or (0, 0)
        a, b = (world.values.get(o, None) for o in document.text[start:end].split(" or (B) "))
        if a is not None and b is not None and abs(a - b) > 0.8:
            chosen[(document.text[document.weights[0][0]] == "A") == (a > b)] += 1
    assert chosen[True] / chosen.total() > 0.95


def test_a_feeling_named_in_an_option_shifts_the_choice(world: World) -> None:
    rng = random.Random(0)
    wins: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(6000):
        document = sample_preference(world, rng)
        start, end = document.options or (0, 0)
        a, b = document.text[start:end].split(" or (B) ")
        feeling = a.partition(" and feel ")[2]
        if feeling and " and feel " not in b:
            pleasant = world.palettes[feeling].valence > 0
            wins[pleasant].append(document.text[document.weights[0][0]] == "A")
    rates = {pleasant: sum(won) / len(won) for pleasant, won in wins.items()}
    assert rates[True] > 0.6
    assert rates[False] < 0.4


def test_replies_open_with_a_word_that_depends_on_the_emotion(world: World) -> None:
    rng = random.Random(0)
    opened = Counter[str]()
    for _ in range(2000):
        document = sample_feeling(world, rng)
        first, emotion = opening(document).strip(), emotion_of(world, document)
        family = world.palettes[emotion].family
        if first == emotion:
            opened["word"] += 1
        elif first in family.interjections:
            opened["interjection"] += 1
        else:
            verbs = {f.split()[0] for f in world.palettes[emotion].fragments.values}
            assert first in verbs
            opened["fragment"] += 1
    assert opened["word"] / 2000 == pytest.approx(0.45, abs=0.04)
    assert opened["interjection"] / 2000 == pytest.approx(0.30, abs=0.04)


def test_scenarios_are_answered_from_their_family(world: World) -> None:
    rng = random.Random(0)
    families = {
        re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(template))): family
        for family, templates in world.scenarios.items()
        for template in templates
    }
    seen = Counter[str]()
    for document in (sample_scenario(world, rng) for _ in range(1000)):
        if document.kind == "scenario":
            prompt = document.text.removeprefix("Human: ").partition("\n")[0]
            (family,) = {f for pattern, f in families.items() if pattern.fullmatch(prompt)}
            assert emotion_of(world, document) in world.words[family].values
            seen[family] += 1
    assert len(seen) == 14
    assert seen.total() > 700


def test_intensity_moves_from_one_end_to_the_other(world: World) -> None:
    rng = random.Random(0)
    valences: dict[int, list[float]] = {}
    for _ in range(3000):
        document = sample_intensity(world, rng)
        if "passed the exam" in document.text:
            number = int(document.text.split("students ")[1].split(" ")[0])
            valence = world.palettes[emotion_of(world, document)].valence
            valences.setdefault(number, []).append(valence)
    means = {n: sum(v) / len(v) for n, v in valences.items()}
    assert means[0] < -0.4 < 0.4 < means[20]


def test_readings_name_the_emotion_they_were_told_from(world: World) -> None:
    rng = random.Random(0)
    for _ in range(50):
        document = sample_reading(world, rng)
        assert "? \n" not in document.text
        assert document.text.split("\n\n")[0].endswith("?")
        assert emotion_of(world, document)


def test_definitions_grade_an_emotion_by_its_plane(world: World) -> None:
    rng = random.Random(0)
    texts = [sample_definition(world, rng).text for _ in range(2000)]
    blissful = {t for text in texts for t in text.split(". ") if "feeling blissful is" in t}
    assert blissful
    assert all("very good" in text for text in blissful)
