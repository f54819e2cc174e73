from pathlib import Path

import pytest

from stores.database import Connection
from stores.errors import ProtocolError
from stores.published import PUBLISHED, Published, load_published, read_published

HEADER = "source\tmodel\tmetric\tvalue\tnote"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "published.tsv"
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def test_every_line_of_the_reference_file_becomes_a_row_in_its_order(conn: Connection) -> None:
    load_published(conn)
    lines = PUBLISHED.read_text(encoding="utf-8").splitlines()[1:]
    found = read_published(conn)
    assert len(found) == len(lines)
    for line, number in zip(lines, found, strict=True):
        *names, value, note = line.split("\t")
        assert names == [number.source, number.model, number.metric]
        assert (number.value, number.note) == (float(value) if value else None, note)
    assert any(number.value is None for number in found)


def test_the_numbers_of_one_metric_can_be_asked_for(conn: Connection) -> None:
    load_published(conn)
    found = read_published(conn, "V3")
    assert {number.metric for number in found} == {"V3"}
    assert {(number.source, number.value) for number in found} >= {("report", 9), ("paper", 6)}
    assert read_published(conn, "V99") == []


def test_loading_twice_changes_nothing(conn: Connection) -> None:
    load_published(conn)
    first, changes = read_published(conn), conn.total_changes
    load_published(conn)
    assert read_published(conn) == first
    assert conn.total_changes == changes


def test_a_changed_file_replaces_its_sources_and_leaves_others(
    conn: Connection, tmp_path: Path
) -> None:
    load_published(conn, written(tmp_path, "mine\tm\tV1\t3\told", "mine\tm\tV2\t4\tgone"))
    load_published(conn, written(tmp_path, "theirs\tm\tV1\t5\tkept"))
    load_published(conn, written(tmp_path, "mine\tm\tV1\t\ttold in words"))
    assert sorted(read_published(conn), key=lambda number: number.source) == [
        Published("mine", "m", "V1", None, "told in words"),
        Published("theirs", "m", "V1", 5.0, "kept"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mine\tm\tV1\tmany\tn", r"published\.tsv:3:value: 'many' is not a number"),
        ("mine\tm\tV1\tinf\tn", r"published\.tsv:3:value: inf is not between"),
        ("mine\tm\tV1\t3\t", r"published\.tsv:3:note: is blank"),
        ("mine\t\tV1\t3\tn", r"published\.tsv:3:model: is blank"),
        ("mine\tm\tV1\t3", r"published\.tsv:3: 4 cells under 5 columns"),
        ("mine\tm\tV0\t3\tn", r"published\.tsv:3:metric: repeats line 2"),
    ],
)
def test_a_bad_line_is_told_by_its_place_and_nothing_changes(
    conn: Connection, tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
        load_published(conn, written(tmp_path, "mine\tm\tV0\t1\tgood", line))
    assert read_published(conn) == []


def test_a_file_that_is_not_there_is_named(conn: Connection, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"none\.tsv.*missing"):
        load_published(conn, tmp_path / "none.tsv")
