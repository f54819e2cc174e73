"""A file of stories is read with its faults named by line, and written whole or not at all."""

import csv
import io
import json
import tracemalloc
from pathlib import Path

import pytest

from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import BadValue, EngineError, NotReady, UsageError
from stores.planning import plan, plan_stories
from stores.storyfiles import COLUMNS, export_texts, file_digest, read_records
from stores.texts import KINDS
from tests.stores.corpora import plan_corpus, take, write

ODD = 'Zoë said "no,\nnever"; a comma, a tab\t, 日本語 🙂, a \u2028 and a \r\n end.'
STORY = {"emotion": "calm", "topic": "rain", "text": "It fell."}


def write_lines(folder: Path, *lines: object, name: str = "stories.jsonl") -> Path:
    path = folder / name
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes((text + "\n").encode("utf-8", "surrogatepass"))
    return path


def fill_corpus(conn: Connection) -> None:
    """Three of six stories and one of two dialogues are done."""
    plan_corpus(conn)
    for number, held in enumerate([*take(conn, 3), *take(conn, 1, kind="dialogues")]):
        write(conn, held, f"{number} {ODD}")


# ---- reading -----------------------------------------------------------------------------------


def test_a_record_is_read_with_its_line_and_what_it_leaves_out(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path, STORY, STORY | {"slot": 3, "generator": " me ", "text": ODD, "x": 1, "id": 2}
    )
    first, second = read_records(path)
    assert (first.line, first.slot, first.generator, first.ignored) == (1, None, None, ())
    assert (second.line, second.slot, second.generator) == (2, 3, "me")
    assert (second.text, second.ignored) == (ODD, ("id", "x"))


@pytest.mark.parametrize("name", ["stories.jsonl", "stories.csv"])
def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_fault(
    tmp_path: Path, name: str
) -> None:
    story = json.dumps(STORY) if name.endswith("jsonl") else "calm,rain,It fell."
    header = [] if name.endswith("jsonl") else ["emotion,topic,text", ""]
    lines = [*header, "", story, "  ", story, ""]
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    records = list(read_records(path))
    assert [(r.emotion, r.topic, r.text) for r in records] == [tuple(STORY.values())] * 2
    assert [r.line for r in records] == [len(header) + 2, len(header) + 4]


def test_a_cell_of_several_lines_is_one_text_and_lines_are_counted_on(tmp_path: Path) -> None:
    rows = ["emotion,topic,text,slot,generator,note", 'calm,rain,"one\ntwo",0,me,x', "calm,rain,a"]
    path = write_lines(tmp_path, *rows, name="stories.CSV")
    records = read_records(path)
    first = next(records)
    assert (first.text, first.slot, first.generator, first.ignored) == (
        "one\ntwo",
        0,
        "me",
        ("note",),
    )
    with pytest.raises(BadValue, match=r"stories\.CSV, line 4: 3 cells under 6 columns"):
        next(records)


def test_an_empty_cell_of_an_optional_column_is_not_given(tmp_path: Path) -> None:
    rows = ["emotion,topic,text,slot,generator", "calm,rain,It fell., ,"]
    (record,) = read_records(write_lines(tmp_path, *rows, name="stories.csv"))
    assert (record.slot, record.generator) == (None, None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"emotion": "calm", "topic": "rain", "text": "It', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"slot": ' + "9" * 5000 + "}", "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ('"It fell."', "is not a JSON object"),
        ({"emotion": "calm", "topic": "rain"}, "text is missing"),
        ({"topic": "rain", "text": "It fell."}, "emotion is missing"),
        (STORY | {"text": " \n"}, "text is empty"),
        (STORY | {"topic": ""}, "topic is empty"),
        (STORY | {"text": None}, "text must be text, not null"),
        (STORY | {"emotion": 3}, "emotion must be text, not 3"),
        (STORY | {"generator": ["a"]}, r'generator must be text, not \["a"\]'),
        (STORY | {"slot": -1}, "slot must be a whole number from 0 on, not -1"),
        (STORY | {"slot": 1.0}, r"slot must be a whole number from 0 on, not 1\.0"),
        (STORY | {"slot": True}, "slot must be a whole number"),
        (STORY | {"slot": "1"}, "slot must be a whole number"),
        (STORY | {"slot": 2**63}, "slot must be a whole number"),
        (STORY | {"text": {"a": "b" * 900}}, r"text must be text, not .{1,50}\.\.\.$"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_place(
    tmp_path: Path, line: object, problem: str
) -> None:
    path = write_lines(tmp_path, STORY, "", line)
    records = read_records(path)
    next(records)
    with pytest.raises(BadValue, match=rf"stories\.jsonl, line 3: {problem}") as raised:
        next(records)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["emotion,topic", "calm,rain"], "line 1: lacks the column text"),
        (["emotion,topic,text,text", "calm,rain,a,b"], "line 1: names a column twice"),
        (["emotion,topic,text", 'calm,rain,"It'], "line 2: is not CSV"),
        (["emotion,topic,text", "calm,rain," + "x" * 200_000], "line 2: is not CSV"),
        (["emotion,topic,text", "calm,,a"], "line 2: topic is empty"),
        (["emotion,topic,text,slot", "calm,rain,a,-1"], 'line 2: slot .* not "-1"'),
        (["emotion,topic,text,slot", f"calm,rain,a,{'9' * 5000}"], "line 2: slot must be"),
    ],
)
def test_a_table_that_is_wrong_is_told_with_its_line(
    tmp_path: Path, rows: list[str], problem: str
) -> None:
    with pytest.raises(BadValue, match=rf"stories\.csv, {problem}"):
        list(read_records(write_lines(tmp_path, *rows, name="stories.csv")))


def test_bytes_that_are_no_utf8_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_bytes(json.dumps(STORY).encode() + b"\n" + "é".encode("latin-1"))
    with pytest.raises(BadValue, match="line 2: is not UTF-8"):
        list(read_records(path))


def test_half_a_character_is_spelled_out(tmp_path: Path) -> None:
    (record,) = read_records(write_lines(tmp_path, STORY | {"text": "a \ud83d smile"}))
    assert record.text == r"a \ud83d smile"


def test_no_file_or_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"none\.csv: cannot be read \(No such file"):
        list(read_records(tmp_path / "none.csv"))
    with pytest.raises(BadValue, match="cannot be read"):
        file_digest(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"stories\.txt: the ending tells .*not '\.txt'"):
        list(read_records(write_lines(tmp_path, STORY, name="stories.txt")))


# ---- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_done_text_is_exported_in_planned_order_word_for_word(
    conn: Connection, tmp_path: Path, kind: str
) -> None:
    fill_corpus(conn)
    columns = COLUMNS[kind]  # type: ignore[index]
    query = f"SELECT {', '.join(columns)} FROM {kind} WHERE status = 'done' ORDER BY id"
    expected = [dict(row) for row in conn.execute(query)]
    assert export_texts(conn, kind, "toy", tmp_path / "a.jsonl") == len(expected)  # type: ignore[arg-type]
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == expected
    assert lines[-1] == ""
    assert export_texts(conn, kind, "toy", tmp_path / "a.csv") == len(expected)  # type: ignore[arg-type]
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(cell) for name, cell in row.items()} for row in expected]
    assert len(expected) == (3 if kind == "stories" else 1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_what_is_exported_is_read_back_unchanged(
    conn: Connection, tmp_path: Path, name: str
) -> None:
    fill_corpus(conn)
    export_texts(conn, "stories", "toy", tmp_path / name)
    found = [
        (r.emotion, r.topic, r.slot, r.text, r.generator) for r in read_records(tmp_path / name)
    ]
    query = "SELECT emotion, topic, slot, text, generator FROM stories WHERE status = 'done'"
    assert found == [tuple(row) for row in conn.execute(query + " ORDER BY id")]


def test_a_stream_gets_jsonl(conn: Connection) -> None:
    fill_corpus(conn)
    stream = io.StringIO()
    assert export_texts(conn, "stories", "toy", stream) == 3
    assert [json.loads(line)["id"] for line in stream.getvalue().split("\n")[:-1]] == [1, 2, 3]


def test_a_file_is_overwritten_only_by_force(conn: Connection, tmp_path: Path) -> None:
    fill_corpus(conn)
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"a\.jsonl is there already"):
        export_texts(conn, "stories", "toy", path)
    assert path.read_text() == "mine"
    export_texts(conn, "stories", "toy", path, force=True)
    assert len(list(read_records(path))) == 3


def test_an_export_that_fails_leaves_what_was_there_and_nothing_else(
    conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_corpus(conn)
    path = tmp_path / "out" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(NotReady, match="corpus 'none' has no finished stories"):
        export_texts(conn, "stories", "none", path, force=True)

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stores.storyfiles.json.dumps", full)
    with pytest.raises(EngineError, match=r"a\.jsonl could not be written \(No space left"):
        export_texts(conn, "stories", "toy", path, force=True)
    assert [each.name for each in path.parent.iterdir()] == ["a.jsonl"]
    assert path.read_text() == "mine"


def test_an_export_has_another_ending_or_no_place_refused(conn: Connection, tmp_path: Path) -> None:
    fill_corpus(conn)
    with pytest.raises(UsageError, match="the ending tells the format"):
        export_texts(conn, "stories", "toy", tmp_path / "a.txt")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(EngineError, match="could not be written"):
        export_texts(conn, "stories", "toy", tmp_path / "taken" / "a.csv")


def test_exporting_many_texts_takes_no_more_memory_than_a_few(
    conn: Connection, tmp_path: Path
) -> None:
    open_corpus(conn, "toy", "sha256:p", {})
    topics = [f"topic {n}" for n in range(3000)]
    texts = plan_stories(emotions=["calm"], topics=topics, per_topic=1, corpus="toy", seed=0)
    plan(conn, "stories", "toy", texts, now=0.0)
    conn.execute("UPDATE stories SET status = 'done', words = 1, text = printf('%.*c', 2000, 'x')")
    tracemalloc.start()
    export_texts(conn, "stories", "toy", tmp_path / "a.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.jsonl").stat().st_size > 6_000_000
    assert peak < 500_000


def test_exporting_sorts_nothing(conn: Connection, tmp_path: Path) -> None:
    fill_corpus(conn)
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    export_texts(conn, "stories", "toy", tmp_path / "a.jsonl")
    conn.set_trace_callback(None)
    (statement,) = [each for each in statements if "FROM stories" in each]
    steps = conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    assert [step["detail"] for step in steps] == ["SCAN stories"]
