"""Laws of V3 and V4: the paper's matrix scores as published, planted probes win, others do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyses.base import Rows, run_analysis
from analyses.criteria import Question, read_ends
from analyses.methods.geometry import unit
from analyses.methods.scoring import centre
from analyses.scenarios import ANALYSIS, draw, read_paper, run, score_alternates, score_scenarios
from engine.demo.criteria import score_scenarios as demo_scenarios
from engine.loading import LazyModel
from stores.database import Connection
from stores.errors import NotReady
from stores.protocol import Protocol, Scenario, load_protocol
from stores.results import read_metrics, read_tables
from stores.workspace import Workspace
from tests.analyses.criteria_lab import (
    DEMO,
    LAYER,
    demo_model,
    demo_reader,
    made_up_vectors,
    one,
    open_criteria_lab,
    records,
    suite_inputs,
    values,
)
from tests.analyses.lab import CORPUS, READER, Lab
from tests.analyses.planted import Floats, frozen

EMOTIONS = tuple(scenario.emotion for scenario in DEMO.scenarios)
OWN = np.arange(len(EMOTIONS))


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return demo_model()


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def _paper(lab: Lab) -> Floats:
    table = read_paper(lab.inputs(LAYER), EMOTIONS)
    found = {(row[2], row[3]): row[4] for row in table.rows}
    rows = [[found[probe, scenario] for scenario in EMOTIONS] for probe in EMOTIONS]
    return frozen(np.array(rows, dtype=np.float64))


def test_on_the_papers_matrix_the_scores_are_those_that_were_published(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    result = score_scenarios(_paper(lab), LAYER, 999, _rng())
    published = {"V3": 6, "V4": 1.83, "V3.centred": 10, "V4.centred": 1.33, "V3.rows": 9}
    for metric, value in (published | {"V3.top3": 11}).items():
        assert one(result, metric).value == pytest.approx(value, abs=0.005)
    assert one(result, "V3").passed is False
    assert one(result, "V3.controlled").passed is True
    assert one(result, "V4.controlled").passed is True
    assert one(result, "V3").chance == pytest.approx(1.0)
    assert one(result, "V4").chance == pytest.approx(6.5)


def _planted(lab: Lab, model: LazyModel, scenarios: tuple[Scenario, ...], noise: float) -> Floats:
    """Vectors that read 0 at each of these scenarios but their own; made up for other emotions."""
    questions = [Question(each.emotion, each.prompt, "own") for each in scenarios]
    states, _ = read_ends(suite_inputs(lab, model), "scenario", questions)
    alone = np.asarray(np.linalg.pinv(states), np.float64).T
    vectors = unit(made_up_vectors(2, lab.protocol))
    for scenario, own in zip(scenarios, unit(alone), strict=True):
        row = lab.protocol.names.index(scenario.emotion)
        vectors[row] = own + noise * vectors[row]
    return frozen(vectors)


def test_probes_that_read_their_own_scenario_alone_are_highest_there(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    planted = _planted(lab, model, DEMO.scenarios, 0.0)
    lab = open_criteria_lab(conn, workspace, model, planted)
    result = run(suite_inputs(lab, model))
    for metric, value in {"V3": 12, "V3.centred": 12, "V3.rows_centred": 12, "V4": 1.0}.items():
        row = one(result, metric)
        assert (row.value, row.passed, row.p_value) == (value, True, 1 / 200)
    keys = [row["key"] for row in records(result, "prompts")]
    assert keys == [f"{emotion} 1" for emotion in EMOTIONS]
    assert {row["read_token"] for row in records(result, "prompts")} == {":"}
    assert [row["highest"] for row in records(result, "scenarios")] == list(EMOTIONS)


def test_the_same_probes_turned_round_come_last_and_fail(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    lab = open_criteria_lab(conn, workspace, model, -_planted(lab, model, DEMO.scenarios, 0.0))
    result = run(suite_inputs(lab, model))
    assert (one(result, "V3").value, one(result, "V4").value) == (0, 12.0)
    assert {one(result, f"{name}.controlled").passed for name in ("V3", "V4")} == {False}
    assert {one(result, f"{name}.controlled").p_value for name in ("V3", "V4")} == {1.0}


def test_the_scores_are_those_of_the_demos_scorecard(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    vectors = _planted(lab, model, DEMO.scenarios, 4.0)
    lab = open_criteria_lab(conn, workspace, model, vectors)
    found = values(run(suite_inputs(lab, model)))
    with torch.inference_mode():
        expected = demo_scenarios(demo_reader(model), DEMO, vectors)
    assert found["V3"] == expected["V3"]
    assert found["V4"] == pytest.approx(expected["V4"])
    assert 2 <= int(str(expected["V3"])) <= 11


def test_probes_that_nobody_made_for_their_scenarios_pass_no_controlled_reading() -> None:
    """Of 40 matrices of noise one in twenty may have a small p, none of them the bar as well."""
    small = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        result = score_scenarios(rng.normal(size=(12, 12)), LAYER, 199, rng)
        assert one(result, "V3.controlled").passed is False
        assert one(result, "V4.controlled").passed is False
        small += (one(result, "V4.controlled").p_value or 1.0) <= 0.05
    assert small <= 6


def test_a_probe_that_is_high_everywhere_hides_the_others_unless_it_is_centred() -> None:
    cosines = 0.1 * np.eye(12)
    cosines[2] += 0.5
    found = values(score_scenarios(cosines, LAYER, 99, _rng()))
    assert found["V3"] == 1
    assert found["V4"] == pytest.approx(23 / 12)
    assert (found["V3.centred"], found["V4.centred"]) == (12, 1.0)
    assert found["V3.rows"] == 12
    lifted = values(score_scenarios(frozen(cosines.T), LAYER, 99, _rng()))
    assert (lifted["V3.rows"], lifted["V3.rows_centred"]) == (1, 12)


def test_equal_probes_win_nothing() -> None:
    found = values(score_scenarios(np.full((12, 12), 0.3), LAYER, 99, _rng()))
    assert (found["V3"], found["V3.top3"], found["V4"]) == (0, 0, 6.5)


def test_further_wordings_are_scored_as_one_set_with_their_own_emotions() -> None:
    own = np.array([2, 0, 1, 2, 2])
    cosines = np.zeros((3, 5))
    cosines[own, np.arange(5)] = 1.0
    cosines[:, 4] = (3.0, 2.0, 1.0)
    result = score_alternates(cosines, own, LAYER, 199, _rng())
    row = one(result, "V3.alternates")
    assert (row.value, row.n, row.passed, row.threshold) == (4, 5, None, None)
    assert row.chance == pytest.approx(5 / 3)
    assert one(result, "V4.alternates").value == pytest.approx((4 * 1 + 3) / 5)


def _with_alternates(protocol: Protocol) -> Protocol:
    """The demo's emotions with the default protocol's scenarios, which have further wordings."""
    default = load_protocol()
    return replace(protocol, scenarios=default.scenarios, alternates=default.alternates)


def test_further_wordings_are_read_and_listed_apart(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    protocol = _with_alternates(DEMO)
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors(), protocol)
    second = tuple(each for each in protocol.alternates if each.variant == 2)
    lab = open_criteria_lab(conn, workspace, model, _planted(lab, model, second, 0.0), protocol)
    result = run(suite_inputs(lab, model))
    listed = records(result, "alternates")
    assert [(row["emotion"], row["variant"]) for row in listed] == [
        (each.emotion, each.variant) for each in protocol.alternates
    ]
    assert {row["rank"] for row in listed if row["variant"] == 2} == {1.0}
    assert one(result, "V3.alternates").n == 24
    assert (one(result, "V3.alternates").value or 0) >= 12
    assert len(records(result, "prompts")) == 36


def test_a_protocol_without_scenarios_is_told_what_to_add(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    bare = replace(DEMO, scenarios=(), alternates=())
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors(), bare)
    with pytest.raises(NotReady, match=r"no scenarios\.tsv, which V3 and V4 read; add the file"):
        run(suite_inputs(lab, model))


def test_figures_are_drawn_from_published_rows_beside_the_paper(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    files = run_analysis(ANALYSIS, suite_inputs(lab, model)).files
    figures = {path.name: path.read_text() for path in files if path.suffix == ".svg"}
    assert sorted(figures) == ["scenarios.centred.svg", "scenarios.cosines.svg"]
    assert all("toy model, planted geometry" in text for text in figures.values())
    place = (conn, READER, CORPUS, "scenarios")
    rows = Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))
    paper = _paper(lab)
    for name, expected in {"cosines": paper, "centred": centre(paper)}.items():
        own, other = (axes for axes in draw(rows)[name].axes if axes.images)
        np.testing.assert_allclose(np.asarray(other.images[0].get_array()), expected)
        assert own.images[0].get_clim() == other.images[0].get_clim()
        assert other.get_title().startswith("Claude Sonnet 4.5 (paper, digitised)\nV3 ")
        assert own.get_title().startswith(f"{READER}, layer {LAYER}\nV3 ")
    assert draw(rows)["cosines"].axes[1].get_title().endswith("V3 6 of 12, V4 1.83")


def test_scenarios_that_the_paper_lacks_stand_alone(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    others = (replace(DEMO.scenarios[0], emotion="ashamed"), *DEMO.scenarios[1:5])
    protocol = replace(DEMO, scenarios=others)
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors(), protocol)
    result = run(suite_inputs(lab, model))
    figure = draw(Rows(result.metrics, result.tables))["cosines"]
    assert len([axes for axes in figure.axes if axes.images]) == 1
    assert one(result, "V3").n == 5


def test_the_same_seed_gives_the_same_rows(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    assert run(suite_inputs(lab, model)) == run(suite_inputs(lab, model))
