"""How vector files name emotions and layers, and how a file is refused in one line.

Knows nothing of the formats.
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from stores.errors import UsageError

LAYER_ENDING = re.compile(r"(?:^|[-_. ])layer[-_ ]?(\d+)$", re.IGNORECASE)
APART = re.compile(r"[\s_-]+")


def fold_name(name: str) -> str:
    """The name without what people spell differently: case, what stands between words, and how
    an accented letter is put together."""
    return APART.sub(" ", unicodedata.normalize("NFC", name)).strip().casefold()


def layer_in_name(path: Path) -> int | None:
    """The layer with which the file's name ends (`joy_layer_12.npz`); None when it says none."""
    found = LAYER_ENDING.search(path.stem)
    return int(found[1]) if found else None


def refusal(path: Path, problem: str, step: str) -> UsageError:
    """The one line that says what is wrong with a file and what to do about it."""
    return UsageError(f"{path}: {problem}; {step}")


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises UsageError when it cannot be read, or is a pipe or a device."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise refusal(path, "it is not a file", "check the path")
    try:
        return path.read_bytes()
    except OSError as error:
        raise refusal(path, f"it cannot be read ({error.strerror})", "check the path") from error


def check_emotions(path: Path, emotions: Sequence[str]) -> None:
    """Raise UsageError when there are no names, or blank, unprintable or equal ones."""
    if not emotions:
        raise refusal(path, "it holds no emotion", "save one array per emotion")
    seen: dict[str, str] = {}
    for name in emotions:
        folded = fold_name(name)
        if not folded or not name.isprintable():
            raise refusal(path, f"{name!r} is no name of an emotion", "name every vector")
        if folded in seen:
            problem = f"the emotions {seen[folded]!r} and {name!r} are one and the same"
            raise refusal(path, problem, "keep one of them")
        seen[folded] = name
