"""Laws of the suite's board: which analysis answers what, and that every cell is a row's."""

from dataclasses import asdict
from typing import Any

import pytest

from analyses.verification import (
    COLUMNS,
    MEASURES,
    Line,
    answering,
    choose_criteria,
    read_board,
)
from stores.database import Connection
from stores.errors import UsageError
from stores.published import load_published, read_published
from stores.results import Metric, publish
from tests.analyses.test_base import Spy


def test_no_name_or_all_means_all_eleven_in_order() -> None:
    every = tuple(f"V{i}" for i in range(1, 12))
    assert choose_criteria(()) == choose_criteria(("all",)) == tuple(MEASURES) == every
    assert choose_criteria(("v10", "V2")) == ("V2", "V10")


def test_an_unknown_criterion_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown criterion 'V12'; known: V1, V2"):
        choose_criteria(("V12",))


def test_each_analysis_that_is_needed_answers_once() -> None:
    spy = Spy().analysis
    names = {analysis for analysis, _ in MEASURES.values()}
    assert len(answering(tuple(MEASURES), dict.fromkeys(names, spy))) == len(names) == 5
    assert len(answering(("V1", "V2", "V11"), dict.fromkeys(names, spy))) == 2


def test_a_line_shows_the_score_the_controlled_reading_and_what_others_published(
    conn: Connection,
) -> None:
    load_published(conn)
    run = conn.execute(
        "INSERT INTO runs (command, settings, code_version, started_at) "
        "VALUES ('analyze scenarios', '{}', '', '') RETURNING id"
    ).fetchone()["id"]
    rows = [
        Metric("V3", 9.0, 20, None, 12, 1.0, 7.0, 11.0, 0.001, passed=True, threshold=8.0),
        Metric("V3.controlled", 7.0, 20, None, 12, 1.0, 5.0, 9.0, 0.2, passed=False, threshold=8.0),
        Metric("V4", 2.25, 20, None, 12, 6.5, passed=True, threshold=3.0),
        Metric("V4.controlled", 2.0, 20, None, 12, 6.5, p_value=1e-5, passed=True, threshold=3.0),
        Metric("V3", 1.0, 20, "happy"),
    ]
    publish(conn, run, "r", "c", "scenarios", rows)
    third, fourth = (
        dict(zip(COLUMNS, line.cells(), strict=True))
        for line in read_board(conn, "r", "c", ("V3", "V4"))
    )
    assert (third["value"], third["bar"], third["pass"], third["n"]) == ("9", ">= 8", "yes", 12)
    assert (third["chance"], third["95% interval"], third["p"]) == ("1", "7 to 11", "0.0010")
    assert (third["controlled"], third["holds"]) == ("7 (p 0.2000)", "no")
    assert third["published"] == "report 9; paper 6"
    assert (fourth["value"], fourth["bar"], fourth["p"]) == ("2.25", "<= 3", "")
    assert (fourth["controlled"], fourth["holds"]) == ("2 (p 1e-05)", "yes")
    assert fourth["published"] == "report 1.33; paper 1.83"


def test_a_source_with_several_models_names_them(conn: Connection) -> None:
    load_published(conn)
    score = Metric("V10", 0.5, threshold=0.4)
    line = Line("V10", "r", "abs > 0.40", score, score, tuple(read_published(conn, "V10")))
    told = str(line.cells()[-1])
    assert "paper, Claude Sonnet 4.5 0.85; paper, Claude Sonnet 4.5 (base) 0.87" in told
    assert told.startswith("report -0.96; report v1 0.87")


def test_a_board_as_json_keeps_every_number_and_source(conn: Connection) -> None:
    load_published(conn)
    run = conn.execute(
        "INSERT INTO runs (command, settings, code_version, started_at) "
        "VALUES ('analyze scenarios', '{}', '', '') RETURNING id"
    ).fetchone()["id"]
    rows = [Metric("V3", 9.0, threshold=8.0), Metric("V3.controlled", 7.0, passed=False)]
    publish(conn, run, "r", "c", "scenarios", rows)
    line = read_board(conn, "r", "c", ("V3",))[0]
    document: Any = line.document()
    assert document["score"] == asdict(line.score)
    assert document["controlled"]["passed"] is False
    assert [row["source"] for row in document["published"]] == ["report", "paper"]
