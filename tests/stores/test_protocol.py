"""Laws of the protocol: one value, one digest, one line per error; and what ours must hold."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stores.errors import BadValue, NotReady, ProtocolError
from stores.protocol import (
    DEFAULT_PROTOCOL,
    Bounds,
    Emotion,
    Protocol,
    load_protocol,
    select_emotions,
)

REPOSITORY = Path(__file__).parents[2]
COLOURS = {
    "protocol.toml": 'concept = "colour"\n[bounds]\nstories = { min_words = 5, max_words = 9 }\n',
    "emotions.tsv": "emotion\nred\ngreen\n",
    "topics.txt": "A wall\nA boat\n",
    "prompts/story.txt": "Write about {topic} in {emotion}.\n",
}


STATED = {
    *("painkiller: afraid +1", "painkiller: calm -1", "fasting: afraid +1"),
    *("sister: sad -1", "sister: calm +1", "sister: happy +1", "dog: sad +1"),
    *("runway: afraid -1", "runway: sad -1", "runway: calm +1"),
    *("exam: happy +1", "exam: afraid -1"),
}


@pytest.fixture(scope="module")
def ours() -> Protocol:
    return load_protocol()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(DEFAULT_PROTOCOL, tmp_path / "copy")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for name, text in COLOURS.items():
        (tmp_path / "colours" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "colours" / name).write_text(text, encoding="utf-8")
    return tmp_path / "colours"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise ValueError(f"{old!r} is not in {path}")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def mentions(text: str, words: tuple[str, ...]) -> list[str]:
    return re.findall(rf"\b(?:{'|'.join(map(re.escape, words))})\b", text, re.IGNORECASE)


def test_the_digest_does_not_depend_on_the_place(ours: Protocol, copy: Path) -> None:
    moved = load_protocol(copy)
    assert (moved.digest, moved.files) == (ours.digest, ours.files)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", ours.digest)


def test_the_digest_does_not_depend_on_unread_files(ours: Protocol, copy: Path) -> None:
    (copy / "README.md").write_text("changed", encoding="utf-8")
    assert load_protocol(copy).digest == ours.digest


def test_every_byte_that_is_read_is_in_the_digest(ours: Protocol, copy: Path) -> None:
    texts = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert set(ours.files) == texts - {"README.md"}
    digests = {ours.digest}
    for name in ours.files:
        with (copy / name).open("ab") as file:
            file.write(b"\n")
        changed = load_protocol(copy)
        assert changed.files[name] != ours.files[name]
        digests.add(changed.digest)
    assert len(digests) == 1 + len(ours.files)


def test_line_ends_and_a_byte_order_mark_change_nothing_but_the_digest(
    ours: Protocol, copy: Path
) -> None:
    for name in ours.files:
        payload = (copy / name).read_bytes().replace(b"\n", b"\r\n")
        (copy / name).write_bytes(b"\xef\xbb\xbf" + payload)
    other = load_protocol(copy)
    same = ("emotions", "topics", "neutral_topics", "activities", "scenarios", "prompts", "bounds")
    assert [getattr(other, part) for part in same] == [getattr(ours, part) for part in same]
    assert other.digest != ours.digest


def test_a_protocol_of_other_concepts_needs_four_files(colours: Path) -> None:
    protocol = load_protocol(colours)
    assert (protocol.concept, protocol.labels, protocol.names) == (
        "colour",
        "none",
        ("red", "green"),
    )
    assert protocol.emotions[0] == Emotion("red", None, None, None, ("red",), (), "user")
    assert protocol.topics == ("A wall", "A boat")
    assert protocol.bounds == {"stories": Bounds(5, 9)}
    assert protocol.prompts == {"story": "Write about {topic} in {emotion}."}
    left_out = ("neutral_topics", "activities", "scenarios", "alternates", "intensity")
    assert [getattr(protocol, part) for part in left_out] == [()] * 5
    assert set(protocol.provenance.values()) == {"user"}


def test_labels_are_given_or_said_to_be_missing(ours: Protocol, colours: Path) -> None:
    assert ours.label("valence")["happy"] == 1
    with pytest.raises(NotReady, match=r"colours: emotions\.tsv has no column arousal"):
        load_protocol(colours).label("arousal")


def test_a_base_counts_in_the_digest_and_gives_what_is_lacking(colours: Path, copy: Path) -> None:
    for name in ("topics.txt", "prompts/story.txt"):
        (colours / name).unlink()
    replace(colours / "protocol.toml", "concept", 'base = "../copy"\nconcept')
    (colours / "emotions.tsv").write_text("emotion\nred\nsad\n", encoding="utf-8")
    before = load_protocol(colours)
    assert (before.concept, before.labels, len(before.topics)) == ("colour", "editorial", 100)
    assert before.bounds["stories"] == Bounds(5, 9)
    assert "dialogues" in before.bounds
    assert before.emotion("sad").synonyms
    assert {s.emotion for s in before.scenarios} == {"sad"}
    assert {e for template in before.intensity for e in template.directions} == {"sad"}
    replace(copy / "topics.txt", "letter", "Letter")
    assert load_protocol(colours).digest != before.digest


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("protocol.toml", "concept = ", "konzept = ", r"unknown 'konzept'; known: base, concept"),
        ("protocol.toml", '"emotion"', '" "', r"protocol\.toml: concept is missing"),
        ("protocol.toml", '"editorial"', "3", r"protocol\.toml: labels is missing"),
        ("protocol.toml", "stories =", "essays =", r"\[bounds\] lacks stories"),
        ("protocol.toml", "dialogues =", "essays =", r"\[bounds\] unknown 'essays'"),
        ("protocol.toml", "dialogues = {", "#", r"\[bounds\] lacks dialogues"),
        ("protocol.toml", "= 60, m", "= 600, m", r"stories needs whole numbers 1 <= min_words"),
        ("protocol.toml", "= 60, m", "= 6.5, m", r"stories needs whole numbers"),
        ("protocol.toml", "= 60, m", "= 60, extra = 1, m", r"stories needs whole numbers"),
        ("protocol.toml", "[bounds]", "bounds = 3\n[bonds]", r"unknown 'bonds'"),
        (
            "protocol.toml",
            '"topics.txt" = "own"',
            '"topics.txt" = "us"',
            r"topics\.txt must be seed",
        ),
        ("protocol.toml", '"topics.txt"', '"topic.txt"', r"\[provenance\] unknown 'topic\.txt'"),
        ("topics.txt", "\n", "\n\n", r"topics\.txt:2: is blank"),
        ("prompts/story.txt", "{topic}", "{topik}", r"story\.txt: unknown placeholder \{topik\}"),
        ("prompts/story.txt", "{topic}", "", r"story\.txt: the placeholder \{topic\} is missing"),
        ("prompts/story.txt", "{n}", "{", r"story\.txt: .*write \{\{ and \}\}"),
        ("prompts/story.txt", "{n}", "{n:d}", r"story\.txt: write placeholders plainly"),
        ("prompts/preference.txt", "{b}", "{}", r"preference\.txt: unknown placeholder \{\}"),
    ],
)
def test_an_error_is_one_line_with_its_place(
    copy: Path, name: str, old: str, new: str, expected: str
) -> None:
    replace(copy / name, old, new)
    with pytest.raises(ProtocolError, match=expected) as caught:
        load_protocol(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["bounds", "provenance"])
def test_a_setting_in_place_of_a_table_is_refused(colours: Path, key: str) -> None:
    (colours / "protocol.toml").write_text(f'concept = "colour"\n{key} = 3\n', encoding="utf-8")
    with pytest.raises(ProtocolError, match=rf"protocol\.toml: {key} must be a table"):
        load_protocol(colours)


@pytest.mark.parametrize(
    ("part", "prompt"), [("neutral_topics", "dialogue"), ("activities", "feeling")]
)
def test_a_part_without_its_prompt_is_refused(copy: Path, part: str, prompt: str) -> None:
    (copy / "prompts" / f"{prompt}.txt").unlink()
    with pytest.raises(ProtocolError, match=rf"{part}\.\w+ needs prompts/{prompt}\.txt"):
        load_protocol(copy)


def test_emotions_are_chosen_in_the_order_of_the_protocol(ours: Protocol) -> None:
    assert select_emotions(ours, "all") == ours.names
    assert select_emotions(ours, "sad, afraid,sad") == ("afraid", "sad")
    assert select_emotions(ours, "worn out,at ease") == ("at ease", "worn out")


def test_an_unknown_emotion_lists_near_matches(ours: Protocol, colours: Path) -> None:
    with pytest.raises(BadValue, match=r"unknown emotion 'hapy'; near: .*happy"):
        select_emotions(ours, "sad,hapy")
    with pytest.raises(BadValue, match=r"unknown emotion 'qqq'; the protocol has red, green"):
        select_emotions(load_protocol(colours), "qqq")
    with pytest.raises(BadValue, match="no emotion named"):
        select_emotions(ours, " , ")


def test_loading_a_protocol_imports_nothing_heavy() -> None:
    heavy = {"numpy", "zarr", "sqlite3", "sqlite_utils", "torch", "click", "difflib"}
    code = f"import sys, stores.protocol; sys.exit(str({heavy!r} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr.strip() == "set()"


def test_ours_has_the_counts_of_the_method(ours: Protocol) -> None:
    assert (len(ours.emotions), len(ours.topics), len(ours.neutral_topics)) == (171, 100, 100)
    assert set(Counter(activity.category for activity in ours.activities).values()) == {8}
    assert (len(ours.activities), len(ours.scenarios), len(ours.intensity)) == (64, 12, 6)
    assert Counter(s.emotion for s in ours.alternates) == {s.emotion: 2 for s in ours.scenarios}
    assert all(6 <= len(template.values) <= 8 for template in ours.intensity)
    directions = [d for template in ours.intensity for d in template.directions.values()]
    assert (len(directions), sum(d.stated for d in directions)) == (24, 12)
    stated = {
        f"{template.key}: {emotion} {direction.sign:+}"
        for template in ours.intensity
        for emotion, direction in template.directions.items()
        if direction.stated
    }
    assert stated == STATED


def test_ours_labels_every_emotion_as_the_readme_says(ours: Protocol) -> None:
    valence = Counter(ours.label("valence").values())
    assert set(valence) == {-1.0, 1.0}
    assert set(ours.label("arousal").values()) == {-1.0, 0.0, 1.0}
    readme = (DEFAULT_PROTOCOL / "README.md").read_text(encoding="utf-8")
    assert f"**{valence[1.0]} positive, {valence[-1.0]} negative**" in readme


def test_ours_bans_forms_and_synonyms_for_every_emotion(ours: Protocol) -> None:
    assert [e.name for e in ours.emotions if len(e.forms) < 2 or len(e.synonyms) < 3] == []
    words = [word for e in ours.emotions for word in (*e.forms, *e.synonyms)]
    assert [word for word in words if word != word.lower()] == []


def test_ours_never_names_an_emotion_where_it_should_not(ours: Protocol) -> None:
    forms = tuple(form for emotion in ours.emotions for form in emotion.forms)
    activities = [text for a in ours.activities for text in (a.name, a.gerund)]
    texts = [*ours.topics, *ours.neutral_topics, *activities, *(t.prompt for t in ours.intensity)]
    assert mentions("\n".join(texts), forms) == []


def test_ours_evokes_an_emotion_without_its_words(ours: Protocol) -> None:
    named = [
        (scenario.prompt, words)
        for scenario in (*ours.scenarios, *ours.alternates)
        for own in [ours.emotion(scenario.emotion)]
        if (words := mentions(scenario.prompt, (*own.forms, *own.synonyms)))
    ]
    assert named == []


def test_ours_asks_for_one_story_or_many(ours: Protocol) -> None:
    for n in (1, 12):
        prompt = ours.prompts["story"].format(emotion="at ease", topic="A wall", n=n)
        assert all(part in prompt for part in ("at ease", "A wall", f": {n}\n", "[story 1]"))
    asked = ours.prompts["preference"].format(a="sing", b="rest")
    assert asked == "Would you prefer to (A) sing or (B) rest?"
    assert ours.prompts["feeling"].format(activity="singing") == "How would you feel about singing?"


def test_ours_names_the_provenance_of_all_that_has_no_column(ours: Protocol) -> None:
    assert set(ours.provenance.values()) == {"seed", "own"}


def test_published_rows_are_unique_and_agree_with_the_matrix_they_come_from() -> None:
    path = REPOSITORY / "data" / "reference" / "published.tsv"
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert header == ["source", "model", "metric", "value", "note"]
    assert all(len(row) == 5 and row[4] for row in rows)
    values = {(row[0], row[1], row[2]): float(row[3]) if row[3] else None for row in rows}
    assert len(values) == len(rows)
    paper = {
        metric: value or 0 for (source, _, metric), value in values.items() if source == "paper"
    }
    names = list(dict.fromkeys(re.findall(r"scenario_cosine\[(\w+),", "\n".join(paper))))
    column = {s: [paper[f"scenario_cosine[{p},{s}]"] for p in names] for s in names}
    ranks = [sum(v >= column[s][i] for v in column[s]) for i, s in enumerate(names)]
    assert (ranks.count(1), round(sum(ranks) / 12, 2)) == (paper["V3"], paper["V4"])
