"""Which parts of a reply are texts, and which texts may be used."""

from pathlib import Path

import pytest

from engine.quality import (
    check_dialogue,
    check_story,
    is_refusal,
    leak_pattern,
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
    assert check_story(story, SELF, protocol, cut=False) == "leak"


@pytest.mark.parametrize(
    ("text", "cut", "verdict"),
    [
        (STORY, False, None),
        ("", False, "unparsed"),
        ("I'm sorry, but I can't write that story.", False, "refusal"),
        ("I’m unable to help with this request.", False, "refusal"),
        ("As an AI language model, I have no feelings.", False, "refusal"),
        ("Unfortunately, I cannot create content of this kind.", False, "refusal"),
        (f"Here is a short story about a note. {STORY}", False, "refusal"),
        (f"{STORY} I have avoided the word as you asked.", False, "refusal"),
        (f"{STORY} Word count: 14.", False, "refusal"),
        (STORY, True, "truncated"),
        (STORY.rstrip("."), False, "truncated"),
        ("Ana shut it.", False, "too_short"),
        (" ".join([STORY] * 4), False, "too_long"),
        (f"Ana was sad. {STORY}", False, "leak"),
    ],
)
def test_verdicts_on_stories(protocol: Protocol, text: str, cut: bool, verdict: str | None) -> None:
    assert check_story(text, SAD, protocol, cut=cut) == verdict


@pytest.mark.parametrize(
    "text",
    [
        "I can't believe it, I thought, and I could not help smiling at her.",
        "I'm sorry I broke the cup, I told her, and swept up the pieces.",
        "“Unfortunately,” said the clerk, “the last train left an hour ago.”",
        'He waited by the gate until she said, "Come in."',
        "Was that all he had come for, after so many years?",
        "Here is the key, she said, and he took it without a word of thanks.",
        "Let me know if the story ends well, she said, and shut the book.",
    ],
)
def test_good_stories_are_not_taken_for_refusals_or_fragments(
    protocol: Protocol, text: str
) -> None:
    assert check_story(text, SAD, protocol, cut=False) is None


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
    assert check_dialogue(text, protocol, cut=False) == verdict


@pytest.mark.parametrize(
    "told",
    [
        "Great question!",
        "Good question.",
        "Sorry, nobody has measured it.",
        "I'm sorry, that is not known.",
        "I’m glad you asked.",
        "My pleasure.",
        "Hope this helps.",
        "Good luck with the boat.",
        "No problem, it is twelve.",
        "My apologies, twelve.",
    ],
)
def test_a_pleasantry_is_found_wherever_a_turn_begins(protocol: Protocol, told: str) -> None:
    dialogue = DIALOGUE.replace("It is twelve", f"{told} It is twelve")
    assert check_dialogue(dialogue, protocol, cut=False) == "pleasantry"


@pytest.mark.parametrize(
    "told",
    ["There is no problem with the pump.", "The question is a good one for the harbour office."],
)
def test_plain_words_are_no_pleasantry(protocol: Protocol, told: str) -> None:
    dialogue = DIALOGUE.replace("It is twelve metres deep.", told)
    assert check_dialogue(dialogue, protocol, cut=False) is None


@pytest.mark.parametrize("turn", ["AI:", "AI:  ", "Person:"])
def test_a_turn_without_words_is_no_turn(protocol: Protocol, turn: str) -> None:
    lines = DIALOGUE.split("\n")
    dialogue = "\n".join([*lines[:2], *([] if turn == "Person:" else lines[2:3]), turn, lines[3]])
    assert check_dialogue(dialogue, protocol, cut=False) == "unparsed"


@pytest.mark.parametrize(
    "said",
    [
        "As a large language model, I can't assist with that request.",
        "As an AI assistant, my answers are general.",
        "I'm just an AI, so the rest is yours.",
        "I must decline this request.",
        "I apologize, but I can't create this story for you.",
        "But I won't write a story about this.",
        "I can't write the stories you asked for.",
        "I am unable to generate content that shows harm.",
        "I can't help with that.",
        "Sure! Here is a story for you.",
        "Here are three short stories about the lake.",
        "I hope you like this story.",
        "I hope these stories meet your needs.",
        "Let me know if you'd like another one.",
        "Would you like me to go on?",
        "This story conveys the feeling by its details.",
        "I have avoided the word as you asked.",
        "Note: the word itself is not used.",
        "Her name was [insert name].",
    ],
)
@pytest.mark.parametrize("frame", ["{} {}", "{1} {0}"])
def test_talk_about_the_task_within_a_text_is_a_refusal(
    protocol: Protocol, said: str, frame: str
) -> None:
    assert check_story(frame.format(STORY, said), SAD, protocol, cut=False) == "refusal"


@pytest.mark.parametrize(
    "story",
    [
        "“I'm sorry, I can't,” said Ana, and she put the story back on the shelf.",
        '"I can\'t write that story," the editor said, and he closed the file.',
        "“Sit down. I can't write stories about that,” the editor said to her.",
        "I can't tell that story without the dog, and the dog is dead.",
        "I can't write the story of that night without the dog and the boat.",
        "I won't forget the request he made, nor the way the cup broke.",
        "I am an aide at the clinic, and the content of the drawers is my business.",
        "The letter began: I cannot write to you any more, for the store is closed.",
        "He told the story of the lake twice, and nobody asked for another one.",
        "Note: the storeroom key is missing, said the slip on the door.",
        "She hoped the story was over, and would you like tea, he asked her.",
        "This story he had heard before, on the stairs, in the rain.",
    ],
)
def test_a_character_may_speak_of_stories_and_be_unable_to_do_things(
    protocol: Protocol, story: str
) -> None:
    assert check_story(story, SAD, protocol, cut=False) is None
    assert not is_refusal(story)


@pytest.mark.parametrize("end", ['"But I—"', "“But I–”", "The end 。", "«Is it?»", "the door. *"])
def test_a_sentence_may_end_in_many_ways(protocol: Protocol, end: str) -> None:
    text = f"{STORY} {end}"
    assert check_story(text, SAD, protocol, cut=False) == (None if end[-1] != "*" else "truncated")


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("I'm sorry, but I can't write stories about that.", True),
        ("\n **I cannot fulfil this request.**", True),
        ("As an AI, I do not feel anything.", True),
        ("Unfortunately, this request is against the rules.", True),
        ("<think>They want a story.</think>\n\nI can’t write that story.", True),
        ("I'm sorry, but I can't write that many stories.\n\n[story 1]\nAna left.", False),
        (f"Here is a short story about a note:\n\n{STORY}", False),
        (f"<think>\nI can't write that word in this story.\n</think>\n\n{STORY}", False),
        (f"I can't write that many stories. {' '.join([STORY] * 12)}", False),
        ("I am sorry I broke it, she said.", False),
        ("", False),
    ],
)
def test_a_whole_reply_may_refuse(reply: str, refused: bool) -> None:
    assert is_refusal(reply) is refused
