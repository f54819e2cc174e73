"""Which texts an SAE is trained on and which are held out: known from the ledger, before any pass.

Whole topics are held out, because texts of one topic share too much. Knows nothing of tokens.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.features.training.settings import TrainingSettings
from stores.database import Connection, canonical_json, digest
from stores.errors import NotReady, UsageError
from stores.rows import read_rows, read_texts
from stores.samples import Sample, count_documents, known_samples, read_documents
from stores.texts import KINDS, Kind

DOCUMENT_TOKENS = 512
"""Content tokens read of a document of a sample."""
CHARACTERS_PER_TOKEN = 4
"""About: how long a document is taken to be where buffers are cut."""


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text and where it is kept: a story or a dialogue, or a document of a sample."""

    id: int
    """Its position, of a document."""
    tokens: int
    """Content tokens: of a document about."""
    sha: str
    kind: Kind | None = None
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """What is trained on, what is held out, and the held out topics by kind."""

    training: tuple[StoredText, ...]
    held_out: tuple[StoredText, ...]
    topics: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of all that is read, in order."""
        seen = hashlib.sha256()
        for each in (*self.training, None, *self.held_out):
            seen.update(b"|" if each is None else canonical_json([each.kind, each.sha]).encode())
        return f"sha256:{seen.hexdigest()}"


def choose_texts(conn: Connection, settings: TrainingSettings) -> Texts:
    """The stories and dialogues that the reader has pooled, and the documents of samples.

    A topic is held out for stories and dialogues alike. Raises NotReady when there is nothing to
    train on or nothing to hold out, UsageError for a sample that was not drawn.
    """
    rows = [
        (row.topic, StoredText(row.text_id, row.tokens or 0, row.text_sha, kind))
        for kind in KINDS
        for row in read_rows(conn, settings.reader, settings.corpus, kind)
        if row.status == "done"
    ]
    held = set[str]()
    for kind in KINDS:
        topics = dict.fromkeys(topic for topic, text in rows if text.kind == kind)
        held |= _choose_topics(list(topics), settings)
    training = [text for topic, text in rows if topic not in held]
    held_out = [text for topic, text in rows if topic in held]
    if not training or not held_out:
        raise NotReady(
            f"reader {settings.reader} has read {len(rows)} texts of corpus {settings.corpus}, and "
            "at least two topics are needed; run `cli.py extract` on a corpus with more topics"
        )
    documents = [text for source in settings.samples for text in _documents(conn, source)]
    return Texts((*training, *documents), tuple(held_out), tuple(sorted(held)))


def _choose_topics(topics: Sequence[str], settings: TrainingSettings) -> set[str]:
    """A seeded share of them, at least one; none of a single one."""
    if len(topics) < 2:
        return set()
    count = min(math.ceil(settings.held_out * len(topics)), len(topics) - 1)
    drawn = np.random.default_rng([settings.seed, 0]).permutation(len(topics))[:count]
    return {topics[i] for i in drawn}


def _documents(conn: Connection, source: str) -> Iterable[StoredText]:
    """Of the newest sample of that source that was drawn to its end."""
    sample = _newest(conn, source)
    for each in read_documents(conn, sample.id, 0, count_documents(conn, sample.id)):
        tokens = min(DOCUMENT_TOKENS, 1 + each.characters // CHARACTERS_PER_TOKEN)
        yield StoredText(each.position, tokens, each.text_sha, sample=sample.id)


def _newest(conn: Connection, source: str) -> Sample:
    drawn = [each for each in known_samples(conn) if each.source == source and each.finished]
    if not drawn:
        raise UsageError(
            f"no sample of source {source} was drawn to its end; draw it with "
            f"`cli.py project {source}` or leave it out"
        )
    return drawn[-1]


def load_texts(conn: Connection, texts: Sequence[StoredText]) -> list[str]:
    """The texts themselves, in order. NotReady for one that is no longer what the reader read."""
    found: dict[StoredText, str] = {}
    for kind in KINDS:
        own = [each for each in texts if each.kind == kind]
        loaded = read_texts(conn, kind, [each.id for each in own])
        found |= {
            each: loaded[each.id] for each in own if digest(loaded.get(each.id, "")) == each.sha
        }
    for each in texts:
        if each.sample is not None:  # a finished sample never changes
            found[each] = read_documents(conn, each.sample, each.id, 1)[0].text
    if changed := len(texts) - len(found):
        raise NotReady(f"{changed} texts changed since they were read; run `cli.py extract` again")
    return [found[each] for each in texts]
