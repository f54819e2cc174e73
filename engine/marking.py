"""Finds texts that are too like one that is done already, by marks kept in the ledger.

Marks say which few texts to compare; only the comparison decides. Knows nothing of replies or rows'
states beyond that only finished texts are marked.
"""

from engine.duplicates import MARKS_RULE, Marks, find_duplicate, text_marks
from stores.corpora import iter_done, marks_rule, read_texts, set_marks_rule
from stores.database import Connection, transaction
from stores.marks import add_marks, marked_texts
from stores.texts import KINDS, Kind


def mark_space(kind: Kind, corpus: str) -> str:
    """What keeps the marks of one kind and corpus apart from all others."""
    return f"{kind}/{corpus}"


def find_double(conn: Connection, kind: Kind, marks: Marks, text: str) -> str | None:
    """Why a text is too like one of its corpus that is done, or None."""
    likely = sorted(marked_texts(conn, marks.all))
    return find_duplicate(text, read_texts(conn, kind, likely).values()) if likely else None


def mark_corpus(conn: Connection, corpus: str) -> int:
    """Mark every finished text, where that was never done by today's rule; how many it marked."""
    if marks_rule(conn, corpus) == MARKS_RULE:
        return 0
    marked = 0
    with transaction(conn):
        for kind in KINDS:
            for text_id, text in iter_done(conn, kind, corpus):
                add_marks(conn, text_id, text_marks(text, mark_space(kind, corpus)).all)
                marked += 1
        set_marks_rule(conn, corpus, MARKS_RULE)
    return marked
