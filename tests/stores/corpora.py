"""A small planned corpus, and the verbs of `stores.texts` with the settings that tests share."""

import sqlite3

from stores.corpora import open_corpus
from stores.planning import plan, plan_dialogues, plan_stories
from stores.texts import Kind, Lease, commit, lease

EMOTIONS, TOPICS = ("calm", "angry", "proud"), ("rain", "a letter")
MAX_ATTEMPTS = 3


def plan_corpus(
    conn: sqlite3.Connection, *, per_topic: int = 1, corpus: str = "toy", seed: int = 0
) -> int:
    """Six stories and two dialogues per slot."""
    open_corpus(conn, corpus, "sha256:p", {"topics.txt": "sha256:t"})
    stories = plan_stories(
        emotions=EMOTIONS, topics=TOPICS, per_topic=per_topic, corpus=corpus, seed=seed
    )
    dialogues = plan_dialogues(topics=TOPICS, per_topic=per_topic, corpus=corpus, seed=seed)
    return plan(conn, "stories", corpus, stories, now=0.0) + plan(
        conn, "dialogues", corpus, dialogues, now=0.0
    )


def take(
    conn: sqlite3.Connection, limit: int = 1, *, kind: Kind = "stories", now: float = 0.0
) -> list[Lease]:
    return lease(
        conn, kind, "toy", "me", limit=limit, now=now, seconds=60.0, max_attempts=MAX_ATTEMPTS
    )


def write(conn: sqlite3.Connection, held: Lease, text: str = "Once.") -> None:
    commit(conn, held, text=text, words=len(text.split()), generator="g", reply_id=None, now=9.0)


def row(conn: sqlite3.Connection, held: Lease) -> dict[str, object]:
    return dict(conn.execute(f"SELECT * FROM {held.kind} WHERE id = ?", (held.id,)).fetchone())
