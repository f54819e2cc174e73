"""What is wrong with passes under SAEs is found, and mended by withdrawing exactly that."""

from contextlib import closing

import pytest

from stores.damage import Finding
from stores.database import Connection, open_database
from stores.encodings import encoded_texts, every_encoding
from stores.integrity import inspect, repair
from stores.rows import plan_rows
from stores.workspace import Workspace
from tests.stores.arranged import HERE, add_texts, change_text, extract
from tests.stores.encoding import add_pooled, begin_encoding, encode, keep

PLACE = "toy/main/small/pass 1"
ALL = {1, 2, 3, 4, 5, 6}


def found(conn: Connection, workspace: Workspace, fault: bool = True) -> list[Finding]:
    every = inspect(conn, workspace, now=0.0)
    return [each for each in every if each.thing in ("codes", "encoding") and each.fault == fault]


def told(conn: Connection, workspace: Workspace, fault: bool = True) -> list[tuple[str, str]]:
    return [(f.place, f.problem) for f in found(conn, workspace, fault)]


@pytest.fixture
def encoded(conn: Connection, workspace: Workspace) -> Connection:
    """Two finished passes."""
    add_pooled(conn, workspace)
    for name in ("small", "large"):
        encode(conn, begin_encoding(conn, name))
    return conn


def texts(conn: Connection) -> list[set[int]]:
    """Stories that have codes, by pass."""
    by_id = sorted(every_encoding(conn), key=lambda each: each.id)
    return [encoded_texts(conn, each, "stories") for each in by_id]


def test_sound_passes_have_no_finding(encoded: Connection, workspace: Workspace) -> None:
    assert told(encoded, workspace) == told(encoded, workspace, fault=False) == []
    with closing(open_database(workspace.database, read_only=True)) as reader:
        assert told(reader, workspace) == []


def test_a_torn_row_withdraws_its_text_under_both_banks_alone(
    encoded: Connection, workspace: Workspace
) -> None:
    which = "encoding_id = 1 AND kind = 'stories' AND bank = 'control' AND text_id = 3"
    encoded.execute(f"UPDATE codes SET means = x'00' WHERE {which}")
    problem = "12 bytes of features do not fit 1 of codes"
    assert told(encoded, workspace) == [(f"{PLACE} stories 3 control", problem)]
    assert repair(encoded, workspace, found(encoded, workspace)) == 1
    assert (told(encoded, workspace), texts(encoded)) == ([], [ALL - {3}, ALL])
    left = [(PLACE, "1 texts have no codes")]
    assert told(encoded, workspace, fault=False) == left
    assert [each.finished for each in every_encoding(encoded)] == [False, True]


def test_a_row_without_its_other_bank_is_withdrawn(
    encoded: Connection, workspace: Workspace
) -> None:
    encoded.execute(
        "DELETE FROM codes WHERE bank = 'sae' AND text_id IN (2, 5) AND encoding_id = 1"
    )
    assert told(encoded, workspace) == [(PLACE, "4 rows lack those of the other bank")]
    assert repair(encoded, workspace, found(encoded, workspace)) == 1
    assert (told(encoded, workspace), texts(encoded)) == ([], [ALL - {2, 5}, ALL])


def test_codes_of_texts_that_were_read_again_are_removed_and_no_fault(
    encoded: Connection, workspace: Workspace
) -> None:
    change_text(encoded, 2, "other words altogether")
    plan_rows(encoded, *HERE)
    extract(encoded, workspace)
    problems = ["2 rows are of texts that were withdrawn or read again since"]
    problems += ["1 texts have no codes"]
    assert told(encoded, workspace) == []
    here = [problem for place, problem in told(encoded, workspace, fault=False) if place == PLACE]
    assert here == problems
    repair(encoded, workspace, found(encoded, workspace, fault=False))
    kept = encoded.execute("SELECT count(*) FROM codes WHERE kind = 'stories' AND text_id = 2")
    assert (kept.fetchone()[0], texts(encoded)) == (0, [ALL - {2}] * 2)
    assert {problem for _, problem in told(encoded, workspace, fault=False)} == {problems[1]}


def test_codes_of_texts_that_wait_to_be_read_again_as_they_were_are_left_alone(
    encoded: Connection, workspace: Workspace
) -> None:
    encoded.execute("UPDATE activations SET status = 'pending', tokens = NULL")
    encoded.execute("DELETE FROM receipts")
    assert told(encoded, workspace, fault=False) == []
    extract(encoded, workspace)
    assert texts(encoded) == [ALL, ALL]


def test_texts_that_came_later_are_a_warning_that_repairs_nothing(
    encoded: Connection, workspace: Workspace
) -> None:
    add_texts(encoded, 2, topic="snow")
    extract(encoded, workspace)
    (small, large) = found(encoded, workspace, fault=False)
    assert (small.place, small.problem) == (PLACE, "2 texts have no codes")
    assert small.repair == "run the same `sae compare` command again"
    assert (small.mend, large.mend) == (None, None)


def test_a_pass_that_was_not_finished_is_a_warning(conn: Connection, workspace: Workspace) -> None:
    add_pooled(conn, workspace, 2)
    encoding = begin_encoding(conn)
    keep(conn, encoding, (1, 2))
    assert told(conn, workspace, fault=False) == [(PLACE, "2 texts have no codes")]
    keep(conn, encoding, (1, 2), "dialogues")
    assert told(conn, workspace, fault=False) == [(PLACE, "it was not finished")]
    assert told(conn, workspace) == []
