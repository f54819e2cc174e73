"""Status counts every row of every stage once, and tells a pace only while something moves."""

import time

import pytest

from stores.database import Connection
from stores.encodings import BANKS, commit_codes
from stores.status import PACE_SECONDS, STATUSES, Stage, read_stages
from stores.texts import lease, reject
from stores.workspace import Workspace
from tests.stores.arranged import CORPUS, READER, add_texts, extract
from tests.stores.encoding import add_pooled, begin_encoding, encode, failed, keep
from tests.stores.projecting import add_sample, begin_pass, project


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


def test_a_projection_counts_the_documents_of_its_sample(conn: Connection) -> None:
    project(conn, begin_pass(conn, add_sample(conn, 10)), chunks=2)
    project(conn, begin_pass(conn, add_sample(conn, 3, "chats"), reader="other"))
    whole, halfway = read_stages(conn, now=0.0)
    assert (halfway.corpus, halfway.stage, halfway.reader) == ("main", "project notes", "toy")
    assert halfway.rows == dict.fromkeys(STATUSES, 0) | {"pending": 2, "done": 7, "rejected": 1}
    assert (halfway.reasons, halfway.rate) == ({"too_short": 1}, None)
    assert (whole.stage, whole.rows["done"], whole.rows["pending"]) == ("project chats", 3, 0)


def test_of_several_passes_over_a_source_the_last_one_counts(conn: Connection) -> None:
    project(conn, begin_pass(conn, add_sample(conn, 10)))
    begin_pass(conn, add_sample(conn, 4, seed=1))
    (begun,) = read_stages(conn, now=0.0)
    assert begun.rows == dict.fromkeys(STATUSES, 0) | {"pending": 4}


def test_a_pass_that_is_asked_for_again_counts_again(conn: Connection) -> None:
    older = begin_pass(conn, add_sample(conn, 10))
    newer = begin_pass(conn, add_sample(conn, 4, seed=1))
    for asked, documents in ((older, 10), (newer, 4), (older, 10)):
        time.sleep(0.002)  # the ledger's clock counts milliseconds
        project(conn, asked)
        (counted,) = read_stages(conn, now=0.0)
        assert sum(counted.rows.values()) == documents


def sae_stages(conn: Connection) -> list[Stage]:
    return [row for row in read_stages(conn, now=0.0) if row.stage.startswith("sae ")]


def test_a_pass_under_an_sae_is_told_until_it_is_finished(
    conn: Connection, workspace: Workspace
) -> None:
    add_pooled(conn, workspace, 6)
    encoding = begin_encoding(conn)
    keep(conn, encoding, (1, 2))
    keep(conn, encoding, (4,), "dialogues")
    commit_codes(conn, encoding, "stories", [failed(3, bank) for bank in BANKS])
    (begun,) = sae_stages(conn)
    assert (begun.corpus, begun.stage, begun.reader) == (CORPUS, "sae small", READER)
    assert begun.rows == dict.fromkeys(STATUSES, 0) | {"done": 3, "failed": 1, "pending": 8}
    assert (begun.reasons, begun.rate) == ({"out_of_memory": 1}, None)
    encode(conn, encoding)
    assert sae_stages(conn) == []


def test_a_pass_that_gave_way_to_another_is_not_told(
    conn: Connection, workspace: Workspace
) -> None:
    add_pooled(conn, workspace, 2)
    begin_encoding(conn)
    newer = begin_encoding(conn, seed=1)
    keep(conn, newer, (1,))
    assert [stage.rows["done"] for stage in sae_stages(conn)] == [1]
    encode(conn, newer, 2)
    assert sae_stages(conn) == []
