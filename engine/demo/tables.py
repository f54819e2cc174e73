"""The tables of a world folder and their columns. Knows nothing of what their texts mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stores.errors import ProtocolError
from stores.textfiles import Folder, Row

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "activities": ("activity", "gerund", "category", "value"),
    "ambience": ("level", "text"),
    "aspects": ("aspect", "topic"),
    "continuations": ("event", "text"),
    "cues": ("family", "kind", "text"),
    "events": ("event", "topic"),
    "families": ("family", "valence", "arousal", "interjections"),
    "filler": ("text",),
    "grades": ("scale", "level", "text"),
    "intensity": ("key", "family", "lowest", "highest"),
    "names": ("name", "pronoun"),
    "openings": ("event", "text"),
    "pace": ("level", "text"),
    "phrases": ("purpose", "text"),
    "relations": ("relation", "article"),
    "scenarios": ("family", "text"),
    "slots": ("slot", "value"),
    "turns": ("aspect", "question", "answer"),
}


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a world folder, by file name without its ending."""

    place: Path

    def rows(self, name: str) -> list[Row]:
        """Every row of a table. Raises ProtocolError."""
        rows = Folder((self.place,)).rows(f"{name}.tsv", COLUMNS[name])
        if not rows:
            raise ProtocolError(f"{self.place / name}.tsv: is missing or empty; restore the file")
        return rows

    def column(self, name: str, column: str) -> tuple[str, ...]:
        """One column, in file order."""
        return tuple(row.text(column) for row in self.rows(name))

    def group(self, name: str, key: str, column: str) -> dict[str, tuple[str, ...]]:
        """One column by the values of another, in file order."""
        found: dict[str, list[str]] = {}
        for row in self.rows(name):
            found.setdefault(row.text(key), []).append(row.text(column))
        return {key: tuple(texts) for key, texts in found.items()}

    def nest(self, name: str, outer: str, inner: str, column: str) -> dict[str, dict[str, str]]:
        """One column by the values of two others."""
        found: dict[str, dict[str, str]] = {}
        for row in self.rows(name):
            found.setdefault(row.text(outer), {})[row.text(inner)] = row.text(column)
        return found
