"""Documents in files of the user's own: JSON lines, parquet and plain text, packed or not.

Knows which files are read and how they are told apart; nothing of samples, models or the ledger.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from engine.sources.base import Found, Source
from engine.sources.fields import TEXTS, choose_field
from engine.sources.layouts import Cut, Layout, TextFile, first_records, read_file
from engine.sources.opening import slug
from engine.sources.streams import PACKED
from stores.database import storable
from stores.errors import BadValue, UsageError

Split = Literal["auto", "file", "paragraph", "line"]

LAYOUTS: Mapping[str, Layout] = {
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    **{f".jsonl{packed}": "jsonl" for packed in PACKED},
    **{f".txt{packed}": "txt" for packed in PACKED},
}
READABLE = ", ".join(LAYOUTS)
_ENDS = 2**16


@dataclass(slots=True)
class FileSource:
    """Files in the order of their names. What is not read is found first, with the reason."""

    name: str
    settings: Mapping[str, Any]
    files: tuple[TextFile, ...]
    left_out: tuple[Found, ...]
    cut: Cut
    whole: bool = True

    def read(self) -> Iterator[Found]:
        """Every document, or the faults in their places. Raises EngineError for a torn file."""
        yield from self.left_out
        for file in self.files:
            yield from read_file(file, self.cut)


def open_files(
    path: Path,
    *,
    name: str | None = None,
    text_field: str | None = None,
    part_field: str | None = None,
    split: Split = "auto",
) -> Source:
    """The documents of a file, or of every readable file in a folder and those within it.

    `split` divides plain text: into paragraphs, or in a folder ("auto") not at all. `settings` have
    the number of files, their bytes, and a SHA-256 of the name, the size and the first and last
    64 KiB of each: times do not count, nor does a change in the midst of a large file.

    Raises:
        BadValue: there is no such path, or no access to it.
        UsageError: nothing there can be read; no field is the text; an option is about other files.
        EngineError: a file is torn, as far as its beginning tells.
    """
    files, left_out = _find(path)
    layouts = {file.layout for file in files}
    _refuse_idle(path, layouts, text_field, split)
    identity = _identity(files)
    divided = ("file" if path.is_dir() else "paragraph") if split == "auto" else split
    field = _field(files, text_field, path) if layouts != {"txt"} else None
    settings = {
        "origin": storable(path.resolve().name),
        "files": len(files),
        **identity,
        "field": field,
        "part_field": part_field,
        "split": divided if "txt" in layouts else None,
    }
    cut = Cut(field or TEXTS[0], part_field, divided)
    name = name or slug(path.resolve().name)
    return FileSource(name, settings, tuple(files), tuple(left_out), cut)


def _find(path: Path) -> tuple[list[TextFile], list[Found]]:
    """What is read and what is not, each in the order of names."""
    folder = stat.S_ISDIR(_mode(path))
    if not folder and not stat.S_ISREG(_mode(path)):
        raise BadValue(f"{path}: no file or folder is there, or no access to it")
    files, left_out = list[TextFile](), list[Found]()
    for each in sorted(_walk(path)) if folder else [path]:
        label = storable(each.relative_to(path if folder else path.parent).as_posix())
        layout = next((LAYOUTS[end] for end in LAYOUTS if each.name.lower().endswith(end)), None)
        if fault := _fault(each, layout, hidden=folder and each.name.startswith(".")):
            left_out.append(Found(label, None, fault=fault))
        elif layout is not None:
            files.append(TextFile(each, label, layout))
    if not files:
        raise UsageError(f"{path}: nothing to read; the names must end in one of {READABLE}")
    return files, left_out


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those within, and the folders that are not entered."""
    for root, folders, names in os.walk(folder, onerror=_refuse):
        paths = [Path(root, each) for each in folders]
        passed = {path for path in paths if path.name.startswith(".") or path.is_symlink()}
        folders[:] = [path.name for path in paths if path not in passed]
        yield from passed
        yield from (Path(root, each) for each in names)


def _fault(path: Path, layout: Layout | None, *, hidden: bool) -> str | None:
    if hidden:
        return "hidden"
    if stat.S_ISDIR(_mode(path)):
        return "linked_folder"
    if layout is None:
        return "other_suffix"
    return None if stat.S_ISREG(_mode(path)) else "no_file"


def _mode(path: Path) -> int:
    """What a path is, its links followed; 0 when there is nothing or no access."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _refuse(error: OSError) -> None:
    raise BadValue(f"{error.filename}: cannot be listed ({error.strerror}): mend its permissions")


def _refuse_idle(path: Path, layouts: set[Layout], text_field: str | None, split: Split) -> None:
    if "txt" not in layouts and split != "auto":
        raise UsageError(f"--split is for plain text, and {path} has no .txt file")
    if layouts == {"txt"} and text_field is not None:
        raise UsageError(f"--text-field is for records, and {path} has only plain text")


def _field(files: list[TextFile], asked: str | None, path: Path) -> str:
    """Settled by the first file with a record; in one without it, rows have no_field."""
    with_records = (first_records(file) for file in files if file.layout != "txt")
    records = next(filter(None, with_records), None)
    if records is None:
        return asked or TEXTS[0]
    return choose_field(records, asked, str(path))


def _identity(files: list[TextFile]) -> dict[str, Any]:
    total, known = 0, sha256()
    for file in files:
        try:
            with file.path.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                ends = stream.read(_ENDS)
                stream.seek(max(size - _ENDS, 0))
                ends += stream.read(_ENDS)
        except OSError as error:
            raise BadValue(f"{file.path}: cannot be read ({error.strerror})") from error
        total += size
        known.update(f"{file.label}\0{size}\0".encode() + sha256(ends).digest())
    return {"bytes": total, "digest": known.hexdigest()}
