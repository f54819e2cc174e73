"""The protocol: which concepts, topics, prompts and stimuli an experiment uses, in one value.

Knows nothing of models, of the database or of what the analyses compute. Everything it reads is
text in one folder (and its base, if it names one), checked here once; `digest` covers every byte.
A protocol for other concepts needs protocol.toml, emotions.tsv, topics.txt and prompts/story.txt;
parts it leaves out are empty, and the analyses that need them say so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stores.errors import BadValue, NotReady, ProtocolError
from stores.materials import (
    PROVENANCE,
    Activity,
    Direction,
    Emotion,
    IntensityTemplate,
    Scenario,
    placeholder_fault,
    read_activities,
    read_emotions,
    read_intensity,
    read_scenarios,
    unknown_emotion,
)
from stores.textfiles import SETTINGS, Folder, digest_bytes, open_folder

__all__ = [
    "DEFAULT_PROTOCOL",
    "Activity",
    "Bounds",
    "Direction",
    "Emotion",
    "IntensityTemplate",
    "Protocol",
    "Scenario",
    "load_protocol",
    "select_emotions",
]

DEFAULT_PROTOCOL = Path(__file__).parent.parent / "data" / "protocol"
# Per prompt: the placeholders it must have, and those it may have.
PLACEHOLDERS: dict[str, tuple[set[str], set[str]]] = {
    "story": ({"emotion", "topic"}, {"n"}),
    "dialogue": ({"topic"}, {"n"}),
    "preference": ({"a", "b"}, set()),
    "feeling": ({"activity"}, set()),
}
# What has no column `source`: its provenance stands in protocol.toml.
PROVENANCE_KEYS = (
    "concept",
    "labels",
    "bounds",
    "topics.txt",
    "neutral_topics.txt",
    *(f"prompts/{key}.txt" for key in PLACEHOLDERS),
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many words an accepted text has, both ends included."""

    min_words: int
    max_words: int


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything that a protocol folder says, with a digest of every byte it was read from.

    Emotions, topics and activities keep the order of their files. `scenarios` holds the wordings
    that are scored, `alternates` the further ones. `bounds` is keyed by stories and dialogues,
    `prompts` by story, dialogue, preference and feeling, `provenance` by setting or file, `files`
    (digests) by name, where base/ precedes the settings of a base folder.
    """

    root: Path
    concept: str
    labels: str
    emotions: tuple[Emotion, ...]
    topics: tuple[str, ...]
    neutral_topics: tuple[str, ...]
    activities: tuple[Activity, ...]
    scenarios: tuple[Scenario, ...]
    alternates: tuple[Scenario, ...]
    intensity: tuple[IntensityTemplate, ...]
    prompts: Mapping[str, str]
    bounds: Mapping[str, Bounds]
    provenance: Mapping[str, str]
    digest: str
    files: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The emotions' names, in the order of the file."""
        return tuple(emotion.name for emotion in self.emotions)

    def emotion(self, name: str) -> Emotion:
        """The emotion of that name. Raises BadValue with near matches."""
        for emotion in self.emotions:
            if emotion.name == name:
                return emotion
        raise BadValue(f"{self.root}: {unknown_emotion(name, self.names)}")

    def label(self, column: Literal["valence", "arousal"]) -> dict[str, float]:
        """That label of every emotion. Raises NotReady when the protocol does not give it."""
        found = {emotion.name: getattr(emotion, column) for emotion in self.emotions}
        if None in found.values():
            raise NotReady(
                f"{self.root}: emotions.tsv has no column {column}, which this needs; add the "
                "column, or use a protocol that has it"
            )
        return found


def load_protocol(root: Path = DEFAULT_PROTOCOL) -> Protocol:
    """Read and check a protocol folder. Raises ProtocolError: one line, with file and line."""
    folder = open_folder(root)
    settings = folder.settings()
    _check_settings(root / SETTINGS, settings)
    emotions = read_emotions(folder)
    names = tuple(emotion.name for emotion in emotions)
    scenarios = read_scenarios(folder, names)
    protocol = Protocol(
        root=root,
        concept=settings["concept"],
        labels=settings.get("labels", "none"),
        emotions=emotions,
        topics=folder.lines("topics.txt"),
        neutral_topics=folder.lines("neutral_topics.txt"),
        activities=read_activities(folder),
        scenarios=tuple(scenario for scenario in scenarios if scenario.variant == 1),
        alternates=tuple(scenario for scenario in scenarios if scenario.variant != 1),
        intensity=read_intensity(folder, names),
        prompts={key: text for key in PLACEHOLDERS if (text := _read_prompt(folder, key))},
        bounds={kind: Bounds(**words) for kind, words in settings["bounds"].items()},
        provenance=dict.fromkeys(PROVENANCE_KEYS, "user") | settings.get("provenance", {}),
        files=dict(sorted(folder.digests.items())),
        digest=digest_bytes(json.dumps(folder.digests, sort_keys=True).encode()),
    )
    _check_parts(protocol)
    return protocol


def select_emotions(protocol: Protocol, choice: str) -> tuple[str, ...]:
    """The names in "all" or "a,b", in the protocol's order. Raises BadValue with near matches."""
    if choice.strip() == "all":
        return protocol.names
    wanted = {name.strip() for name in choice.split(",") if name.strip()}
    if not wanted:
        raise BadValue("no emotion named; write --emotions all, or names with commas between")
    chosen = {protocol.emotion(name).name for name in sorted(wanted)}
    return tuple(name for name in protocol.names if name in chosen)


def _read_prompt(folder: Folder, key: str) -> str | None:
    if not (found := folder.read(f"prompts/{key}.txt")):
        return None
    path, text = found
    if problem := placeholder_fault(text, *PLACEHOLDERS[key]):
        raise ProtocolError(f"{path}: {problem}")
    return text.strip()


def _check_parts(protocol: Protocol) -> None:
    """What one part of a protocol asks of another."""
    needs = [
        (protocol.neutral_topics, "neutral_topics.txt", "dialogue"),
        (protocol.activities, "activities.tsv", "preference"),
        (protocol.activities, "activities.tsv", "feeling"),
    ]
    for part, name, prompt in needs:
        if part and prompt not in protocol.prompts:
            raise ProtocolError(f"{protocol.root}: {name} needs prompts/{prompt}.txt; add it")
    if protocol.neutral_topics and "dialogues" not in protocol.bounds:
        raise ProtocolError(f"{protocol.root / SETTINGS}: [bounds] lacks dialogues")


def _check_settings(place: Path, settings: dict[str, Any]) -> None:
    known = ("concept", "labels", "bounds", "provenance")
    if unknown := sorted(settings.keys() - set(known)):
        raise ProtocolError(f"{place}: unknown {unknown[0]!r}; known: base, {', '.join(known)}")
    for key, default in (("concept", ""), ("labels", "none")):
        if not isinstance(text := settings.get(key, default), str) or not text.strip():
            raise ProtocolError(f'{place}: {key} is missing; write {key} = "..."')
    for key in ("bounds", "provenance"):
        if not isinstance(settings.setdefault(key, {}), dict):
            raise ProtocolError(f"{place}: {key} must be a table, headed [{key}]")
    if "stories" not in settings["bounds"]:
        raise ProtocolError(
            f"{place}: [bounds] lacks stories = {{ min_words = 60, max_words = 220 }}"
        )
    for kind, words in settings["bounds"].items():
        _check_bounds(place, kind, words)
    for key, source in settings["provenance"].items():
        if key not in PROVENANCE_KEYS:
            raise ProtocolError(
                f"{place}: [provenance] unknown {key!r}; known: {', '.join(PROVENANCE_KEYS)}"
            )
        if source not in PROVENANCE:
            raise ProtocolError(f"{place}: [provenance] {key} must be {' or '.join(PROVENANCE)}")


def _check_bounds(place: Path, kind: str, words: object) -> None:
    if kind not in ("stories", "dialogues"):
        raise ProtocolError(f"{place}: [bounds] unknown {kind!r}; known: stories, dialogues")
    ends = words if isinstance(words, dict) else {}
    low, high = ends.get("min_words"), ends.get("max_words")
    if type(low) is not int or type(high) is not int or len(ends) != 2 or not 1 <= low <= high:
        raise ProtocolError(
            f"{place}: [bounds] {kind} needs whole numbers 1 <= min_words <= max_words, alone"
        )
