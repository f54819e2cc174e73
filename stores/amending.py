"""Changes to texts that nobody holds: for the holder of the engine lock, outside any generation.

    pending, rejected, failed --fill-------> done
    pending, rejected, failed --turn_down--> rejected, or rejected for another reason
    done                      --replace----> done, with another reading of the same reply
    done                      --withdraw---> pending, to be asked for again

Knows nothing of why: a changed parser, a changed filter or an import may ask for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stores.database import Connection, canonical_json, now_text, storable
from stores.texts import Kind

OPEN = frozenset({"pending", "rejected", "failed"})
_OPEN = "('pending', 'rejected', 'failed')"
_EMOTION: dict[Kind, str] = {"stories": "t.emotion", "dialogues": "NULL"}


@dataclass(frozen=True, slots=True)
class AskedText:
    """A row that a reply was asked for, as it is now."""

    id: int
    emotion: str | None
    status: str
    text: str | None
    reason: str | None
    reply_id: int | None
    """The reply that settled it last."""
    attempt: int
    """Which attempt at it the reply was, as far as that is known."""

    @property
    def is_open(self) -> bool:
        """It has no text, and nobody holds it."""
        return self.status in OPEN


def read_asked(
    conn: Connection, kind: Kind, reply_id: int, text_ids: Sequence[int]
) -> dict[int, AskedText]:
    """The rows that a reply was asked for, by id."""
    query = f"""
        SELECT t.id, {_EMOTION[kind]}, t.status, t.text, t.reason, t.reply_id,
               coalesce(v.attempt, t.attempts)
        FROM {kind} t LEFT JOIN verdicts v ON v.reply_id = ? AND v.text_id = t.id
        WHERE t.id IN (SELECT value FROM json_each(?))"""
    rows = conn.execute(query, (reply_id, canonical_json(list(text_ids))))
    return {row["id"]: AskedText(*row) for row in rows}


def count_replies(conn: Connection, corpus: str) -> int:
    """How many replies of a corpus are kept."""
    query = "SELECT count(*) FROM replies WHERE corpus = ?"
    return int(conn.execute(query, (corpus,)).fetchone()[0])


def texts_before(
    conn: Connection, kind: Kind, asked: AskedText, text_ids: Sequence[int]
) -> dict[int, str]:
    """Those of the texts that are done and came before the row's own, by id."""
    query = f"""SELECT id, text FROM {kind} WHERE status = 'done'
        AND id IN (SELECT value FROM json_each(?)) AND (coalesce(reply_id, 0), id) < (?, ?)"""
    values = (canonical_json(list(text_ids)), asked.reply_id or 0, asked.id)
    return dict(conn.execute(query, values).fetchall())


def fill(
    conn: Connection,
    kind: Kind,
    text_id: int,
    *,
    text: str,
    generator: str,
    reply_id: int,
    now: float,
) -> bool:
    """Write a text into a row that has none; False, and nothing written, if it is done or held."""
    return _change(
        conn,
        f"""UPDATE {kind} SET status = 'done', text = ?, words = ?, generator = ?, reply_id = ?,
            reason = NULL, updated_at = ? WHERE id = ? AND status IN {_OPEN}""",
        (storable(text), len(text.split()), generator, reply_id, now_text(now), text_id),
    )


def turn_down(
    conn: Connection, kind: Kind, text_id: int, *, reason: str, reply_id: int, now: float
) -> bool:
    """Reject a row for good, or say another reason why it is; False if it is done or held."""
    return _change(
        conn,
        f"""UPDATE {kind} SET status = 'rejected', reason = ?, reply_id = ?, updated_at = ?
            WHERE id = ? AND status IN {_OPEN}""",
        (storable(reason), reply_id, now_text(now), text_id),
    )


def replace(conn: Connection, kind: Kind, text_id: int, *, text: str, now: float) -> bool:
    """Write another reading of the same reply into a done row; False if the row is not done."""
    return _change(
        conn,
        f"""UPDATE {kind} SET text = ?, words = ?, updated_at = ?
            WHERE id = ? AND status = 'done'""",
        (storable(text), len(text.split()), now_text(now), text_id),
    )


def withdraw(conn: Connection, kind: Kind, text_id: int, *, reason: str, now: float) -> bool:
    """Take a done text back, to be asked for again; False if the row is not done.

    Its attempts stay counted: from the same attempt follows the same seed, and from that, where a
    model is repeatable, the same text. Its reply stays kept.
    """
    return _change(
        conn,
        f"""UPDATE {kind} SET status = 'pending', text = NULL, words = NULL, generator = NULL,
            crashes = 0, reason = ?, updated_at = ? WHERE id = ? AND status = 'done'""",
        (storable(reason), now_text(now), text_id),
    )


def _change(conn: Connection, statement: str, values: tuple[object, ...]) -> bool:
    return conn.execute(statement, values).rowcount == 1
