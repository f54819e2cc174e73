"""Rows that one call asks for are leased together, and a row that kills ends up alone."""

import sqlite3
from itertools import groupby

import pytest

from stores.corpora import open_corpus
from stores.planning import plan, plan_dialogues, plan_stories
from stores.texts import MAX_CRASHES, Kind, Lease, lease, reclaim, reject
from tests.stores.corpora import EMOTIONS, TOPICS


@pytest.fixture(autouse=True)
def planned(conn: sqlite3.Connection) -> None:
    open_corpus(conn, "toy", "p", {})
    stories = plan_stories(emotions=EMOTIONS, topics=TOPICS, per_topic=6, corpus="toy", seed=0)
    dialogues = plan_dialogues(topics=TOPICS, per_topic=6, corpus="toy", seed=0)
    plan(conn, "stories", "toy", stories, now=0.0)
    plan(conn, "dialogues", "toy", dialogues, now=0.0)


def take(
    conn: sqlite3.Connection,
    *,
    limit: int,
    per_call: int = 4,
    held: int = 0,
    kind: Kind = "stories",
    now: float = 0.0,
) -> list[Lease]:
    return lease(
        conn,
        kind,
        "toy",
        "one",
        limit=limit,
        per_call=per_call,
        held=held,
        now=now,
        seconds=60.0,
        max_attempts=9,
    )


def calls(leases: list[Lease]) -> dict[tuple[str | None, str], list[int]]:
    def key(each: Lease) -> tuple[str | None, str]:
        return (each.emotion, each.topic)

    ordered = sorted(leases, key=lambda each: (each.emotion or "", each.topic, each.slot))
    return {k: [each.slot for each in rows] for k, rows in groupby(ordered, key)}


def test_a_call_takes_the_slots_of_one_emotion_and_topic(conn: sqlite3.Connection) -> None:
    found = calls(take(conn, limit=12))
    first_topic = TOPICS[0]
    assert found == {(emotion, first_topic): [0, 1, 2, 3] for emotion in sorted(EMOTIONS[:3])}


def test_a_dialogue_needs_no_emotion(conn: sqlite3.Connection) -> None:
    found = calls(take(conn, limit=8, kind="dialogues"))
    assert found == {(None, topic): [0, 1, 2, 3] for topic in TOPICS[:2]}


def test_every_row_is_taken_once_in_calls_that_are_full_but_for_the_last(
    conn: sqlite3.Connection,
) -> None:
    taken: list[Lease] = []
    sizes: list[int] = []
    while found := take(conn, limit=len(taken) + 8, held=len(taken)):
        taken += found
        sizes += [len(slots) for slots in calls(found).values()]
    rows = conn.execute("SELECT count(*) FROM stories").fetchone()[0]
    assert len({each.id for each in taken}) == len(taken) == rows
    assert set(sizes) == {4, 2}


def test_no_more_rows_are_out_than_the_limit(conn: sqlite3.Connection) -> None:
    assert len(take(conn, limit=10)) == 10
    assert len(take(conn, limit=10, held=10)) == 0
    assert len(take(conn, limit=10, held=7)) == 3


def test_refused_slots_are_asked_for_with_the_open_ones_of_their_prompt(
    conn: sqlite3.Connection,
) -> None:
    leases = take(conn, limit=4)
    for held in leases[1:3]:
        reject(conn, held, reason="leak", reply_id=None, max_attempts=9, now=1.0)
    again = take(conn, limit=1000, held=2, per_call=4)
    prompt = (leases[0].emotion, leases[0].topic)
    mine = [each for each in again if (each.emotion, each.topic) == prompt]
    assert [(each.slot, each.attempt) for each in mine] == [(1, 2), (2, 2), (4, 1), (5, 1)]


def test_a_row_that_kills_the_engine_ends_up_alone(conn: sqlite3.Connection) -> None:
    """Each life takes what it may, and dies if the killer is among it; nobody else is given up."""
    killer = conn.execute("SELECT id FROM stories ORDER BY id LIMIT 1 OFFSET 2").fetchone()["id"]
    sizes = []
    for _ in range(200):
        reclaim(conn, now=0.0)
        taken: list[Lease] = []
        while found := take(conn, limit=24, held=len(taken)):
            taken += found
            if killer in {each.id for each in taken}:
                sizes.append(len(taken))
                break
            for held in found:
                reject(conn, held, reason="x", reply_id=None, max_attempts=1, now=0.0)
            taken = []
        else:
            break
    assert len(sizes) == MAX_CRASHES
    assert sizes[-1] == 1
    states = conn.execute("SELECT status, count(*) FROM stories GROUP BY status").fetchall()
    rows = sum(n for _, n in states)
    assert dict(states) == {"failed": 1, "rejected": rows - 1}
