"""How far every stage of every corpus is, and how fast it moves. Imports nothing heavy."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from stores.database import Connection, now_text
from stores.encodings import VALID
from stores.replies import Spending, orphaned_calls, read_spending
from stores.rows import count_rows
from stores.texts import KINDS, counts
from stores.verdicts import CheckRate, check_rates

PACE_SECONDS = 60.0
STATUSES = ("pending", "leased", "done", "rejected", "failed")

# of several passes of a reader over samples of one source, the one begun or asked for last
_PROJECTED = """
    SELECT p.corpus, s.source, p.reader, coalesce(r.status, 'pending'), r.reason, count(*)
    FROM projections p
    JOIN samples s ON s.id = p.sample_id
    JOIN documents d ON d.sample_id = s.id
    LEFT JOIN projected r ON r.projection_id = p.id AND r.document_id = d.id
    WHERE NOT EXISTS (
        SELECT 1 FROM projections q JOIN samples t ON t.id = q.sample_id
        WHERE t.source = s.source AND q.reader = p.reader AND q.corpus = p.corpus
            AND (coalesce(q.finished_at, q.created_at), q.id)
                > (coalesce(p.finished_at, p.created_at), p.id))
    GROUP BY p.id, 4, 5 ORDER BY p.corpus, p.reader, s.source, 4, 5"""

# of several passes of a reader under one SAE, the one begun or asked for last, unless it is whole
_ENCODED = f"""
    SELECT n.corpus, n.name, n.reader, coalesce(v.status, 'pending'), v.reason, count(*)
    FROM encodings n
    JOIN activations p ON p.reader = n.reader AND p.corpus = n.corpus AND p.status = 'done'
    LEFT JOIN (SELECT c.encoding_id, c.kind, c.text_id, c.status, c.reason {VALID}
               WHERE c.bank = 'sae' AND e.finished_at IS NULL) v
        ON v.encoding_id = n.id AND v.kind = p.kind AND v.text_id = p.text_id
    WHERE n.finished_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM encodings o
        WHERE o.reader = n.reader AND o.corpus = n.corpus AND o.name = n.name
            AND (coalesce(o.finished_at, o.created_at), o.id) > (n.created_at, n.id))
    GROUP BY n.id, 4, 5 ORDER BY n.corpus, n.reader, n.name, 4, 5"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one corpus; `reasons` says why rows were rejected or failed."""

    corpus: str
    stage: str
    """generate stories, generate dialogues, extract stories, extract dialogues, project SOURCE,
    sae NAME (only while it is not finished)"""
    reader: str | None
    rows: dict[str, int]
    """Status -> number of rows, every status named."""
    reasons: dict[str, int]
    rate: float | None
    """Rows settled per second over the last minute; None when nothing moved."""

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None when nothing moves or nothing is left."""
        left = self.rows["pending"] + self.rows["leased"]
        return left / self.rate if self.rate and left else None


@dataclass(frozen=True, slots=True)
class ImportedSet:
    """Vectors that came from files."""

    reader: str
    corpus: str
    layers: int
    emotions: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """All that `status` tells."""

    stages: list[Stage]
    imported: list[ImportedSet]
    checks: list[CheckRate]
    spending: list[Spending]
    orphaned_calls: int

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "stages": [{**asdict(row), "seconds_left": row.seconds_left} for row in self.stages],
            "imported": [asdict(row) for row in self.imported],
            "checks": [{**asdict(row), "rate": row.rate} for row in self.checks],
            "spending": [asdict(row) for row in self.spending],
            "orphaned_calls": self.orphaned_calls,
        }


def read_status(conn: Connection, *, now: float) -> Status:
    """How far everything is, how often texts were refused, and what replies used up."""
    checks, spending = check_rates(conn), read_spending(conn)
    stages, imported = read_stages(conn, now=now), read_imported(conn)
    return Status(stages, imported, checks, spending, orphaned_calls(conn))


def read_imported(conn: Connection) -> list[ImportedSet]:
    """Every set of vectors that came from files."""
    query = """SELECT reader, corpus, count(DISTINCT layer), json_array_length(emotions), settings
        FROM vectors WHERE json_extract(settings, '$.imported') IS NOT NULL
        GROUP BY reader, corpus ORDER BY reader, corpus"""
    return [
        ImportedSet(reader, corpus, layers, emotions, _file_names(settings))
        for reader, corpus, layers, emotions, settings in conn.execute(query)
    ]


def _file_names(settings: str) -> tuple[str, ...]:
    return tuple(each["file"] for each in json.loads(settings)["imported"])


def read_stages(conn: Connection, *, now: float) -> list[Stage]:
    """Every stage that has rows, in the order of the work."""
    pace = _paces(conn, now)
    found: dict[tuple[str, str, str | None], list[tuple[str, str | None, int]]] = defaultdict(list)
    for row in counts(conn):
        found[row.corpus, f"generate {row.kind}", None].append((row.status, row.reason, row.n))
    for read in count_rows(conn):
        key = (read.corpus, f"extract {read.kind}", read.reader)
        found[key].append((read.status, read.reason, read.n))
    for corpus, source, reader, status, reason, n in conn.execute(_PROJECTED):
        found[corpus, f"project {source}", reader].append((status, reason, n))
    for corpus, name, reader, status, reason, n in conn.execute(_ENCODED):
        found[corpus, f"sae {name}", reader].append((status, reason, n))
    return [_stage(*key, rows, pace.get(key)) for key, rows in found.items()]


def _stage(
    corpus: str,
    stage: str,
    reader: str | None,
    found: list[tuple[str, str | None, int]],
    rate: float | None,
) -> Stage:
    rows, reasons = dict.fromkeys(STATUSES, 0), dict[str, int]()
    for status, reason, n in found:
        rows[status] += n
        if status in ("rejected", "failed") and reason:
            reasons[reason] = reasons.get(reason, 0) + n
    return Stage(corpus, stage, reader, rows, reasons, rate)


def _paces(conn: Connection, now: float) -> dict[tuple[str, str, str | None], float]:
    """Texts settled and rows receipted in the last minute, per second, by stage."""
    since = now_text(now - PACE_SECONDS)
    found: dict[tuple[str, str, str | None], float] = {}
    for kind in KINDS:
        settled = conn.execute(
            f"""SELECT corpus, count(*) AS n FROM {kind} WHERE updated_at > ?
                AND status IN ('done', 'rejected', 'failed') GROUP BY corpus""",
            (since,),
        )
        found |= {(r["corpus"], f"generate {kind}", None): r["n"] / PACE_SECONDS for r in settled}
    written = conn.execute(
        """SELECT reader, corpus, kind, sum(rows) / count(DISTINCT layer) AS n FROM receipts
           WHERE created_at > ? GROUP BY reader, corpus, kind""",
        (since,),
    )
    return found | {
        (r["corpus"], f"extract {r['kind']}", r["reader"]): r["n"] / PACE_SECONDS for r in written
    }
