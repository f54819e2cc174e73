"""Status counts every row of every stage once, and tells a pace only while something moves."""

import time

import pytest

from stores.database import Connection
from stores.status import PACE_SECONDS, STATUSES, Stage, read_stages
from stores.texts import lease, reject
from stores.workspace import Workspace
from tests.stores.arranged import CORPUS, READER, add_texts, extract


def stage(conn: Connection, name: str, now: float) -> Stage:
    return next(row for row in read_stages(conn, now=now) if row.stage == name)


def test_an_empty_ledger_has_no_stages(conn: Connection) -> None:
    assert read_stages(conn, now=0.0) == []


def test_rows_are_counted_by_status_and_refusals_by_reason(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 4)
    extract(conn, workspace)
    conn.execute("UPDATE stories SET status = 'pending', text = NULL WHERE id IN (1, 2)")
    for held in lease(conn, "stories", CORPUS, "w", limit=1, now=0.0, seconds=9.0, max_attempts=1):
        reject(conn, held, reason="leak", reply_id=None, max_attempts=1, now=0.0)
    written, read = stage(conn, "generate stories", 0.0), stage(conn, "extract stories", 0.0)
    assert written.rows == dict.fromkeys(STATUSES, 0) | {"pending": 1, "done": 2, "rejected": 1}
    assert written.reasons == {"leak": 1}
    assert (written.reader, read.reader, read.rows["done"]) == (None, READER, 4)


def test_time_left_follows_from_the_last_minute(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 30)  # settled at time 0
    extract(conn, workspace)  # receipted now
    conn.execute("UPDATE stories SET status = 'pending', text = NULL WHERE id <= 15")
    moving = stage(conn, "generate stories", PACE_SECONDS - 1)
    assert moving.rate == pytest.approx(15 / PACE_SECONDS)
    assert moving.seconds_left == pytest.approx(PACE_SECONDS)
    still = stage(conn, "generate stories", PACE_SECONDS + 1)
    assert (still.rate, still.seconds_left) == (None, None)
    reading = stage(conn, "extract stories", time.time())
    assert reading.rate == pytest.approx(30 / PACE_SECONDS)
    assert reading.seconds_left is None
