"""A laboratory whose reader is the embedded model, with any vectors one likes at one layer."""

from typing import Any, cast

import numpy as np

from analyses.base import Inputs, Result
from engine.demo.residuals import Reader
from engine.demo.world import DEMO_FOLDER
from engine.loading import LazyModel
from stores.activations import ArraySettings, open_arrays
from stores.corpora import open_corpus
from stores.database import Connection
from stores.protocol import Protocol, load_protocol
from stores.results import Metric, Table
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, Lab, store_vectors
from tests.analyses.planted import Floats

LAYER, D_MODEL, LAYERS = 3, 128, 6
DEMO = load_protocol(DEMO_FOLDER / "protocol")


def demo_model() -> LazyModel:
    """The embedded model, loaded when first asked for."""
    return LazyModel(name=str(DEMO_FOLDER), device="cpu")


def demo_reader(model: LazyModel) -> Reader:
    """The same, as the demo's own scorecard reads it."""
    return Reader(cast("Any", model.loaded.model), model.loaded.tokenizer, LAYER)


def open_criteria_lab(
    conn: Connection,
    workspace: Workspace,
    model: LazyModel,
    vectors: Floats,
    protocol: Protocol = DEMO,
) -> Lab:
    """A workspace in which this model has read a corpus that gave these vectors (e, d)."""
    open_corpus(conn, CORPUS, protocol.digest, protocol.files)
    sha, dtype = model.checkpoint.weights_sha, model.compute_dtype
    settings = ArraySettings(
        "demo", "local", sha, LAYERS, D_MODEL, 50, "raw", dtype, protocol.digest
    )
    open_arrays(conn, workspace, READER, CORPUS, "stories", settings, 16)
    lab = Lab(conn, workspace, protocol)
    store_vectors(lab, {LAYER: vectors})
    return lab


def made_up_vectors(seed: int = 0, protocol: Protocol = DEMO) -> Floats:
    """Random vectors (e, d), which no model has anything to do with."""
    return np.random.default_rng(seed).normal(size=(len(protocol.names), D_MODEL))


def suite_inputs(lab: Lab, model: LazyModel, **changes: Any) -> Inputs:
    return lab.inputs(LAYER, model=model, **changes)


def one(result: Result, metric: str) -> Metric:
    """The row of that name. StopIteration when there is none."""
    return next(row for row in result.metrics if row.metric == metric)


def values(result: Result) -> dict[str, float | None]:
    return {row.metric: row.value for row in result.metrics}


def records(result: Result, name: str) -> list[dict[str, Any]]:
    table: Table = next(table for table in result.tables if table.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]
