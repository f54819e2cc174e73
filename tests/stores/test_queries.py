import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stores.database import Connection, open_database
from stores.errors import NotReady, UsageError
from stores.queries import READY_QUERIES, run_query
from stores.results import Metric, Table, open_run, publish
from stores.workspace import Workspace
from tests.conftest import ROOT, StartChild
from tests.stores.arranged import add_texts, extract
from tests.stores.encoding import add_pooled, begin_encoding, encode
from tests.stores.projecting import add_sample, begin_pass, project


@pytest.fixture
def ledger(workspace: Workspace) -> Path:
    with closing(open_database(workspace.database)) as conn:
        add_texts(conn, 3)
    return workspace.database


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as conn:
        return list(conn.iterdump())


def test_a_query_gives_columns_and_rows(ledger: Path) -> None:
    answer = run_query(
        ledger, "SELECT id, emotion AS e, NULL AS blank FROM stories ORDER BY id LIMIT 2"
    )
    assert answer.columns == ("id", "e", "blank")
    assert answer.rows == ((1, "joyful", None), (2, "afraid", None))


def test_a_query_may_find_nothing(ledger: Path) -> None:
    answer = run_query(ledger, "SELECT id FROM stories WHERE id < 0;")
    assert (answer.columns, answer.rows) == (("id",), ())


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM stories",
        "UPDATE stories SET slot = 9",
        "INSERT INTO corpora VALUES ('a', 'b', 'c', NULL, 'd', NULL)",
        "CREATE TABLE mine (a)",
        "CREATE TEMP TABLE mine (a)",
        "DROP TABLE stories",
        "ATTACH 'other.db' AS other",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "BEGIN IMMEDIATE",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "SELECT load_extension('x')",
        "WITH doomed AS (SELECT 1) DELETE FROM stories",
    ],
)
def test_whatever_would_change_something_is_refused(
    ledger: Path, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, files = dump(ledger), sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"SQL: .*(only read|not authorized)"):
        run_query(ledger, sql)
    assert dump(ledger) == before
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1; SELECT 2", "one statement at a time; send one query at a time"),
        ("SELECT 1; DROP TABLE stories", "one statement"),
        ("SELECT nope FROM stories", "no such column: nope; .*--schema"),
        ("SELECT * FROM nope", "no such table: nope; .*--schema"),
        ("SELEC 1", "syntax error"),
        ("", "there is no query"),
        ("-- nothing", "there is no query"),
        ("SELECT '\ud800", "unrecognized token"),
    ],
)
def test_what_is_wrong_with_a_query_is_told_in_one_line(
    ledger: Path, sql: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        run_query(ledger, sql)
    assert "\n" not in str(raised.value)


def test_the_columns_of_a_table_can_be_asked(ledger: Path) -> None:
    assert run_query(ledger, "PRAGMA table_info(runs)").rows[0][1] == "id"


def test_without_a_ledger_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no ledger"):
        run_query(tmp_path / "none.db", "SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_a_query_runs_while_an_engine_writes(ledger: Path) -> None:
    with closing(open_database(ledger)) as engine:
        engine.execute("BEGIN IMMEDIATE")
        engine.execute("DELETE FROM stories")
        assert run_query(ledger, "SELECT count(*) FROM stories").rows == ((3,),)
        engine.execute("ROLLBACK")


@pytest.mark.parametrize("question", READY_QUERIES)
def test_every_ready_query_runs_on_an_empty_ledger(conn: Connection, question: str) -> None:
    path = Path(conn.execute("PRAGMA database_list").fetchone()["file"])
    answer = run_query(path, READY_QUERIES[question])
    assert question.endswith("?")
    assert answer.columns
    assert all(row[0] is None or question for row in answer.rows)


def test_ready_queries_find_what_they_ask_for(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 5)
    conn.execute("UPDATE stories SET status='rejected', text=NULL, reason='leak' WHERE id = 2")
    extract(conn, workspace)
    metrics = [Metric("V1", 0.5, 2, n=9, passed=False, threshold=0.8), Metric("V2", 0.9)]
    publish(conn, open_run(conn, "verify", {}), "toy", "main", "suite", metrics)
    conn.execute("INSERT INTO published VALUES ('paper', 'big', 'V1', 0.7, '')")
    conn.execute("INSERT INTO calls (kind, text_ids, sent_at) VALUES ('stories', '[1]', '')")

    def ask(question: str) -> tuple[tuple[object, ...], ...]:
        return run_query(workspace.database, READY_QUERIES[question]).rows

    assert ask("How far is each corpus?") == (
        ("main", "stories", "done", None, 4),
        ("main", "stories", "rejected", "leak", 1),
    )
    assert ask("Which emotions lack stories?") == (("main", "afraid", 1, 1, 0, 0),)
    assert ask("Which emotions are refused, and why?") == (("main", "afraid", "leak", 1),)
    assert len(ask("What do stories read like?")) == 4
    assert [row[2] for row in ask("Which calls were sent and never answered?")] == ["stories"]
    assert ask("How far is each extraction?") == (("toy", "main", "stories", "done", None, 4, 36),)
    assert [row[:6] for row in ask("Which layers are on disk?")] == [
        ("toy", "main", "stories", layer, 1, 4) for layer in (0, 2)
    ]
    assert ask("How do the readers score?")[0][:4] == ("toy", "main", 0.5, 0.9)
    assert ask("Which numbers miss their threshold?") == (
        ("toy", "main", "suite", "V1", 2, 0.5, 0.8, 9, None),
    )
    assert [row[3] for row in ask("Where does a number come from?")] == ["V1", "V2"]
    (traced,) = ask("Which story, and which reply, is row 0 of the arrays?")
    assert traced[2:] == ("joyful", "rain", "stories joyful rain 0", None)
    assert ask("How do the numbers compare with the published ones?") == (
        ("V1", "paper", "big", 0.7, "toy", "main", 2, 0.5),
    )


def test_ready_queries_look_into_the_current_tables(conn: Connection, workspace: Workspace) -> None:
    names = ("layer", "component", "label", "source", "n", "r", "ci_low", "ci_high", "p", "p_max")
    for r in (0.1, 0.9):
        labels = [(2, "PC1", label, "planted", 9, r, 0, 1, 0.5, 0.6) for label in ("valence", "x")]
        closest = Table(
            "closest", ("layer", "emotion", "other", "cosine"), ((2, "joyful", "sad", r),)
        )
        metrics = [Metric("r_valence", r, 2, "PC1"), Metric("emotions", 9)]
        tables = [Table("labels", names, tuple(labels)), closest]
        publish(conn, open_run(conn, "a", {}), "toy", "main", "geometry", metrics, tables)
    metrics = [
        Metric("stories_for[0.9]", 7, 2, n=9, ci_low=5, ci_high=8, threshold=6, passed=False),
        *(
            Metric("reliability", value, 2, name, n=6)
            for value, name in ((0.9, "sad"), (0.2, "mad"))
        ),
    ]
    publish(conn, open_run(conn, "a", {}), "toy", "main", "reliability", metrics)
    agreed = [Metric("rsa_pearson", 0.5, subject="a & b", n=9, chance=0.0, p_value=0.01)]
    publish(conn, open_run(conn, "a", {}), "a-vs-b", "main", "comparison", agreed)
    conn.execute(
        "INSERT INTO vectors VALUES ('toy', 'main', 'raw', 2, '[]', ?, '', '', 1, '')",
        ('{"imported": [{"file": "a.npz", "sha256": "f"}], "model": "big"}',),
    )

    def ask(beginning: str) -> list[tuple[object, ...]]:
        (query,) = [
            sql for question, sql in READY_QUERIES.items() if question.startswith(beginning)
        ]
        return list(run_query(workspace.database, query).rows)

    place = ("toy", "main")
    (followed,) = ask("How well does each component follow valence")
    assert followed == (*place, "geometry", "planted", 2, "PC1", 9, 0.9, 0, 1, 0.5, 0.6)
    assert ask("Which emotions are closest") == [(*place, 2, "joyful", "sad", 0.9)]
    enough = (*place, 2, "stories_for[0.9]", 7, 5, 8, 6, 0)
    assert ask("How many stories of each emotion are enough") == [enough]
    least = [(*place, 2, "mad", 0.2, 6), (*place, 2, "sad", 0.9, 6)]
    assert ask("Which emotions have the least reliable") == least
    agreement = ("a-vs-b", "a & b", None, "rsa_pearson", 0.5, 9, 0, None, None, 0.01)
    assert ask("How far do sets") == [agreement]
    assert ask("Which vectors came from files") == [(*place, "big", "a.npz", "f")]


def test_ready_queries_look_into_external_text(conn: Connection, workspace: Workspace) -> None:
    project(conn, begin_pass(conn, add_sample(conn, 10)))
    values = {"joyful": 0.5, "afraid": 2.0}
    metrics = [Metric("neutral.notes", value, 2, name) for name, value in values.items()]
    publish(conn, open_run(conn, "a", {}), "toy", "main", "external", metrics)
    for number, (asked, score) in enumerate([("calm", 8.0), ("afraid", 1.0), ("joyful", None)]):
        conn.execute(
            "INSERT INTO judgements VALUES (?, 1, 2, 'calm', 1, 3, ?, 'm', 'w', ?, ?, NULL, '')",
            (number, asked, score, None if score else "unread"),
        )

    def ask(beginning: str) -> list[tuple[object, ...]]:
        (query,) = [
            sql for question, sql in READY_QUERIES.items() if question.startswith(beginning)
        ]
        return list(run_query(workspace.database, query).rows)

    (drawing,) = ask("What was drawn")
    assert drawing[:7] == (1, "notes", 10, 20, '{"empty":10}', 10, 0)
    assert [row[2:4] for row in ask("Which parts")] == [(None, 5), ("even", 5)]
    far = [row[4:9] for row in ask("How far is each projection")]
    assert far == [("done", None, 8, 320, 1), ("rejected", "too_short", 2, 14, 0)]
    best = ask("Which documents excite")
    assert [row[3:6] for row in best if row[3] == 2] == [
        (2, "joyful", score) for score in (10.0, 9.0, 8.0, 7.0, 5.0)
    ]
    assert best[0][6:8] == ("a.txt:8", "even")
    snippets = {row[3:5]: row[5:] for row in ask("Which snippet")}
    assert len(snippets) == 6
    assert snippets[2, "joyful"] == (10.0, "a.txt:8", "Oh dear")
    assert snippets[2, "afraid"] == (0.0, "a.txt:0", "Oh dear")
    ranking = [row[3:6] for row in ask("Which emotions rank highest")]
    assert ranking == [("notes", "afraid", 2.0), ("notes", "joyful", 0.5)]
    judged = [row[2:] for row in ask("Does a judge")]
    assert judged == [("m", 1, 1, 8.0, 0), ("m", 0, 1, 1.0, 1)]


def test_ready_queries_look_into_passes_under_saes(conn: Connection, workspace: Workspace) -> None:
    add_pooled(conn, workspace, 4)
    encode(conn, begin_encoding(conn), 4)
    metrics = [Metric("rsa", 0.5, 2, chance=0.1), Metric("rsa.control", 0.1, 2)]
    metrics += [Metric("auc", 0.9, 2, "joyful", chance=0.5)]
    publish(conn, open_run(conn, "a", {}), "toy", "main", "sae.small", metrics)
    publish(conn, open_run(conn, "b", {}), "toy", "main", "sae_training.small", metrics)

    def ask(beginning: str) -> list[tuple[object, ...]]:
        (query,) = [
            sql for question, sql in READY_QUERIES.items() if question.startswith(beginning)
        ]
        return list(run_query(workspace.database, query).rows)

    far = [row[1:10] for row in ask("How far is each pass")]
    place = ("small", "toy", "main")
    assert far == [
        (*place, kind, bank, "done", None, 4, 36)
        for kind in ("stories", "dialogues")
        for bank in ("sae", "control")
    ]
    fits = [row[4:] for row in ask("How many features fire")]
    assert fits[:2] == [
        ("stories", "sae", 4, 0.625, 2.5, 0.25),
        ("stories", "control", 4, 0.625, 2.5, 0.25),
    ]
    differing = ask("Which numbers of each SAE")
    assert [row[2:7] for row in differing] == [("sae.small", 2, "rsa", 0.5, 0.1)]


ENDLESS = """
import os, signal, sys, threading
from pathlib import Path
from stores.queries import run_query
sql = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    run_query(Path(sys.argv[1]), sql)
except KeyboardInterrupt:
    print("stopped")
"""


def test_an_endless_query_is_stopped_by_ctrl_c(ledger: Path, start_child: StartChild) -> None:
    child = start_child(ENDLESS, ledger)
    assert child.wait(timeout=30) == 0
    assert child.stdout is not None
    assert child.stdout.read() == "stopped\n"


def test_asking_loads_neither_zarr_nor_numpy_nor_sqlite_utils(ledger: Path) -> None:
    script = f"""
import sys; from pathlib import Path; from stores.queries import run_query; import stores.tabledocs
run_query(Path({str(ledger)!r}), "SELECT 1")
print({{"zarr", "numpy", "sqlite_utils", "torch"}} & set(sys.modules))"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
