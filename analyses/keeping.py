"""The rows of an analysis, and how they are kept: published first, exported and drawn from rows.

A finished run that was made from the same is not repeated. Knows nothing of what is computed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from analyses.figures import render, stamp
from stores.database import Connection
from stores.files import write_file_atomically
from stores.results import (
    Cell,
    Metric,
    Table,
    export_results,
    finished_run,
    publish,
    read_metrics,
    read_tables,
)
from stores.runs import recorded_run
from stores.workspace import Workspace

PLANTED_NOTE = "toy model, planted geometry"


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of an analysis: every number, with its n, chance level, interval and p."""

    metrics: tuple[Metric, ...] = ()
    tables: tuple[Table, ...] = ()

    def __add__(self, other: "Result") -> "Result":
        return Result(self.metrics + other.metrics, self.tables + other.tables)


@dataclass(frozen=True, slots=True)
class Rows:
    """The current rows of an analysis, read back from the ledger."""

    metrics: tuple[Metric, ...]
    tables: tuple[Table, ...]

    def select(self, metric: str, layer: int | None = None) -> list[Metric]:
        """The rows of one metric, at one layer where given, in the order they were published."""
        chosen = [row for row in self.metrics if row.metric == metric]
        return [row for row in chosen if layer is None or row.layer == layer]

    def table(self, name: str, layer: int | None = None) -> Table:
        """One table. KeyError when the analysis publishes none of that name at that layer."""
        for table in self.tables:
            if (table.name, table.layer) == (name, layer):
                return table
        raise KeyError(f"{name} (layer {layer})")

    def records(self, table: str, layer: int | None = None) -> list[dict[str, Cell]]:
        """The rows of a table as dictionaries by column. KeyError when there is no such table."""
        found = self.table(table, layer)
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]

    @property
    def settings(self) -> dict[str, Any]:
        """The table `settings` (setting, value) as a dictionary."""
        return {str(key): value for key, value in self.table("settings").rows}


Draw = Callable[[Rows], Mapping[str, Figure]]
Write = Callable[[Rows], Mapping[str, str]]
"""HTML pages by name, from rows alone."""


def no_pages(_rows: Rows) -> Mapping[str, str]:
    """For an analysis that writes none."""
    return {}


@dataclass(frozen=True, slots=True)
class AnalysisSummary:
    """What `run_analysis` did."""

    analysis: str
    status: Literal["done", "unchanged"]
    run_id: int
    files: tuple[Path, ...]
    """Exports and figures written by this call."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where the rows, exports and figures of an analysis are kept."""

    conn: Connection
    workspace: Workspace
    reader: str
    corpus: str
    planted: bool = False
    """Whether its figures must say that the geometry was planted."""

    @property
    def folder(self) -> Path:
        """The folder of the figures."""
        return self.workspace.results(self.reader) / "figures" / self.corpus


def keep_results(
    home: Home,
    command: str,
    name: str,
    compute: Callable[[], Result],
    draw: Draw,
    *,
    settings: Mapping[str, Any],
    made_from: str,
    protocol_digest: str | None = None,
    pages: Write = no_pages,
) -> AnalysisSummary:
    """Compute and publish as analysis `name`, unless a finished run was made from the same."""
    place = (home.reader, home.corpus)
    finished = finished_run(home.conn, command, made_from, *place)
    if finished is not None:
        files = () if figure_files(home, name) else write_results(home, name, draw, pages)
        return AnalysisSummary(name, "unchanged", finished, files)
    with recorded_run(
        home.conn,
        command,
        settings,
        inputs=made_from,
        protocol_digest=protocol_digest,
        reader=home.reader,
        corpus=home.corpus,
    ) as run:
        result = compute()
        publish(home.conn, run.id, *place, name, result.metrics, result.tables)
        files = write_results(home, name, draw, pages)
    return AnalysisSummary(name, "done", run.id, files)


def write_results(home: Home, name: str, draw: Draw, pages: Write = no_pages) -> tuple[Path, ...]:
    """Export the current rows, draw their figures and write their pages anew; computes nothing."""
    files = export_results(home.conn, home.workspace, home.reader, home.corpus, name)
    return (*files, *draw_figures(home, name, draw), *write_pages(home, name, pages))


def draw_figures(home: Home, name: str, draw: Draw) -> list[Path]:
    """Draw the current rows as PNG and SVG, and remove figures of earlier rows.

    A figure of planted labels says so on its face.
    """
    files = []
    for figure_name, figure in draw(read_rows(home, name)).items():
        if home.planted:
            stamp(figure, PLANTED_NOTE)
        for suffix in ("png", "svg"):
            path = home.folder / f"{name}.{figure_name}.{suffix}"
            write_file_atomically(path, render(figure, suffix))
            files.append(path)
    for path in set(figure_files(home, name)) - set(files):
        path.unlink()
    return files


def write_pages(home: Home, name: str, pages: Write) -> list[Path]:
    """Write the pages of the current rows, and remove those of earlier rows."""
    folder = home.workspace.results(home.reader) / home.corpus
    files = []
    for page_name, text in pages(read_rows(home, name)).items():
        path = folder / f"{name}.{page_name}.html"
        write_file_atomically(path, text.encode())
        files.append(path)
    for path in set(folder.glob(f"{name}.*.html")) - set(files):
        path.unlink()
    return files


def read_rows(home: Home, name: str) -> Rows:
    """The current rows of an analysis."""
    place = (home.conn, home.reader, home.corpus, name)
    return Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))


def figure_files(home: Home, name: str) -> list[Path]:
    """The figure files of an analysis that are there."""
    return sorted(home.folder.glob(f"{name}.*"))
