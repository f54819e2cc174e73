"""Files of human ratings: which norms a file holds, on which scale, and what every line says.

Told by what the file holds and not by its name. Knows nothing of emotions or of what is done with
the ratings.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stores.errors import UsageError


@dataclass(frozen=True, slots=True)
class Source:
    """Whose ratings a file holds, and on which scale."""

    name: str
    licence: str
    low: float = -math.inf
    high: float = math.inf


NRC_TERMS = (
    "free for non-commercial research and teaching with citation; no redistribution "
    "(National Research Council Canada, saifmohammad.com/WebPages/nrc-vad.html)"
)
NRC_1 = Source("NRC VAD Lexicon v1 (Mohammad 2018)", NRC_TERMS, 0.0, 1.0)
NRC_1_BIPOLAR = Source(f"{NRC_1.name}, bipolar form", NRC_TERMS, -1.0, 1.0)
NRC_2 = Source("NRC VAD Lexicon v2 (Mohammad 2025)", NRC_TERMS, -1.0, 1.0)
WARRINER = Source(
    "Warriner, Kuperman & Brysbaert 2013",
    "CC BY-NC-ND 3.0: non-commercial use with citation, no redistribution in another form "
    "(crr.ugent.be/archives/1003)",
    1.0,
    9.0,
)
BIPOLAR = 0.1
"""Share of valences below 0 from which on a whole file is on -1 to 1: slips are rarer."""

WORD, VALENCE, AROUSAL, DOMINANCE = ("word", "term"), "valence", "arousal", "dominance"
MEANS = ("v.mean.sum", "a.mean.sum")
"""The columns of Warriner et al. that are means over all raters."""
SEPARATORS = "\t;,"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is to be read, and whose ratings it holds."""

    columns: tuple[int, int, int]
    """Where word, valence and arousal stand."""
    header: bool
    source: Source
    bipolar: Source
    """Whose they are when the ratings turn out to be on -1 to 1."""


@dataclass(frozen=True, slots=True)
class Rating:
    """What one line says."""

    line: int
    word: str
    valence: float
    arousal: float


def read_ratings(path: Path, content: bytes) -> tuple[Source, dict[str, Rating]]:
    """Whose ratings `content` holds, and the ratings by folded word.

    NRC VAD has tabs and the columns word (v1) or term (v2), valence, arousal and dominance, with or
    without a header; Warriner et al. have V.Mean.Sum and A.Mean.Sum; anything else with the columns
    word, valence and arousal is plain. UsageError names `path`, the line and what is wrong.
    """
    lines = [line for line in enumerate(_decode(path, content), 1) if line[1].strip()]
    if not lines:
        raise UsageError(f"{path} is empty; give a file of human ratings")
    separator = next((mark for mark in SEPARATORS if mark in lines[0][1]), ",")
    rows = [(number, _split(path, number, line, separator)) for number, line in lines]
    first = rows[0][1]
    layout = _recognise(path, first, separator)
    body = rows[1:] if layout.header else rows
    if not body:
        raise UsageError(f"{path} has a header and no ratings; give a file of human ratings")
    ratings = [_rate(path, *row, len(first), layout.columns) for row in body]
    return _check_scale(path, layout, ratings), _index(path, ratings)


def fold_word(word: str) -> str:
    """A word as it is looked up: in lower case, with single spaces."""
    return " ".join(word.lower().split())


def _decode(path: Path, content: bytes) -> io.StringIO:
    """Its lines, whichever way they end."""
    try:
        return io.StringIO(content.decode("utf-8-sig"), newline=None)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}, line {line} is not UTF-8; save the file as UTF-8") from None


def _split(path: Path, number: int, line: str, separator: str) -> list[str]:
    """Its cells. A stray quotation mark spoils its own line and not those that follow."""
    try:
        (cells,) = csv.reader([line.rstrip("\n")], delimiter=separator, strict=True)
    except csv.Error as error:
        raise UsageError(f"{path}, line {number}: {error}; mend that line") from None
    return [cell.strip() for cell in cells]


def _recognise(path: Path, first: Sequence[str], separator: str) -> Layout:
    """The layout that the first line tells."""
    if separator == "\t" and len(first) == 4 and all(map(_is_number, first[1:])):
        either = [replace(each, name=f"{each.name}, told by its scale") for each in (NRC_1, NRC_2)]
        return Layout((0, 1, 2), False, *either)
    header = [cell.lower() for cell in first]
    columns = _find_columns(path, header)
    if set(MEANS) <= set(header):
        return Layout(columns, True, WARRINER, WARRINER)
    if separator == "\t" and header[1:4] == [VALENCE, AROUSAL, DOMINANCE]:
        either = [NRC_2, NRC_2] if header[0] == "term" else [NRC_1, NRC_1_BIPOLAR]
        return Layout(columns, True, *either)
    plain = Source(f"ratings in {path.name}", "that of its owner")
    return Layout(columns, True, plain, plain)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _find_columns(path: Path, header: Sequence[str]) -> tuple[int, int, int]:
    means = MEANS if set(MEANS) & set(header) else (VALENCE, AROUSAL)
    places = []
    for names in (WORD, (means[0],), (means[1],)):
        found = [i for i, name in enumerate(header) if name in names]
        if len(found) != 1:
            raise UsageError(
                f"{path}: {len(found) or 'no'} columns {' or '.join(names)} in the header "
                f"({', '.join(header)[:60]}); one each of word, valence and arousal is needed"
            )
        places += found
    return places[0], places[1], places[2]


def _rate(
    path: Path, line: int, cells: Sequence[str], width: int, columns: tuple[int, int, int]
) -> Rating:
    if len(cells) != width:
        raise UsageError(
            f"{path}, line {line}: {len(cells)} columns where the first line has {width}; "
            "mend that line"
        )
    word, *numbers = (cells[i] for i in columns)
    if not word:
        raise UsageError(f"{path}, line {line} has no word; mend or delete that line")
    for name, cell in zip((VALENCE, AROUSAL), numbers, strict=True):
        if not _is_number(cell):
            raise UsageError(
                f"{path}, line {line}: {name} {cell!r} of {word!r} is not a number; mend that line"
            )
    return Rating(line, word, float(numbers[0]), float(numbers[1]))


def _check_scale(path: Path, layout: Layout, ratings: Sequence[Rating]) -> Source:
    """Whose the ratings are, every one of them on the scale of that source."""
    below = sum(rating.valence < 0.0 for rating in ratings)
    source = layout.bipolar if below > BIPOLAR * len(ratings) else layout.source
    for rating in ratings:
        for name, value in ((VALENCE, rating.valence), (AROUSAL, rating.arousal)):
            if not source.low <= value <= source.high:
                raise UsageError(
                    f"{path}, line {rating.line}: {name} {value:g} of {rating.word!r} is not on "
                    f"the scale of {source.name}, {source.low:g} to {source.high:g}; "
                    "mend that line, or get the file anew"
                )
    return source


def _index(path: Path, ratings: Sequence[Rating]) -> dict[str, Rating]:
    """The ratings by folded word.

    Of words that differ in capitals the one in lower case counts: a name is not the emotion.
    """
    words: dict[str, Rating] = {}
    for rating in ratings:
        word = fold_word(rating.word)
        known = words.setdefault(word, rating)
        if (known.valence, known.arousal) == (rating.valence, rating.arousal):
            continue
        if (known.word == word) == (rating.word == word):
            raise UsageError(
                f"{path}: {word!r} stands in lines {known.line} and {rating.line} with different "
                "ratings; keep one of them"
            )
        if rating.word == word:
            words[word] = rating
    return words
