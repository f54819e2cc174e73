"""Documents as they stand in one file: JSON lines, the rows of a parquet file, or plain text.

What holds no text is told with its place and a reason. Knows nothing of folders or samples.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.sources.base import Found
from engine.sources.fields import Record, part_in, text_in
from engine.sources.streams import MAX_DOCUMENT, read_lines, read_whole, unreadable

if TYPE_CHECKING:
    import pyarrow

Split = Literal["file", "paragraph", "line"]
Layout = Literal["jsonl", "parquet", "txt"]

FIRST_RECORDS = 100
"""How many records say which fields there are; fewer where they are long."""
_ROWS = 64  # so few that long texts do not add up


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file with documents; `label` is its name in places, below the folder that was given."""

    path: Path
    label: str
    layout: Layout


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the documents of a file are: fields of records, and how plain text is divided."""

    field: str
    part_field: str | None
    split: Split


def read_file(file: TextFile, cut: Cut) -> Iterator[Found]:
    """The documents of a file in order, places counted from 1. EngineError for a torn file."""
    readers: Mapping[Layout, Callable[[TextFile, Cut], Iterator[Found]]] = {
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
        "txt": _read_txt,
    }
    return readers[file.layout](file, cut)


def first_records(file: TextFile) -> list[Record]:
    """Some of the first records of a file, faulty ones left out; of parquet only the outline."""
    if file.layout == "parquet":
        return _outline(file.path)
    records, size = list[Record](), 0
    for line in read_lines(file.path):
        size += len(line or b"")
        if not isinstance(record := _parse(line), str):
            records.append(record)
        if records and (len(records) == FIRST_RECORDS or size > MAX_DOCUMENT):
            break
    return records


def _read_jsonl(file: TextFile, cut: Cut) -> Iterator[Found]:
    for n, line in enumerate(read_lines(file.path), 1):
        yield _found(_parse(line), f"{file.label}:{n}", cut)


def _parse(line: bytes | None) -> Record | str:
    """The record on a line, or why there is none."""
    if line is None:
        return "too_large"
    if not line or line.isspace():
        return "empty"
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "not_utf8"
    except (ValueError, RecursionError):
        return "not_json"
    return record if isinstance(record, dict) else "not_object"


def _found(record: Record | str, place: str, cut: Cut) -> Found:
    if isinstance(record, str):
        return Found(place, None, fault=record)
    text, fault = text_in(record, cut.field)
    return Found(place, text, part_in(record, cut.part_field), fault)


def _read_parquet(file: TextFile, cut: Cut) -> Iterator[Found]:
    import pyarrow
    import pyarrow.parquet

    n = 0
    try:
        # Else a whole row group of the column is read at once.
        flat = {"pre_buffer": False, "buffer_size": 2**20}
        with pyarrow.parquet.ParquetFile(file.path, **flat) as table:
            there = set(table.schema_arrow.names)
            asked = [name for name in (cut.field, cut.part_field) if name]
            columns = [name for name in asked if {name, name.partition(".")[0]} & there]
            batches = table.iter_batches(_ROWS, columns=columns)
            for n, record in enumerate((each for rows in batches for each in _rows(rows)), 1):
                yield _found(record, f"{file.label}:{n}", cut)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(file.path, error, f"row {n:,}") from error


def _rows(batch: "pyarrow.RecordBatch") -> Iterator[Record | str]:
    try:
        rows: list[Record | str] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [_row(batch.slice(n, 1)) for n in range(batch.num_rows)]
    return iter(rows)


def _row(batch: "pyarrow.RecordBatch") -> Record | str:
    try:
        record: Record = batch.to_pylist()[0]
    except UnicodeDecodeError:
        return "not_utf8"
    return record


def _outline(path: Path) -> list[Record]:
    """The columns of a parquet file as one record with empty values."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(path, error, "row 0") from error
    return [{each.name: _empty(each.type) for each in schema}]


def _empty(kind: "pyarrow.DataType") -> Any:
    from pyarrow import types

    if types.is_struct(kind):
        return {each.name: _empty(each.type) for each in kind}
    if types.is_dictionary(kind):
        return _empty(kind.value_type)
    strings = types.is_string(kind), types.is_large_string(kind), types.is_string_view(kind)
    return "" if any(strings) else None


def _read_txt(file: TextFile, cut: Cut) -> Iterator[Found]:
    if cut.split == "file":
        yield _text(read_whole(file.path), file.label)
        return
    lines = enumerate(read_lines(file.path), 1)
    if cut.split == "line":
        yield from (_text(line, f"{file.label}:{n}") for n, line in lines)
        return
    yield from _paragraphs(file, lines)


def _paragraphs(file: TextFile, lines: Iterator[tuple[int, bytes | None]]) -> Iterator[Found]:
    """Runs of lines that are not blank, each at the place of its first line."""
    for blank, run in groupby(lines, key=lambda each: each[1] is not None and not each[1].strip()):
        if not blank:
            first, payload = _joined(run)
            yield _text(payload, f"{file.label}:{first}")


def _joined(run: Iterator[tuple[int, bytes | None]]) -> tuple[int, bytes | None]:
    """The number of the first line, and the lines; None when they are too many bytes."""
    first, size, lines = 0, 0, list[bytes]()
    for n, line in run:
        first = first or n
        size += MAX_DOCUMENT if line is None else len(line) + 1
        if line is None or size > MAX_DOCUMENT:
            size, lines = MAX_DOCUMENT, []
        else:
            lines.append(line)
    return first, b"\n".join(lines) if lines else None


def _text(payload: bytes | None, place: str) -> Found:
    """Plain text with the line ends of Unix, without those around it."""
    if payload is None:
        return Found(place, None, fault="too_large")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return Found(place, None, fault="not_utf8")
    return Found(place, text.replace("\r\n", "\n").strip("\r\n"))
