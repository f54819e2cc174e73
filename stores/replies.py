"""What was sent to a model or an API and what came back, kept before anything parses it.

A call is recorded before it is sent, so that one whose reply never arrived is counted, not lost.
Knows nothing of prompts, stories or prices. Secrets must not reach it: it keeps what it is given.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from stores.database import Connection, canonical_json, now_text, storable, transaction
from stores.texts import Kind

RECORDED = "recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRow:
    """A raw reply with what it cost and where it came from, as a row of `replies`."""

    run_id: int | None
    corpus: str
    kind: Kind
    prompt_sha: str
    backend: str
    model: str
    seed: int | None
    raw: str
    finish_reason: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None


def send(
    conn: Connection, run_id: int | None, kind: Kind, text_ids: Sequence[int], now: float
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
    with transaction(conn):
        values = [storable(v) if isinstance(v, str) else v for v in astuple(reply)]
        cursor = conn.execute(
            """INSERT INTO replies (run_id, corpus, kind, prompt_sha, backend, model, seed, raw,
                   finish_reason, prompt_tokens, output_tokens, latency_s, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (*values, now_text(now)),
        )
        reply_id = int(cursor.lastrowid or 0)
        _close(conn, call_id, RECORDED, reply_id)
    return reply_id


def record_error(conn: Connection, call_id: int, error: str) -> None:
    """Close a call that the backend answered with an error."""
    with transaction(conn):
        _close(conn, call_id, storable(f"error: {error}"), None)


def orphaned_calls(conn: Connection) -> int:
    """Calls sent and never closed: lost in a crash, or in flight while an engine runs."""
    return int(conn.execute("SELECT count(*) FROM calls WHERE outcome IS NULL").fetchone()[0])


def _close(conn: Connection, call_id: int, outcome: str, reply_id: int | None) -> None:
    changed = conn.execute(
        "UPDATE calls SET outcome = ?, reply_id = ? WHERE id = ? AND outcome IS NULL",
        (outcome, reply_id, call_id),
    ).rowcount
    if changed != 1:
        raise ValueError(f"call {call_id} is unknown or closed already")
