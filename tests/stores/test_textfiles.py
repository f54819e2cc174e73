"""Laws of text files: each value has a place, a base fills gaps, what is read is digested."""

from pathlib import Path

import pytest

from stores.errors import ProtocolError
from stores.textfiles import Folder, Row, open_folder, refuse_repeats


def write(root: Path, name: str, payload: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(payload.encode() if isinstance(payload, str) else payload)
    return path


def protocol_folder(root: Path, settings: str = "") -> Path:
    for name in ("emotions.tsv", "topics.txt", "prompts/story.txt"):
        write(root, name, "x\n")
    write(root, "protocol.toml", settings)
    return root


def test_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path, "plain.txt", "one\ntwo\n")
    write(tmp_path, "other.txt", b"\xef\xbb\xbfone\r\ntwo")
    folder = Folder((tmp_path,))
    assert folder.lines("plain.txt") == folder.lines("other.txt") == ("one", "two")


def test_rows_carry_their_cells_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "t.tsv", b"\xef\xbb\xbfa\tb\r\n1\t x \r\n2\ty\r\n")
    rows = Folder((tmp_path,)).rows("t.tsv", ["a", "b"])
    assert rows == [Row(path, 2, {"a": "1", "b": "x"}), Row(path, 3, {"a": "2", "b": "y"})]


def test_what_is_not_there_is_empty(tmp_path: Path) -> None:
    folder = Folder((tmp_path,))
    assert (folder.lines("t.txt"), folder.rows("t.tsv", ["a"]), folder.read("t.txt")) == (
        (),
        [],
        None,
    )
    assert folder.digests == {}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("one\n\ntwo\n", r"t\.txt:2: is blank"),
        ("", r"t\.txt:1: is blank"),
        ("one\ntwo\nOne \n", r"t\.txt:3: repeats line 1: 'One'"),
        (b"one\ntw\xe9\n", r"t\.txt:2: is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_list_names_the_line_at_fault(
    tmp_path: Path, payload: str | bytes, expected: str
) -> None:
    write(tmp_path, "t.txt", payload)
    with pytest.raises(ProtocolError, match=expected):
        Folder((tmp_path,)).lines("t.txt")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("b\n1\n", r"t\.tsv:1: lacks the column a"),
        ("a\tvalance\n1\t2\n", r"t\.tsv:1: unknown column 'valance'; known: a, b, note, source"),
        ("a\ta\n1\t2\n", r"t\.tsv:1: a column is named twice"),
        ("a\tb\n1\t2\n3\n", r"t\.tsv:3: 1 cells under 2 columns"),
        ("a\n1\n\n2\n", r"t\.tsv:3:a: is blank"),
        ("", r"t\.tsv:1: lacks the column a"),
    ],
)
def test_a_table_names_the_line_at_fault(tmp_path: Path, payload: str, expected: str) -> None:
    write(tmp_path, "t.tsv", payload)
    with pytest.raises(ProtocolError, match=expected):
        [row.text("a") for row in Folder((tmp_path,)).rows("t.tsv", ["a"], ["b"])]


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.txt").mkdir()
    with pytest.raises(ProtocolError, match=r"t\.txt: cannot be read \(Is a directory\)"):
        Folder((tmp_path,)).lines("t.txt")


@pytest.mark.parametrize("text", ["many", "1,5", "nan", "inf", "1.5", "-2", ""])
def test_a_bad_number_names_file_line_and_column(text: str) -> None:
    row = Row(Path("t.tsv"), 7, {"valence": text})
    with pytest.raises(ProtocolError, match=r"^t\.tsv:7:valence: "):
        row.number("valence", -1, 1)


def test_cells_read_as_numbers_and_phrases() -> None:
    row = Row(Path("t.tsv"), 2, {"a": "-0.5", "b": "2 10 -3", "c": "worn out, worn-out", "d": ""})
    assert (row.number("a", -1, 1), row.number("z"), row.integers("b")) == (-0.5, None, (2, 10, -3))
    assert (row.phrases("c"), row.phrases("d")) == (("worn out", "worn-out"), ())


def test_bad_lists_in_cells_name_their_place() -> None:
    row = Row(Path("t.tsv"), 2, {"b": "2 x", "c": "a,, b"})
    with pytest.raises(ProtocolError, match=r"t\.tsv:2:b: .*'x'"):
        row.integers("b")
    with pytest.raises(ProtocolError, match=r"t\.tsv:2:c: has a comma"):
        row.phrases("c")


def test_rows_repeat_only_when_all_columns_agree() -> None:
    rows = [Row(Path("t.tsv"), n, {"a": "x", "b": b}) for n, b in ((2, "1"), (3, "2"), (4, "1"))]
    refuse_repeats(rows[:2], "a", "b")
    with pytest.raises(ProtocolError, match=r"t\.tsv:4: repeats line 2: 'x', '1'"):
        refuse_repeats(rows, "a", "b")


def test_a_base_gives_what_a_folder_lacks_and_only_that(tmp_path: Path) -> None:
    below = protocol_folder(tmp_path / "below", 'concept = "c"\n[bounds]\na = 1\nb = 2\n')
    write(below, "activities.tsv", "a\n")
    write(tmp_path, "above/protocol.toml", 'base = "../below"\n[bounds]\nb = 3\n')
    write(tmp_path, "above/topics.txt", "mine\n")
    folder = open_folder(tmp_path / "above")
    assert folder.settings() == {"concept": "c", "bounds": {"a": 1, "b": 3}}
    assert (folder.lines("topics.txt"), folder.lines("emotions.tsv")) == (("mine",), ("x",))
    assert sorted(folder.digests) == [
        "base/protocol.toml",
        "emotions.tsv",
        "protocol.toml",
        "topics.txt",
    ]


def test_a_base_may_stand_on_a_base(tmp_path: Path) -> None:
    protocol_folder(tmp_path / "a", 'concept = "c"\n')
    write(tmp_path, "b/protocol.toml", 'base = "../a"\n')
    write(tmp_path, "c/protocol.toml", 'base = "../b"\n')
    folder = open_folder(tmp_path / "c")
    assert folder.settings() == {"concept": "c"}
    assert "base/base/protocol.toml" in folder.digests


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    protocol_folder(tmp_path / "a", 'base = "../b"')
    protocol_folder(tmp_path / "b", 'base = "../a"')
    with pytest.raises(
        ProtocolError, match=r"b/protocol\.toml: base leads in a circle: .*a -> .*b"
    ):
        open_folder(tmp_path / "a")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("base = 3", "base must be the path of a folder"),
        ('base = "../gone"', r"gone, which is the base of .*mine, is not a folder; a protocol is"),
        ("concept = 3 4", r"mine/protocol\.toml: .*line 1"),
    ],
)
def test_bad_settings_name_their_file(tmp_path: Path, settings: str, expected: str) -> None:
    protocol_folder(tmp_path / "mine", settings)
    with pytest.raises(ProtocolError, match=expected):
        open_folder(tmp_path / "mine")


@pytest.mark.parametrize(
    "name", ["protocol.toml", "emotions.tsv", "topics.txt", "prompts/story.txt"]
)
def test_a_missing_file_is_named_with_all_that_is_needed(tmp_path: Path, name: str) -> None:
    (protocol_folder(tmp_path / "p") / name).unlink()
    listed = r"protocol\.toml, emotions\.tsv, topics\.txt and prompts/story\.txt"
    with pytest.raises(ProtocolError, match=f"p: {name} is missing; .*{listed}"):
        open_folder(tmp_path / "p")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"nowhere is not a folder; a protocol is a folder with"
    ):
        open_folder(tmp_path / "nowhere")
