import csv
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import stores.results
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.results import (
    METRIC_COLUMNS,
    Metric,
    Table,
    close_run,
    code_version,
    export_results,
    finished_run,
    open_run,
    publish,
    read_metrics,
    read_table,
    read_tables,
)
from stores.workspace import Workspace
from tests.conftest import ROOT

HERE = ("toy", "main", "geometry")
FULL = Metric("V1", 0.8, 5, "joyful", 171, 0.5, 0.7, 0.9, 0.001, True, 0.75)
TOKENS = Table(
    "tokens",
    ("token", "logit", "rank"),
    ((' "quoted",', 1.5, 1), ("two\r\nlines", None, 2), ("=1+1", -2.0, 3), ("a\rb", 0.0, 4)),
    layer=5,
)


def run(conn: Connection, **changes: str) -> int:
    return open_run(conn, "analyze geometry", {"seed": 0}, **changes)


def test_a_run_keeps_its_settings_and_where_it_came_from(conn: Connection) -> None:
    run_id = open_run(
        conn,
        "extract",
        {"layers": [1, 2], "dtype": "float32"},
        inputs="sha256:i",
        protocol_digest="sha256:p",
        reader="toy",
        corpus="main",
        model="m",
        model_revision="r",
    )
    row = conn.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    assert json.loads(row["settings"]) == {"layers": [1, 2], "dtype": "float32"}
    assert tuple(row)[3:] == (
        "sha256:i",
        code_version(),
        "sha256:p",
        "toy",
        "main",
        "m",
        "r",
        row["started_at"],
        None,
        None,
    )
    close_run(conn, run_id, "stopped")
    row = conn.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
    assert row["outcome"] == "stopped"
    assert row["ended_at"] >= row["started_at"]


def test_the_code_version_follows_the_source_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "stores" / "results.py"
    code.parent.mkdir()
    code.write_text("pass")
    monkeypatch.setattr(stores.results, "__file__", str(code))

    def version() -> str:
        code_version.cache_clear()
        return code_version()

    first = version()
    (tmp_path / "notes.py").write_text("pass")
    (tmp_path / "stores" / "notes.txt").write_text("x")
    assert version() == first
    (tmp_path / "cli.py").write_text("pass")
    second = version()
    code.write_text("pass ")
    third = version()
    code_version.cache_clear()
    assert len({first, second, third}) == 3
    assert len(first) == 12


def test_a_done_run_with_the_same_inputs_need_not_run_again(conn: Connection) -> None:
    place = ("analyze geometry", "sha256:a", "toy", "main")
    assert finished_run(conn, *place) is None
    run_id = run(conn, inputs="sha256:a", reader="toy", corpus="main")
    assert finished_run(conn, *place) is None
    close_run(conn, run_id, "done")
    assert finished_run(conn, *place) == run_id
    for other in (
        ("analyze lens", "sha256:a", "toy", "main"),
        ("analyze geometry", "sha256:b", "toy", "main"),
        ("analyze geometry", "sha256:a", "big", "main"),
        ("analyze geometry", "sha256:a", "toy", None),
    ):
        assert finished_run(conn, *other) is None


def test_a_run_that_failed_does_not_hide_the_one_before(conn: Connection) -> None:
    first = run(conn, inputs="sha256:a")
    close_run(conn, first, "done")
    close_run(conn, run(conn, inputs="sha256:b"), "failed: out of memory")
    assert finished_run(conn, "analyze geometry", "sha256:a", None, None) == first


def test_results_that_are_no_longer_current_are_computed_again(conn: Connection) -> None:
    for inputs in ("sha256:a", "sha256:b"):
        close_run(conn, run(conn, inputs=inputs), "done")
    assert finished_run(conn, "analyze geometry", "sha256:a", None, None) is None


def test_results_of_other_code_are_computed_again(conn: Connection) -> None:
    close_run(conn, run(conn, inputs="sha256:a"), "done")
    conn.execute("UPDATE runs SET code_version = 'older'")
    assert finished_run(conn, "analyze geometry", "sha256:a", None, None) is None


def test_metrics_and_tables_come_back_as_they_were(conn: Connection) -> None:
    bare = Metric("note", None)
    publish(conn, run(conn), *HERE, [FULL, bare], [TOKENS, Table("empty", ("a",), ())])
    assert read_metrics(conn, *HERE) == [FULL, bare]
    assert read_tables(conn, *HERE) == [TOKENS, Table("empty", ("a",), ())]
    assert read_table(conn, *HERE, "tokens", 5) == TOKENS


def test_metrics_are_chosen_by_name_and_layer(conn: Connection) -> None:
    rows = [Metric(name, 1.0, layer) for name in ("V1", "V2") for layer in (0, 1)]
    publish(conn, run(conn), *HERE, rows)
    assert read_metrics(conn, *HERE, metric="V2") == rows[2:]
    assert read_metrics(conn, *HERE, layer=0) == rows[::2]
    assert read_metrics(conn, *HERE, metric="V2", layer=0) == [rows[2]]


def test_what_is_not_a_number_is_stored_as_null_and_n_is_kept(conn: Connection) -> None:
    rows = [Metric("V1", value, n=12, ci_low=-math.inf) for value in (math.nan, math.inf)]
    table = Table("t", ("x",), ((math.nan,), (-math.inf,)))
    publish(conn, run(conn), *HERE, rows, [table])
    assert read_metrics(conn, *HERE) == [Metric("V1", None, n=12)] * 2
    assert read_table(conn, *HERE, "t").rows == ((None,), (None,))


def test_numbers_of_numpy_are_numbers(conn: Connection) -> None:
    given = Metric("V1", np.float32(0.5), np.int64(3), n=np.int32(7), passed=np.bool_(False))  # type: ignore[arg-type]
    table = Table("t", ("x", "y"), ((np.int64(2), np.float64(0.5)),))  # type: ignore[arg-type]
    publish(conn, run(conn), *HERE, [given], [table])
    assert read_metrics(conn, *HERE) == [Metric("V1", 0.5, 3, n=7, passed=False)]
    assert read_table(conn, *HERE, "t").rows == ((2, 0.5),)


def test_a_lone_surrogate_does_not_stop_a_publication(conn: Connection) -> None:
    publish(conn, run(conn), *HERE, [Metric("V1", 1.0, subject="\ud800")])
    assert read_metrics(conn, *HERE)[0].subject == "\\ud800"


def test_the_run_that_published_last_is_current_and_the_older_rows_stay(conn: Connection) -> None:
    publish(conn, run(conn), *HERE, [Metric("V1", 1.0)], [Table("old", ("a",), ())])
    publish(conn, run(conn), "toy", "main", "lens", [Metric("V9", 9.0)])
    publish(conn, run(conn), *HERE, [Metric("V2", 2.0)])
    assert read_metrics(conn, *HERE) == [Metric("V2", 2.0)]
    assert read_tables(conn, *HERE) == []
    assert read_metrics(conn, "toy", "main", "lens") == [Metric("V9", 9.0)]
    assert conn.execute("SELECT count(*) FROM metrics").fetchone()[0] == 3


def test_publishing_again_in_a_run_replaces_what_it_published(conn: Connection) -> None:
    run_id = run(conn)
    publish(conn, run_id, *HERE, [Metric("V1", 1.0)], [TOKENS])
    publish(conn, run_id, *HERE, [Metric("V1", 2.0)])
    assert read_metrics(conn, *HERE) == [Metric("V1", 2.0)]
    assert read_tables(conn, *HERE) == []


@pytest.mark.parametrize(
    ("metrics", "tables", "error", "message"),
    [
        ([], [TOKENS], ValueError, "must publish a metric"),
        ([FULL], [TOKENS, TOKENS], ValueError, "each table once"),
        ([FULL], [Table("t", ("a", "b"), ((1,),))], ValueError, r"table t: \[1\] does not fit"),
        ([FULL], [Table("../t", ("a",), ())], UsageError, r"table '\.\./t' is no slug"),
        ([Metric("V1", b"1")], [], TypeError, "must be text, a number or None"),  # type: ignore[arg-type]
    ],
)
def test_a_publication_that_makes_no_sense_changes_nothing(
    conn: Connection,
    metrics: list[Metric],
    tables: list[Table],
    error: type[Exception],
    message: str,
) -> None:
    publish(conn, run(conn), *HERE, [FULL], [TOKENS])
    with pytest.raises(error, match=message):
        publish(conn, run(conn), *HERE, metrics, tables)
    assert read_metrics(conn, *HERE) == [FULL]
    assert read_tables(conn, *HERE) == [TOKENS]


def test_a_table_that_was_not_published_is_not_ready(conn: Connection) -> None:
    publish(conn, run(conn), *HERE, [FULL], [TOKENS])
    with pytest.raises(NotReady, match=r"no table tokens \(layer 4\); run .*analyze geometry"):
        read_table(conn, *HERE, "tokens", 4)


def test_the_json_holds_the_run_its_metrics_and_tables(
    conn: Connection, workspace: Workspace
) -> None:
    run_id = run(conn, inputs="sha256:i")
    publish(conn, run_id, *HERE, [FULL, Metric("V2", math.nan, n=3)], [TOKENS])
    path = export_results(conn, workspace, *HERE)[0]
    document = json.loads(path.read_text(encoding="utf-8"))
    assert path == workspace.root / "results" / "toy" / "main" / "geometry.json"
    assert [document[key] for key in ("reader", "corpus", "analysis")] == list(HERE)
    assert document["run"]["id"] == run_id
    assert document["run"]["settings"] == {"seed": 0}
    assert document["metrics"] == [asdict(m) for m in read_metrics(conn, *HERE)]
    table = document["tables"]["tokens.layer_5"]
    assert table["rows"] == [list(row) for row in TOKENS.rows]
    assert (table["name"], table["layer"]) == ("tokens", 5)


def test_the_csv_of_a_table_survives_quotes_commas_and_newlines(
    conn: Connection, workspace: Workspace
) -> None:
    publish(conn, run(conn), *HERE, [FULL, Metric("V2", None)], [TOKENS])
    _, metrics, table = export_results(conn, workspace, *HERE)
    assert (metrics.name, table.name) == ("geometry.csv", "geometry.tokens.layer_5.csv")
    with table.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["token", "logit", "rank"],
            [' "quoted",', "1.5", "1"],
            ["two\r\nlines", "", "2"],
            ["=1+1", "-2.0", "3"],
            ["a\rb", "0.0", "4"],
        ]
    with metrics.open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    assert tuple(header) == METRIC_COLUMNS
    assert first == [
        "V1",
        "0.8",
        "5",
        "joyful",
        "171",
        "0.5",
        "0.7",
        "0.9",
        "0.001",
        "True",
        "0.75",
    ]
    assert second == ["V2", *[""] * 10]


def test_exports_are_read_back_from_the_rows(conn: Connection, workspace: Workspace) -> None:
    publish(conn, run(conn), *HERE, [FULL])
    conn.execute("UPDATE metrics SET value = 0.25")
    document = json.loads(export_results(conn, workspace, *HERE)[0].read_text())
    assert document["metrics"][0]["value"] == 0.25


def test_a_table_that_is_gone_leaves_no_file(conn: Connection, workspace: Workspace) -> None:
    publish(conn, run(conn), *HERE, [FULL], [TOKENS])
    publish(conn, run(conn), "toy", "main", "lens", [FULL], [TOKENS])
    (*_, old) = export_results(conn, workspace, *HERE)
    (*_, other) = export_results(conn, workspace, "toy", "main", "lens")
    publish(conn, run(conn), *HERE, [FULL])
    export_results(conn, workspace, *HERE)
    assert (old.exists(), other.exists()) == (False, True)


def test_nothing_published_is_not_ready(conn: Connection, workspace: Workspace) -> None:
    with pytest.raises(NotReady, match=r"geometry of toy/main has no results; run"):
        export_results(conn, workspace, *HERE)


def test_results_are_read_without_loading_zarr_or_numpy() -> None:
    script = "import sys, stores.results; print({'zarr', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
