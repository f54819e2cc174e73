"""What a judge said of snippets: does an emotion fit the text? Planned, asked, then answered.

A judgement is open until it has a score or a reason why it never will. Knows nothing of models.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from stores.database import Connection, now_text, transaction


@dataclass(frozen=True, slots=True)
class Question:
    """One emotion that is asked about one snippet; `emotion` is the one the snippet is of."""

    emotion: str
    document_id: int
    first: int
    asked: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A question and its answer: a score from 0 to 10, or none yet."""

    id: int
    question: Question
    judge: str
    score: float | None
    reason: str | None


def plan_judgements(
    conn: Connection,
    projection_id: int,
    layer: int,
    judge: str,
    prompt_sha: str,
    questions: Sequence[Question],
) -> int:
    """Open a judgement for each question; those that are there stay. Returns how many are new."""
    place, now = (projection_id, layer, judge, prompt_sha), now_text()
    rows = [(*place, q.emotion, q.document_id, q.first, q.asked, now) for q in questions]
    with transaction(conn):
        before = conn.total_changes
        conn.executemany(
            """INSERT OR IGNORE INTO judgements (projection_id, layer, judge, prompt_sha,
               emotion, document_id, first, asked, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            rows,
        )
        return conn.total_changes - before


def open_judgements(
    conn: Connection, projection_id: int, layer: int, judge: str, prompt_sha: str
) -> list[Judgement]:
    """Those without an answer, in the order they were planned."""
    query = """SELECT * FROM judgements WHERE projection_id = ? AND layer = ? AND judge = ?
               AND prompt_sha = ? AND score IS NULL AND reason IS NULL ORDER BY id"""
    return [
        _judgement(row) for row in conn.execute(query, (projection_id, layer, judge, prompt_sha))
    ]


def answer_judgement(
    conn: Connection,
    judgement_id: int,
    score: float | None,
    reason: str | None,
    reply_id: int | None,
) -> None:
    """Settle one, inside the caller's transaction. ValueError when it was settled before."""
    settled = conn.execute(
        """UPDATE judgements SET score = ?, reason = ?, reply_id = ?
           WHERE id = ? AND score IS NULL AND reason IS NULL""",
        (score, reason, reply_id, judgement_id),
    ).rowcount
    if settled != 1:
        raise ValueError(f"judgement {judgement_id} is unknown or settled already")


def read_judgements(conn: Connection, projection_id: int, layer: int) -> list[Judgement]:
    """Every judgement of a projection at one layer that still concerns a kept snippet.

    Of each judge those by the wording that it was asked last.
    """
    query = """SELECT j.* FROM judgements j JOIN snippets s USING
               (projection_id, layer, emotion, document_id, first)
               WHERE projection_id = ? AND layer = ? AND j.prompt_sha = (
                   SELECT k.prompt_sha FROM judgements k WHERE k.judge = j.judge
                   AND k.projection_id = j.projection_id AND k.layer = j.layer
                   ORDER BY k.id DESC LIMIT 1)
               ORDER BY j.id"""
    return [_judgement(row) for row in conn.execute(query, (projection_id, layer))]


def _judgement(row: sqlite3.Row) -> Judgement:
    question = Question(row["emotion"], row["document_id"], row["first"], row["asked"])
    return Judgement(row["id"], question, row["judge"], row["score"], row["reason"])
