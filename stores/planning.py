"""Plans texts as rows: each emotion, topic and slot once, with its seed, however often planned.

Knows nothing of what becomes of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stores.database import Connection, now_text, transaction
from stores.errors import FingerprintMismatch
from stores.seeds import text_seed
from stores.texts import Kind

_KEY: dict[Kind, tuple[str, ...]] = {
    "stories": ("corpus", "emotion", "topic", "slot"),
    "dialogues": ("corpus", "topic", "slot"),
}


@dataclass(frozen=True, slots=True)
class PlannedText:
    """A text to be written; `emotion` is None for a neutral dialogue."""

    emotion: str | None
    topic: str
    slot: int
    seed: int


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


def _key_of(kind: Kind, corpus: str, text: PlannedText) -> tuple[str | int | None, ...]:
    if kind == "dialogues":
        return (corpus, text.topic, text.slot)
    return (corpus, text.emotion, text.topic, text.slot)
