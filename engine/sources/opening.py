"""Which source a user means: of the catalogue, on the hub, a path, or one that was drawn before.

Knows nothing of how a source is read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.sources.base import Found, Source
from engine.sources.choosing import LOWEST
from stores.database import Connection
from stores.errors import BadValue, UsageError
from stores.samples import known_samples

HUB = "hub:"
Split = Literal["auto", "file", "paragraph", "line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was said of a source; None where nothing was."""

    name: str | None = None
    text_field: str | None = None
    split: Split = "auto"
    """How a .txt file is cut into documents."""
    config: str | None = None
    hub_split: str | None = None
    hub_revision: str | None = None


def open_source(conn: Connection, corpus: str, wanted: Wanted, *, seed: int, size: int) -> Source:
    """`pile`, `lmsys`, `hub:OWNER/NAME`, a path, or the name of what was drawn from a path before.

    Raises EngineError, one line, for all else. A source of the hub comes in an order given by
    `seed`; where a sample of `size` documents was drawn from it before, the hub is not asked again,
    so that every model reads the same ones. Files may be gone: their sample goes by its name.
    """
    from engine.sources.catalogue import find_source, read_catalogue
    from engine.sources.files import open_files
    from engine.sources.hub import open_hub

    if not corpus.strip():
        raise UsageError("CORPUS is empty; an empty path would be the folder that you are in")
    listed = find_source(corpus)
    if listed is None and not corpus.startswith(HUB):
        _refuse_hub_options(corpus, wanted)
        path = Path(corpus).expanduser()
        if not path.exists():
            split = None if wanted.split == "auto" else wanted.split
            cut = {"text_field": wanted.text_field, "split": split}
            drawn = _find_drawn(conn, corpus, cut, seed, size)
            if drawn and wanted.name in (None, corpus):
                return drawn
            raise BadValue(
                f"no source {corpus!r}: write {', '.join(read_catalogue())}, hub:OWNER/NAME, "
                "the path of a .jsonl, .jsonl.zst, .parquet or .txt file or of a folder of them, "
                "or the name of a sample that was drawn with the same --seed and --samples"
            )
        name = wanted.name or slug(path.resolve().name)
        return open_files(path, name=name, text_field=wanted.text_field, split=wanted.split)
    if wanted.split != "auto":
        raise UsageError(f"--split cuts .txt files, and {corpus} is a data set on the hub")
    name = wanted.name or (corpus if listed else slug(corpus.rpartition("/")[2]))
    dataset = listed.dataset if listed else corpus.removeprefix(HUB)
    asked = {
        "config": wanted.config or (listed.config if listed else None),
        "split": wanted.hub_split or (listed.split if listed else None),
        "text_field": wanted.text_field or (listed.text_field if listed else None),
        "revision": wanted.hub_revision,
    }
    if drawn := _find_drawn(conn, name, {"dataset": dataset, **asked}, seed, size):
        return drawn
    part_field = listed.part_field if listed else None
    return open_hub(name, seed=seed, dataset=dataset, part_field=part_field, **asked)


@dataclass(slots=True)
class _Drawn:
    """A source that need not be read: the sample that is wanted was drawn from it before."""

    name: str
    settings: Mapping[str, Any]
    whole: bool

    def read(self) -> Iterator[Found]:
        raise RuntimeError(f"the sample of {self.name} is complete and was to be read again")


def _find_drawn(
    conn: Connection, name: str, asked: Mapping[str, Any], seed: int, size: int
) -> _Drawn | None:
    """The newest finished sample that was drawn from what is asked for, as a source."""
    for sample in reversed(known_samples(conn)):
        origin = sample.settings["source"]
        there = {**origin, "text_field": origin.get("field")}
        same = all(value is None or there.get(key) == value for key, value in asked.items())
        drawn = (sample.source, sample.settings["seed"], sample.settings["size"])
        if sample.finished and same and drawn == (name, seed, size):
            return _Drawn(name, origin, sample.settings["rule"] == LOWEST)
    return None


def slug(name: str) -> str:
    """A file's or data set's name as the name of a source: its stem, without odd characters."""
    stem = re.sub(r"(\.(jsonl|json|zst|gz|parquet|txt|ndjson))+$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "source"


def _refuse_hub_options(corpus: str, wanted: Wanted) -> None:
    for option in ("config", "hub_split", "hub_revision"):
        if getattr(wanted, option) is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} is about data sets on the hub, and {corpus} is none"
            )
