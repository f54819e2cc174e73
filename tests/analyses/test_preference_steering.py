"""Laws of the steering experiment: its arms, and its numbers on the embedded model."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from analyses.base import Rows, run_analysis
from analyses.preference_steering import ANALYSIS, draw, run
from analyses.reading import open_probes
from analyses.steering_arms import (
    BAND,
    MEAN,
    Key,
    Selections,
    plan_arms,
    random_directions,
    random_name,
    require_reach,
    select_emotions,
)
from engine.demo.preferences import score_preferences
from engine.demo.residuals import Reader
from engine.demo.world import DEMO_FOLDER
from engine.loading import LazyModel
from engine.models import load_model
from engine.steering import last_reaching_layer
from stores.database import Connection
from stores.errors import BadValue
from stores.results import Metric, read_metrics, read_tables
from stores.workspace import Workspace
from tests.analyses.choosing import (
    LAYER,
    NORMS,
    SUITE,
    ask_inputs,
    made_up_vectors,
    open_choosing_lab,
)
from tests.analyses.lab import CORPUS, READER, Lab
from tests.engine.tiny import save_checkpoint

CHOSEN = Selections(top=(0, 1, 2, 3, 4, 5), spread=(5, 7, 9, 11, 13, 15), some=(5, 9, 15))


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return LazyModel(name=str(DEMO_FOLDER), device="cpu")


@pytest.fixture
def lab(conn: Connection, workspace: Workspace, model: LazyModel) -> Lab:
    return open_choosing_lab(conn, workspace, model)


@pytest.fixture(autouse=True)
def ordinary_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual norms of the embedded model: the made-up activations have length 1."""
    monkeypatch.setattr("analyses.preference_steering.steering_norms", lambda _, layers: NORMS)


def test_the_spread_selection_has_both_ends_and_the_top_one_the_largest() -> None:
    r = np.array([0.1, -0.9, 0.5, 0.0, 0.8, -0.3, 0.2])
    chosen = select_emotions(r, 3, 3)
    assert chosen.top == (1, 4, 2)
    assert chosen.spread == (1, 0, 4)
    assert chosen.exemplars == (4, 1)
    assert chosen.all == (0, 1, 2, 4)
    assert select_emotions(r, 35, 12).spread == tuple(np.argsort(r))


def test_random_directions_are_the_same_however_many_there_are() -> None:
    few = random_directions(5, 40, np.random.default_rng(3))
    many = random_directions(9, 40, np.random.default_rng(3))
    np.testing.assert_array_equal(many[:5], few)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0)


def test_every_arm_adds_what_its_name_says(lab: Lab, model: LazyModel) -> None:
    inputs = ask_inputs(lab, model)
    probes = open_probes(inputs, (2, 3))
    names = probes.emotions
    drawn = random_directions(5, 128, np.random.default_rng(0))
    controls = {random_name(i): drawn[i] for i in range(5)} | {MEAN: drawn[4]}
    arms = plan_arms(inputs, CHOSEN, probes, controls, NORMS, (2, 3))
    kinds = [arm.kind for arm in arms.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "emotion": 11, "random": 5, "mean": 1, "opposite": 3, "dose": 4, "band": 3
    }  # fmt: skip
    assert len({arm.name for arm in arms.values()}) == len(arms)
    for key, arm in arms.items():
        assert arm.strength == key.strength
        if key.where == BAND:
            for layer, vector in arm.vectors.items():
                expected = 0.5 / 2 * NORMS[layer] * probes.directions[layer][names.index(key.who)]
                np.testing.assert_allclose(vector, expected, rtol=1e-6)
            assert tuple(arm.vectors) == (2, 3)
        else:
            assert tuple(arm.vectors) == (3,)
            length = np.linalg.norm(arm.vectors[3])
            assert length == pytest.approx(abs(key.strength) * NORMS[3], rel=1e-6)
    opposite = arms[Key(names[9], -0.5)].vectors[3]
    np.testing.assert_array_equal(opposite, -arms[Key(names[9], 0.5)].vectors[3])


def rows_of(lab: Lab) -> Rows:
    place = (lab.conn, READER, CORPUS, "preference_steering")
    return Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))


def number(rows: Rows, metric: str, subject: str | None = None) -> float:
    (found,) = [row for row in rows.select(metric, LAYER) if row.subject == subject]
    return float(found.value or 0.0)


def test_scores_are_those_of_the_demo_and_figures_come_from_rows(
    lab: Lab, model: LazyModel
) -> None:
    files = run_analysis(ANALYSIS, ask_inputs(lab, model)).files
    rows = rows_of(lab)
    reader = Reader(cast(Any, model.loaded.model), model.loaded.tokenizer, LAYER)
    vectors = made_up_vectors(len(lab.protocol.emotions))[LAYER]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.demo.preferences.N_STEERED_EMOTIONS", SUITE.steered)
        patch.setattr("engine.demo.preferences.N_RANDOM", 1)
        expected = cast(
            "dict[str, Any]",
            score_preferences(
                reader, lab.protocol, vectors, NORMS[LAYER], np.random.default_rng(0)
            ),
        )
    arms = [row for row in rows.records("arms") if row["kind"] == "emotion"]
    for selection, suffix in (("top", ""), ("spread", ".spread")):
        assert number(rows, f"V10{suffix}") == pytest.approx(expected[f"V10_{selection}"], abs=0.01)
        assert number(rows, f"V11{suffix}") == expected[f"V11_{selection}"]
        changes = [float(row["mean_change"] or 0) for row in arms if row[selection]]
        assert len(changes) == SUITE.steered
        ends = [min(changes), max(changes)]
        assert ends == pytest.approx(expected[f"delta_elo_{selection}"], abs=0.06)
    assert number(rows, "V10.zero") == pytest.approx(0.0, abs=0.01)
    figures = {path.name: path.read_bytes().decode() for path in files if path.suffix == ".svg"}
    names = ("doses", "effects", "exemplars")
    assert sorted(figures) == [f"preference_steering.{name}.svg" for name in names]
    assert all("toy model, planted geometry" in text for text in figures.values())
    steered = [str(row["who"]) for row in arms if row["spread"]]
    assert all(name in figures["preference_steering.effects.svg"] for name in steered)
    assert set(draw(rows)) == set(names)


def test_steering_asks_the_baseline_of_preferences_once_and_the_same_arms_never_again(
    lab: Lab, model: LazyModel
) -> None:
    from analyses.preferences import run as run_preferences

    run_preferences(ask_inputs(lab, model))
    first = run(ask_inputs(lab, model))
    assert lab.conn.execute("SELECT count(*) FROM sweeps").fetchone()[0] == 1
    kept = lab.conn.execute("SELECT count(*) FROM answers").fetchone()[0]
    assert run(ask_inputs(lab, model)) == first
    assert lab.conn.execute("SELECT count(*) FROM answers").fetchone()[0] == kept
    zero = [row for row in first.metrics if row.metric == "V10.zero"]
    assert isinstance(zero[0], Metric)


def test_a_model_without_preferences_is_not_steered_and_fails(
    lab: Lab, model: LazyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def indifferent(wins: Any, seed: int) -> Any:
        return np.full(np.shape(wins)[:-1], 1000.0)

    monkeypatch.setattr("analyses.preference_steering.rating.elo", indifferent)
    run_analysis(ANALYSIS, ask_inputs(lab, model))
    rows = rows_of(lab)
    assert [row.passed for row in rows.select("V10.controlled")] == [False]
    assert rows.select("V11")[0].value is None
    assert draw(rows) == {}


def test_a_layer_whose_additions_cannot_reach_the_answer_is_refused(tmp_path: Path) -> None:
    model = load_model(str(save_checkpoint(tmp_path / "shared", "gemma4_shared")), device="cpu")
    last = last_reaching_layer(model)
    assert 0 <= last < model.n_layers - 2
    require_reach(model, range(last + 1))
    with pytest.raises(BadValue, match=rf"at layer {last + 1} cannot reach .* --layer {last} "):
        require_reach(model, (last, last + 1))
