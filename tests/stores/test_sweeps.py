import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from stores.database import MIGRATIONS, Connection, open_database, transaction
from stores.errors import NotReady
from stores.queries import READY_QUERIES, run_query
from stores.results import open_run
from stores.sweeps import (
    ArmRow,
    QuestionRow,
    Replayed,
    count_answers,
    find_arms,
    find_sweep,
    note_replay,
    open_sweep,
    plan_arms,
    read_logits,
    read_replay,
    read_steered,
    write_answers,
)
from stores.workspace import Workspace

QUESTION = QuestionRow(0, 0, 1, "A or B (", "(", 9, "A", "1:2", "B", "3:4", "1:2")
QUESTIONS = [
    QUESTION,
    replace(QUESTION, question=1, second=2, steered="1:2 3:4"),
    replace(QUESTION, question=2, first=1, second=2, steered=""),
]
BASELINE = ArmRow("sha256:b", "baseline", "baseline", 0.0, (), ())
ZERO = ArmRow("sha256:z", "zero", "zero", 0.0, (3,), (0.0,))
HAPPY = ArmRow("sha256:h", "happy", "emotion", 0.5, (2, 3), (1.5, 2.5))


def opened(conn: Connection, digest: str = "sha256:s", reader: str = "toy") -> int:
    return open_sweep(conn, reader, digest, {"model": "m"}, QUESTIONS, open_run(conn, "verify", {}))


def planned(conn: Connection, sweep_id: int, *arms: ArmRow) -> list[int]:
    return plan_arms(conn, sweep_id, arms, open_run(conn, "verify", {}))


def test_a_sweep_is_opened_once_with_its_questions(conn: Connection) -> None:
    assert find_sweep(conn, "toy", "sha256:s") is None
    sweep_id = opened(conn)
    assert opened(conn) == sweep_id == find_sweep(conn, "toy", "sha256:s")
    kept = [tuple(row)[1:] for row in conn.execute("SELECT * FROM questions ORDER BY question")]
    assert kept[1] == (1, 0, 2, "A or B (", "(", 9, "A", "1:2", "B", "3:4", "1:2 3:4")
    assert len(kept) == 3
    assert read_steered(conn, sweep_id).tolist() == [True, True, False]


def test_another_digest_or_reader_is_another_sweep(conn: Connection) -> None:
    found = [opened(conn), opened(conn, "sha256:t"), opened(conn, reader="other")]
    assert len(set(found)) == 3
    assert conn.execute("SELECT count(*) FROM questions").fetchone()[0] == 9


def test_a_sweep_without_all_its_questions_is_never_kept(conn: Connection) -> None:
    repeated = [*QUESTIONS, QUESTION]
    with pytest.raises(sqlite3.IntegrityError):
        open_sweep(conn, "toy", "sha256:s", {}, repeated, open_run(conn, "verify", {}))
    assert find_sweep(conn, "toy", "sha256:s") is None
    assert conn.execute("SELECT count(*) FROM questions").fetchone()[0] == 0


def test_text_that_utf8_cannot_hold_is_kept_spelled_out(conn: Connection) -> None:
    torn = [replace(QUESTION, read_token="\ud83d")]
    open_sweep(conn, "toy", "sha256:s", {}, torn, open_run(conn, "verify", {}))
    assert conn.execute("SELECT read_token FROM questions").fetchone()[0] == r"\ud83d"


def test_an_arm_keeps_its_id_and_its_first_name(conn: Connection) -> None:
    sweep_id = opened(conn)
    first = planned(conn, sweep_id, BASELINE, HAPPY)
    glad = replace(HAPPY, name="glad")
    assert planned(conn, sweep_id, ZERO, glad, BASELINE)[1:] == first[::-1]
    assert find_arms(conn, sweep_id, [HAPPY.digest, BASELINE.digest]) == first[::-1]
    row = conn.execute("SELECT * FROM arms WHERE digest = ?", (HAPPY.digest,)).fetchone()
    assert (row["name"], row["layers"], row["norms"]) == ("happy", "[2,3]", "[1.5,2.5]")


def test_arms_of_one_sweep_are_not_those_of_another(conn: Connection) -> None:
    one, other = opened(conn), opened(conn, "sha256:t")
    assert planned(conn, one, HAPPY) != planned(conn, other, HAPPY)
    planned(conn, one, ZERO)
    with pytest.raises(NotReady, match=rf"sweep {other} was not asked in 1 of 2 arms; run"):
        find_arms(conn, other, [HAPPY.digest, ZERO.digest])


def test_answers_come_back_bit_for_bit_and_nan_where_there_is_none(conn: Connection) -> None:
    sweep_id = opened(conn)
    baseline, happy = planned(conn, sweep_id, BASELINE, HAPPY)
    logits = np.array([[0.1, -1e-30], [3e38, 1 / 3]], np.float32)
    write_answers(conn, happy, [2, 0], logits)
    found = read_logits(conn, happy, 3)
    assert (found[[2, 0]].astype(np.float32) == logits).all()
    assert np.isnan(found[1]).all()
    assert np.isnan(read_logits(conn, baseline, 3)).all()


def test_an_answer_written_again_takes_the_place_of_the_first(conn: Connection) -> None:
    (happy,) = planned(conn, opened(conn), HAPPY)
    for value in (1.0, 2.0):
        write_answers(conn, happy, [1], np.full((1, 2), value))
    assert read_logits(conn, happy, 2)[1].tolist() == [2.0, 2.0]


def test_answers_are_counted_by_arm_and_first_option(conn: Connection) -> None:
    sweep_id = opened(conn)
    baseline, happy = planned(conn, sweep_id, BASELINE, HAPPY)
    (other,) = planned(conn, opened(conn, "sha256:t"), HAPPY)
    write_answers(conn, baseline, [0, 1, 2], np.zeros((3, 2)))
    write_answers(conn, happy, [1], np.zeros((1, 2)))
    write_answers(conn, other, [0, 1], np.zeros((2, 2)))
    assert count_answers(conn, sweep_id) == {(baseline, 0): 2, (baseline, 1): 1, (happy, 0): 1}


def test_answers_that_are_not_numbers_or_of_no_arm_are_refused(conn: Connection) -> None:
    (happy,) = planned(conn, opened(conn), HAPPY)
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        write_answers(conn, happy, [0], np.array([[np.nan, 0.0]]))
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        write_answers(conn, happy + 1, [0], np.zeros((1, 2)))


def test_answers_of_several_arms_can_be_one_transaction(conn: Connection) -> None:
    arms = planned(conn, opened(conn), BASELINE, HAPPY)
    with pytest.raises(KeyboardInterrupt), transaction(conn):
        for arm in arms:
            write_answers(conn, arm, [0], np.zeros((1, 2)))
        raise KeyboardInterrupt
    assert conn.execute("SELECT count(*) FROM answers").fetchone()[0] == 0


def test_the_largest_drift_and_the_last_method_of_a_replay_are_kept(conn: Connection) -> None:
    (zero,) = planned(conn, opened(conn), ZERO)
    assert read_replay(conn, zero) == Replayed(None, None, None)
    note_replay(conn, zero, 0.25, "prefix", "")
    note_replay(conn, zero, 0.125, "upper", "heads differ")
    assert read_replay(conn, zero) == Replayed(0.25, "upper", "heads differ")


def test_the_ready_queries_show_questions_progress_and_choices(
    conn: Connection, workspace: Workspace
) -> None:
    baseline, zero, happy = planned(conn, opened(conn), BASELINE, ZERO, HAPPY)
    write_answers(conn, baseline, [0, 1, 2], np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 4.0]]))
    write_answers(conn, zero, [0, 1], np.zeros((2, 2)))
    note_replay(conn, zero, 0.5, "last", "")

    def ask(beginning: str) -> tuple[tuple[object, ...], ...]:
        (sql,) = [sql for question, sql in READY_QUERIES.items() if question.startswith(beginning)]
        return run_query(workspace.database, sql).rows

    assert ask("What exactly was the model asked") == (
        ("toy", 0, "A or B (", "(", "A", "1:2", "B", "3:4", "1:2"),
    )
    assert ask("How far is each sweep") == (
        (1, "toy", "baseline", "[]", 1, 3, None, None),
        (1, "toy", "zero", "[3]", 1, 2, 0.5, "last"),
        (1, "toy", "emotion", "[2,3]", 1, 0, None, None),
    )
    chosen = ask("How often is A chosen")
    assert [row[1] for row in chosen] == ["baseline", "zero"]
    assert chosen[0][-3:] == (3, pytest.approx(2 / 3), pytest.approx(-2 / 3))
    assert happy > zero


def test_a_ledger_of_the_third_version_gets_empty_sweeps_and_keeps_its_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setattr("stores.database.MIGRATIONS", MIGRATIONS[:3])
        with closing(open_database(workspace.database)) as conn:
            run_id = open_run(conn, "analyze geometry", {})
    with closing(open_database(workspace.database)) as conn:
        assert conn.execute("SELECT id FROM runs").fetchone()[0] == run_id
        assert find_sweep(conn, "toy", "sha256:s") is None
        opened(conn)
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
