"""What was sent to a model or an API and what came back, kept before anything parses it.

A call is recorded before it is sent, so that one whose reply never arrived is counted, not lost.
Knows nothing of prompts, stories or prices. Secrets must not reach it: it keeps what it is given.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from stores.database import Connection, canonical_json, now_text, storable, transaction
from stores.texts import Kind

RECORDED = "recorded"

AskedFor = Kind | Literal["snippets"]
"""What a call is about: texts to be written, or snippets to be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRow:
    """A raw reply with what it cost and where it came from, as a row of `replies`."""

    run_id: int | None
    corpus: str
    """Of the texts; the source of the documents where snippets are judged."""
    kind: AskedFor
    prompt_sha: str
    backend: str
    model: str
    seed: int | None
    raw: str
    finish_reason: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    provider_reason: str | None = None
    response_id: str | None = None
    model_version: str | None = None
    endpoint: str | None = None
    asked: int = 1


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A stored reply and the rows it was asked for, in the order of its texts."""

    id: int
    raw: str
    finish_reason: str
    model: str
    text_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spending:
    """What the replies of one corpus, kind and model used up; `cost_usd` None: no price known."""

    corpus: str
    kind: AskedFor
    backend: str
    model: str
    replies: int
    prompt_tokens: int
    output_tokens: int
    thinking_tokens: int
    cost_usd: float | None
    wrong_number: int
    """Replies with fewer or more texts than they were asked for."""


_COLUMNS = tuple(field.name for field in fields(ReplyRow))
_INSERT = f"""INSERT INTO replies ({", ".join(_COLUMNS)}, created_at)
    VALUES ({", ".join("?" * (len(_COLUMNS) + 1))})"""


def send(
    conn: Connection, run_id: int | None, kind: AskedFor, text_ids: Sequence[int], now: float
) -> int:
    """Record that a call is about to be sent for these rows; returns the id of the call."""
    with transaction(conn):
        cursor = conn.execute(
            "INSERT INTO calls (run_id, kind, text_ids, sent_at) VALUES (?, ?, ?, ?)",
            (run_id, kind, canonical_json(list(text_ids)), now_text(now)),
        )
    return int(cursor.lastrowid or 0)


def record(conn: Connection, call_id: int, reply: ReplyRow, now: float) -> int:
    """Keep a raw reply, durably, and close its call; returns the id of the reply."""
    values = [getattr(reply, column) for column in _COLUMNS]
    kept = [storable(value) if isinstance(value, str) else value for value in values]
    with transaction(conn):
        reply_id = int(conn.execute(_INSERT, (*kept, now_text(now))).lastrowid or 0)
        _close(conn, call_id, RECORDED, reply_id)
    return reply_id


def record_error(conn: Connection, call_id: int, error: str) -> None:
    """Close a call that the backend answered with an error."""
    with transaction(conn):
        _close(conn, call_id, storable(f"error: {error}"), None)


def note_found(conn: Connection, reply_id: int, found: int | None) -> None:
    """Keep how many texts were found in a reply; None for one that is of no use as a whole."""
    # `IS NOT` spares a rewrite of the whole row, raw text included, where nothing changed
    changed = "UPDATE replies SET found = :found WHERE id = :id AND found IS NOT :found"
    conn.execute(changed, {"found": found, "id": reply_id})


def orphaned_calls(conn: Connection) -> int:
    """Calls sent and never closed: lost in a crash, or in flight while an engine runs."""
    return int(conn.execute("SELECT count(*) FROM calls WHERE outcome IS NULL").fetchone()[0])


def iter_replies(conn: Connection, kind: Kind, corpus: str) -> Iterator[KeptReply]:
    """Every reply of a corpus, oldest first, one at a time; the corpus may change meanwhile."""
    query = """SELECT r.id, r.raw, r.finish_reason, r.model, c.text_ids
        FROM replies r JOIN calls c ON c.reply_id = r.id
        WHERE r.corpus = ? AND r.kind = ? AND r.id > ? ORDER BY r.id LIMIT 200"""
    last = 0
    while page := conn.execute(query, (corpus, kind, last)).fetchall():
        for row in page:
            ids = tuple(json.loads(row["text_ids"]))
            yield KeptReply(row["id"], row["raw"], row["finish_reason"], row["model"], ids)
        last = page[-1]["id"]


def read_spending(conn: Connection) -> list[Spending]:
    """What the replies used up, by corpus, kind, backend and model."""
    query = """SELECT corpus, kind, backend, model, count(*), coalesce(sum(prompt_tokens), 0),
            coalesce(sum(output_tokens), 0), coalesce(sum(thinking_tokens), 0), sum(cost_usd),
            coalesce(sum(found <> asked), 0)
        FROM replies GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
    return [Spending(*row) for row in conn.execute(query)]


def _close(conn: Connection, call_id: int, outcome: str, reply_id: int | None) -> None:
    changed = conn.execute(
        "UPDATE calls SET outcome = ?, reply_id = ? WHERE id = ? AND outcome IS NULL",
        (outcome, reply_id, call_id),
    ).rowcount
    if changed != 1:
        raise ValueError(f"call {call_id} is unknown or closed already")
