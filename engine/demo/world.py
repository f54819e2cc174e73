"""The planted world of the demo model: its protocol, its phrases and what they plant.

Everything planted is data: the protocol folder says what each emotion, activity and number means,
the world folder says in which words. Knows nothing of documents, tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine.demo import planting
from engine.demo.chance import Choice
from engine.demo.planting import Family, Palette
from engine.demo.tables import Tables
from stores.errors import ProtocolError
from stores.materials import Activity
from stores.protocol import Protocol, load_protocol
from stores.textfiles import Row

T = TypeVar("T")

DEMO_FOLDER = Path(__file__).parents[2] / "data" / "demo_model"


@dataclass(frozen=True, slots=True)
class Name:
    """A person's name and the pronoun that goes with it."""

    name: str
    pronoun: str


@dataclass(frozen=True, slots=True)
class Topic:
    """A story topic: what happens, and with whom."""

    event: str
    relation: str


@dataclass(frozen=True, slots=True)
class NeutralTopic:
    """A dialogue topic: which aspect of which object."""

    aspect: str
    object: str


# Compared by identity, so that what is derived from a world can be kept beside it.
@dataclass(frozen=True, slots=True, eq=False)
class World:
    """All that the grammar reads. Every emotion, topic and activity is in its mapping."""

    protocol: Protocol
    families: Mapping[str, Family]
    palettes: Mapping[str, Palette]
    words: Mapping[str, Choice[str]]
    """Emotion words of a family, the scenario's word first among equals."""
    cues: Mapping[str, tuple[str, ...]]
    ambience: Mapping[str, tuple[str, ...]]
    pace: Mapping[str, tuple[str, ...]]
    grades: Mapping[str, Mapping[str, str]]
    filler: tuple[str, ...]
    names: tuple[Name, ...]
    topics: Mapping[str, Topic]
    openings: Mapping[str, tuple[str, ...]]
    continuations: Mapping[str, tuple[str, ...]]
    slots: Mapping[str, tuple[str, ...]]
    activities: tuple[Activity, ...]
    values: Mapping[str, float]
    felt: Mapping[str, Choice[str]]
    """Emotions felt about an activity, by how near their valence is to its value."""
    scenarios: Mapping[str, tuple[str, ...]]
    intensity: Mapping[str, tuple[Choice[str], ...]]
    """Families felt at each value of an intensity template."""
    neutral_topics: Mapping[str, NeutralTopic]
    turns: Mapping[str, tuple[tuple[str, str], ...]]
    phrases: Mapping[str, tuple[str, ...]]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Every number the language uses; each should be one token."""
        values = {str(v) for t in self.protocol.intensity for v in t.values}
        return tuple(sorted(values | set(self.slots["number"]), key=int))

    @property
    def words_for_bpe(self) -> tuple[str, ...]:
        """Words that should be one token: emotions, interjections, names, relations."""
        exclaimed = [word for family in self.families.values() for word in family.interjections]
        people = [name.name for name in self.names]
        relations = sorted({topic.relation for topic in self.topics.values()})
        return tuple(dict.fromkeys([*self.palettes, *exclaimed, *people, *relations]))


def load_world(folder: Path = DEMO_FOLDER) -> World:
    """The world in `folder`/world with the protocol in `folder`/protocol. Raises ProtocolError."""
    protocol = load_protocol(folder / "protocol")
    tables = Tables(folder / "world")
    families = _read_families(tables)
    slots = tables.group("slots", "slot", "value")
    activities = (*protocol.activities, *_read_activities(tables))
    values = {a.name: _planted(tables.place, a.name, a.value) for a in activities}
    valences = protocol.label("valence")
    levels = {name: tables.group(name, "level", "text") for name in ("ambience", "pace")}
    cues = tables.group("cues", "family", "text")
    scenarios = tables.group("scenarios", "family", "text")
    _check_families(tables.place, set(families), protocol, cues, scenarios)
    return World(
        protocol=protocol,
        families=families,
        palettes=_mix_palettes(protocol, families, cues, levels),
        words=_choose_words(protocol, families),
        cues=cues,
        ambience=levels["ambience"],
        pace=levels["pace"],
        grades=tables.nest("grades", "scale", "level", "text"),
        filler=tables.column("filler", "text"),
        names=tuple(Name(r.text("name"), r.text("pronoun")) for r in tables.rows("names")),
        topics=_read_topics(tables, protocol),
        openings=tables.group("openings", "event", "text"),
        continuations=tables.group("continuations", "event", "text"),
        slots=slots | {"rel": tables.column("relations", "relation")},
        activities=activities,
        values=values,
        felt={name: planting.by_valence(valences, value) for name, value in values.items()},
        scenarios=scenarios,
        intensity=_read_intensity(tables, protocol),
        neutral_topics=_read_neutral_topics(tables, protocol, slots["object"]),
        turns=_read_turns(tables),
        phrases=tables.group("phrases", "purpose", "text"),
    )


def _read_families(tables: Tables) -> dict[str, Family]:
    return {
        row.text("family"): Family(
            row.text("family"),
            _number(row, "valence"),
            _number(row, "arousal"),
            tuple(row.text("interjections").split()),
        )
        for row in tables.rows("families")
    }


def _read_activities(tables: Tables) -> Iterable[Activity]:
    return (
        Activity(
            name=row.text("activity"),
            gerund=row.text("gerund"),
            category=row.text("category"),
            value=row.number("value"),
            source="own",
        )
        for row in tables.rows("activities")
    )


def _check_families(
    place: Path,
    families: set[str],
    protocol: Protocol,
    cues: Mapping[str, tuple[str, ...]],
    scenarios: Mapping[str, tuple[str, ...]],
) -> None:
    used = {emotion.family or "" for emotion in protocol.emotions}
    for name, group in (("emotions", used), ("cues", set(cues)), ("scenarios", set(scenarios))):
        if differing := sorted(group ^ families):
            raise ProtocolError(
                f"{place / 'families.tsv'}: its families are not those of {name}.tsv, "
                f"first: {differing[0]!r}"
            )


def _mix_palettes(
    protocol: Protocol,
    families: Mapping[str, Family],
    cues: Mapping[str, tuple[str, ...]],
    levels: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> dict[str, Palette]:
    valence, arousal = protocol.label("valence"), protocol.label("arousal")
    return {
        e.name: planting.mix_palette(
            e.name,
            (valence[e.name], arousal[e.name]),
            families[e.family or ""],
            families=families,
            cues=cues,
            ambience=levels["ambience"],
            pace=levels["pace"],
        )
        for e in protocol.emotions
    }


def _choose_words(protocol: Protocol, families: Mapping[str, Family]) -> dict[str, Choice[str]]:
    anchors = {scenario.emotion for scenario in protocol.scenarios}
    members = {
        family: [e.name for e in protocol.emotions if e.family == family] for family in families
    }
    return {
        family: planting.around_anchor(words, next((w for w in words if w in anchors), None))
        for family, words in members.items()
    }


def _read_topics(tables: Tables, protocol: Protocol) -> dict[str, Topic]:
    built = {
        event.text("topic").format(
            a=relation.text("article"), rel=relation.text("relation")
        ): Topic(event.text("event"), relation.text("relation"))
        for event in tables.rows("events")
        for relation in tables.rows("relations")
    }
    return _check_topics(tables.place / "events.tsv", protocol.topics, built)


def _read_neutral_topics(
    tables: Tables, protocol: Protocol, objects: tuple[str, ...]
) -> dict[str, NeutralTopic]:
    built = {
        row.text("topic").format(object=thing): NeutralTopic(row.text("aspect"), thing)
        for row in tables.rows("aspects")
        for thing in objects
    }
    return _check_topics(tables.place / "aspects.tsv", protocol.neutral_topics, built)


def _check_topics(place: Path, wanted: tuple[str, ...], built: dict[str, T]) -> dict[str, T]:
    if differing := sorted(set(wanted) ^ set(built)):
        raise ProtocolError(f"{place}: the protocol's topics differ, first: {differing[0]!r}")
    return {topic: built[topic] for topic in wanted}


def _read_intensity(tables: Tables, protocol: Protocol) -> dict[str, tuple[Choice[str], ...]]:
    ends: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for row in tables.rows("intensity"):
        lowest, highest = ends.setdefault(row.text("key"), ({}, {}))
        lowest[row.text("family")] = _number(row, "lowest")
        highest[row.text("family")] = _number(row, "highest")
    return {t.key: planting.ramp(*ends[t.key], len(t.values)) for t in protocol.intensity}


def _read_turns(tables: Tables) -> dict[str, tuple[tuple[str, str], ...]]:
    questions = tables.group("turns", "aspect", "question")
    answers = tables.group("turns", "aspect", "answer")
    return {a: tuple(zip(questions[a], answers[a], strict=True)) for a in questions}


def _number(row: Row, column: str) -> float:
    return _planted(row.path, column, row.number(column, -1, 1))


def _planted(place: Path, thing: str, value: float | None) -> float:
    if value is None:
        raise ProtocolError(f"{place}: {thing!r} has no planted value; the demo world needs one")
    return value
