"""The rows of a training: what is told of the SAE, once, with its curve."""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.base import Inputs, home_of
from analyses.features.training import MEASURES, Trained, figures, train_sae
from analyses.keeping import read_rows
from engine.features.training.finished import read_finished
from engine.loading import LazyModel
from engine.models import load_model
from stores.database import open_database
from stores.errors import FingerprintMismatch, UsageError
from stores.workspace import Workspace
from tests.analyses.sheets import outside
from tests.engine.features.training.made import LAYER, make_reader, protocol_of
from tests.engine.tiny import save_checkpoint

CHOSEN = {
    "width": 48,
    "kind": "topk",
    "tokens": 2400,
    "l0": 4,
    "batch_tokens": 60,
    "buffer_tokens": 400,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("trained")
    checkpoint, workspace = save_checkpoint(root / "tiny"), Workspace(root)
    model = LazyModel(name=str(checkpoint), device="cpu")
    with closing(open_database(workspace.database)) as conn:
        make_reader(conn, workspace, load_model(str(checkpoint), device="cpu"))
        yield Inputs(
            conn=conn,
            workspace=workspace,
            protocol=protocol_of(workspace),
            reader="tiny",
            corpus="toy",
            layers=(LAYER,),
            layer=LAYER,
            seed=0,
            permutations=1,
            model=model,
        )


def changed(inputs: Inputs, **changes: Any) -> Inputs:
    fields = {name: getattr(inputs, name) for name in Inputs.__slots__}
    return Inputs(**(fields | changes))


def trained(inputs: Inputs, name: str | None = None, **changes: Any) -> Trained:
    found = train_sae(inputs, name, {**CHOSEN, **changes})
    assert found is not None
    return found


def test_the_rows_are_what_the_sae_says_of_itself(inputs: Inputs) -> None:
    found = trained(inputs)
    assert found.summary.folder is not None
    assert found.summary.folder.name == "layer2-topk-48"
    rows = read_rows(home_of(inputs), "sae_training.layer2-topk-48")
    held_out = found.summary.held_out
    assert {row.metric: row.value for row in rows.metrics} == {
        key: held_out[key] for key in MEASURES
    }
    assert {(row.layer, row.n) for row in rows.metrics} == {(LAYER, held_out["tokens"])}
    finished = read_finished(found.summary.folder)
    assert finished is not None
    assert rows.records("curve") == list(finished.curve)
    assert [name for name, _ in found.lines[:3]] == list(MEASURES.values())


def test_a_second_call_keeps_nothing_anew(inputs: Inputs) -> None:
    first, second = trained(inputs, "twice"), trained(inputs, "twice")
    assert (first.done.status, second.done.status) == ("done", "unchanged")
    assert second.done.run_id == first.done.run_id


def test_the_figure_shows_the_curve_and_what_was_held_out(inputs: Inputs) -> None:
    found = trained(inputs, "shown")
    rows = read_rows(home_of(inputs), "sae_training.shown")
    figure = figures(rows)["curve"]
    for axes, name in zip(figure.axes, MEASURES, strict=True):
        curve, mark = axes.lines
        expected = [[point["tokens"], point[name]] for point in rows.records("curve")]
        np.testing.assert_array_equal(curve.get_xydata(), expected)
        assert np.asarray(mark.get_ydata())[0] == found.summary.held_out[name]
    assert outside(figure) == []


def test_a_stop_keeps_no_rows(inputs: Inputs) -> None:
    stop = threading.Event()
    stop.set()
    assert train_sae(changed(inputs, stop=stop), "stopped", CHOSEN) is None
    assert read_rows(home_of(inputs), "sae_training.stopped").metrics == ()


def test_sizes_that_make_no_sense_are_one_line(inputs: Inputs) -> None:
    with pytest.raises(UsageError, match=r"cannot be trained so: --l0 \d+ .* --width \d+"):
        train_sae(inputs, "odd", {**CHOSEN, "l0": 49})


def test_a_model_that_is_not_the_readers_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    other = LazyModel(name=str(save_checkpoint(tmp_path, "qwen3")), device="cpu")
    with pytest.raises(FingerprintMismatch, match="weights_sha"):
        train_sae(changed(inputs, model=other), "other", CHOSEN)
