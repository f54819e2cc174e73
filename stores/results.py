"""Runs, and the metrics and tables they publish; JSON and CSV are read back from those rows.

Every number of every analysis is a row that names its run. Of each analysis the run that published
last is current; older rows stay as history. Knows nothing of what an analysis computes.
"""

import csv
import functools
import io
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from stores.database import Connection, canonical_json, now_text, storable, transaction
from stores.errors import NotReady
from stores.files import write_file_atomically
from stores.workspace import Workspace, require_slug

Cell = str | int | float | None

CURRENT = """
    SELECT max(run_id) FROM metrics WHERE reader = ?1 AND corpus = ?2 AND analysis = ?3"""
CODE = ("stores", "engine", "analyses", "cli.py")


@dataclass(frozen=True, slots=True)
class Metric:
    """One number with what is needed to judge it. A value that is not finite is stored as NULL."""

    metric: str
    value: float | None
    layer: int | None = None
    subject: str | None = None
    n: int | None = None
    chance: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    passed: bool | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A named table of an analysis, of one layer or of all."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    layer: int | None = None


METRIC_COLUMNS = tuple(field.name for field in fields(Metric))


@functools.cache
def code_version() -> str:
    """A digest of the program's own source files: works without git, changes with any edit."""
    root = Path(__file__).resolve().parent.parent
    files = [path for name in CODE for path in [root / name, *(root / name).rglob("*.py")]]
    seen = sha256()
    for path in sorted(path for path in files if path.is_file()):
        seen.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()[:12]


def open_run(
    conn: Connection,
    command: str,
    settings: Mapping[str, Any],
    *,
    inputs: str | None = None,
    protocol_digest: str | None = None,
    reader: str | None = None,
    corpus: str | None = None,
    model: str | None = None,
    model_revision: str | None = None,
) -> int:
    """Record that a command begins, with all its settings; returns the run's id."""
    with transaction(conn):
        cursor = conn.execute(
            "INSERT INTO runs (command, settings, inputs, code_version, protocol_digest, reader, "
            "corpus, model, model_revision, started_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                command,
                canonical_json(dict(settings)),
                inputs,
                code_version(),
                protocol_digest,
                reader,
                corpus,
                model,
                model_revision,
                now_text(),
            ),
        )
    return int(cursor.lastrowid or 0)


def close_run(conn: Connection, run_id: int, outcome: str) -> None:
    """Record how a run ended: 'done', 'stopped', or what went wrong."""
    with transaction(conn):
        conn.execute(
            "UPDATE runs SET ended_at = ?, outcome = ? WHERE id = ?", (now_text(), outcome, run_id)
        )


def finished_run(
    conn: Connection, command: str, inputs: str, reader: str | None, corpus: str | None
) -> int | None:
    """The last done run of this command if it had the same inputs and the same code, else None."""
    last = conn.execute(
        "SELECT id, inputs, code_version FROM runs WHERE command = ? AND reader IS ? "
        "AND corpus IS ? AND outcome = 'done' ORDER BY id DESC LIMIT 1",
        (command, reader, corpus),
    ).fetchone()
    same = last and (last["inputs"], last["code_version"]) == (inputs, code_version())
    return int(last["id"]) if same else None


def publish(
    conn: Connection,
    run_id: int,
    reader: str,
    corpus: str,
    analysis: str,
    metrics: Sequence[Metric],
    tables: Sequence[Table] = (),
) -> None:
    """Make these the current results of an analysis, all in one transaction.

    Publishing again in the same run replaces what it had published. Raises ValueError without any
    metric, which is what makes a run current, and UsageError for names that cannot name a file.
    """
    names = [require_slug(analysis, "analysis")]
    names += [require_slug(_file_stem(table), "table") for table in tables]
    if not metrics or len(set(names)) < len(names):
        raise ValueError(f"{analysis} must publish a metric, and each table once: {names[1:]}")
    place = (run_id, reader, corpus, analysis)
    chosen = "run_id = ? AND reader = ? AND corpus = ? AND analysis = ?"
    with transaction(conn):
        conn.execute(f"DELETE FROM metrics WHERE {chosen}", place)
        conn.execute(f"DELETE FROM tables WHERE {chosen}", place)
        marks = ", ".join("?" * (len(place) + len(METRIC_COLUMNS)))
        conn.executemany(
            "INSERT INTO metrics (run_id, reader, corpus, analysis, "
            f"{', '.join(METRIC_COLUMNS)}) VALUES ({marks})",
            [(*place, *_plain_row(astuple(metric))) for metric in metrics],
        )
        conn.executemany(
            "INSERT INTO tables (run_id, reader, corpus, analysis, name, layer, columns, rows) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(*place, *_table_row(table)) for table in tables],
        )


def _plain_row(cells: Iterable[Any]) -> list[Cell]:
    return [_plain(cell) for cell in cells]


def _plain(cell: Any) -> Cell:
    """A cell as SQLite and JSON know it: numpy's numbers become Python's, NaN and infinity None."""
    if hasattr(cell, "item"):
        cell = cell.item()
    if isinstance(cell, str):
        return storable(cell)
    if isinstance(cell, int):
        return int(cell)
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if cell is None:
        return None
    raise TypeError(f"a cell must be text, a number or None, not {cell!r}")


def _table_row(table: Table) -> tuple[str, int | None, str, str]:
    rows = [_plain_row(row) for row in table.rows]
    if wrong := [row for row in rows if len(row) != len(table.columns)]:
        raise ValueError(f"table {table.name}: {wrong[0]} does not fit {table.columns}")
    return (table.name, table.layer, canonical_json(list(table.columns)), canonical_json(rows))


def read_metrics(
    conn: Connection,
    reader: str,
    corpus: str,
    analysis: str,
    *,
    metric: str | None = None,
    layer: int | None = None,
) -> list[Metric]:
    """The metrics of the current run in the order they were published, filtered where asked."""
    query = (
        f"SELECT {', '.join(METRIC_COLUMNS)} FROM current_metrics "
        "WHERE reader = ?1 AND corpus = ?2 AND analysis = ?3 "
        "AND (?4 IS NULL OR metric = ?4) AND (?5 IS NULL OR layer = ?5) ORDER BY id"
    )
    return [_metric(row) for row in conn.execute(query, (reader, corpus, analysis, metric, layer))]


def _metric(row: sqlite3.Row) -> Metric:
    passed = row["passed"]
    return Metric(**{**dict(row), "passed": None if passed is None else bool(passed)})


def read_tables(conn: Connection, reader: str, corpus: str, analysis: str) -> list[Table]:
    """The tables of the current run, in the order they were published."""
    query = f"""
        SELECT name, layer, columns, rows FROM tables
        WHERE reader = ?1 AND corpus = ?2 AND analysis = ?3 AND run_id = ({CURRENT})
        ORDER BY id"""
    return [_table(row) for row in conn.execute(query, (reader, corpus, analysis))]


def _table(row: sqlite3.Row) -> Table:
    rows = tuple(tuple(cells) for cells in json.loads(row["rows"]))
    return Table(row["name"], tuple(json.loads(row["columns"])), rows, row["layer"])


def read_table(
    conn: Connection,
    reader: str,
    corpus: str,
    analysis: str,
    name: str,
    layer: int | None = None,
) -> Table:
    """One table of the current run; NotReady when it has none of that name and layer."""
    for table in read_tables(conn, reader, corpus, analysis):
        if (table.name, table.layer) == (name, layer):
            return table
    raise NotReady(
        f"{analysis} of {reader}/{corpus} has no table {name} (layer {layer}); "
        f"run `cli.py analyze {analysis} --reader {reader} --corpus {corpus}`"
    )


def export_results(
    conn: Connection, workspace: Workspace, reader: str, corpus: str, analysis: str
) -> list[Path]:
    """Write the current run of an analysis as one JSON document and CSV files; return the paths.

    They lie in results/<reader>/<corpus>/: <analysis>.json, <analysis>.csv with the metrics, and
    <analysis>.<table>[.layer_<l>].csv. Raises NotReady when nothing was published.
    """
    metrics = read_metrics(conn, reader, corpus, analysis)
    if not metrics:
        raise NotReady(
            f"{analysis} of {reader}/{corpus} has no results; "
            f"run `cli.py analyze {analysis} --reader {reader} --corpus {corpus}`"
        )
    tables = read_tables(conn, reader, corpus, analysis)
    folder = workspace.results(reader) / require_slug(corpus, "corpus")
    document = {
        "reader": reader,
        "corpus": corpus,
        "analysis": analysis,
        "run": _current_run(conn, reader, corpus, analysis),
        "metrics": [asdict(metric) for metric in metrics],
        "tables": {_file_stem(table): asdict(table) for table in tables},
    }
    files = {
        f"{analysis}.json": json.dumps(document, indent=1, ensure_ascii=False).encode(),
        f"{analysis}.csv": _csv(METRIC_COLUMNS, (astuple(metric) for metric in metrics)),
    }
    for table in tables:
        files[f"{analysis}.{_file_stem(table)}.csv"] = _csv(table.columns, table.rows)
    for name, payload in files.items():
        write_file_atomically(folder / name, payload)
    for stale in set(folder.glob(f"{analysis}.*.csv")) - {folder / name for name in files}:
        stale.unlink()
    return [folder / name for name in files]


def _current_run(conn: Connection, reader: str, corpus: str, analysis: str) -> dict[str, Any]:
    query = f"SELECT * FROM runs WHERE id = ({CURRENT})"
    run = dict(conn.execute(query, (reader, corpus, analysis)).fetchone())
    return {**run, "settings": json.loads(run["settings"])}


def _file_stem(table: Table) -> str:
    return table.name if table.layer is None else f"{table.name}.layer_{table.layer}"


def _csv(columns: Sequence[str], rows: Iterable[Iterable[Cell]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue().encode()
