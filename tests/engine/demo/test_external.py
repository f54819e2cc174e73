"""The demo's two sources of external text: their lines, their lengths and what they plant."""

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from engine.demo import external
from engine.demo.external import (
    CHAT_CUES,
    NOTE_CUES,
    Kind,
    write_chat,
    write_note,
    write_sources,
)
from engine.demo.reading import planted_reading
from engine.demo.world import DEMO_FOLDER, World
from engine.quality import leak_pattern

Line = dict[str, Any]
CUES = {"notes": NOTE_CUES, "chats": CHAT_CUES}
SOURCES = sorted(CUES)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sources(tmp_path_factory.mktemp("external"), documents=2000, seed=0)


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(line: Line) -> str:
    """All words of a line: what a note says, or what both say in a chat."""
    return line.get("text") or " ".join(turn["content"] for turn in line["conversation"])


def test_a_seed_writes_the_same_bytes_again_and_another_seed_others(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    again = write_sources(tmp_path / "again", documents=2000, seed=0)
    other = write_sources(tmp_path / "other", documents=2000, seed=1)
    for name, path in paths.items():
        assert again[name].read_bytes() == path.read_bytes()
        assert other[name].read_bytes() != path.read_bytes()


def test_fewer_documents_are_the_first_of_more(paths: dict[str, Path], tmp_path: Path) -> None:
    fewer = write_sources(tmp_path, documents=20, seed=0)
    for name, path in paths.items():
        assert path.read_bytes().startswith(fewer[name].read_bytes())


def test_two_thousand_documents_a_source_take_no_more_than_five_seconds(tmp_path: Path) -> None:
    began = time.process_time()
    write_sources(tmp_path, documents=2000, seed=2)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", SOURCES)
def test_no_text_is_written_twice_and_none_names_an_emotion(
    paths: dict[str, Path], name: str, world: World
) -> None:
    texts = [text_of(line) for line in read_lines(paths[name])]
    assert len(set(texts)) == len(texts) == 2000
    patterns = [leak_pattern(emotion) for emotion in world.protocol.emotions]
    assert not any(p.search(text) for p in patterns for text in texts[:100])


def test_a_text_that_was_written_before_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Kind("text", lambda _world, _emotion, rng: str(rng.randrange(40)), 0.0)
    monkeypatch.setitem(external.KINDS, "notes", few)
    lines = read_lines(write_sources(tmp_path, documents=40, seed=0)["notes"])
    assert sorted(int(line["text"]) for line in lines) == list(range(40))


@pytest.mark.parametrize("name", SOURCES)
def test_a_text_has_sixty_to_two_hundred_tokens(paths: dict[str, Path], name: str) -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))
    texts = [text_of(line) for line in read_lines(paths[name])]
    lengths = [len(text.ids) for text in tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert min(lengths) >= 60
    assert max(lengths) <= 200


@pytest.mark.parametrize("name", SOURCES)
def test_a_text_holds_cues_of_its_own_emotion_and_a_plain_one_none(
    paths: dict[str, Path], name: str, world: World
) -> None:
    emotions: Counter[str | None] = Counter()
    for line in read_lines(paths[name]):
        reading = planted_reading(world, text_of(line))
        emotion = line["emotion"]
        emotions[emotion] += 1
        family = world.palettes[emotion].family.name if emotion else None
        assert reading.families == ({family: CUES[name]} if family else {})
    assert 0.45 < emotions[None] / 2000 < 0.55
    assert len(emotions) > 150


def test_notes_lean_to_pleasant_emotions_and_chats_to_unpleasant_ones(
    paths: dict[str, Path], world: World
) -> None:
    means = {}
    for name, path in paths.items():
        named = [line["emotion"] for line in read_lines(path) if line["emotion"]]
        means[name] = sum(world.palettes[emotion].valence for emotion in named) / len(named)
    assert means["notes"] > 0.4
    assert means["chats"] < -0.4


def test_a_chat_is_turns_of_two_in_turn_and_only_who_asks_says_a_cue(world: World) -> None:
    turns = write_chat(world, "afraid", random.Random(0))
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4
    answers = " ".join(turn["content"] for turn in turns[1::2])
    assert planted_reading(world, answers).families == {}


def test_an_emotion_that_the_world_lacks_is_refused(world: World) -> None:
    with pytest.raises(KeyError):
        write_note(world, "hungry", random.Random(0))
    with pytest.raises(KeyError):
        write_chat(world, "hungry", random.Random(0))
