"""Laws of the tables: what a row may say, and where a wrong one stands."""

from pathlib import Path

import pytest

from stores.errors import ProtocolError
from stores.materials import (
    Activity,
    Direction,
    IntensityTemplate,
    Scenario,
    read_activities,
    read_emotions,
    read_intensity,
    read_scenarios,
)
from stores.textfiles import Folder

NAMES = ("sad", "at ease")


def folder_with(root: Path, **tables: str) -> Folder:
    root.mkdir(exist_ok=True)
    for name, text in tables.items():
        (root / f"{name}.tsv").write_text(text.replace("|", "\t"), encoding="utf-8")
    return Folder((root,))


def test_emotions_take_continuous_labels_and_families(tmp_path: Path) -> None:
    table = "emotion|valence|arousal|family|source\nsad|-0.76|0.5|low|own\nat ease|1|-1|rest|seed\n"
    sad, ease = read_emotions(folder_with(tmp_path, emotions=table))
    assert (sad.valence, sad.arousal, sad.family, sad.source) == (-0.76, 0.5, "low", "own")
    assert (ease.name, ease.valence, ease.source) == ("at ease", 1.0, "seed")


def test_an_emotion_bans_itself_and_what_is_listed(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        emotions="emotion\nsad\nat ease\n",
        leaks="emotion|forms|synonyms\nsad|sadly, sad|unhappy\n",
    )
    sad, ease = read_emotions(folder)
    assert (sad.forms, sad.synonyms) == (("sad", "sadly"), ("unhappy",))
    assert (ease.forms, ease.synonyms) == (("at ease",), ())


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("emotion\nsad\n", r"emotions\.tsv: lists 1; .* two or more"),
        ("emotion\nsad\ncalm\nSad\n", r"emotions\.tsv:4: repeats line 2: 'Sad'"),
        ("emotion|valence\nsad|-1\ncalm|x\n", r"emotions\.tsv:3:valence: 'x' is not a number"),
        (
            "emotion|arousal\nsad|-1\ncalm|1.5\n",
            r"emotions\.tsv:3:arousal: 1\.5 is not between -1 and 1",
        ),
        ("emotion|valence\nsad|-1\ncalm|\n", r"emotions\.tsv:3:valence: is blank"),
        ("emotion|family\nsad|-1\ncalm|\n", r"emotions\.tsv:3:family: is blank"),
        ("emotion\nsad, glad\ncalm\n", r"emotions\.tsv:2:emotion: has a comma"),
        ("emotion|source\nsad|own\ncalm|paper\n", r"tsv:3:source: 'paper' is not seed, own, user"),
    ],
)
def test_a_wrong_emotion_names_its_place(tmp_path: Path, table: str, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        read_emotions(folder_with(tmp_path, emotions=table))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("sd|sadly|\n", r"leaks\.tsv:2:emotion: unknown emotion 'sd'; near: sad"),
        ("sad|sadly|\nsad|sadness|\n", r"leaks\.tsv:3: repeats line 2: 'sad'"),
        ("sad|sadly|Sadly\n", r"leaks\.tsv:2:forms: 'sadly' stands twice"),
    ],
)
def test_a_wrong_leak_names_its_place(tmp_path: Path, rows: str, expected: str) -> None:
    leaks = "emotion|forms|synonyms\n" + rows
    with pytest.raises(ProtocolError, match=expected):
        read_emotions(folder_with(tmp_path, emotions="emotion\nsad\ncalm\n", leaks=leaks))


def test_activities_have_a_gerund_or_serve_as_it(tmp_path: Path) -> None:
    with_gerund = folder_with(
        tmp_path / "a",
        activities="activity|gerund|category|value|source\nsing|singing|A|0.5|own\nread|reading|A|-1|own\n",
    )
    assert read_activities(with_gerund)[0] == Activity("sing", "singing", "A", 0.5, "own")
    plain = folder_with(tmp_path / "b", activities="activity|category\nsing|A\nread|A\n")
    assert read_activities(plain)[1] == Activity("read", "read", "A", None, "user")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("sing|A\nread|A\nsing|B\n", r"activities\.tsv:4: repeats line 2: 'sing'"),
        ("sing|A\nread|A\nrest|B\n", r"activities\.tsv:4:category: has one activity"),
        ("sing|A\nread|\n", r"activities\.tsv:3:category: is blank"),
    ],
)
def test_a_wrong_activity_names_its_place(tmp_path: Path, rows: str, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        read_activities(folder_with(tmp_path, activities="activity|category\n" + rows))


def test_scenarios_without_variants_are_all_scored(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, scenarios="emotion|prompt|source\nsad|It rains.|own\n")
    assert read_scenarios(folder, NAMES) == (Scenario("sad", "It rains.", 1, "own"),)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("sda|1|It rains.\n", r"scenarios\.tsv:2:emotion: unknown emotion 'sda'; near: sad"),
        ("sad|1|It rains.\nsad|1|It snows.\n", r"scenarios\.tsv:3: repeats line 2"),
        ("sad|1|It rains.\nsad|2|It rains.\n", r"scenarios\.tsv:3: repeats line 2: 'It rains\.'"),
        ("sad|2|It rains.\n", r"scenarios\.tsv:2:variant: 'sad' has no variant 1"),
        ("sad|0|It rains.\n", r"scenarios\.tsv:2:variant: '0' is not a number from 1 on"),
        ("sad|1|\n", r"scenarios\.tsv:2:prompt: is blank"),
    ],
)
def test_a_wrong_scenario_names_its_place(tmp_path: Path, rows: str, expected: str) -> None:
    folder = folder_with(tmp_path, scenarios="emotion|variant|prompt\n" + rows)
    with pytest.raises(ProtocolError, match=expected):
        read_scenarios(folder, NAMES)


def test_a_template_says_what_is_expected_and_who_says_so(tmp_path: Path) -> None:
    row = "dose|{x} mg|1 2 30|sad up seed, at ease down own|own\n"
    folder = folder_with(tmp_path, intensity="template|prompt|values|directions|source\n" + row)
    directions = {"sad": Direction(1, True), "at ease": Direction(-1, False)}
    expected = IntensityTemplate("dose", "{x} mg", (1, 2, 30), directions, "own")
    assert read_intensity(folder, NAMES) == (expected,)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("dose|{x} mg|1 2 3|glad up own\n", r"intensity\.tsv:2:directions: unknown emotion 'glad'"),
        (
            "dose|{x} mg|1 2 3|sad upward own\n",
            r"intensity\.tsv:2:directions: 'sad upward own': write",
        ),
        ("dose|{x} mg|1 2 3|sad up paper\n", r"2:directions: 'sad up paper': write"),
        (
            "dose|{x} mg|1 2 3|sad up own, sad down own\n",
            r"2:directions: 'sad down own': write, once",
        ),
        ("dose|{x} mg|1 2 3|\n", r"2:directions: is blank"),
        ("dose|{x} mg|1 2 3|sad\n", r"2:directions: 'sad': write"),
        ("dose|{x} mg|1 3 2|sad up own\n", r"intensity\.tsv:2:values: must be three or more"),
        ("dose|{x} mg|1 2 2|sad up own\n", r"intensity\.tsv:2:values: must be three or more"),
        ("dose|{x} mg|1 2|sad up own\n", r"intensity\.tsv:2:values: must be three or more"),
        ("dose|{y} mg|1 2 3|sad up own\n", r"2:prompt: unknown placeholder \{y\}; known: \{x\}"),
        ("dose|some mg|1 2 3|sad up own\n", r"2:prompt: the placeholder \{x\} is missing"),
    ],
)
def test_a_wrong_template_names_its_place(tmp_path: Path, row: str, expected: str) -> None:
    folder = folder_with(tmp_path, intensity="template|prompt|values|directions\n" + row)
    with pytest.raises(ProtocolError, match=expected):
        read_intensity(folder, NAMES)


def test_an_inherited_table_may_speak_of_more_emotions(tmp_path: Path) -> None:
    folder_with(tmp_path / "own", emotions="emotion\nsad\nat ease\n")
    folder_with(
        tmp_path / "base",
        leaks="emotion|forms|synonyms\nsad|sadly|\ncalm|calmly|\n",
        scenarios="emotion|prompt\nsad|It rains.\ncalm|It snows.\n",
        intensity="template|prompt|values|directions\n"
        "dose|{x} mg|1 2 3|sad up own, calm down own\nage|{x}|1 2 3|calm up own\n",
    )
    folder = Folder((tmp_path / "own", tmp_path / "base"))
    assert read_emotions(folder)[0].forms == ("sad", "sadly")
    assert [scenario.emotion for scenario in read_scenarios(folder, NAMES)] == ["sad"]
    assert [(t.key, list(t.directions)) for t in read_intensity(folder, NAMES)] == [
        ("dose", ["sad"])
    ]
