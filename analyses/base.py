"""What an experiment is, and the one way to run it: rows first, then exports and figures from rows.

An experiment is a file in this folder with one `ANALYSIS`. Knows no experiment by name.
"""

import importlib
import pkgutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure

import analyses
from analyses.figures import render, stamp
from analyses.readiness import STAGES, Place
from analyses.suite import Suite
from stores.corpora import open_corpus
from stores.database import Connection, canonical_json, digest
from stores.errors import UsageError
from stores.files import write_file_atomically
from stores.protocol import Protocol
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

if TYPE_CHECKING:
    from engine.loading import LazyModel

PLANTED_NOTE = "toy model, planted geometry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What an analysis is given. UsageError unless `layer` is one of `layers`."""

    conn: Connection
    workspace: Workspace
    protocol: Protocol
    reader: str
    corpus: str
    layers: tuple[int, ...]
    """Layers to compute everything for."""
    layer: int
    """The analysis layer: the one that figures and single answers are about."""
    seed: int
    permutations: int
    suite: Suite = field(default_factory=Suite)
    """Counts for the analyses that need the model."""
    model: "LazyModel | None" = None
    """The reader's model, loaded when an analysis first asks for it."""
    stop: threading.Event | None = None
    watch: Callable[[str, int, int, str], None] | None = None
    """Told a stage, how many of its steps are done, of how many, and a note."""

    def __post_init__(self) -> None:
        if self.layer not in self.layers:
            raise UsageError(
                f"analysis layer {self.layer} is not among the layers {list(self.layers)}; "
                "choose one of them, or extract that one first"
            )


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


@dataclass(frozen=True, slots=True)
class Analysis:
    """One experiment."""

    name: str
    question: str
    needs: tuple[str, ...]
    """Stages that must be finished, out of `readiness.STAGES`."""
    run: Callable[[Inputs], Result]
    draw: Callable[[Rows], Mapping[str, Figure]]
    """Figures by name, from rows alone."""

    def __post_init__(self) -> None:
        if unknown := [need for need in self.needs if need not in STAGES]:
            raise ValueError(f"analysis {self.name} needs {unknown}; known: {sorted(STAGES)}")


@dataclass(frozen=True, slots=True)
class AnalysisSummary:
    """What `run_analysis` did."""

    analysis: str
    status: Literal["done", "unchanged"]
    run_id: int
    files: tuple[Path, ...]
    """Exports and figures written by this call."""


def discover(package: ModuleType = analyses) -> dict[str, Analysis]:
    """Every `ANALYSIS` of the modules in `package`, by name. ValueError if two share a name."""
    found: dict[str, Analysis] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        analysis = getattr(importlib.import_module(module.name), "ANALYSIS", None)
        if analysis is None:
            continue
        if analysis.name in found:
            raise ValueError(f"{module.name}: a second analysis is named {analysis.name!r}")
        found[analysis.name] = analysis
    return found


def run_analysis(analysis: Analysis, inputs: Inputs) -> AnalysisSummary:
    """Compute, publish, export and draw, unless a finished run had the same inputs and code.

    NotReady names the stage that is missing and the command that makes it; FingerprintMismatch
    when the corpus was made with another protocol.
    """
    made_from = inputs_digest(analysis, inputs)
    protocol = inputs.protocol
    open_corpus(inputs.conn, inputs.corpus, protocol.digest, protocol.files)
    command = f"analyze {analysis.name}"
    finished = finished_run(inputs.conn, command, made_from, inputs.reader, inputs.corpus)
    if finished is not None:
        files = () if figure_files(analysis, inputs) else write_results(analysis, inputs)
        return AnalysisSummary(analysis.name, "unchanged", finished, files)
    with recorded_run(
        inputs.conn,
        command,
        _settings(analysis, inputs),
        inputs=made_from,
        protocol_digest=protocol.digest,
        reader=inputs.reader,
        corpus=inputs.corpus,
    ) as run:
        result = analysis.run(inputs)
        place = (inputs.reader, inputs.corpus, analysis.name)
        publish(inputs.conn, run.id, *place, result.metrics, result.tables)
        files = write_results(analysis, inputs)
    return AnalysisSummary(analysis.name, "done", run.id, files)


def write_results(analysis: Analysis, inputs: Inputs) -> tuple[Path, ...]:
    """Export the current rows and draw their figures anew; computes nothing."""
    place = (inputs.reader, inputs.corpus, analysis.name)
    files = export_results(inputs.conn, inputs.workspace, *place)
    return (*files, *draw_figures(analysis, inputs))


def draw_figures(analysis: Analysis, inputs: Inputs) -> list[Path]:
    """Draw the current rows as PNG and SVG, and remove figures of earlier rows.

    A figure of planted labels says so on its face.
    """
    place = (inputs.conn, inputs.reader, inputs.corpus, analysis.name)
    rows = Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))
    files = []
    for name, figure in analysis.draw(rows).items():
        if inputs.protocol.labels == "planted":
            stamp(figure, PLANTED_NOTE)
        for suffix in ("png", "svg"):
            path = _figure_folder(inputs) / f"{analysis.name}.{name}.{suffix}"
            write_file_atomically(path, render(figure, suffix))
            files.append(path)
    for path in set(figure_files(analysis, inputs)) - set(files):
        path.unlink()
    return files


def figure_files(analysis: Analysis, inputs: Inputs) -> list[Path]:
    """The figure files of an analysis that are there."""
    return sorted(_figure_folder(inputs).glob(f"{analysis.name}.*"))


def inputs_digest(analysis: Analysis, inputs: Inputs) -> str:
    """Digest of all that decides an analysis' rows. NotReady when a stage it needs is missing."""
    place = Place(inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, inputs.layers)
    stages = {need: STAGES[need](place) for need in analysis.needs}
    return digest(
        canonical_json(
            {"analysis": analysis.name, "protocol": inputs.protocol.digest, "stages": stages}
            | _settings(analysis, inputs)
        )
    )


def _settings(analysis: Analysis, inputs: Inputs) -> dict[str, Any]:
    names = ("layers", "layer", "seed", "permutations")
    settings = {name: getattr(inputs, name) for name in names}
    return settings | ({"suite": asdict(inputs.suite)} if "model" in analysis.needs else {})


def _figure_folder(inputs: Inputs) -> Path:
    return inputs.workspace.results(inputs.reader) / "figures" / inputs.corpus
