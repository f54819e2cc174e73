"""Imports the stories of a file: the whole file is checked first, then its records are taken.

What is there already is left out, so that an import that died goes on when it is called again.
Knows nothing of formats, or of how a record is kept and judged.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from engine.intake import Intake, Slot, planned
from engine.marking import mark_corpus
from engine.rereading import Rereader
from stores.corpora import open_corpus, require_generator
from stores.database import Connection
from stores.errors import BadValue, FingerprintMismatch
from stores.imports import any_planned, waiting_imports
from stores.materials import unknown_emotion
from stores.planning import plan
from stores.protocol import Protocol
from stores.runs import STOPPED, recorded_run
from stores.storyfiles import StoryRecord, fault, file_digest, read_records
from stores.texts import reclaim

RECORDS_AT_ONCE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """What to take, and where to."""

    path: Path
    corpus: str
    generator: str | None
    """Who wrote the records that do not say so."""
    seed: int
    """What the corpus is planned with."""
    mixed: bool
    """The corpus may hold texts of several generators."""


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What became of the records of a file."""

    taken: int
    refused: Mapping[str, int]
    """By reason; slot_taken: the slot holds another text, and nothing was kept of the record."""
    already_there: int
    foreign_topics: int
    """Topics that the protocol does not have."""
    ignored: Mapping[str, int]
    """Keys that mean nothing here, with the number of their records."""
    stopped: bool


@dataclass(slots=True)
class Contents:
    """What a file holds, as far as it must be known before the first record is taken."""

    records: int = 0
    slots: dict[Slot, bytes] = field(default_factory=dict)
    """The slots that are given, each with a hash of its text."""
    generators: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)


def import_stories(
    conn: Connection,
    protocol: Protocol,
    settings: ImportSettings,
    *,
    progress: Callable[[int, int], None],
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
) -> ImportSummary:
    """Take every story of a file that is not there yet; `progress` is told records and total.

    A record without a slot gets the first that has no row and that no record of the file is given.
    One that fails a check leaves a planned row as it was; a row made for it is rejected. The caller
    holds the engine lock. May be stopped or killed anywhere and called again.

    Raises:
        BadValue: something in the file is wrong; names the line. Nothing was written.
        FingerprintMismatch: the corpus has another protocol, seed or generator.
    """
    contents, corpus = read_contents(settings.path, protocol, settings.generator), settings.corpus
    kept = _settings_kept(settings, contents)
    _refuse_mixing(conn, settings, contents)
    open_corpus(conn, corpus, protocol.digest, protocol.files, protocol.root)
    _refuse_other_seed(conn, settings, clock())
    reclaim(conn, now=clock())
    mark_corpus(conn, corpus)
    judge = Rereader(conn, protocol, "stories", corpus, clock)
    origin = {"protocol_digest": protocol.digest, "corpus": corpus}
    with recorded_run(conn, "import stories", kept, **origin) as run:
        seed, writer, given = settings.seed, settings.generator, contents.slots.keys()
        intake = Intake(conn, judge, seed, writer, given, run.id, clock)
        intake.judge(waiting_imports(conn, corpus))
        seen = 0
        for page in _pages(settings.path, stop):
            intake.take(page)
            seen += len(page)
            progress(seen, contents.records)
        if stop.is_set():
            run.outcome = STOPPED
    return ImportSummary(
        taken=intake.outcomes[None],
        refused={reason: n for reason, n in intake.outcomes.items() if reason is not None},
        already_there=intake.already_there,
        foreign_topics=len(contents.topics.difference(protocol.topics)),
        ignored=dict(contents.ignored),
        stopped=stop.is_set(),
    )


def read_contents(path: Path, protocol: Protocol, generator: str | None) -> Contents:
    """Read a file to its end. Raises BadValue, with the line, at whatever cannot be taken."""
    contents, emotions = Contents(), frozenset(protocol.names)
    for story in read_records(path):
        contents.records += 1
        if story.emotion not in emotions:
            raise fault(path, story.line, unknown_emotion(story.emotion, protocol.names))
        writer = story.generator or generator
        if writer is None:
            problem = "does not say who wrote it: add the key generator, or say --generator NAME"
            raise fault(path, story.line, problem)
        if story.slot is not None:
            slot = (story.emotion, story.topic, story.slot)
            text = hashlib.blake2b(story.text.encode(), digest_size=16).digest()
            if contents.slots.setdefault(slot, text) != text:
                problem = f"slot {story.slot} of this emotion and topic has another text above"
                raise fault(path, story.line, problem)
        contents.generators.add(writer)
        contents.topics.add(story.topic)
        contents.ignored.update(story.ignored)
    if not contents.records:
        raise BadValue(f"{path}: has no stories; a story has emotion, topic and text")
    return contents


def _pages(path: Path, stop: threading.Event) -> Iterator[list[StoryRecord]]:
    records = read_records(path)
    while not stop.is_set() and (page := list(islice(records, RECORDS_AT_ONCE))):
        yield page


def _settings_kept(settings: ImportSettings, contents: Contents) -> dict[str, object]:
    return {
        "file": settings.path.name,
        "digest": file_digest(settings.path),
        "records": contents.records,
        "generators": sorted(contents.generators),
        "seed": settings.seed,
        "mixed": settings.mixed,
    }


def _refuse_mixing(conn: Connection, settings: ImportSettings, contents: Contents) -> None:
    if settings.mixed:
        return
    writers = sorted(contents.generators)
    if len(writers) > 1:
        raise FingerprintMismatch(
            f"{settings.path} has stories by {', '.join(writers)}: say --mix-generators to have "
            "them all in one corpus"
        )
    require_generator(conn, "stories", settings.corpus, writers[0])


def _refuse_other_seed(conn: Connection, settings: ImportSettings, now: float) -> None:
    """The rows of a corpus have the seeds of one plan, so that any of them can be generated."""
    if row := any_planned(conn, settings.corpus):
        slot = (row.emotion or "", row.topic, row.slot)
        again = planned(settings.corpus, settings.seed, slot)
        plan(conn, "stories", settings.corpus, [again], now=now)
