"""Laws of the loopback server's texts: long enough, free of feeling, and never alike."""

import re
import time
from collections import Counter, defaultdict

import pytest

from engine.bench.answers import answer
from engine.bench.vocabulary import BANKS, GIVEN_NAMES
from engine.quality import check_dialogue, check_story, leak_pattern
from engine.splitting import split_reply
from stores.protocol import Emotion, load_protocol

PROTOCOL = load_protocol()
GRAM = 8
PLEASANTRIES = r"\b(thanks|thank|hello|hi|hey|sure|welcome|glad|happy|sorry|certainly|good|great)\b"


def prompt(kind: str, n: int, number: int = 0) -> str:
    wording = PROTOCOL.prompts["story" if kind == "stories" else "dialogue"]
    return wording.replace("{n}", str(n)).replace("{topic}", f"a gate, number {number}")


def texts(kind: str, n: int, number: int = 0, seed: int | None = None) -> list[str]:
    parts = re.split(
        r"^\[(?:story|dialogue) \d+\]\n", answer(prompt(kind, n, number), seed), flags=8
    )
    return [part.strip() for part in parts[1:]]


@pytest.fixture(scope="module")
def many() -> dict[str, list[str]]:
    """4,000 stories and 4,000 dialogues."""
    kinds = ("stories", "dialogues")
    return {kind: [t for i in range(1000) for t in texts(kind, 4, i)] for kind in kinds}


@pytest.mark.parametrize("kind", ["stories", "dialogues"])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_an_answer_has_as_many_texts_as_the_prompt_asks_for(kind: str, n: int) -> None:
    marker = {"stories": "story", "dialogues": "dialogue"}[kind]
    found = re.findall(rf"^\[{marker} (\d+)\]$", answer(prompt(kind, n), None), re.MULTILINE)
    assert found == [str(i) for i in range(1, n + 1)]
    assert len(texts(kind, n)) == n


def test_a_prompt_that_asks_for_no_number_gets_one_story() -> None:
    assert answer("Would you prefer tea or coffee?", None).count("[story ") == 1


def test_an_answer_follows_from_the_prompt_alone_unless_a_seed_is_given() -> None:
    words = prompt("stories", 3)
    assert answer(words, None) == answer(words, None)
    assert answer(words, 7) == answer(words, 7)
    assert len({answer(words, None), answer(words, 7), answer(words, 8)}) == 3
    assert answer(words, None) != answer(words + " ", None)


def test_every_text_has_70_to_130_words_and_ends_in_a_full_stop(many: dict[str, list[str]]) -> None:
    for found in many.values():
        assert all(70 <= len(text.split()) <= 130 for text in found)
        assert all(text.endswith(".") for text in found)


def test_every_dialogue_has_six_turns_in_turn_and_no_pleasantry(many: dict[str, list[str]]) -> None:
    for text in many["dialogues"]:
        speakers = [line.partition(":")[0] for line in text.splitlines()]
        assert speakers == ["Person", "AI"] * 3
        assert "!" not in text
        assert re.search(PLEASANTRIES, text, re.IGNORECASE) is None


def test_the_engine_splits_and_accepts_every_text(many: dict[str, list[str]]) -> None:
    emotion = PROTOCOL.emotions[0]
    for number in range(50):
        stories = split_reply(answer(prompt("stories", 12, number), None), "stories", 12)
        talks = split_reply(answer(prompt("dialogues", 5, number), None), "dialogues", 5)
        assert stories == texts("stories", 12, number)
        assert talks == texts("dialogues", 5, number)
    for text in many["stories"]:
        assert check_story(text, emotion, PROTOCOL, cut=False) is None
    for text in many["dialogues"]:
        assert check_dialogue(text, PROTOCOL, cut=False) is None


@pytest.mark.parametrize("emotion", PROTOCOL.emotions, ids=lambda emotion: emotion.name)
def test_no_word_names_an_emotion(emotion: Emotion, many: dict[str, list[str]]) -> None:
    pattern = leak_pattern(emotion)
    words = " / ".join([*GIVEN_NAMES, *(word for bank in BANKS.values() for word in bank)])
    found = " / ".join(many["stories"][::10] + many["dialogues"][::10])
    assert pattern.search(words) is None
    assert pattern.search(found) is None


def test_no_two_texts_share_their_first_twelve_words() -> None:
    kinds = ("stories", "dialogues")
    found = [t for kind in kinds for i in range(800) for t in texts(kind, 12, i)]
    openings = Counter(" ".join(text.split()[:12]) for text in found)
    assert len(found) == 19_200
    assert openings.most_common(1)[0][1] == 1


def test_no_two_texts_share_a_tenth_of_their_eight_word_runs(many: dict[str, list[str]]) -> None:
    found = many["stories"][:1200] + many["dialogues"][:1200]
    runs = [_runs(text) for text in found]
    where = defaultdict(list)
    for i, own in enumerate(runs):
        for run in own:
            where[run].append(i)
    shared = Counter((a, b) for ids in where.values() for n, b in enumerate(ids) for a in ids[:n])
    worst = max(n / len(runs[a] | runs[b]) for (a, b), n in shared.items())
    assert worst < 0.1


def test_twelve_stories_take_less_than_a_millisecond() -> None:
    best = min(_seconds(number) for number in range(50))
    assert best < 0.001


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def _seconds(number: int) -> float:
    words = prompt("stories", 12, number)
    begin = time.perf_counter()
    answer(words, None)
    return time.perf_counter() - begin
