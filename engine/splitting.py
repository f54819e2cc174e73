"""Cuts a raw reply into the texts that it holds. Pure functions on strings.

Markers of one kind cut a reply, the first kind there is: names ([story 2]), bullets, numbers,
separators, titles; else paragraphs do. Numbers that do not rise from the start are prose. How many
texts were asked for only decides between two readings of the same lines. Knows nothing of whether a
text may be used.
"""

from collections.abc import Iterable, Iterator, Sequence

from engine.markers import (
    ALONE,
    UNSURE,
    Marker,
    find_bullets,
    find_names,
    find_numbers,
    find_separators,
    is_end,
    rises,
    rising,
)
from engine.tidying import (
    SPEAKER_LINE,
    is_aside,
    is_plain_title,
    is_title,
    tidy_dialogue,
    tidy_story,
    trim,
    unquoted,
)
from engine.unwrapping import read_json, unwrap
from stores.texts import Kind

FEW_WORDS = 30
"""As few words before the first marker or after the last separator are not taken for a text."""
ITEM_WORDS = 20
"""What stands at the points of a list, or below titles, are texts if each has as many words."""
FEWEST_WORDS = 6
"""The same, where there are as many as were asked for."""
PARAGRAPH_WORDS = 50
"""Paragraphs, fewer than were asked for, are texts if each has as many words."""
MIN_TURNS = 4


def split_reply(text: str, kind: Kind, asked: int) -> list[str]:
    """The texts of a reply in order, without markers, titles, introduction and remarks; maybe none.

    A story becomes one paragraph; a dialogue keeps its turns, one a line. Nothing is invented and
    nothing merged to come to `asked`.
    """
    plain = unwrap(text)
    listed = read_json(plain)
    if listed is None:
        parts = _cut(unquoted([line.strip() for line in plain.split("\n")]), kind, asked)
    else:
        parts = [each.splitlines() for each in listed]
    tidy = tidy_story if kind == "stories" else tidy_dialogue
    return [found for part in parts if (found := tidy(part))]


def _cut(lines: list[str], kind: Kind, asked: int) -> list[list[str]]:
    return (
        _at_names(lines, asked)
        or _at_bullets(lines, kind, asked)
        or _at_numbers(lines, kind, asked)
        or _at_separators(lines, asked)
        or _at_titles(lines, kind, asked)
        or (_stories_apart(lines, asked) if kind == "stories" else _dialogues_apart(lines))
    )


def _at_names(lines: list[str], asked: int) -> list[list[str]]:
    markers = find_names(lines)
    series = _sure_names(markers, asked)
    if not series:
        series = rising(markers)
        return _between(lines, series) if series and _begins(lines, series[0]) else []
    apart = [m for m in markers if m.form != UNSURE or not lines[m.line - 1]]
    more = rising(apart)
    return _between(lines, more if len(series) < len(more) == asked else series)


def _sure_names(markers: Sequence[Marker], asked: int) -> list[Marker]:
    """Those that prose does not have; of several kinds in disorder only the first kind."""
    sure = [marker for marker in markers if marker.form != UNSURE]
    if rises(sure):
        return sure
    same = [marker for marker in sure if marker.form == sure[0].form]
    in_turn = rising(same)
    return in_turn if same[0].form == ALONE and len(in_turn) == asked else same


def _at_numbers(lines: list[str], kind: Kind, asked: int) -> list[list[str]]:
    markers = find_numbers(lines)
    first = next((m for m in markers if m.number == 1 and _begins(lines, m)), None)
    if first is None:
        return []
    series = rising(m for m in markers if m.form == first.form and m.line >= first.line)
    sure = is_aside([line for line in lines[: first.line] if not is_title(line)])
    return _if_texts(_between(lines, series), kind, asked if sure else 0)


def _at_bullets(lines: list[str], kind: Kind, asked: int) -> list[list[str]]:
    markers = find_bullets(lines)
    if not markers or not is_aside(lines[: markers[0].line]):
        return []
    return _if_texts(_between(lines, markers), kind, asked)


def _at_separators(lines: list[str], asked: int) -> list[list[str]]:
    """The parts between separators; in a single story they are breaks between scenes."""
    cuts = find_separators(lines) if asked > 1 else []
    bounds = zip([-1, *cuts], [*cuts, len(lines)], strict=True)
    parts = [part for a, b in bounds if (part := trim(lines[a + 1 : b])) and not is_aside(part)]
    if len(parts) > asked > 1:
        shorter = min(0, -1, key=lambda end: _count(parts[end]))
        if _count(parts[shorter]) <= FEW_WORDS:
            parts.pop(shorter)
    return parts if len(parts) > 1 else []


def _at_titles(lines: list[str], kind: Kind, asked: int) -> list[list[str]]:
    filled = [i for i, line in enumerate(lines) if line][:-1]
    apart = [i for i in filled if not i or not lines[i - 1]]
    set_as_such = [i for i in filled if is_title(lines[i])]
    for found in (set_as_such, [i for i in apart if is_plain_title(lines[i], lines[i + 1])]):
        if len(found) > 1 and is_aside(lines[: found[0]]):
            parts = _if_texts(
                _between(lines, [Marker(i, None, "title") for i in found]), kind, asked
            )
            if asked > 1 or len(parts) > 2:  # one story may have a title and a sign on a wall
                return parts
    return []


def _if_texts(parts: list[list[str]], kind: Kind, asked: int) -> list[list[str]]:
    """The parts if they are texts, else none: a story may hold a list. The last may be cut off."""
    if kind == "dialogues":
        return parts if all(_turns(part) >= MIN_TURNS // 2 for part in parts[:-1]) else []
    least = FEWEST_WORDS if len(parts) == asked else ITEM_WORDS
    return parts if all(_count(part) >= least for part in parts[:-1]) else []


def _stories_apart(lines: list[str], asked: int) -> list[list[str]]:
    """The paragraphs, if there are as many as were asked for or each is as long as a story."""
    blocks = list(_blocks(trim(lines)))
    if len(blocks) == 1 and all(len(line.split()) >= FEW_WORDS for line in blocks[0]):
        blocks = [[line] for line in blocks[0]]
    long = all(_count(block) >= PARAGRAPH_WORDS for block in blocks)
    return (
        blocks
        if 1 < len(blocks) <= asked and (long or len(blocks) == asked)
        else [_without_tail(lines)]
    )


def _dialogues_apart(lines: list[str]) -> list[list[str]]:
    """The blocks between empty lines, if each is a whole dialogue."""
    blocks = [block for block in _blocks(trim(lines)) if _turns(block)]
    starts = [SPEAKER_LINE.match(block[0]) for block in blocks]
    whole = all(_turns(block) >= MIN_TURNS for block in blocks)
    return (
        blocks if whole and len(blocks) > 1 and all(s and s["person"] for s in starts) else [lines]
    )


def _between(lines: list[str], markers: Sequence[Marker]) -> list[list[str]]:
    """The parts that the markers begin, and what comes before them if that is a text."""
    if not markers:
        return []
    ends = [marker.line for marker in markers[1:]] + [len(lines)]
    parts = [
        _until_end([marker.rest, *lines[marker.line + 1 : end]])
        for marker, end in zip(markers, ends, strict=True)
    ]
    parts[-1] = _without_tail(parts[-1])
    if markers[0].number != 1 and not _begins(lines, markers[0]):
        parts.insert(0, lines[: markers[0].line])
    return parts


def _until_end(part: list[str]) -> list[str]:
    return part[: next((i for i, line in enumerate(part) if is_end(line)), len(part))]


def _without_tail(part: list[str]) -> list[str]:
    """The last part without a few words below a separator: they are a remark."""
    cuts = find_separators(part)
    if cuts and _count(part[: cuts[-1]]) > _count(part[cuts[-1] :]) <= FEW_WORDS:
        return part[: cuts[-1]]
    return part


def _begins(lines: Sequence[str], marker: Marker) -> bool:
    """Whether no text comes before a marker."""
    before = [line for line in lines[: marker.line] if line and not is_title(line)]
    return _count(before) <= FEW_WORDS or is_aside(before)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Runs of lines between empty ones."""
    run: list[str] = []
    for line in (*lines, ""):
        if line:
            run.append(line)
        elif run:
            yield run
            run = []


def _turns(lines: Iterable[str]) -> int:
    return sum(SPEAKER_LINE.match(line) is not None for line in lines)


def _count(lines: Iterable[str]) -> int:
    """How many words they have."""
    return sum(len(line.split()) for line in lines)
