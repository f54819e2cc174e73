"""Which parts of a reply are texts, and which texts may be used."""

from pathlib import Path

import pytest

from engine.quality import (
    check_dialogue,
    check_story,
    leak_pattern,
    split_reply,
    text_fingerprint,
)
from stores.protocol import Bounds, Emotion, Protocol
from tests.engine.protocols import write_protocol
from tests.engine.tiny import text_of

STORY = "Ana shut the door. Her hands shook as she read the note twice."
OTHER = "Tom ran down the hill, and the dog ran after him, barking all the way."
DIALOGUE = (
    "Person: How deep is the lake?\nAI: It is twelve metres deep.\n"
    "Person: And how wide?\nAI: It is about two kilometres wide."
)


def emotion(name: str, *, forms: tuple[str, ...] = (), synonyms: tuple[str, ...] = ()) -> Emotion:
    return Emotion(name, None, None, None, forms, synonyms, "own")


@pytest.fixture
def protocol(tmp_path: Path) -> Protocol:
    return write_protocol(tmp_path, stories=Bounds(5, 40), dialogues=Bounds(10, 60))


@pytest.mark.parametrize(
    "reply",
    [
        f"[story 1]\n{STORY}\n\n[story 2]\n\n{OTHER}",
        f"**[Story 1]**\n{STORY}\n**[Story 2]**\n{OTHER}",
        f"Sure, here are two stories:\n\n[story 1] {STORY}\n[story 2] {OTHER}",
        f"I wrote two for you.\n[story 1]\n{STORY}\n[story 2]\n{OTHER}",
        f"<NEW STORY>\n{STORY}\n<NEW STORY>\n{OTHER}",
        f"---\n{STORY}\n---\n{OTHER}",
        f"## Story 1: The Note\n\n{STORY}\n\n## Story 2: The Hill\n\n{OTHER}",
        f"Story 1:\n{STORY}\nStory 2:\n{OTHER}",
        f"1. {STORY}\n\n2. {OTHER}",
        f"**1. The Note**\n{STORY}\n\n**2. The Hill**\n{OTHER}",
        f"Here are the stories:\n\n**Story 1**\n\n{STORY}\n\n***\n\n**Story 2**\n\n{OTHER}\n",
    ],
)
def test_stories_are_cut_at_their_markers(reply: str) -> None:
    assert split_reply(reply, "stories") == [STORY, OTHER]


def test_a_separator_alone_does_not_lose_the_first_story() -> None:
    first = " ".join([STORY] * 4)
    assert split_reply(f"{first}\n<NEW STORY>\n{OTHER}", "stories") == [first, OTHER]


@pytest.mark.parametrize(
    "reply",
    [
        STORY,
        f"\n  {STORY}\n\n",
        f"Sure, here's a story:\n\n{STORY}",
        f"**The Note**\n\n{STORY}",
        f"# The Note\n{STORY}",
        STORY.replace(". ", ".\n\n"),
    ],
)
def test_a_single_story_is_one_paragraph_without_preamble_or_title(reply: str) -> None:
    assert split_reply(reply, "stories") == [STORY]


@pytest.mark.parametrize("reply", ["", "  \n\n ", "[story 1]", "---\n---", "Here is a story:"])
def test_a_reply_without_a_text_gives_none(reply: str) -> None:
    assert split_reply(reply, "stories") == []


def test_numbers_inside_a_story_are_no_markers() -> None:
    story = "It was 1. May. She counted 2) and 3) on her list; story 4 was hers."
    assert split_reply(story, "stories") == [story]


@pytest.mark.parametrize(
    "reply",
    [
        DIALOGUE,
        f"[dialogue 1]\n{DIALOGUE}",
        f"Sure, here is one:\n\n{DIALOGUE}",
        DIALOGUE.replace("Person:", "**Person:**").replace("AI:", "**AI:**"),
        DIALOGUE.replace("\n", "\n\n"),
        DIALOGUE.replace("\n", " "),
    ],
)
def test_a_dialogue_keeps_one_line_for_each_turn(reply: str) -> None:
    assert split_reply(reply, "dialogues") == [DIALOGUE]


def test_a_dialogue_without_speakers_is_kept_for_the_check() -> None:
    assert split_reply("How deep?\nTwelve metres.", "dialogues") == ["How deep? Twelve metres."]


def test_dialogues_are_cut_at_their_markers() -> None:
    reply = f"[dialogue 1]\n{DIALOGUE}\n[dialogue 2]\n{DIALOGUE}"
    assert split_reply(reply, "dialogues") == [DIALOGUE, DIALOGUE]


SAD = emotion("sad", forms=("sadly", "sadness"), synonyms=("unhappy", "ill at ease"))
SELF = emotion("self-conscious")
EASE = emotion("at ease")


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (SAD, "She was sad."),
        (SAD, "SADNESS filled the room."),
        (SAD, "'Sadly,' he said"),
        (SAD, "the *sad* clown"),
        (SAD, "the _sad_ clown"),
        (SAD, "an unhappy man"),
        (SAD, "ill-at-ease"),
        (SELF, "a self-conscious smile"),
        (SELF, "a self conscious smile"),
        (SELF, "a selfconscious smile"),
        (SELF, "a self‑conscious smile"),
        (SELF, "a self-\nconscious smile"),
        (EASE, "He was at  ease."),
        (EASE, "an at-ease manner"),
    ],
)
def test_a_story_must_not_name_its_emotion(of: Emotion, text: str) -> None:
    assert leak_pattern(of).search(text.replace("‑", "-"))


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (SAD, "the saddle, the crusade, Sadler's Wells"),
        (SELF, "she was conscious of herself"),
        (EASE, "with ease, at once"),
        (emotion("c++"), "c"),
    ],
)
def test_other_words_that_hold_the_letters_do_not_count(of: Emotion, text: str) -> None:
    assert not leak_pattern(of).search(text)


def test_a_leak_with_a_typographic_hyphen_is_found(protocol: Protocol) -> None:
    story = "Ana felt self‑conscious when the door fell shut behind her back."
    assert check_story(story, SELF, protocol, "stop") == "leak"


@pytest.mark.parametrize(
    ("text", "finish", "verdict"),
    [
        (STORY, "stop", None),
        ("", "blocked", "blocked"),
        ("", "stop", "unparsed"),
        ("I'm sorry, but I can't write that story.", "stop", "refusal"),
        ("I’m unable to help with this request.", "stop", "refusal"),
        ("As an AI language model, I have no feelings.", "stop", "refusal"),
        ("Unfortunately, I cannot create content of this kind.", "stop", "refusal"),
        (STORY, "length", "truncated"),
        (STORY.rstrip("."), "stop", "truncated"),
        ("Ana shut it.", "stop", "too_short"),
        (" ".join([STORY] * 4), "stop", "too_long"),
        (f"Ana was sad. {STORY}", "stop", "leak"),
    ],
)
def test_verdicts_on_stories(
    protocol: Protocol, text: str, finish: str, verdict: str | None
) -> None:
    assert check_story(text, SAD, protocol, finish) == verdict


@pytest.mark.parametrize(
    "text",
    [
        "I can't believe it, I thought, and I could not help smiling at her.",
        "I'm sorry I broke the cup, I told her, and swept up the pieces.",
        "“Unfortunately,” said the clerk, “the last train left an hour ago.”",
        'He waited by the gate until she said, "Come in."',
        "Was that all he had come for, after so many years?",
    ],
)
def test_good_stories_are_not_taken_for_refusals_or_fragments(
    protocol: Protocol, text: str
) -> None:
    assert check_story(text, SAD, protocol, "stop") is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (DIALOGUE, None),
        (DIALOGUE.rstrip("."), "truncated"),
        ("Person: How deep is the lake?\nAI: It is twelve metres deep, they say.", "unparsed"),
        (DIALOGUE.replace("Person: And", "AI: And"), "unparsed"),
        (DIALOGUE.removeprefix("Person: How deep is the lake?\n"), "unparsed"),
        (f"{text_of(20)}.", "unparsed"),
        (DIALOGUE.replace("And how", "Thanks, and how"), "pleasantry"),
        (DIALOGUE.replace("How deep", "Hi, how deep"), "pleasantry"),
        (DIALOGUE.replace("It is twelve", "Great question! It is twelve"), "pleasantry"),
        ("Person: A?\nAI: B.\nPerson: C?\nAI: D.", "too_short"),
    ],
)
def test_verdicts_on_dialogues(protocol: Protocol, text: str, verdict: str | None) -> None:
    assert check_dialogue(text, protocol, "stop") == verdict


def test_texts_that_differ_in_form_only_are_duplicates() -> None:
    assert text_fingerprint("He said: “Come!”") == text_fingerprint("he said -- 'come'.")
    assert text_fingerprint("He said: come.") != text_fingerprint("He said: go.")
