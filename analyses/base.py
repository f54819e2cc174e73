"""What an experiment is, and the one way to run it: rows first, then exports and figures from rows.

An experiment is a file in this folder with one `ANALYSIS`. Knows no experiment by name.
"""

import importlib
import pkgutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import analyses
from analyses.keeping import (
    AnalysisSummary,
    Draw,
    Home,
    Result,
    Rows,
    Write,
    keep_results,
    no_pages,
)
from analyses.readiness import STAGES, Place
from analyses.suite import Suite
from stores.corpora import open_corpus
from stores.database import Connection, canonical_json, digest
from stores.errors import UsageError
from stores.protocol import Protocol
from stores.workspace import Workspace

__all__ = ["AnalysisSummary", "Home", "Result", "Rows"]

if TYPE_CHECKING:
    from engine.loading import LazyModel
    from stores.norms import Norms


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
    norms: "Norms | None" = None
    """Human ratings, for the analyses that need them."""
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
class Analysis:
    """One experiment."""

    name: str
    question: str
    needs: tuple[str, ...]
    """Stages that must be finished, out of `readiness.STAGES`."""
    run: Callable[[Inputs], Result]
    draw: Draw
    """Figures by name, from rows alone."""
    pages: Write = no_pages

    def __post_init__(self) -> None:
        if unknown := [need for need in self.needs if need not in STAGES]:
            raise ValueError(f"analysis {self.name} needs {unknown}; known: {sorted(STAGES)}")


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
    return keep_results(
        home_of(inputs),
        f"analyze {analysis.name}",
        analysis.name,
        partial(analysis.run, inputs),
        analysis.draw,
        settings=_settings(analysis, inputs),
        made_from=made_from,
        protocol_digest=protocol.digest,
        pages=analysis.pages,
    )


def home_of(inputs: Inputs) -> Home:
    """Where an analysis of these inputs is kept."""
    planted = inputs.protocol.labels == "planted"
    return Home(inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, planted)


def inputs_digest(analysis: Analysis, inputs: Inputs) -> str:
    """Digest of all that decides an analysis' rows. NotReady when a stage it needs is missing."""
    place = Place(
        inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, inputs.layers, inputs.norms
    )
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
