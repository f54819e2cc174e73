"""Finds the lines of a reply that mark where a text begins. Pure functions on strings.

A marker is a name with a number ([story 2], ### Story 2: A title), a number, a bullet or a
separator. Knows nothing of which markers of a reply count, or of what the texts are.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNSURE = "unsure"
"""The form of "Story 2: Then ..." and of "[room 2]", which prose may have, too."""
ALONE = "alone"
"""The form of "Story 2" or "2." on a line of its own."""
HEADING_WORDS = 12
"""A heading with a number and more words than this holds the text itself."""

_WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_ROMAN = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx"
_NUMBERS = {word: n for row in (_WORDS, _ROMAN) for n, word in enumerate(row.split(), start=1)}
_SPELLED = "|".join(sorted(_NUMBERS, key=len, reverse=True))
# A protocol may ask for "[poem 1]": other nouns count in square brackets.
_NAMED = re.compile(
    rf"""(?P<lead>[\s*_#>=~\-–—•]*+)(?P<bracket>[\[<({{]?)[\s*_]*+(?:new\s+)?
        (?:story|dialog(?:ue)?|conversation|tale|(?<=\[)(?P<other>[^\W\d_]+))
        (?:[\s_]*(?:\#|no\.?|number)?\s*(?P<number>\d{{1,3}}|{_SPELLED}))?(?![^\W_])
        (?:\s*(?:of|/)\s*\d+)?(?P<after>.*)""",
    re.IGNORECASE | re.VERBOSE,
)
_IN_BRACKETS = re.compile(r"\s*(?:[:.,\-–—|][^\])>}]{0,80})?[\])>}][\s*_:#.\-–—=]*(?P<rest>.*)")
_IN_BOLD = re.compile(r"(?:\s*[:.,\-–—][^*_]*)?[*_]+[\s:.\-–—]*(?P<rest>.*)")
_NAME_ALONE = re.compile(r"[\s:.\-–—=*_~)]*(?P<rest>)")
_HEADING = re.compile(r".*(?P<rest>)")
_NAME_IN_LINE = re.compile(r"(?:[:.)]|\s*[-–—|])\s*(?P<rest>\S.*)")
_LISTED = {
    ALONE: re.compile(r"[\W_]*(?P<number>\d{1,3})[\W_]*(?P<rest>)"),
    "heading": re.compile(r"#{1,6}\s*(?P<number>\d{1,3})(?:[.):\s\-–—]\s*(?P<rest>.*))?"),
    "bold": re.compile(
        r"(?P<mark>\*\*|__)\s*(?P<number>\d{1,3})(?:[.):]+[^*_]*)?(?P=mark)[.):\s\-–—]*(?P<rest>.*)"
    ),
    "plain": re.compile(
        r"(?P<open>[(\[]?)(?P<number>\d{1,3})(?P<close>[.)\]:]|\s[-–—](?=\s))(?!\d)\s*(?P<rest>\S.*)"
    ),
}
_BULLET = re.compile(r"(?P<sign>[-*•·–—]|1[.)])\s+(?=.*[^\W_])(?P<rest>.*)")
_SEPARATOR = re.compile(r"(?:[-*_=~#•·+–—]\s*){3,}|[⁂❖]")
_END = re.compile(r"[\s*_#]*\[\s*(?:/|end\b)[^\]]{0,40}\][\s*_]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Marker:
    """Where a text begins: at `rest`, which follows the marker on its line and may be empty."""

    line: int
    number: int | None
    form: str
    rest: str = ""


def find_names(lines: Sequence[str]) -> list[Marker]:
    """Such as "[story 1]", "**Story 2: A title**", "Story Three" and "Story 4: Then ..."."""
    return [marker for i, line in enumerate(lines) if (marker := _name(i, line))]


def find_numbers(lines: Sequence[str]) -> list[Marker]:
    """Such as "1.", "(2) Then ...", "**3. A title**" and "## 4"."""
    return [marker for i, line in enumerate(lines) if (marker := _number(i, line))]


def find_bullets(lines: Sequence[str]) -> list[Marker]:
    """Lines that begin with a dash, a star or a dot, or all with the number 1; one kind of them.

    A single long dash begins a speech, and a single 1 a list of numbers.
    """
    found = [(i, bullet) for i, line in enumerate(lines) if (bullet := _BULLET.fullmatch(line))]
    markers = [Marker(i, None, bullet["sign"], bullet["rest"]) for i, bullet in found]
    same = [marker for marker in markers if marker.form == markers[0].form]
    return [] if len(same) == 1 and same[0].form in ("1.", "1)", "–", "—") else same


def find_separators(lines: Sequence[str]) -> list[int]:
    """The numbers of lines such as "---" and "* * *"."""
    return [i for i, line in enumerate(lines) if _SEPARATOR.fullmatch(line)]


def is_end(line: str) -> bool:
    """Whether a line marks the end of a text, such as "[/story]" and "[end of story 2]"."""
    return _END.fullmatch(line) is not None


def rising(markers: Iterable[Marker]) -> list[Marker]:
    """The markers that count 1, 2, 3 in turn; others between them are prose."""
    series: list[Marker] = []
    for marker in markers:
        if marker.number == len(series) + 1:
            series.append(marker)
    return series


def rises(markers: Sequence[Marker]) -> bool:
    """Whether every marker counts one more than the one before it."""
    numbers = [marker.number or 0 for marker in markers]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def _name(i: int, line: str) -> Marker | None:
    found = _NAMED.match(line)
    if found is None or not (found["number"] or found["bracket"] in ("[", "<")):
        return None
    form, pattern = _name_form(found)
    ended = pattern.fullmatch(found["after"])
    if ended is None or ended["rest"][:1].islower():
        return None
    return Marker(i, _value(found["number"]), form, ended["rest"])


def _name_form(found: re.Match[str]) -> tuple[str, re.Pattern[str]]:
    """How a name is set, and what may follow it then."""
    if found["bracket"]:
        return UNSURE if found["other"] else found["bracket"], _IN_BRACKETS
    if _NAME_ALONE.fullmatch(found["after"]):
        return ALONE, _NAME_ALONE
    if "#" in found["lead"]:
        return "heading", _HEADING
    return ("bold", _IN_BOLD) if set("*_") & set(found["lead"]) else (UNSURE, _NAME_IN_LINE)


def _value(spelled: str | None) -> int | None:
    if spelled is None:
        return None
    return int(spelled) if spelled.isdecimal() else _NUMBERS[spelled.casefold()]


def _number(i: int, line: str) -> Marker | None:
    if not any(sign.isdecimal() for sign in line[:12]):
        return None
    for form, pattern in _LISTED.items():
        if found := pattern.fullmatch(line):
            signs = f" {found['open']}{found['close']}" if form == "plain" else ""
            rest = found["rest"] or ""
            if form == "heading" and len(rest.split()) <= HEADING_WORDS:
                rest = ""
            return Marker(i, int(found["number"]), form + signs, rest)
    return None
