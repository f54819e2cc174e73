"""What the ledger holds of stories that were read from files, and which slots are free for more.

Knows nothing of files, or of how a text is judged.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stores.database import Connection, canonical_json
from stores.planning import PlannedText, plan
from stores.replies import KeptReply

BACKEND, FINISHED = "import", "imported"
"""How a record stands among the replies: its backend and its finish reason."""
UNREAD = "unread"
"""The reason of a row made for a record that is not judged yet: no backend must be asked for it."""


@dataclass(frozen=True, slots=True)
class StoryRow:
    """What stands in one slot."""

    id: int
    is_open: bool
    """It has no text, and nobody holds it."""


def imported_digests(conn: Connection, corpus: str) -> set[str]:
    """The digest of every record of a corpus that was kept."""
    query = """SELECT prompt_sha FROM replies
               WHERE corpus = ? AND kind = 'stories' AND backend = ?"""
    return {row["prompt_sha"] for row in conn.execute(query, (corpus, BACKEND))}


def waiting_imports(conn: Connection, corpus: str) -> Iterator[KeptReply]:
    """The records that were kept and not judged, oldest first: an import died between the two."""
    query = """
        SELECT r.id, r.raw, r.finish_reason, r.model, c.text_ids
        FROM replies r JOIN calls c ON c.reply_id = r.id
        WHERE r.corpus = ? AND r.kind = 'stories' AND r.backend = ? AND NOT EXISTS
            (SELECT 1 FROM verdicts v WHERE v.reply_id = r.id) ORDER BY r.id"""
    for row in conn.execute(query, (corpus, BACKEND)).fetchall():
        reply_id, raw, finished, model, text_ids = row
        yield KeptReply(reply_id, raw, finished, model, tuple(json.loads(text_ids)))


def story_at(conn: Connection, corpus: str, emotion: str, topic: str, slot: int) -> StoryRow | None:
    """The row of one slot; None when the slot is free."""
    query = """SELECT id, status IN ('pending', 'rejected', 'failed') AS is_open FROM stories
               WHERE corpus = ? AND emotion = ? AND topic = ? AND slot = ?"""
    row = conn.execute(query, (corpus, emotion, topic, slot)).fetchone()
    return StoryRow(row["id"], bool(row["is_open"])) if row else None


def add_story(conn: Connection, corpus: str, planned: PlannedText, now: float) -> int:
    """Make the row of a free slot; its id."""
    plan(conn, "stories", corpus, [planned], now=now)
    query = "SELECT id FROM stories WHERE corpus = ? AND emotion = ? AND topic = ? AND slot = ?"
    slot = (corpus, planned.emotion, planned.topic, planned.slot)
    return int(conn.execute(query, slot).fetchone()[0])


def any_planned(conn: Connection, corpus: str) -> PlannedText | None:
    """Some row of a corpus as it was planned; None when it has no stories."""
    query = "SELECT emotion, topic, slot, seed FROM stories WHERE corpus = ? LIMIT 1"
    row = conn.execute(query, (corpus,)).fetchone()
    return PlannedText(*row) if row else None


def same_subject(conn: Connection, text_ids: Sequence[int], emotion: str, topic: str) -> list[str]:
    """Those of the stories that are done and about this emotion and topic."""
    query = """SELECT text FROM stories WHERE id IN (SELECT value FROM json_each(?))
               AND status = 'done' AND emotion = ? AND topic = ?"""
    rows = conn.execute(query, (canonical_json(list(text_ids)), emotion, topic))
    return [row["text"] for row in rows]
