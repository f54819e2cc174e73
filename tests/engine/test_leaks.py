"""No story names its emotion, for any of the 171, and no other word is taken for it."""

import re
from itertools import product
from pathlib import Path

import pytest

from engine.quality import check_story, leak_pattern
from stores.protocol import Emotion, load_protocol
from tests.engine.tiny import text_of

PROTOCOL = load_protocol()
EMOTIONS = {emotion.name: emotion for emotion in PROTOCOL.emotions}
# Ordinary words that hold the letters of some emotion's word, or whose letters it holds.
LOOK_ALIKES = (Path(__file__).parent / "lookalikes.txt").read_text(encoding="utf-8").split()
# Verb forms that the lists leave out: not words, or another ordinary meaning (contents, patients).
NO_FORMS = {"awing", "contents", "contenting", "heartbreaked", "hurted", "shaked"}


def phrases(emotion: Emotion) -> tuple[str, ...]:
    return (emotion.name, *emotion.forms, *emotion.synonyms)


def spellings(phrase: str) -> set[str]:
    """A phrase with spaces, hyphens and nothing between its words, typographic ones as well."""
    parts = re.split(r"[\s-]+", phrase)
    signs = (" ", "-", "\u2010", "\u2011", "\u2013", "", "  ", "-\n", "\u00a0")
    joined = {sign.join(parts) for sign in signs}
    return joined | {each.replace("'", "\u2019") for each in joined}


def inflections(verb: str) -> set[str]:
    """A regular verb with -s, -ed and -ing."""
    if verb.endswith("e"):
        return {verb + "s", verb + "d", verb[:-1] + "ing"}
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return {verb[:-1] + "ies", verb[:-1] + "ied", verb + "ing"}
    s = "es" if verb.endswith(("s", "sh", "ch", "x")) else "s"
    return {verb + s, verb + "ed", verb + "ing"}


def test_there_are_171_and_each_has_forms() -> None:
    assert len(EMOTIONS) == 171
    assert min(len(emotion.forms) for emotion in EMOTIONS.values()) >= 1
    assert sum(len(phrases(emotion)) for emotion in EMOTIONS.values()) > 1500


@pytest.mark.parametrize("name", EMOTIONS)
def test_every_form_and_synonym_leaks_however_it_is_written(name: str) -> None:
    emotion = EMOTIONS[name]
    frames = (
        "{}",
        "He was {}.",
        "({})",
        "\u201c{},\u201d she said",
        "*{}*",
        "_{}_",
        "{}'s",
        "{}\u2019s",
    )
    body = text_of(100)
    for phrase, frame in product(phrases(emotion), frames):
        for spelt in spellings(phrase):
            for cased in (spelt, spelt.upper(), spelt.capitalize()):
                story = f"{body} {frame.format(cased)} {body[:50]}."
                assert check_story(story, emotion, PROTOCOL, cut=False) == "leak", (phrase, frame)


@pytest.mark.parametrize("name", EMOTIONS)
def test_a_verb_and_an_adjective_are_banned_in_all_their_inflections(name: str) -> None:
    emotion = EMOTIONS[name]
    listed = {name, *emotion.forms}
    verbs = {verb for verb in listed if any(w[-2:] in "edng" for w in inflections(verb) & listed)}
    due = {form for verb in verbs for form in inflections(verb)} - NO_FORMS
    due |= {form[:-2] + "est" for form in listed if form.endswith("ier")}
    assert [form for form in sorted(due) if not leak_pattern(emotion).fullmatch(form)] == []


@pytest.mark.parametrize("name", EMOTIONS)
def test_a_word_that_merely_holds_the_letters_is_no_leak(name: str) -> None:
    emotion = EMOTIONS[name]
    own = {spelt.lower() for phrase in phrases(emotion) for spelt in spellings(phrase)}
    others = [word for word in LOOK_ALIKES if word not in own]
    assert leak_pattern(emotion).search(" ".join(others)) is None
    for phrase in filter(str.isalpha, phrases(emotion)):
        for longer in (f"qu{phrase}", f"{phrase}q", f"{phrase}é", f"{phrase}9", f"9{phrase}"):
            assert leak_pattern(emotion).search(longer) is None


def test_every_emotion_has_look_alikes() -> None:
    def alike(word: str, emotion: Emotion) -> bool:
        others = [phrase for phrase in phrases(emotion) if phrase != word]
        return any(other in word or word in other for other in others)

    lone = [
        name
        for name, each in EMOTIONS.items()
        if not any(alike(word, each) for word in LOOK_ALIKES)
    ]
    assert (lone, len(set(LOOK_ALIKES)) > 350) == ([], True)


@pytest.mark.parametrize(
    ("name", "said", "leaks"),
    [
        ("ashamed", "shame", True),
        ("ashamed", "shameful", True),
        ("ashamed", "shameless", False),
        ("hopeful", "hope", True),
        ("hopeful", "hopeless", False),
        ("grateful", "gratitude", True),
        ("grateful", "ungrateful", False),
        ("at ease", "at ease", True),
        ("at ease", "ease", False),
        ("proud", "pride", True),
        ("angry", "anger", True),
        ("angry", "danger", False),
        ("mad", "madness", True),
        ("mad", "made", False),
        ("sad", "sadness", True),
        ("sad", "saddle", False),
        ("afraid", "fear", True),
        ("grief-stricken", "grief", True),
        ("tired", "tire", False),
        ("content", "contents", False),
        ("patient", "patients", False),
        ("pleased", "please", False),
        ("kind", "kind", True),
        ("stuck", "unstuck", True),
        ("lonely", "alone", False),
        ("sad", "crusade", False),
    ],
)
def test_the_line_runs_where_the_protocol_says(name: str, said: str, leaks: bool) -> None:
    found = leak_pattern(EMOTIONS[name]).search(f"There was {said} in the room.")
    assert (found is not None) is leaks


def test_a_word_of_another_emotion_is_allowed() -> None:
    assert check_story(f"{text_of(80)} was angry.", EMOTIONS["sad"], PROTOCOL, cut=False) is None
