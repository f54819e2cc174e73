"""Text files that people edit: lines and tab-separated tables, each value with its place.

Knows nothing of emotions or prompts. A folder may stand on a base folder, from which it takes the
files it lacks; whatever is read, from either, leaves its digest in `digests`.
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stores.errors import ProtocolError

SETTINGS = "protocol.toml"
NEEDED = (SETTINGS, "emotions.tsv", "topics.txt", "prompts/story.txt")
WHAT_IT_IS = (
    f"a protocol is a folder with {', '.join(NEEDED[:-1])} and {NEEDED[-1]} (all but the first "
    'may come from a folder named by base = "..."), see data/protocol/README.md'
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: its cells by column, and where it stands."""

    path: Path
    line: int
    cells: Mapping[str, str]

    def fault(self, column: str, problem: str) -> ProtocolError:
        """The error to raise about one cell: file, line, column, problem."""
        place = ":".join(filter(None, (str(self.path), str(self.line), column)))
        return ProtocolError(f"{place}: {problem}")

    def text(self, column: str) -> str:
        """A cell that must not be blank. Raises ProtocolError."""
        if found := self.cells.get(column, ""):
            return found
        raise self.fault(column, "is blank; fill it in or delete the line")

    def number(self, column: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A cell as a number in [low, high]; None without such a column. Raises ProtocolError."""
        if column not in self.cells:
            return None
        try:
            found = float(self.text(column))
        except ValueError:
            raise self.fault(column, f"{self.text(column)!r} is not a number") from None
        if not low <= found <= high or math.isinf(found):
            raise self.fault(column, f"{self.text(column)} is not between {low:g} and {high:g}")
        return found

    def integers(self, column: str) -> tuple[int, ...]:
        """A cell as whole numbers separated by spaces. Raises ProtocolError."""
        try:
            return tuple(int(number) for number in self.text(column).split())
        except ValueError as error:
            raise self.fault(column, f"{error}; write whole numbers with spaces between") from None

    def phrases(self, column: str) -> tuple[str, ...]:
        """A cell as phrases separated by commas; empty when the cell is. Raises ProtocolError."""
        found = [phrase.strip() for phrase in self.cells.get(column, "").split(",")]
        if found == [""]:
            return ()
        if "" in found:
            raise self.fault(column, "has a comma with nothing before or after it")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder and the folders it stands on, nearest first, with the digests of what was read."""

    chain: tuple[Path, ...]
    digests: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """The nearest file of this name; None when no folder has it."""
        return next((path for root in self.chain if (path := root / name).exists()), None)

    def read(self, name: str) -> tuple[Path, str] | None:
        """A file and its text; None when no folder has it. Raises ProtocolError."""
        path = self.find(name)
        return (path, self._text(path, name)) if path else None

    def settings(self) -> dict[str, Any]:
        """The settings of every folder in one, where the nearer folder has the last word."""
        merged: dict[str, Any] = {}
        for depth in reversed(range(len(self.chain))):
            path = self.chain[depth] / SETTINGS
            text = self._text(path, "base/" * depth + SETTINGS)
            merged = _merge(merged, _toml(path, text))
        merged.pop("base", None)
        return merged

    def lines(self, name: str) -> tuple[str, ...]:
        """The lines of a file, none blank or repeated; empty without the file."""
        if not (found := self.read(name)):
            return ()
        path, text = found
        lines = text.rstrip("\n").split("\n")
        rows = [Row(path, n, {"": line.strip()}) for n, line in enumerate(lines, 1)]
        refuse_repeats(rows, "")
        return tuple(row.text("") for row in rows)

    def rows(self, name: str, needed: Iterable[str], optional: Iterable[str] = ()) -> list[Row]:
        """The rows of a table with a header; empty without the file. Raises ProtocolError."""
        if not (found := self.read(name)):
            return []
        path, text = found
        header, *lines = (line.split("\t") for line in text.rstrip("\n").split("\n"))
        columns = [column.strip() for column in header]
        _check_columns(path, columns, set(needed), {*optional, "source", "note"})
        rows = []
        for number, cells in enumerate(lines, 2):
            if len(cells) != len(columns):
                raise ProtocolError(
                    f"{path}:{number}: {len(cells)} cells under {len(columns)} columns; "
                    "separate them with single tabs"
                )
            cleaned = (cell.strip() for cell in cells)
            rows.append(Row(path, number, dict(zip(columns, cleaned, strict=True))))
        return rows

    def _text(self, path: Path, name: str) -> str:
        payload, text = _read_text(path)
        self.digests[name] = digest_bytes(payload)
        return text


def open_folder(root: Path) -> Folder:
    """The folder with all it stands on. Raises ProtocolError: something is missing, or a circle."""
    chain: list[Path] = []
    while True:
        settings = root / SETTINGS
        if any(root.resolve() == seen.resolve() for seen in chain):
            circle = " -> ".join(str(seen) for seen in [*chain, root])
            raise ProtocolError(f"{chain[-1] / SETTINGS}: base leads in a circle: {circle}")
        if not root.is_dir():
            named = f", which is the base of {chain[-1]}," if chain else ""
            raise ProtocolError(f"{root}{named} is not a folder; {WHAT_IT_IS}")
        if not settings.exists():
            raise ProtocolError(f"{root}: {SETTINGS} is missing; {WHAT_IT_IS}")
        chain.append(root)
        base = _toml(settings, _read_text(settings)[1]).get("base")
        if base is None:
            break
        if not isinstance(base, str):
            raise ProtocolError(f"{settings}: base must be the path of a folder, in quotes")
        root = root / base
    folder = Folder(tuple(chain))
    if missing := [name for name in NEEDED if not folder.find(name)]:
        raise ProtocolError(f"{chain[0]}: {missing[0]} is missing; {WHAT_IT_IS}")
    return folder


def refuse_repeats(rows: Iterable[Row], *columns: str) -> None:
    """Raise ProtocolError, naming both lines, when two rows agree in these columns but for case."""
    seen: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(" ".join(row.cells.get(column, "").casefold().split()) for column in columns)
        if any(key) and (first := seen.setdefault(key, row)) is not row:
            repeated = ", ".join(repr(row.cells.get(column, "")) for column in columns)
            raise ProtocolError(f"{row.path}:{row.line}: repeats line {first.line}: {repeated}")


def digest_bytes(payload: bytes) -> str:
    """The digest of some bytes, prefixed with its rule."""
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


def _read_text(path: Path) -> tuple[bytes, str]:
    """The bytes of a file and its text, with line ends as \\n and without a byte order mark."""
    try:
        payload = path.read_bytes()
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ProtocolError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error.strerror})") from None
    return payload, re.sub("\r\n?", "\n", text)


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{path}: {error}") from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merge(below[key], above[key])
    return merged


def _check_columns(path: Path, columns: list[str], needed: set[str], optional: set[str]) -> None:
    if missing := needed - set(columns):
        raise ProtocolError(f"{path}:1: lacks the column {', '.join(sorted(missing))}")
    if unknown := set(columns) - needed - optional:
        known = ", ".join(sorted(needed | optional))
        raise ProtocolError(
            f"{path}:1: unknown column {', '.join(map(repr, sorted(unknown)))}; known: {known}"
        )
    if len(set(columns)) < len(columns):
        raise ProtocolError(f"{path}:1: a column is named twice")
