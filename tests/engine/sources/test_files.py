"""Files and folders give the same documents in any format, and tell of all they do not give."""

import gzip
import json
import os
import random
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from engine.sources.base import Found, Source
from engine.sources.files import READABLE, open_files
from engine.sources.sampling import draw_sample
from stores.database import Connection
from stores.errors import BadValue, EngineError, NotReady, UsageError
from stores.samples import read_documents
from tests.conftest import StartChild

TEXTS = [f"document {n} 日本 👍\nand its second line" for n in range(300)]


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    payload = "".join(json.dumps(each) + "\n" for each in records).encode()
    if path.suffix == ".zst":
        payload = zstandard.ZstdCompressor().compress(payload)
    if path.suffix == ".gz":
        payload = gzip.compress(payload)
    path.write_bytes(payload)
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=130)
    return path


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """The same documents in the format that the name says."""
    if path.suffix == ".parquet":
        return write_parquet(path, id=list(range(len(texts))), text=texts)
    if path.suffix == ".txt":
        path.write_text("\n\n".join(texts), encoding="utf-8")
        return path
    if path.suffix:
        return write_lines(path, [{"text": text} for text in texts])
    path.mkdir()
    for n, text in enumerate(texts):
        (path / f"{n}.txt").write_text(text + "\n", encoding="utf-8")
    return path


def found(path: Path, **options: Any) -> list[Found]:
    return list(open_files(path, **options).read())


def texts(path: Path, **options: Any) -> list[str | None]:
    return [each.text for each in found(path, **options)]


def faults(path: Path, **options: Any) -> dict[str, str | None]:
    return {each.place: each.fault for each in found(path, **options) if each.text is None}


def drawn(conn: Connection, source: Source, size: int = 40) -> list[str]:
    sample = draw_sample(
        conn, source, size=size, seed=3, progress=lambda *_: None, stop=threading.Event()
    )
    return [each.text for each in read_documents(conn, sample.id, 0, size)]


FORMATS = ("a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.parquet", "a.txt", "folder")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_sample_in_any_order(
    name: str, tmp_path: Path, conn: Connection
) -> None:
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    reference = drawn(conn, open_files(write_texts(tmp_path / "reference.jsonl", TEXTS)))
    source = open_files(write_texts(tmp_path / name, shuffled))
    assert source.whole
    assert drawn(conn, source) == reference
    assert len(set(reference)) == 40


@pytest.mark.parametrize("name", FORMATS)
def test_reading_twice_gives_the_same_documents_in_the_same_order(
    name: str, tmp_path: Path
) -> None:
    source = open_files(write_texts(tmp_path / name, TEXTS))
    assert list(source.read()) == list(source.read())


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/10.jsonl", "a.jsonl", "c/d/e.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(tmp_path / name, [{"text": name}])
    in_order = ["a.jsonl", "b/10.jsonl", "b/2.jsonl", "c/d/e.jsonl"]
    assert texts(tmp_path) == in_order
    assert [each.place for each in found(tmp_path)] == [f"{name}:1" for name in in_order]


def test_what_a_folder_holds_beside_texts_is_told(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    for name in ("image.PNG", ".hidden.jsonl", "table.csv"):
        (tmp_path / name).write_bytes(b"\xff")
    for name in (".git/a.jsonl", "deep/notes.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert texts(tmp_path)[-1] == "a"
    assert faults(tmp_path) == {
        ".git": "hidden",
        ".hidden.jsonl": "hidden",
        "broken.jsonl": "no_file",
        "deep/notes.md": "other_suffix",
        "image.PNG": "other_suffix",
        "link": "linked_folder",
        "pipe.jsonl": "no_file",
        "table.csv": "other_suffix",
    }


def test_a_file_that_is_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    write_lines(tmp_path / "blobs" / "0f3a", [{"text": "a"}])
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "train.jsonl").symlink_to(tmp_path / "blobs" / "0f3a")
    assert texts(tmp_path / "snapshot") == ["a"]


def test_a_bad_line_is_told_with_its_place_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        b'{"text": "first"}',
        b"",
        b"{'text': 'python'}",
        b'["a", "list"]',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": null}',
        b'{"text": 3}',
        b'{"body": "elsewhere"}',
        b'{"text": "last"}',
        b'{"text": "torn',
    ]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert [text for text in texts(path) if text] == ["first", "last"]
    assert list(faults(path).items()) == [
        ("bad.jsonl:2", "empty"),
        ("bad.jsonl:3", "not_json"),
        ("bad.jsonl:4", "not_object"),
        ("bad.jsonl:5", "not_utf8"),
        ("bad.jsonl:6", "not_json"),
        ("bad.jsonl:7", "no_text"),
        ("bad.jsonl:8", "not_text"),
        ("bad.jsonl:9", "no_field"),
        ("bad.jsonl:11", "not_json"),
    ]


def test_a_file_of_bad_lines_alone_has_nothing_to_draw(tmp_path: Path, conn: Connection) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"no\nno\n")
    with pytest.raises(NotReady):
        drawn(conn, open_files(path))


def test_a_bad_row_is_told_with_its_place_and_the_others_are_read(tmp_path: Path) -> None:
    bytes_ = pyarrow.array([b"a", b"\xff\xfe", None, b"d"], pyarrow.binary())
    path = write_parquet(
        tmp_path / "a.parquet",
        text=pyarrow.Array.from_buffers(pyarrow.string(), 4, bytes_.buffers()),
    )
    assert texts(path) == ["a", None, None, "d"]
    assert faults(path) == {"a.parquet:2": "not_utf8", "a.parquet:3": "no_text"}


def test_rows_of_a_file_without_the_field_are_told_one_by_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    write_parquet(tmp_path / "b.parquet", title=["x", "y"])
    assert texts(tmp_path)[0] == "a"
    assert faults(tmp_path) == {"b.parquet:1": "no_field", "b.parquet:2": "no_field"}


TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


def test_conversations_are_the_same_text_in_every_format(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"id": "x", "conversation": TURNS}])
    table = write_parquet(tmp_path / "a.parquet", id=["x"], conversation=[TURNS])
    assert texts(lines) == texts(table) == ["Human: Hi.\n\nAssistant: Hello."]


def test_a_field_within_a_field_is_found_in_every_format(tmp_path: Path) -> None:
    meta = [{"text": "a", "set": "one"}, {"text": "b", "set": "two"}]
    lines = write_lines(tmp_path / "a.jsonl", [{"meta": each} for each in meta])
    table = write_parquet(tmp_path / "a.parquet", meta=meta, blob=["x", "y"])
    for path in (lines, table):
        documents = found(path, text_field="meta.text", part_field="meta.set")
        assert [(each.text, each.part) for each in documents] == [("a", "one"), ("b", "two")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_unclear_field_is_asked_for_before_anything_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".jsonl":
        write_lines(path, [{"title": "a", "body": "b"}])
    else:
        write_parquet(path, title=["a"], body=["b"])
    with pytest.raises(UsageError, match="--text-field: title, body"):
        open_files(path)
    with pytest.raises(UsageError, match="no field 'story'; --text-field is one of title, body"):
        open_files(path, text_field="story")
    assert texts(path, text_field="body") == ["b"]


def test_any_way_in_which_a_column_keeps_strings_is_one_of_strings(tmp_path: Path) -> None:
    strings = pyarrow.array(["a", "b"])
    kinds = (pyarrow.large_string(), pyarrow.string_view())
    for column in (strings.dictionary_encode(), *(strings.cast(kind) for kind in kinds)):
        path = write_parquet(tmp_path / "a.parquet", id=[1, 2], story=column)
        assert texts(path) == ["a", "b"]


PLAIN = b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \t\r\nthree\n\n\xff\n"


def test_plain_text_is_cut_into_paragraphs_lines_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(PLAIN)
    expected = [("a.txt:1", "one\ntwo"), ("a.txt:5", "three"), ("a.txt:7", None)]
    assert [(each.place, each.text) for each in found(path)] == expected
    assert [(each.place, each.text) for each in found(path, split="paragraph")] == expected
    lines = texts(path, split="line")
    assert [line for line in lines if line is None or line.strip()] == ["one", "two", "three", None]
    assert faults(path, split="file") == {"a.txt": "not_utf8"}
    path.write_bytes(PLAIN.replace(b"\xff\n", b""))
    assert texts(path, split="file") == ["one\ntwo\n\n \t\nthree"]


def test_in_a_folder_each_plain_text_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(PLAIN[:13] + b"three")
    assert [(each.place, each.text) for each in found(tmp_path)] == [("a.txt", "one\ntwo\nthree")]
    assert len(found(tmp_path, split="line")) == 3


def test_a_text_beyond_all_measure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sources.streams.MAX_DOCUMENT", 40)
    monkeypatch.setattr("engine.sources.layouts.MAX_DOCUMENT", 40)
    long = "x" * 50
    lines = write_lines(tmp_path / "a.jsonl", [{"text": long}, {"text": "short"}])
    assert faults(lines, text_field=None) == {"a.jsonl:1": "too_large"}
    path = tmp_path / "a.txt"
    path.write_text(f"{long}\nno\n\nfine\n\n" + "many words\n" * 5 + "\nfine", encoding="utf-8")
    assert texts(path) == [None, "fine", None, "fine"]
    assert faults(path) == {"a.txt:1": "too_large", "a.txt:6": "too_large"}
    assert faults(path, split="file") == {"a.txt": "too_large"}


def test_settings_know_the_files_by_name_size_and_ends_and_not_by_time_or_folder(
    tmp_path: Path,
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "in").mkdir(parents=True)
        for name in ("in/a.jsonl", "in/b.jsonl"):
            write_lines(tmp_path / folder / name, [{"text": name}])
    (tmp_path / "two" / "in").rename(tmp_path / "two" / "moved")
    os.utime(tmp_path / "one" / "in" / "a.jsonl", (0, 0))
    one = open_files(tmp_path / "one" / "in").settings
    assert one["files"] == 2
    assert one["digest"] == open_files(tmp_path / "two" / "moved").settings["digest"]
    json.dumps(one)
    for change in (b'{"text": "in/A.jsonl"}\n', b'{"text": "longer than before"}\n'):
        (tmp_path / "two" / "moved" / "a.jsonl").write_bytes(change)
        assert open_files(tmp_path / "two" / "moved").settings["digest"] != one["digest"]


def test_field_and_split_are_part_of_what_a_source_is(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a", "note": "b"}])
    assert open_files(path).settings != open_files(path, text_field="note").settings
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    ways = [open_files(tmp_path / "a.txt", split=way).settings for way in ("auto", "line", "file")]
    assert [each["split"] for each in ways] == ["paragraph", "line", "file"]


def test_a_source_is_named_after_its_file_unless_it_has_a_name(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "My notes, vol. 2.jsonl.zst", [{"text": "a"}])
    assert open_files(path).name == "My-notes-vol.-2"
    assert open_files(path, name="notes").name == "notes"


def test_a_name_that_is_no_text_can_be_stored(tmp_path: Path, conn: Connection) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jsonl"))
    write_lines(path, [{"text": "a"}])
    assert drawn(conn, open_files(folder)) == ["a"]


def test_what_cannot_be_read_is_told_in_one_line_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x", encoding="utf-8")
    for path in (tmp_path / "empty", tmp_path / "a.csv"):
        with pytest.raises(UsageError, match=READABLE):
            open_files(path)
    for path in (tmp_path / "absent", Path("/dev/null"), tmp_path / "\0"):
        with pytest.raises(BadValue, match="no file or folder is there"):
            open_files(path)
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match="--split is for plain text"):
        open_files(lines, split="line")
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="--text-field is for records"):
        open_files(tmp_path / "a.txt", text_field="text")


@pytest.mark.parametrize("lost", [1, 20, 1500])
def test_a_parquet_file_that_was_cut_off_is_an_error(lost: int, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "a.parquet", TEXTS)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(EngineError, match=f"{path}: cannot be read") as raised:
        open_files(path)
    assert "\n" not in str(raised.value)


def test_a_parquet_file_with_a_damaged_page_is_an_error_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    numbered = pyarrow.table({"text": [f"{n} {n * n}" for n in range(20_000)]})
    pyarrow.parquet.write_table(numbered, path, use_dictionary=False, row_group_size=5000)
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2 : len(payload) // 2 + 200] = b"\xff" * 200
    path.write_bytes(payload)
    with pytest.raises(EngineError, match=r"after row (4,9|9,9)\d\d\)") as raised:
        texts(path)
    assert "\n" not in str(raised.value)


NOBODY = 65534
AS_NOBODY = """
import os, sys
from pathlib import Path
from engine.sources.files import open_files
from stores.errors import EngineError
if os.geteuid() == 0:
    os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    try:
        open_files(Path(path))
    except EngineError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_without_access_nothing_is_left_out_in_silence(
    open_to_all: Path, start_child: StartChild
) -> None:
    closed, half = open_to_all / "closed", open_to_all / "half"
    for folder in (closed, half / "within"):
        folder.mkdir(parents=True)
        write_lines(folder / "a.jsonl", [{"text": "a"}])
    write_lines(half / "b.jsonl", [{"text": "b"}])
    file = write_lines(open_to_all / "c.jsonl", [{"text": "c"}])
    for path in (closed, half / "within", file):
        path.chmod(0)
    child = start_child(AS_NOBODY, NOBODY, closed, half, file, closed / "a.jsonl")
    told, _ = child.communicate(timeout=60)
    for path in (closed, half / "within", file):
        path.chmod(0o700)
    assert told.splitlines() == [
        f"BadValue {closed}: cannot be listed (Permission denied): mend its permissions",
        f"BadValue {half / 'within'}: cannot be listed (Permission denied): mend its permissions",
        f"BadValue {file}: cannot be read (Permission denied)",
        f"BadValue {closed / 'a.jsonl'}: no file or folder is there, or no access to it",
    ]


PEAK = """
import sys
from pathlib import Path
from engine.sources.files import open_files
import pyarrow.parquet, zstandard
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
before = peak()
characters = sum(len(each.text or "") for each in open_files(Path(sys.argv[1])).read())
print(characters, peak() - before)
"""


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.parquet", "a.txt"])
def test_memory_does_not_follow_the_size_of_a_file(
    name: str, tmp_path: Path, start_child: StartChild
) -> None:
    """80 MB of text, in parquet one row group of many pages: at most 50 MB more than before."""
    chance = random.Random(2)
    long = [chance.randbytes(20_000).hex() for _ in range(2000)]
    path = tmp_path / name
    if path.suffix == ".parquet":
        table = pyarrow.table({"text": long})
        pyarrow.parquet.write_table(table, path, row_group_size=2000, write_batch_size=32)
    else:
        write_texts(path, long)
    told, _ = start_child(PEAK, path).communicate(timeout=60)
    characters, more = map(int, told.split())
    assert characters == sum(map(len, long)) > 75_000_000
    assert more < 50


def test_memory_does_not_follow_the_length_of_a_line(
    tmp_path: Path, start_child: StartChild
) -> None:
    path = tmp_path / "image.jsonl"
    with path.open("wb") as file:
        file.truncate(300 * 2**20)
    told, _ = start_child(PEAK, path).communicate(timeout=60)
    characters, more = map(int, told.split())
    assert characters == 0
    assert more < 100


def test_memory_does_not_follow_how_long_the_first_records_are(tmp_path: Path) -> None:
    """Thirty lines of 5 MB: what is looked at to find the field is a few of them."""
    path = write_lines(tmp_path / "books.jsonl", [{"text": "a" * 5_000_000}] * 30)
    tracemalloc.start()
    open_files(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70_000_000
