"""What became of each text that a reply was asked for: accepted, or refused for which reason.

A row of `stories` remembers only its last reason; here every look at every reply stands, so that
the rate of each check is known. Knows nothing of how a text is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stores.database import Connection
from stores.texts import Kind


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one text of a reply; `part` is None when the reply had none for it."""

    reply_id: int
    text_id: int
    corpus: str
    kind: Kind
    part: int | None
    attempt: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class CheckRate:
    """How many of the texts judged in a corpus were refused for one reason."""

    corpus: str
    kind: Kind
    reason: str
    n: int
    judged: int

    @property
    def rate(self) -> float:
        return self.n / self.judged


def write_verdicts(conn: Connection, verdicts: Sequence[Verdict]) -> None:
    """Keep judgements; a later look at the same reply and text replaces the earlier one."""
    conn.executemany(
        "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(v.reply_id, v.text_id, v.corpus, v.kind, v.part, v.attempt, v.reason) for v in verdicts],
    )


def check_rates(conn: Connection) -> list[CheckRate]:
    """The rate of every reason that occurs, the commonest of each corpus first."""
    query = """
        SELECT corpus, kind, reason, n, sum(n) OVER (PARTITION BY corpus, kind) AS judged FROM
            (SELECT corpus, kind, reason, count(*) AS n FROM verdicts GROUP BY corpus, kind, reason)
        ORDER BY corpus, kind, n DESC"""
    return [CheckRate(*row) for row in conn.execute(query) if row["reason"] is not None]
