"""Texts as files: JSONL, one object a line, or CSV with a header, by the ending of the name.

Whatever is wrong with a file is told with its line. Knows nothing of protocols or replies, nor of
what a text must be like.
"""

import csv
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stores.database import Connection, storable
from stores.errors import BadValue, EngineError, NotReady, UsageError
from stores.files import PARTIAL_SUFFIX, make_folder, sync
from stores.texts import Kind

NEEDED = ("emotion", "topic", "text")
OPTIONAL = ("slot", "generator")
COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "stories": ("emotion", "topic", "slot", "text", "generator", "id"),
    "dialogues": ("topic", "slot", "text", "generator", "id"),
}
MAX_SLOT = 2**31


@dataclass(frozen=True, slots=True)
class StoryRecord:
    """One story of a file; `line`, from 1, is where it begins."""

    line: int
    emotion: str
    topic: str
    text: str
    slot: int | None
    generator: str | None
    ignored: tuple[str, ...]
    """Keys that mean nothing here."""


def read_records(path: Path) -> Iterator[StoryRecord]:
    """Every story of a file, one at a time; blank lines and a byte order mark are skipped.

    Raises BadValue, with the line, at the first thing that is wrong, UsageError for another ending.
    """
    read = _read_csv if _format_of(path) == ".csv" else _read_jsonl
    for line, fields in read(path):
        yield _record(path, line, fields)


def fault(path: Path, line: int, problem: str) -> BadValue:
    """The error to raise about one line of a file."""
    return BadValue(f"{path}, line {line}: {problem}")


def file_digest(path: Path) -> str:
    """The digest of a file's bytes. Raises BadValue when it cannot be read."""
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise _unreadable(path, error) from None


def export_texts(
    conn: Connection, kind: Kind, corpus: str, place: Path | TextIO, *, force: bool = False
) -> int:
    """Write every done text in planned order, to a new file or as JSONL to a stream; how many.

    Raises:
        UsageError: the file is there already (`force` overwrites it), or has another ending.
        NotReady: there is no text to write.
        EngineError: the file cannot be written.
    """
    if not isinstance(place, Path):
        return _write(conn, kind, corpus, place, as_csv=False)
    as_csv = _format_of(place) == ".csv"
    if place.exists() and not force:
        raise UsageError(f"{place} is there already: name a new file, or say --force")
    with _new_file(place) as file:
        return _write(conn, kind, corpus, file, as_csv=as_csv)


def _format_of(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in (".jsonl", ".csv"):
        raise UsageError(f"{path}: the ending tells the format: .jsonl or .csv, not {ending!r}")
    return ending


def _unreadable(path: Path, error: OSError) -> BadValue:
    return BadValue(f"{path}: cannot be read ({error.strerror}): name a file that you may read")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Only a line feed ends a line: JSON may hold every other separator as it is."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    problem = "is not UTF-8; save the file as UTF-8"
                    raise fault(path, number, problem) from None
                yield number, text
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"is not JSON ({getattr(error, 'msg', error)}); write one object a line"
            raise fault(path, number, problem) from None
        if not isinstance(fields, dict):
            raise fault(path, number, "is not a JSON object; write one object a line")
        yield number, fields


def _read_csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header: list[str] = []
    for number, cells in _csv_rows(path):
        if not header:
            header = [cell.strip() for cell in cells]
            if missing := set(NEEDED) - set(header):
                raise fault(path, number, f"lacks the column {', '.join(sorted(missing))}")
            if len(set(header)) < len(header):
                raise fault(path, number, "names a column twice")
            continue
        if len(cells) != len(header):
            raise fault(path, number, f"{len(cells)} cells under {len(header)} columns")
        fields: dict[str, Any] = dict(zip(header, cells, strict=True))
        for name in OPTIONAL:
            if not fields.get(name, "").strip():
                fields.pop(name, None)
        if fields.get("slot", "").strip().isdecimal():
            fields["slot"] = int(fields["slot"][:20])
        yield number, fields


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line it begins on."""
    rows = csv.reader((text for _, text in _lines(path)), strict=True)
    while True:
        first = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise fault(path, first, f"is not CSV ({error})") from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield first, cells


def _record(path: Path, line: int, fields: Mapping[str, Any]) -> StoryRecord:
    if missing := [name for name in NEEDED if name not in fields]:
        raise fault(path, line, f"{missing[0]} is missing; a story has {', '.join(NEEDED)}")
    generator = fields.get("generator")
    return StoryRecord(
        line,
        _text(path, line, "emotion", fields["emotion"]).strip(),
        _text(path, line, "topic", fields["topic"]).strip(),
        _text(path, line, "text", fields["text"]),
        _slot(path, line, fields.get("slot")),
        None if generator is None else _text(path, line, "generator", generator).strip(),
        tuple(sorted(fields.keys() - {*NEEDED, *OPTIONAL})),
    )


def _text(path: Path, line: int, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise fault(path, line, f"{name} must be text, not {_shown(value)}")
    if not value.strip():
        raise fault(path, line, f"{name} is empty")
    return storable(value)


def _slot(path: Path, line: int, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < MAX_SLOT:
        raise fault(path, line, f"slot must be a whole number from 0 on, not {_shown(value)}")
    return value


def _shown(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _write(conn: Connection, kind: Kind, corpus: str, file: TextIO, *, as_csv: bool) -> int:
    columns, n = COLUMNS[kind], 0
    # the + keeps SQLite from an index that it would have to sort every text for
    query = f"""SELECT {", ".join(columns)} FROM {kind}
                WHERE +corpus = ? AND status = 'done' ORDER BY id"""
    table = csv.writer(file, lineterminator="\n")
    for n, row in enumerate(conn.execute(query, (corpus,)), 1):
        if not as_csv:
            fields = dict(zip(columns, row, strict=True))
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
            continue
        if n == 1:
            table.writerow(columns)
        table.writerow(row)
    if n == 0:
        raise NotReady(f"corpus {corpus!r} has no finished {kind}: nothing was written")
    return n


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """A file that appears under its name, whole and durable, when the block ends without error."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        make_folder(path.parent)
        try:
            with partial.open("x", encoding="utf-8", newline="\n") as file:
                yield file
            sync(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise EngineError(
            f"{path} could not be written ({error.strerror}): free space or choose another place"
        ) from error
