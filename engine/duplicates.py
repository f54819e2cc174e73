"""Tells when two texts are the same, begin the same or share too many runs of words.

Marks are hashes by which a few candidates are found among hundreds of thousands; only a comparison
of their words decides. Knows nothing of rows and of where texts are kept.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

MARKS_RULE = "marks1"
"""Names how marks are made; other marks are not comparable."""
RUN = 8
"""Words in a run. Broder, "On the resemblance and containment of documents", 1997, calls it a
shingle; eight words are rarely written twice by chance."""
NEAR = 0.3
"""Share of runs in common from which two texts count as one written twice. A text of 120 words with
another name in three places keeps about .65, one with every tenth word changed about .1."""
OPENING = 12
"""Words that no two texts may begin with alike."""
SKETCH = 12
"""Minima kept of a text: at NEAR in common, 1 - .7 ** 12 = 98.6% of pairs share one."""

_UINT64 = np.uint64
_POWERS = np.array([pow(0x9E3779B97F4A7C15, i + 1, 2**64) for i in range(RUN)], dtype=_UINT64)
_SALTS = np.array([[0xD1342543DE82EF95 * (i + 1) % 2**64] for i in range(SKETCH)], dtype=_UINT64)


@dataclass(frozen=True, slots=True)
class Marks:
    """Hashes of one text, as integers that SQLite can hold."""

    whole: int
    opening: int
    sketch: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        return (self.whole, self.opening, *self.sketch)


def text_marks(text: str, space: str) -> Marks:
    """The marks of a text; those of two `space`s never meet."""
    words = plain_words(text)
    opening = words[:OPENING] if len(words) >= OPENING else words
    minima = _mix(_runs(words)[None, :] ^ _SALTS).min(axis=1)
    return Marks(
        _mark(space, "whole", " ".join(words)),
        _mark(space, "opening", " ".join(opening)),
        tuple(_mark(space, f"sketch {i}", str(least)) for i, least in enumerate(minima)),
    )


def find_duplicate(text: str, candidates: Iterable[str]) -> str | None:
    """The gravest likeness to one of the candidates: duplicate, same_opening, near_duplicate."""
    words = plain_words(text)
    found = {_likeness(words, plain_words(other)) for other in candidates}
    return next((each for each in _GRAVEST_FIRST if each in found), None)


def overlap(a: str, b: str) -> float:
    """Jaccard index of the runs of 8 words of two texts: shared runs over all runs."""
    return _overlap(plain_words(a), plain_words(b))


def plain_words(text: str) -> list[str]:
    """The words of a text without case, punctuation, spacing and invisible characters."""
    return _WORD.findall(text.translate(_INVISIBLE).casefold())


_GRAVEST_FIRST = ("duplicate", "same_opening", "near_duplicate")
_WORD = re.compile(r"[^\W_]+")
_INVISIBLE: Mapping[int, None] = dict.fromkeys((0x00AD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF))


def _likeness(a: list[str], b: list[str]) -> str | None:
    if a == b:
        return "duplicate"
    if len(a) >= OPENING and a[:OPENING] == b[:OPENING]:
        return "same_opening"
    return "near_duplicate" if _overlap(a, b) >= NEAR else None


def _overlap(a: list[str], b: list[str]) -> float:
    mine, theirs = _run_set(a), _run_set(b)
    return len(mine & theirs) / len(mine | theirs)


def _run_set(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}


def _runs(words: list[str]) -> NDArray[np.uint64]:
    """A hash of every run of words; of the whole text if it is shorter than one."""
    hashes = np.array([crc32(word.encode()) for word in words] or [0], dtype=_UINT64)
    windows = np.lib.stride_tricks.sliding_window_view(hashes, min(RUN, len(hashes)))
    runs: NDArray[np.uint64] = (windows * _POWERS[: windows.shape[1]]).sum(axis=1, dtype=_UINT64)
    return runs


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finalizer of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> _UINT64(30))) * _UINT64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _UINT64(27))) * _UINT64(0x94D049BB133111EB)
    return values ^ (values >> _UINT64(31))


def _mark(space: str, trait: str, value: str) -> int:
    words = f"{space}\n{trait}\n{value}".encode()
    return int.from_bytes(blake2b(words, digest_size=8).digest(), signed=True)
