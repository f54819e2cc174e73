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

`planning` adds the rows, `amending` changes rows that nobody holds. Knows nothing of models,
prompts or replies.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from stores.database import Connection, canonical_json, now_text, storable, transaction
from stores.errors import LeaseLost

Kind = Literal["stories", "dialogues"]
KINDS: tuple[Kind, ...] = ("stories", "dialogues")
MAX_CRASHES = 6

_EMOTION: dict[Kind, str] = {"stories": "emotion", "dialogues": "NULL AS emotion"}
_OF: dict[Kind, str] = {"stories": "AND emotion = ?", "dialogues": ""}


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
    per_call: int = 1,
    held: int = 0,
) -> list[Lease]:
    """Take pending rows until `now + seconds`; at most `limit` are out then. Costs an attempt each.

    `held` rows are out already. With `per_call` above 1, up to that many rows of one emotion and
    topic are taken together, for one call. Leases that expired by `now` are void first: an attempt
    that ends in silence counts. An empty list means that nothing is pending only when nothing is
    held; a short one means nothing.
    """
    if limit < 0:
        raise ValueError(f"limit must not be negative, not {limit}")
    with transaction(conn):
        _expire(conn, kind, corpus, now=now, max_attempts=max_attempts)
        fewest = f"SELECT min(crashes) FROM {kind} WHERE corpus = ? AND status = 'pending'"
        crashes = conn.execute(fewest, (corpus,)).fetchone()[0] or 0
        share = min(limit, max(1, limit >> 2 * crashes)) - held
        chosen = _choose(conn, kind, (corpus, crashes), max(share, 0), per_call)
        token = f"{owner}#{os.urandom(8).hex()}"
        rows = conn.execute(
            f"""UPDATE {kind} SET status = 'leased', attempts = attempts + 1, owner = ?,
                    lease_until = ?, updated_at = ?
                WHERE id IN (SELECT value FROM json_each(?))
                RETURNING id, corpus, {_EMOTION[kind]}, topic, slot, seed, attempts, owner""",
            (token, now + seconds, now_text(now), canonical_json(chosen)),
        ).fetchall()
    return sorted((Lease(kind, *row) for row in rows), key=lambda taken: taken.id)


def _expire(conn: Connection, kind: Kind, corpus: str, *, now: float, max_attempts: int) -> None:
    conn.execute(
        f"""UPDATE {kind} SET {_abandon_if("attempts >= :max_attempts")}
            WHERE corpus = :corpus AND status = 'leased' AND lease_until <= :clock""",
        {"max_attempts": max_attempts, "corpus": corpus, "clock": now, "now": now_text(now)},
    )


def _choose(
    conn: Connection, kind: Kind, level: tuple[str, int], limit: int, per_call: int
) -> list[int]:
    """Ids of up to `limit` pending rows of one corpus and number of crashes, by call."""
    pending = f"FROM {kind} WHERE corpus = ? AND crashes = ? AND status = 'pending'"
    calls = -(-limit // per_call)
    first = conn.execute(
        f"SELECT id, {_EMOTION[kind]}, topic {pending} ORDER BY id LIMIT ?", (*level, calls)
    ).fetchall()
    if per_call == 1:
        return [row["id"] for row in first]
    mates = f"SELECT id {pending} AND topic = ? {_OF[kind]} ORDER BY slot LIMIT ?"
    chosen: list[int] = []
    for emotion, topic in dict.fromkeys((row["emotion"], row["topic"]) for row in first):
        key = (*level, topic) if emotion is None else (*level, topic, emotion)
        wanted = min(per_call, limit - len(chosen))
        chosen += [row["id"] for row in conn.execute(mates, (*key, wanted))]
    return chosen


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


def reclaim(conn: Connection, *, now: float, suspects: bool = True) -> int:
    """Take back the leases of an engine that died; returns how many.

    Only for the holder of the engine lock, before its first lease: it knows that nobody else is
    alive. The attempt is given back. If the rows are `suspects`, one of them may have killed the
    engine: a crash is counted, and crash number MAX_CRASHES ends the row.
    """
    changes = _abandon_if(f":suspects AND crashes + 1 >= {MAX_CRASHES}")
    with transaction(conn):
        return sum(
            conn.execute(
                f"""UPDATE {kind} SET {changes}, attempts = attempts - 1,
                    crashes = crashes + :suspects WHERE status = 'leased'""",
                {"now": now_text(now), "suspects": int(suspects)},
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
