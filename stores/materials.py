"""The tables of a protocol as frozen values: emotions, activities, scenarios, intensity templates.

Knows nothing of settings, prompts or where a table came from. One reader per table; a table that a
folder leaves out gives an empty tuple. A table taken from a base folder may speak of more emotions
than the folder lists: those rows are left out. In the folder itself they are an error.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import NamedTuple

from stores.errors import ProtocolError
from stores.textfiles import Folder, Row, refuse_repeats

PROVENANCE = ("seed", "own", "user")
SIGNS = {"up": 1, "down": -1}


@dataclass(frozen=True, slots=True)
class Emotion:
    """A concept with its labels, each in [-1, 1] or None, and the words its stories may not use."""

    name: str
    valence: float | None
    arousal: float | None
    family: str | None
    forms: tuple[str, ...]
    synonyms: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity twice: to follow "prefer to", and as a gerund to follow "feel about"."""

    name: str
    gerund: str
    category: str
    value: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """A user's turn that evokes an emotion without naming it; variant 1 is the one scored."""

    emotion: str
    prompt: str
    variant: int
    source: str


class Direction(NamedTuple):
    """Whether a probe should rise (1) or fall (-1) with x, and whether the method states it."""

    sign: int
    stated: bool


@dataclass(frozen=True, slots=True)
class IntensityTemplate:
    """A user's turn with {x}, the values of x in rising order, and what each emotion should do."""

    key: str
    prompt: str
    values: tuple[int, ...]
    directions: Mapping[str, Direction]
    source: str


def read_emotions(folder: Folder) -> tuple[Emotion, ...]:
    """emotions.tsv with the forms and synonyms of leaks.tsv. Raises ProtocolError."""
    rows = folder.rows("emotions.tsv", ["emotion"], ["valence", "arousal", "family"])
    if len(rows) < 2:
        raise ProtocolError(
            f"{folder.find('emotions.tsv')}: lists {len(rows)}; an emotion vector is a difference "
            "from the mean over emotions, so two or more are needed"
        )
    refuse_repeats(rows, "emotion")
    for row in rows:
        if "," in row.text("emotion"):
            raise row.fault("emotion", "has a comma, which separates emotions elsewhere")
    leaks = _read_leaks(folder, [row.text("emotion") for row in rows])
    return tuple(_emotion(row, leaks.get(row.text("emotion"))) for row in rows)


def _emotion(row: Row, leak: Row | None) -> Emotion:
    name = row.text("emotion")
    forms = leak.phrases("forms") if leak else ()
    return Emotion(
        name=name,
        valence=row.number("valence", -1, 1),
        arousal=row.number("arousal", -1, 1),
        family=row.text("family") if "family" in row.cells else None,
        forms=tuple(dict.fromkeys((name, *forms))),
        synonyms=leak.phrases("synonyms") if leak else (),
        source=source_of(row),
    )


def _read_leaks(folder: Folder, names: Collection[str]) -> dict[str, Row]:
    rows = folder.rows("leaks.tsv", ["emotion", "forms", "synonyms"])
    kept = list(_about_known(folder, "leaks.tsv", rows, names))
    refuse_repeats(kept, "emotion")
    for row in kept:
        source_of(row)
        words = [word.casefold() for word in (*row.phrases("forms"), *row.phrases("synonyms"))]
        if twice := [word for word, n in Counter(words).items() if n > 1]:
            raise row.fault("forms", f"{twice[0]!r} stands twice among forms and synonyms")
    return {row.text("emotion"): row for row in kept}


def read_activities(folder: Folder) -> tuple[Activity, ...]:
    """activities.tsv; without a column gerund the activity itself serves. Raises ProtocolError."""
    rows = folder.rows("activities.tsv", ["activity", "category"], ["gerund", "value"])
    refuse_repeats(rows, "activity")
    counts = Counter(row.text("category") for row in rows)
    for row in rows:
        if counts[row.text("category")] < 2:
            raise row.fault("category", "has one activity; steering needs one more as its control")
    return tuple(
        Activity(
            name=row.text("activity"),
            gerund=row.text("gerund" if "gerund" in row.cells else "activity"),
            category=row.text("category"),
            value=row.number("value"),
            source=source_of(row),
        )
        for row in rows
    )


def read_scenarios(folder: Folder, names: Collection[str]) -> tuple[Scenario, ...]:
    """scenarios.tsv, every emotion in it with one variant 1. Raises ProtocolError."""
    rows = folder.rows("scenarios.tsv", ["emotion", "prompt"], ["variant"])
    rows = list(_about_known(folder, "scenarios.tsv", rows, names))
    refuse_repeats(rows, "emotion", "variant")
    refuse_repeats(rows, "prompt")
    scenarios = tuple(
        Scenario(row.text("emotion"), row.text("prompt"), _variant(row), source_of(row))
        for row in rows
    )
    scored = {scenario.emotion for scenario in scenarios if scenario.variant == 1}
    for row in rows:
        if row.text("emotion") not in scored:
            raise row.fault("variant", f"{row.text('emotion')!r} has no variant 1, which is scored")
    return scenarios


def _variant(row: Row) -> int:
    if "variant" not in row.cells:
        return 1
    numbers = row.integers("variant")
    if len(numbers) != 1 or numbers[0] < 1:
        raise row.fault("variant", f"{row.text('variant')!r} is not a number from 1 on")
    return numbers[0]


def read_intensity(folder: Folder, names: Collection[str]) -> tuple[IntensityTemplate, ...]:
    """intensity.tsv, three or more rising values to a template. Raises ProtocolError."""
    rows = folder.rows("intensity.tsv", ["template", "prompt", "values", "directions"])
    refuse_repeats(rows, "template")
    templates = (_template(folder, row, names) for row in rows)
    return tuple(template for template in templates if template.directions)


def _template(folder: Folder, row: Row, names: Collection[str]) -> IntensityTemplate:
    values = row.integers("values")
    if len(values) < 3 or list(values) != sorted(set(values)):
        raise row.fault("values", "must be three or more numbers, each larger than the one before")
    prompt = row.text("prompt")
    if problem := placeholder_fault(prompt, {"x"}, set()):
        raise row.fault("prompt", problem)
    row.text("directions")
    found: dict[str, Direction] = {}
    for phrase in row.phrases("directions"):
        emotion, sign, source = (*phrase.rsplit(maxsplit=2), "", "")[:3]
        if sign not in SIGNS or source not in PROVENANCE or emotion in found:
            raise row.fault("directions", f"{phrase!r}: write, once each, such as 'afraid up own'")
        if emotion in names:
            found[emotion] = Direction(SIGNS[sign], source == "seed")
        elif not _inherited(folder, "intensity.tsv"):
            raise row.fault("directions", unknown_emotion(emotion, names))
    return IntensityTemplate(row.text("template"), prompt, values, found, source_of(row))


def source_of(row: Row) -> str:
    """Where a row comes from: seed, own or user; user without such a column."""
    source = row.text("source") if "source" in row.cells else "user"
    if source not in PROVENANCE:
        raise row.fault("source", f"{source!r} is not {', '.join(PROVENANCE)}")
    return source


def placeholder_fault(template: str, needed: set[str], optional: set[str]) -> str | None:
    """What is wrong with the {placeholders} of a template; None when nothing is."""
    try:
        found = [(name, spec, how) for _, name, spec, how in Formatter().parse(template)]
    except ValueError as error:
        return f"{error}; write {{{{ and }}}} for braces that stand for themselves"
    fields = {name for name, _, _ in found if name is not None}
    known = ", ".join(f"{{{name}}}" for name in sorted(needed | optional))
    if unknown := sorted(fields - needed - optional):
        return f"unknown placeholder {{{unknown[0]}}}; known: {known}"
    if any(spec or how for _, spec, how in found):
        return f"write placeholders plainly, without : or !: {known}"
    if missing := sorted(needed - fields):
        return f"the placeholder {{{missing[0]}}} is missing"
    return None


def unknown_emotion(name: str, names: Iterable[str]) -> str:
    """Says that there is no such emotion, and which are spelt most like it."""
    import difflib

    known = list(names)
    near = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.5)
    hint = f"near: {', '.join(near)}" if near else f"the protocol has {', '.join(known[:5])}, ..."
    return f"unknown emotion {name!r}; {hint}"


def _inherited(folder: Folder, name: str) -> bool:
    emotions, table = folder.find("emotions.tsv"), folder.find(name)
    return bool(emotions and table and emotions.parent != table.parent)


def _about_known(
    folder: Folder, name: str, rows: Iterable[Row], names: Collection[str]
) -> Iterator[Row]:
    for row in rows:
        emotion = row.text("emotion")
        if emotion in names:
            yield row
        elif not _inherited(folder, name):
            raise row.fault("emotion", unknown_emotion(emotion, names))
