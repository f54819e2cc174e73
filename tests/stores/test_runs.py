"""A run's row tells how its block ended."""

import pytest

from stores.database import Connection
from stores.runs import STOPPED, recorded_run


def outcome(conn: Connection) -> str | None:
    row = conn.execute("SELECT outcome, ended_at FROM runs ORDER BY id DESC").fetchone()
    assert (row["outcome"] is None) == (row["ended_at"] is None)
    return None if row["outcome"] is None else str(row["outcome"])


def test_a_run_is_open_while_its_block_runs_and_done_after(conn: Connection) -> None:
    with recorded_run(conn, "extract", {"layers": [1]}, reader="toy", corpus="main") as run:
        assert outcome(conn) is None
    assert outcome(conn) == "done"
    row = conn.execute("SELECT * FROM runs WHERE id = ?", (run.id,)).fetchone()
    assert (row["command"], row["settings"]) == ("extract", '{"layers":[1]}')
    assert (row["reader"], row["corpus"]) == ("toy", "main")


def test_a_stopped_run_says_so(conn: Connection) -> None:
    with recorded_run(conn, "extract", {}) as run:
        run.outcome = STOPPED
    assert outcome(conn) == "stopped"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no layer 9"), "failed: ValueError: no layer 9"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_an_error_is_told_and_passed_on(conn: Connection, error: BaseException, told: str) -> None:
    with pytest.raises(type(error)), recorded_run(conn, "extract", {}):
        raise error
    assert outcome(conn) == told
