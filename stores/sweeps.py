"""Sweeps: two-option questions put to a model, the arms they are asked in, and every answer.

A sweep is found again by the digest of all that an answer hangs on, an arm by the digest of what is
added; so nothing is ever mixed, and what is there need not be asked again. Knows nothing of models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.database import Connection, canonical_json, now_text, storable, transaction
from stores.errors import NotReady


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A prompt of a sweep: the columns of `questions`; spans and places as 'start:end'."""

    question: int
    first: int
    second: int
    text: str
    read_token: str
    read_at: int
    words_first: str
    span_first: str
    words_second: str
    span_second: str
    steered: str


@dataclass(frozen=True, slots=True)
class ArmRow:
    """What an arm adds: `norms` are the lengths of the vectors at `layers`."""

    digest: str
    name: str
    kind: str
    strength: float
    layers: tuple[int, ...]
    norms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a zero arm was replayed; None as long as it never was."""

    drift: float | None
    method: str | None
    reason: str | None


QUESTION_COLUMNS = tuple(field.name for field in fields(QuestionRow))


def find_sweep(conn: Connection, reader: str, digest: str) -> int | None:
    """The id of a sweep; None when it was never opened."""
    query = "SELECT id FROM sweeps WHERE reader = ? AND digest = ?"
    found = conn.execute(query, (reader, digest)).fetchone()
    return None if found is None else int(found["id"])


def open_sweep(
    conn: Connection,
    reader: str,
    digest: str,
    settings: Mapping[str, Any],
    questions: Iterable[QuestionRow],
    run_id: int,
) -> int:
    """The id of the sweep with this digest; planned now, with all its questions, if it is new."""
    with transaction(conn):
        sweep_id = find_sweep(conn, reader, digest)
        if sweep_id is not None:
            return sweep_id
        cursor = conn.execute(
            "INSERT INTO sweeps (reader, digest, settings, run_id, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (reader, digest, canonical_json(dict(settings)), run_id, now_text()),
        )
        sweep_id = int(cursor.lastrowid or 0)
        marks = ", ".join("?" * (1 + len(QUESTION_COLUMNS)))
        conn.executemany(
            f"INSERT INTO questions (sweep_id, {', '.join(QUESTION_COLUMNS)}) VALUES ({marks})",
            ((sweep_id, *map(_storable, astuple(question))) for question in questions),
        )
    return sweep_id


def plan_arms(conn: Connection, sweep_id: int, arms: Sequence[ArmRow], run_id: int) -> list[int]:
    """The id of each arm, in order; those that are new get one. Equal digests share an id."""
    with transaction(conn):
        conn.executemany(
            "INSERT INTO arms (sweep_id, digest, name, kind, strength, layers, norms, run_id, "
            "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (
                    sweep_id,
                    arm.digest,
                    arm.name,
                    arm.kind,
                    arm.strength,
                    canonical_json(arm.layers),
                    canonical_json(arm.norms),
                    run_id,
                    now_text(),
                )
                for arm in arms
            ],
        )
        ids = _arm_ids(conn, sweep_id)
    return [ids[arm.digest] for arm in arms]


def find_arms(conn: Connection, sweep_id: int, digests: Sequence[str]) -> list[int]:
    """The ids of these arms. NotReady when the sweep lacks one."""
    ids = _arm_ids(conn, sweep_id)
    if missing := [digest for digest in digests if digest not in ids]:
        raise NotReady(
            f"sweep {sweep_id} was not asked in {len(missing)} of {len(digests)} arms; "
            "run `cli.py verify` again"
        )
    return [ids[digest] for digest in digests]


def _arm_ids(conn: Connection, sweep_id: int) -> dict[str, int]:
    query = "SELECT digest, id FROM arms WHERE sweep_id = ?"
    return dict(map(tuple, conn.execute(query, (sweep_id,))))


def count_answers(conn: Connection, sweep_id: int) -> dict[tuple[int, int], int]:
    """How many answers each arm has to the questions of each first option: (arm id, first) -> n."""
    query = """
        SELECT a.arm_id, q.first, count(*) FROM questions q
        JOIN arms m ON m.sweep_id = q.sweep_id
        JOIN answers a ON a.arm_id = m.id AND a.question = q.question
        WHERE q.sweep_id = ? GROUP BY 1, 2"""
    return {(arm, first): n for arm, first, n in conn.execute(query, (sweep_id,))}


def write_answers(
    conn: Connection, arm_id: int, questions: Sequence[int], logits: NDArray[np.floating[Any]]
) -> None:
    """Keep the logits [questions, 2] of "A" and "B", in place of any that were there."""
    with transaction(conn):
        conn.executemany(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
            [
                (arm_id, question, a, b)
                for question, (a, b) in zip(questions, logits.tolist(), strict=True)
            ],
        )


def note_replay(conn: Connection, arm_id: int, drift: float, method: str, reason: str) -> None:
    """Keep how a zero arm was replayed: the largest drift ever, the last method and its reason."""
    with transaction(conn):
        conn.execute(
            "UPDATE arms SET drift = max(coalesce(drift, 0), ?), method = ?, reason = ? "
            "WHERE id = ?",
            (drift, method, reason, arm_id),
        )


def read_replay(conn: Connection, arm_id: int) -> Replayed:
    """How an arm was replayed."""
    query = "SELECT drift, method, reason FROM arms WHERE id = ?"
    return Replayed(*conn.execute(query, (arm_id,)).fetchone())


def read_steered(conn: Connection, sweep_id: int) -> NDArray[np.bool_]:
    """Of each question in order, whether any of its tokens is steered [questions]."""
    query = "SELECT steered <> '' FROM questions WHERE sweep_id = ? ORDER BY question"
    return np.array([bool(row[0]) for row in conn.execute(query, (sweep_id,))])


def read_logits(conn: Connection, arm_id: int, n: int) -> NDArray[np.float64]:
    """The logits [n, 2] of "A" and "B" of an arm, by question; NaN where there is no answer."""
    logits = np.full((n, 2), np.nan)
    query = "SELECT question, logit_a, logit_b FROM answers WHERE arm_id = ?"
    cursor = conn.cursor()
    cursor.row_factory = None
    if found := cursor.execute(query, (arm_id,)).fetchall():
        rows = np.array(found)
        logits[rows[:, 0].astype(int)] = rows[:, 1:]
    return logits


def _storable(cell: str | int) -> str | int:
    return storable(cell) if isinstance(cell, str) else cell
