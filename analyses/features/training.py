"""The command `sae train` as one call, and its rows: how an SAE does on topics held out.

The rows are analysis `sae_training.NAME`. Knows nothing of how an SAE is trained.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from analyses.base import AnalysisSummary, Inputs, Result, Rows, home_of
from analyses.figures.progress import Quantity, draw_progress
from analyses.keeping import keep_results
from analyses.reading import require_model
from stores.corpora import open_corpus
from stores.database import canonical_json, digest
from stores.errors import NotReady, UsageError
from stores.readers import is_imported, reader_settings
from stores.results import Cell, Metric, Table

if TYPE_CHECKING:
    from engine.features.training.finished import Finished
    from engine.features.training.settings import TrainingSettings, TrainingSummary

COMMAND = "analyze sae_training"
MEASURES = {
    "variance_unexplained": "variance unexplained",
    "l0": "features that fire on a token",
    "dead_features": "share of features that never fire",
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished SAE, and its rows."""

    summary: "TrainingSummary"
    done: AnalysisSummary

    @property
    def lines(self) -> list[tuple[str, str]]:
        """What it does on topics it was not trained on, to be shown."""
        found = self.summary.held_out
        told = [(name, f"{found[key]:.3g}") for key, name in MEASURES.items()]
        return [*told, ("tokens of these topics", f"{found['tokens']:,.0f}")]


def train_sae(
    inputs: Inputs,
    name: str | None,
    chosen: Mapping[str, Any],
    *,
    tell: Callable[[str], None] = lambda _line: None,
) -> Trained | None:
    """Train at the layer of `inputs`, or go on, and keep the rows; None after a stop.

    `chosen`: fields of `TrainingSettings`. Raises UsageError for sizes that make no sense, NotReady
    for imported vectors, what `require_model` and `run_training` raise.
    """
    from engine.features.training.job import run_training

    if is_imported(inputs.conn, inputs.reader):
        raise NotReady(
            f"the vectors of reader {inputs.reader} were imported, and with them no model that "
            "reads texts here; `extract` with that model to train an SAE on it"
        )
    watch = inputs.watch
    summary = run_training(
        inputs.conn,
        inputs.workspace,
        require_model(inputs),
        _settings(inputs, name, chosen),
        progress=lambda *now: None if watch is None else watch("tokens", *now),
        stop=inputs.stop or threading.Event(),
        tell=tell,
    )
    return None if summary.folder is None else Trained(summary, keep_training(inputs, summary))


def _settings(inputs: Inputs, name: str | None, chosen: Mapping[str, Any]) -> "TrainingSettings":
    """Texts are read as the reader read them."""
    from engine.features.training.settings import TrainingSettings

    default = f"layer{inputs.layer}-{chosen['kind']}-{chosen['width']}"
    try:
        return TrainingSettings(
            reader=inputs.reader,
            corpus=inputs.corpus,
            name=default if name is None else name,
            layer=inputs.layer,
            format=reader_settings(inputs.conn, inputs.reader)["format"],
            seed=inputs.seed,
            **chosen,
        )
    except ValueError as error:
        raise UsageError(f"an SAE cannot be trained so: {error}") from error


def keep_training(inputs: Inputs, summary: "TrainingSummary") -> AnalysisSummary:
    """Publish, export and draw what is told of a finished SAE."""
    from engine.features.training.finished import read_finished

    finished = None if summary.folder is None else read_finished(summary.folder)
    if finished is None:
        raise ValueError("the training is not finished")
    protocol, name = inputs.protocol, f"sae_training.{finished.folder.name}"
    open_corpus(inputs.conn, inputs.corpus, protocol.digest, protocol.files)
    settings = {"analysis": name, **finished.settings}
    return keep_results(
        home_of(inputs),
        f"{COMMAND}.{finished.folder.name}",
        name,
        lambda: training_rows(finished),
        figures,
        settings=settings,
        made_from=digest(canonical_json({**settings, "told": _told(finished)})),
        protocol_digest=protocol.digest,
    )


def _told(finished: "Finished") -> dict[str, Any]:
    told = asdict(finished)
    return {"held_out": told["held_out"], "curve": told["curve"]}


def training_rows(finished: "Finished") -> Result:
    """variance_unexplained, l0 and dead_features on held-out tokens (n); tables settings, curve.

    The curve is of batches trained on. dead_features there counts features that did not fire for
    many batches, in the metric those that fire on no held-out token.
    """
    layer, held_out = int(finished.settings["layer"]), finished.held_out
    n = int(held_out["tokens"])
    metrics = [Metric(each, held_out[each], layer, n=n) for each in MEASURES]
    columns = tuple(finished.curve[0])
    curve = tuple(tuple(point[each] for each in columns) for point in finished.curve)
    settings = tuple((key, _cell(value)) for key, value in finished.settings.items())
    tables = (Table("settings", ("setting", "value"), settings), Table("curve", columns, curve))
    return Result(tuple(metrics), tables)


def _cell(value: Any) -> Cell:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def figures(rows: Rows) -> dict[str, Figure]:
    """The curve of a training."""
    settings, curve = rows.settings, rows.records("curve")
    held_out = {each.metric: each.value for each in rows.metrics}
    quantities = [
        Quantity(
            name.replace("that", "\nthat", 1),
            _column(curve, each),
            {"held out": float(held_out[each] or 0.0)},
        )
        for each, name in MEASURES.items()
    ]
    drawn = draw_progress(
        _column(curve, "tokens"),
        quantities,
        title=f"Training of SAE {settings['name']}",
        subtitle=f"{settings['kind']}, {settings['width']:,} features, layer {settings['layer']} "
        f"of reader {settings['reader']}, corpus {settings['corpus']}; dots: batches trained on",
        place_name="tokens trained on",
    )
    return {"curve": drawn}


def _column(records: list[dict[str, Cell]], name: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([record[name] for record in records], np.float64)
