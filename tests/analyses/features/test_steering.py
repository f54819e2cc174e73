"""Laws of steering with features: V10's own arms, effects of what is added, and an honest no."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from analyses import preference_steering
from analyses.base import Inputs, Result
from analyses.choices import ask_all, open_choices
from analyses.features.reading import Crosscheck
from analyses.features.steering import (
    CHOICES,
    RANDOM,
    Steered,
    relation_rows,
    require_steered,
    steer_features,
)
from analyses.methods import rating
from analyses.methods.geometry import unit
from analyses.reading import open_probes
from analyses.steering_arms import Key
from analyses.steering_effects import Judge
from engine.demo.world import DEMO_FOLDER
from engine.loading import LazyModel
from engine.sweep import BASELINE, Arm
from stores.database import Connection
from stores.errors import BadValue, Stopped
from stores.results import Metric
from stores.workspace import Workspace
from tests.analyses.choosing import D_MODEL, LAYER, NORMS, SUITE, ask_inputs, open_choosing_lab
from tests.analyses.criteria_lab import records
from tests.analyses.features.behaving import (
    choose,
    compare,
    number,
    random_rows,
    row_of,
)
from tests.analyses.lab import Lab

F, STEERED, ACTIVITIES = 60, 6, 8


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return LazyModel(name=str(DEMO_FOLDER), device="cpu")


@pytest.fixture
def lab(conn: Connection, workspace: Workspace, model: LazyModel) -> Lab:
    return open_choosing_lab(conn, workspace, model)


@pytest.fixture(autouse=True)
def ordinary_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual norms of the embedded model: the made-up activations have length 1."""
    for room in ("preference_steering", "features.steering"):
        monkeypatch.setattr(f"analyses.{room}.steering_norms", lambda _, layers: NORMS)


def _inputs(lab: Lab, model: LazyModel) -> Inputs:
    """With two activities of each of four categories."""
    activities = lab.protocol.activities[:ACTIVITIES]
    return ask_inputs(lab, model, protocol=replace(lab.protocol, activities=activities))


def _found(inputs: Inputs) -> tuple[Crosscheck, dict[str, Any]]:
    """The SAE holds each vector among random rows; what tells emotions apart are other rows."""
    directions = open_probes(inputs).directions[LAYER]
    e = len(directions)
    rows = random_rows(F, D_MODEL, 2)
    rows[:e] = 3.0 * unit(directions)
    found = compare(inputs, {"sae": rows, "control": random_rows(F, D_MODEL, 3)})
    return found, choose(cosine=np.arange(e), auc=e + np.arange(e), control=e + np.arange(e))


def _answers(lab: Lab) -> int:
    return int(lab.conn.execute("SELECT count(*) FROM answers").fetchone()[0])


def _arms(lab: Lab) -> set[str]:
    return {name for (name,) in lab.conn.execute("SELECT name FROM arms")}


def test_vectors_and_random_directions_are_the_arms_of_v10_and_are_not_asked_again(
    lab: Lab, model: LazyModel
) -> None:
    inputs = _inputs(lab, model)
    suite = preference_steering.run(inputs)
    before = _arms(lab)
    result = steer_features(*_found(inputs), STEERED)
    kinds = ("emotion", "random")
    v10 = {str(row["who"]): row for row in records(suite, "arms") if row["kind"] in kinds}
    spread = [name for name, row in v10.items() if row["spread"]]
    rows = records(result, "steering")
    assert {str(row["emotion"]) for row in rows} == set(spread)
    for row in rows:
        own = v10[str(row["emotion"])]
        assert (row["vector"], row["r"]) == (own["effect"], own["r"])
        assert number(result, "steer.vector", str(row["emotion"])) == own["effect"]
    for name in ("random 1", "random 5"):
        assert number(result, "steer.random", name) == v10[name]["effect"]
    assert number(result, "steer.zero") == pytest.approx(0.0, abs=0.01)
    added = _arms(lab) - before
    assert len(added) <= 4 * STEERED
    assert all("feature" in name for name in added)


def test_an_effect_is_what_adding_the_features_row_at_the_suites_strength_does(
    lab: Lab, model: LazyModel
) -> None:
    inputs = _inputs(lab, model)
    found, chosen = _found(inputs)
    result = steer_features(found, chosen, STEERED)
    row = records(result, "steering")[0]
    feature = int(row["auc_feature"])
    direction = unit(found["sae"].rows[[feature]])[0]
    arm = Arm("by hand", "dose", 0.5, {LAYER: (0.5 * NORMS[LAYER] * direction).astype(np.float32)})
    choices = open_choices(inputs)
    answers, _ = ask_all(inputs, choices, [BASELINE, arm])
    plain, after = rating.elo(rating.soft_wins(answers), inputs.seed)
    moved = after - plain
    effect = moved[choices.steered].mean() - moved[~choices.steered].mean()
    assert row["auc"] == pytest.approx(effect, abs=1e-9)
    metric = row_of(result, "steer.auc", str(row["emotion"]))
    assert metric.value == row["auc"]
    assert (metric.ci_low or 0) <= effect <= (metric.ci_high or 0)


def test_features_that_are_the_vectors_steer_as_they_do(lab: Lab, model: LazyModel) -> None:
    inputs = _inputs(lab, model)
    result = steer_features(*_found(inputs), STEERED)
    for row in records(result, "steering"):
        assert row["cosine"] == pytest.approx(row["vector"], abs=0.1)
    assert number(result, "steer.cosine.alike") > 0.999
    assert row_of(result, "steer.cosine.alike").p_value == pytest.approx(1 / 200, abs=0.01)
    assert number(result, "steer.cosine") == pytest.approx(number(result, "steer.vector"), abs=0.01)
    assert abs(number(result, "steer.auc.alike")) < 0.9


def test_what_was_asked_is_not_asked_again_and_a_stop_loses_no_answer(
    conn: Connection, workspace: Workspace, lab: Lab, model: LazyModel, tmp_path: Path
) -> None:
    inputs = _inputs(lab, model)
    stop, told = threading.Event(), []

    def watch(_stage: str, done: int, total: int, _note: str) -> None:
        told.append(done)
        if 2 * done > total > ACTIVITIES * (ACTIVITIES - 1):
            stop.set()

    found, chosen = _found(replace(inputs, stop=stop, watch=watch))
    with pytest.raises(Stopped, match="answers kept; the same command goes on from there"):
        steer_features(found, chosen, STEERED)
    kept = _answers(lab)
    assert kept > 0
    first = steer_features(*_found(inputs), STEERED)
    every = _answers(lab)
    assert every > kept
    assert steer_features(*_found(inputs), STEERED) == first
    assert _answers(lab) == every


def test_emotions_that_share_a_feature_share_its_arm(lab: Lab, model: LazyModel) -> None:
    inputs = _inputs(lab, model)
    found, chosen = _found(inputs)
    shared = chosen | {"auc": np.full_like(chosen["auc"], 50)}
    result = steer_features(found, shared, STEERED)
    assert [name for name in _arms(lab) if "sae feature 50 " in name] == [
        "by-hand sae feature 50 +0.5"
    ]
    effects = {row["auc"] for row in records(result, "steering")}
    assert len(effects) == 1
    assert row_of(result, "steer.auc").value is None
    assert row_of(result, "steer.auc.size").n == 1
    assert row_of(result, "steer.auc").passed is None


def _told(result: Result) -> str:
    return str({row["setting"]: row for row in records(result, "steering_settings")}["not_steered"])


def test_where_nothing_can_be_steered_the_rows_have_no_value_and_say_why(
    lab: Lab, model: LazyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = _inputs(lab, model)
    bare = replace(inputs, protocol=replace(inputs.protocol, activities=()))
    late = "analyses.features.steering.require_reach"
    reasons = {"no activities.tsv": _found(bare), "cannot reach": _found(inputs)}
    results = {}
    for reason, (found, chosen) in reasons.items():
        with monkeypatch.context() as patch:
            if reason == "cannot reach":
                patch.setattr(late, _refuse)
            results[reason] = steer_features(found, chosen, STEERED)
    with monkeypatch.context() as patch:
        patch.setattr("analyses.features.steering.rating.elo", _indifferent)
        results["rated alike"] = steer_features(*_found(inputs), STEERED)
    for reason, result in results.items():
        assert reason in _told(result)
        assert {row.value for row in result.metrics} == {None}
        assert row_of(result, "steer.cosine.gain").passed is False


def _refuse(_model: Any, layers: Any) -> None:
    raise BadValue(f"what is added at layer {layers[0]} cannot reach the answer")


def _indifferent(wins: Any, seed: int) -> Any:
    return np.full(np.shape(wins)[:-1], 1000.0)


def test_nothing_is_steered_when_none_are_asked_for_and_two_are_too_few(
    lab: Lab, model: LazyModel
) -> None:
    found, chosen = _found(_inputs(lab, model))
    assert steer_features(found, chosen, 0) == Result()
    assert lab.conn.execute("SELECT count(*) FROM sweeps").fetchone()[0] == 0
    for steered in (-1, 1, 2):
        with pytest.raises(BadValue, match="a correlation needs at least 3"):
            require_steered(steered)
    require_steered(0)
    require_steered(3)


def _simulate(rng: np.random.Generator, follow: float, who: Sequence[str]) -> Steered:
    """Effects drawn anew for every direction; those of `who` also follow r."""
    k, m = 8, 12
    names = dict.fromkeys(CHOICES, k) | {RANDOM: m}
    keys = {name: [Key(f"{name} {i}", 0.5) for i in range(n)] for name, n in names.items()}
    r = rng.uniform(-1.0, 1.0, size=k)
    effect = {key: float(rng.normal()) for own in keys.values() for key in own}
    for name in who:
        for key, own in zip(keys[name], r, strict=True):
            effect[key] += follow * own
    ends = dict.fromkeys(effect, (0.0, 0.0))
    emotions = tuple(f"e{i}" for i in range(k))
    return Steered(LAYER, 16, emotions, r, rng.uniform(-1.0, 1.0, size=m), keys, effect, ends)


def test_features_no_better_than_the_controls_have_p_as_even_as_chance() -> None:
    rng = np.random.default_rng(0)
    drawn: dict[str, list[float]] = {}
    for _ in range(200):
        moved = _simulate(rng, 0.0, ())
        for row in relation_rows(moved, Judge(LAYER, 199, rng)):
            drawn.setdefault(row.metric, []).append(row.p_value or 0.0)
    for metric in ("steer.auc.gain", "steer.cosine.gain", "steer.auc.size", "steer.control.size"):
        assert kstest(drawn[metric], "uniform").pvalue > 0.01, metric
        assert np.mean(np.array(drawn[metric]) <= 0.05) < 0.1
    for metric in ("steer.auc", "steer.control", "steer.cosine.alike"):
        assert kstest(drawn[metric], "uniform").pvalue > 0.01, metric


def test_following_r_is_no_gain_where_the_controls_features_follow_it_as_well() -> None:
    rng = np.random.default_rng(2)
    drawn: dict[str, list[Metric]] = {}
    for _ in range(100):
        for row in relation_rows(_simulate(rng, 5.0, CHOICES), Judge(LAYER, 199, rng)):
            drawn.setdefault(row.metric, []).append(row)
    assert np.mean([row.value or 0.0 for row in drawn["steer.cosine"]]) > 0.8
    for metric in ("steer.auc.gain", "steer.cosine.gain", "steer.vector.gain"):
        assert np.mean([bool(row.passed) for row in drawn[metric]]) <= 0.1
        assert kstest([row.p_value or 0.0 for row in drawn[metric]], "uniform").pvalue > 0.01


def test_features_that_move_elo_further_as_r_foretells_pass_and_the_others_do_not() -> None:
    rng = np.random.default_rng(1)
    moved = _simulate(rng, 20.0, ["cosine"])
    rows = {row.metric: row for row in relation_rows(moved, Judge(3, 199, rng))}
    gain = rows["steer.cosine.gain"]
    assert (gain.passed, gain.threshold, gain.chance) == (True, 0.0, 0.0)
    assert (gain.ci_low or 0) > 0
    assert rows["steer.auc.gain"].passed is False
    assert (rows["steer.cosine.size"].p_value or 1) <= 0.05
    assert "steer.control.gain" not in rows
    assert {row.passed for name, row in rows.items() if not name.endswith(".gain")} == {None}


def test_the_small_suite_has_as_many_emotions_as_are_steered_here() -> None:
    assert SUITE.steered == STEERED
