"""A budget that was found out is known to the next run of the same stage, model and device."""

import pytest

from stores.budgets import remember_budget, remembered_budget
from stores.database import Connection


def test_the_last_budget_is_remembered(conn: Connection) -> None:
    assert remembered_budget(conn, "generate", "m", "cuda:0") is None
    remember_budget(conn, "generate", "m", "cuda:0", 4096, now=0.0)
    remember_budget(conn, "generate", "m", "cuda:0", 2048, now=1.0)
    assert remembered_budget(conn, "generate", "m", "cuda:0") == 2048
    rows = conn.execute("SELECT tokens, updated_at FROM budgets").fetchall()
    assert [tuple(row) for row in rows] == [(2048, "1970-01-01T00:00:01.000Z")]


@pytest.mark.parametrize(
    "other", [("extract", "m", "cuda:0"), ("generate", "n", "cuda:0"), ("generate", "m", "cpu")]
)
def test_another_stage_model_or_device_has_its_own(
    conn: Connection, other: tuple[str, str, str]
) -> None:
    remember_budget(conn, "generate", "m", "cuda:0", 4096)
    assert remembered_budget(conn, *other) is None
    remember_budget(conn, *other, 7)
    assert remembered_budget(conn, "generate", "m", "cuda:0") == 4096


def test_a_budget_of_nothing_is_refused(conn: Connection) -> None:
    with pytest.raises(ValueError, match="at least one"):
        remember_budget(conn, "generate", "m", "cpu", 0)
