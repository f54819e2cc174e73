"""Draws a sample of documents from a source, once, whichever model reads it later.

A source that can be read whole gives the distinct texts of the lowest ranks, where a text's rank is
a hash of it and the seed: a uniform sample of the distinct texts, the same whatever their order
or file format, and the smaller of two sizes is a part of the larger. A stream, shuffled by itself,
gives its first distinct texts. Memory follows the size of the sample, not that of the source. Knows
nothing of files, hubs or models.
"""

import threading
from collections import Counter
from collections.abc import Callable

from engine.sources.base import Found, Source
from engine.sources.choosing import FIRST, LOWEST, Choice, First, Lowest
from stores.database import Connection, digest
from stores.errors import BadValue, Stopped
from stores.runs import recorded_run
from stores.samples import (
    Drawn,
    Sample,
    drop_documents,
    find_sample,
    finish_sample,
    keep_documents,
    kept_ranks,
    open_sample,
)

MAX_CHARACTERS = 50_000
"""Of a longer document the beginning is kept; its length and digest are those of the whole."""

MOST_DOCUMENTS = 10**9
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1_000, 4_000_000
TELL_EVERY = 100

Progress = Callable[[int, int], None]


def draw_sample(
    conn: Connection,
    source: Source,
    *,
    size: int,
    seed: int,
    progress: Progress,
    stop: threading.Event,
) -> Sample:
    """The sample of `size` documents (fewer where the source has fewer), drawn if it is not there.

    Its settings are {source: the source's own, seed, size, rule, characters}. `progress` is told
    documents seen and kept. `skipped` counts each fault by its name, blank texts as 'empty', and
    'duplicate': further copies of documents of the sample (of all texts, they would not fit).

    Raises:
        BadValue: `size` is below 1 or above MOST_DOCUMENTS.
        NotReady: no document has a text.
        FingerprintMismatch: a stream was begun before and now gives other documents.
        Stopped: `stop` was set; what was kept is still there, and another call begins anew.
        EngineError: from the source.
    """
    if not 1 <= size <= MOST_DOCUMENTS:
        raise BadValue(f"a sample of {size} documents: --samples is 1 to {MOST_DOCUMENTS:,}")
    settings = {
        "source": dict(source.settings),
        "seed": seed,
        "size": size,
        "rule": LOWEST if source.whole else FIRST,
        "characters": MAX_CHARACTERS,
    }
    sample = find_sample(conn, source.name, settings)
    if sample is not None and sample.finished:
        return sample
    with recorded_run(conn, "sample", {"name": source.name, **settings}) as run:
        sample = open_sample(conn, source.name, settings, run.id)
        keeper = _Keeper(conn, sample, _choice(conn, source, sample, size, seed), size)
        seen, skipped = _read(source, keeper, progress, stop)
        return finish_sample(conn, sample.id, seen=seen, skipped=skipped)


class _Keeper:
    """Hands what is drawn to the ledger, many documents at a time."""

    def __init__(self, conn: Connection, sample: Sample, choice: Choice, size: int) -> None:
        self._conn, self._sample, self._size = conn, sample, size
        self.choice = choice
        self._drawn: list[Drawn] = []
        self._characters = 0

    def offer(self, found: Found, text: str) -> None:
        payload = text.encode("utf-8", "backslashreplace")
        text_sha = digest(payload)
        rank = self.choice.admit(text_sha)
        if rank is None:
            return
        if len(payload) > len(text):  # else ASCII, which is stored as it is
            text = payload.decode()
        kept = text[:MAX_CHARACTERS]
        self._drawn.append(Drawn(rank, found.place, kept, len(text), text_sha, found.part))
        self._characters += len(kept)
        if len(self._drawn) >= BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        drawn = [each for each in self._drawn if self.choice.holds(each.rank)]
        keep_documents(self._conn, self._sample.id, drawn, self._size)
        self._drawn, self._characters = [], 0


def _choice(conn: Connection, source: Source, sample: Sample, size: int, seed: int) -> Choice:
    if not source.whole:
        return First(source.name, size, kept_ranks(conn, sample.id))
    drop_documents(conn, sample.id)  # of a draw that was cut off: all is read again
    return Lowest(size, seed)


def _read(
    source: Source, keeper: _Keeper, progress: Progress, stop: threading.Event
) -> tuple[int, dict[str, int]]:
    """Documents seen, and how many of them were skipped for which reason."""
    seen, skipped, choice = 0, Counter[str](), keeper.choice
    for found in source.read():
        if stop.is_set():
            keeper.flush()
            raise Stopped(
                f"{source.name}: stopped after {seen} documents; run the same command again"
            )
        seen += 1
        if fault := fault_of(found):
            skipped[fault] += 1
        elif found.text is not None:
            keeper.offer(found, found.text)
        if seen % TELL_EVERY == 0:
            progress(seen, len(choice))
        if choice.full:
            break
    choice.close()
    keeper.flush()
    progress(seen, len(choice))
    if choice.duplicates:
        skipped["duplicate"] = choice.duplicates
    return seen, dict(skipped)


def fault_of(found: Found) -> str | None:
    """Why there is no text to read; None when there is one."""
    if found.text is None:
        return found.fault or "no_text"
    return "empty" if not found.text or found.text.isspace() else None
