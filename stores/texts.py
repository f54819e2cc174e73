"""Stories and neutral dialogues as rows. Every change of state is one verb in one transaction.

    plan --> pending --lease--> leased --commit---> done, for ever
                ^                  |---reject---> pending; 'rejected' when no attempt is left
                |                  |---fail-----> pending; 'failed' when no attempt is left
                |                  |---release--> pending; the attempt is given back
                |                  |   expiry --> pending; 'failed' when no attempt is left
                +------------------+---reclaim--> pending; 'failed' after MAX_CRASHES crashes

Rows that end by expiry or by crashes have the reason 'abandoned'. A lease is fenced by its owner,
unique to each call of `lease`, and its attempt: a worker that comes back late writes nothing.

A crash is not the fault of most rows in flight, so their attempts are given back; but one of them
may have caused it. Rows are therefore leased in order of crashes, those of a crash last, and a
quarter as many at a time after each: a row that kills the engine ends up alone, and fails alone.

Knows nothing of models, prompts or replies.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stores.database import Connection, now_text, storable, transaction
from stores.errors import FingerprintMismatch, LeaseLost
from stores.seeds import text_seed

Kind = Literal["stories", "dialogues"]
KINDS: tuple[Kind, ...] = ("stories", "dialogues")
MAX_CRASHES = 6

_KEY: dict[Kind, tuple[str, ...]] = {
    "stories": ("corpus", "emotion", "topic", "slot"),
    "dialogues": ("corpus", "topic", "slot"),
}
_EMOTION: dict[Kind, str] = {"stories": "emotion", "dialogues": "NULL AS emotion"}


@dataclass(frozen=True, slots=True)
class PlannedText:
    """A text to be written; `emotion` is None for a neutral dialogue."""

    emotion: str | None
    topic: str
    slot: int
    seed: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to settle one row. `attempt` counts from 1; `owner` and `attempt` fence it."""

    kind: Kind
    id: int
    corpus: str
    emotion: str | None
    topic: str
    slot: int
    seed: int
    attempt: int
    owner: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows of a corpus share a status and a reason."""

    corpus: str
    kind: Kind
    status: str
    reason: str | None
    n: int


def plan_stories(
    *, emotions: Sequence[str], topics: Sequence[str], per_topic: int, corpus: str, seed: int
) -> list[PlannedText]:
    """Every (slot, topic, emotion), emotions fastest, so that the first rows cover them all."""
    return [
        PlannedText(emotion, topic, slot, text_seed(corpus, seed, "stories", emotion, topic, slot))
        for slot in range(per_topic)
        for topic in topics
        for emotion in emotions
    ]


def plan_dialogues(
    *, topics: Sequence[str], per_topic: int, corpus: str, seed: int
) -> list[PlannedText]:
    """Every (slot, topic), topics fastest."""
    return [
        PlannedText(None, topic, slot, text_seed(corpus, seed, "dialogues", topic, slot))
        for slot in range(per_topic)
        for topic in topics
    ]


def plan(
    conn: Connection, kind: Kind, corpus: str, texts: Sequence[PlannedText], *, now: float
) -> int:
    """Add the rows that are not there yet and return how many; never changes a row.

    Raises FingerprintMismatch when the corpus holds these texts with another seed.
    """
    key, moment = _KEY[kind], now_text(now)
    columns = (*key, "seed", "created_at", "updated_at")
    insert = f"""INSERT INTO {kind} ({", ".join(columns)}) VALUES ({", ".join("?" * len(columns))})
                 ON CONFLICT ({", ".join(key)}) DO NOTHING"""
    planned = f"SELECT 1 FROM {kind} WHERE {' AND '.join(f'{name} = ?' for name in (*key, 'seed'))}"
    rows = ((*_key_of(kind, corpus, text), text.seed, moment, moment) for text in texts)
    with transaction(conn):
        added = conn.executemany(insert, rows).rowcount
        for first in texts[:1]:  # one stands for all: every seed derives from the corpus's own
            if not conn.execute(planned, (*_key_of(kind, corpus, first), first.seed)).fetchone():
                raise FingerprintMismatch(
                    f"{kind} of corpus {corpus!r} were planned with another seed: give the --seed "
                    "they were planned with, or a new --corpus"
                )
    return max(added, 0)


def lease(
    conn: Connection,
    kind: Kind,
    corpus: str,
    owner: str,
    *,
    limit: int,
    now: float,
    seconds: float,
    max_attempts: int,
) -> list[Lease]:
    """Take up to `limit` pending rows until `now + seconds`, ordered by id; each costs an attempt.

    Leases that expired by `now` are void first: an attempt that ends in silence counts. Only an
    empty list (of a `limit` above 0) means that nothing is pending; a short one means nothing.
    """
    if limit < 0:
        raise ValueError(f"limit must not be negative, not {limit}")
    with transaction(conn):
        conn.execute(
            f"""UPDATE {kind} SET {_abandon_if("attempts >= :max_attempts")}
                WHERE corpus = :corpus AND status = 'leased' AND lease_until <= :clock""",
            {"max_attempts": max_attempts, "corpus": corpus, "clock": now, "now": now_text(now)},
        )
        fewest = f"SELECT min(crashes) FROM {kind} WHERE corpus = ? AND status = 'pending'"
        crashes = conn.execute(fewest, (corpus,)).fetchone()[0] or 0
        token, share = f"{owner}#{os.urandom(8).hex()}", min(limit, max(1, limit >> 2 * crashes))
        rows = conn.execute(
            f"""UPDATE {kind} SET status = 'leased', attempts = attempts + 1, owner = ?,
                    lease_until = ?, updated_at = ?
                WHERE id IN (SELECT id FROM {kind} WHERE corpus = ? AND status = 'pending'
                             AND crashes = ? ORDER BY id LIMIT ?)
                RETURNING id, corpus, {_EMOTION[kind]}, topic, slot, seed, attempts, owner""",
            (token, now + seconds, now_text(now), corpus, crashes, share),
        ).fetchall()
    return sorted((Lease(kind, *row) for row in rows), key=lambda taken: taken.id)


def renew(conn: Connection, leases: Iterable[Lease], *, now: float, seconds: float) -> list[Lease]:
    """Extend leases to `now + seconds`; returns those that are still held."""
    until = {"until": now + seconds}
    with transaction(conn):
        return [held for held in leases if _write(conn, held, "lease_until = :until", until)]


def release(conn: Connection, leases: Iterable[Lease], *, now: float) -> int:
    """Put rows back as they were before the lease (a stop is no failure); skips lost leases."""
    back = f"status = 'pending', attempts = attempts - 1, {_UNOWNED}"
    with transaction(conn):
        return sum(_write(conn, held, back, {"now": now_text(now)}) for held in leases)


def commit(
    conn: Connection,
    held: Lease,
    *,
    text: str,
    words: int,
    generator: str,
    reply_id: int | None,
    now: float,
) -> None:
    """Write the text and the status 'done' together. Raises LeaseLost, and then writes nothing."""
    values = {"text": storable(text), "words": words, "generator": generator, "reply_id": reply_id}
    done = "text = :text, words = :words, generator = :generator, reply_id = :reply_id"
    _settle(conn, held, now, done, {**values, "status": "done", "reason": None})


def reject(
    conn: Connection,
    held: Lease,
    *,
    reason: str,
    reply_id: int | None,
    max_attempts: int,
    now: float,
) -> None:
    """Refuse what came back: another attempt, or 'rejected' for good. Raises LeaseLost."""
    status = "pending" if held.attempt < max_attempts else "rejected"
    values = {"status": status, "reason": storable(reason), "reply_id": reply_id}
    _settle(conn, held, now, "reply_id = :reply_id", values)


def fail(conn: Connection, held: Lease, *, reason: str, max_attempts: int, now: float) -> None:
    """Nothing came back: another attempt, or 'failed' for good. Raises LeaseLost."""
    status = "pending" if held.attempt < max_attempts else "failed"
    _settle(conn, held, now, "reply_id = NULL", {"status": status, "reason": storable(reason)})


def reclaim(conn: Connection, *, now: float) -> int:
    """Take back the leases of an engine that died; returns how many.

    Only for the holder of the engine lock, before its first lease: it knows that nobody else is
    alive. The attempt is given back and a crash is counted; crash number MAX_CRASHES ends the row.
    """
    changes = _abandon_if(f"crashes + 1 >= {MAX_CRASHES}")
    with transaction(conn):
        return sum(
            conn.execute(
                f"""UPDATE {kind} SET {changes}, attempts = attempts - 1, crashes = crashes + 1
                    WHERE status = 'leased'""",
                {"now": now_text(now)},
            ).rowcount
            for kind in KINDS
        )


def counts(conn: Connection) -> list[Counts]:
    """Every (corpus, kind, status, reason) that occurs, with its number of rows."""
    return [
        Counts(corpus, kind, status, reason, n)
        for kind in KINDS
        for corpus, status, reason, n in conn.execute(
            f"SELECT corpus, status, reason, count(*) FROM {kind} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
    ]


_UNOWNED = "owner = NULL, lease_until = NULL, updated_at = :now"


def _abandon_if(condition: str) -> str:
    return f"""status = CASE WHEN {condition} THEN 'failed' ELSE 'pending' END,
               reason = CASE WHEN {condition} THEN 'abandoned' ELSE reason END, {_UNOWNED}"""


def _write(conn: Connection, held: Lease, changes: str, values: Mapping[str, object]) -> bool:
    """Change the leased row if the lease still holds; False, and nothing written, if not."""
    token = {"id": held.id, "owner": held.owner, "attempt": held.attempt}
    statement = f"""UPDATE {held.kind} SET {changes}
        WHERE id = :id AND owner = :owner AND attempts = :attempt AND status = 'leased'"""
    return conn.execute(statement, {**values, **token}).rowcount == 1


def _settle(
    conn: Connection, held: Lease, now: float, changes: str, values: Mapping[str, object]
) -> None:
    verdict = f"status = :status, reason = :reason, {changes}, {_UNOWNED}"
    with transaction(conn):
        if not _write(conn, held, verdict, {**values, "now": now_text(now)}):
            raise LeaseLost(
                f"{held.kind} row {held.id} is no longer leased to {held.owner} (attempt "
                f"{held.attempt}): nothing was written; another worker has it or has settled it"
            )


def _key_of(kind: Kind, corpus: str, text: PlannedText) -> tuple[str | int | None, ...]:
    if kind == "dialogues":
        return (corpus, text.topic, text.slot)
    return (corpus, text.emotion, text.topic, text.slot)
