"""Laws of V5 and V6: signs count as they are expected, and what random directions reach fails."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy.stats import binom

from analyses.base import Result, Rows, run_analysis
from analyses.intensity import ANALYSIS, COLOURS, Stimuli, draw, run, score
from engine.demo.criteria import score_intensity as demo_intensity
from engine.loading import LazyModel
from stores.database import Connection
from stores.errors import NotReady
from stores.protocol import IntensityTemplate, load_protocol
from stores.published import load_published, read_published
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
from tests.analyses.lab import CORPUS, READER
from tests.analyses.planted import Floats

EMOTIONS = ("afraid", "calm", "sad", "happy")
TEMPLATES = DEMO.intensity
D = 40


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return demo_model()


def _judge(stimuli: Stimuli, directions: Floats, permutations: int = 299) -> Result:
    """Scored with the emotions' directions first, in the stimuli's order."""
    own = list(range(len(stimuli.emotions)))
    return score(stimuli, directions, own, LAYER, permutations, np.random.default_rng(5))


def _stimuli(drift: float, felt: float, seed: int = 0) -> tuple[Stimuli, Floats]:
    """States of noise, of which each moves with its number: along one axis that is nobody's by
    `drift`, and along each emotion's own axis as is expected by `felt`; and those axes."""
    rng = np.random.default_rng(seed)
    axes = np.eye(D)[:5]
    states = []
    for template in TEMPLATES:
        steps = np.linspace(-1.0, 1.0, len(template.values))[:, None]
        noise = rng.normal(size=(len(steps), D)) * 0.1
        signs = [template.directions[name].sign for name in _names()]
        states.append(noise + steps * (drift * axes[4] + felt * np.array(signs) @ axes[:4]))
    return Stimuli(TEMPLATES, tuple(states)), axes[:4]


def _names() -> tuple[str, ...]:
    return Stimuli(TEMPLATES, ()).emotions


def test_the_papers_end_points_hold_eleven_of_twelve_stated_directions(conn: Connection) -> None:
    load_published(conn)
    ends = {row.metric: row.value for row in read_published(conn) if row.source == "paper"}
    templates, states = [], []
    for template in load_protocol().intensity:
        curve = [
            [ends[f"intensity[{template.key},{name},{end}]"] for name in EMOTIONS]
            for end in ("low", "high")
        ]
        directions = {name: template.directions[name] for name in EMOTIONS}
        templates.append(replace(template, values=(0, 1), directions=directions))
        states.append(np.array(curve, dtype=np.float64))
    stated = one(_judge(Stimuli(tuple(templates), tuple(states)), np.eye(4)), "V5.stated")
    assert (stated.value, stated.n) == (11, 12)


def test_probes_that_follow_the_numbers_as_expected_reach_all_of_them() -> None:
    result = _judge(*_stimuli(drift=0.0, felt=1.0))
    for metric, bar in {"V5": 17, "V5.controlled": 17, "V6": 12, "V6.controlled": 12}.items():
        row = one(result, metric)
        assert (row.value, row.n, row.passed, row.threshold) == (24, 24, True, bar)
    assert (one(result, "V5.stated").value, one(result, "V5.stated").n) == (12, 12)


def test_the_same_probes_turned_round_are_as_strong_and_pass_nothing_else() -> None:
    stimuli, axes = _stimuli(drift=0.0, felt=1.0)
    result = _judge(stimuli, -axes)
    assert (one(result, "V5").value, one(result, "V6.signed").value) == (0, 0)
    assert (one(result, "V6").value, one(result, "V6").passed) == (24, True)
    assert one(result, "V6.controlled").passed is False
    assert one(result, "V5.controlled").p_value == 1.0


def test_a_drift_that_is_nobodys_passes_v6_and_no_controlled_reading() -> None:
    """Any direction follows a drift: that is why strength alone proves nothing."""
    strong = controlled = 0
    for seed in range(20):
        stimuli, _ = _stimuli(drift=4.0, felt=0.0, seed=seed)
        axes = np.random.default_rng(100 + seed).normal(size=(4, D))
        result = _judge(stimuli, axes, permutations=99)
        strong += bool(one(result, "V6").passed)
        controlled += bool(one(result, "V5.controlled").passed)
        controlled += bool(one(result, "V6.controlled").passed)
        assert (one(result, "V6").chance or 0.0) > 12.0
    assert strong >= 15
    assert controlled <= 4


def test_random_directions_are_isotropic_in_all_dimensions() -> None:
    """Drawn in a basis of the states, they read as the same draws would in the whole space."""
    stimuli, _ = _stimuli(drift=1.0, felt=0.5)
    few = Stimuli(TEMPLATES[:2], tuple(states[:, :30] for states in stimuli.states[:2]))
    basis = np.linalg.qr(np.concatenate(few.states).T)[0]
    drawn = np.random.default_rng(8).normal(size=(50, 4, basis.shape[1]))
    found = few.random_trends(50, np.random.default_rng(8))
    np.testing.assert_allclose(found, few.trends(drawn @ basis.T), atol=1e-9)
    whole = stimuli.trends(np.random.default_rng(9).normal(size=(2000, 4, D)))
    other = stimuli.random_trends(2000, np.random.default_rng(10))
    assert (np.abs(whole) > 0.7).mean() == pytest.approx((np.abs(other) > 0.7).mean(), abs=0.03)
    assert (whole > 0).mean() == pytest.approx((other > 0).mean(), abs=0.03)


def test_coins_are_kinder_than_random_directions() -> None:
    result = _judge(*_stimuli(drift=0.0, felt=1.0))
    coins, directions = one(result, "V5.binomial"), one(result, "V5")
    assert coins.value == directions.value
    assert coins.p_value == pytest.approx(binom.sf(23, 24, 0.5))
    assert (coins.chance, coins.passed) == (12.0, None)
    assert (directions.p_value or 0.0) > (coins.p_value or 0.0)


def test_other_emotions_in_their_place_are_never_the_four_themselves() -> None:
    stimuli, axes = _stimuli(drift=0.0, felt=1.0)
    shared = np.tile(-axes.sum(axis=0), (9, 1))
    labels = one(_judge(stimuli, np.concatenate([axes, shared])), "V5.labels")
    mine = stimuli.trends(shared)[:, 0]
    expected = sum(mine[t] * direction.sign > 0 for t, _, direction in stimuli.pairs)
    assert labels.chance == expected
    assert labels.p_value == 1 / 300
    names = {row.metric for row in _judge(stimuli, np.concatenate([axes, shared[:3]])).metrics}
    assert "V5.labels" not in names


def test_a_flat_curve_goes_no_way() -> None:
    stimuli, axes = _stimuli(drift=0.0, felt=1.0)
    flat = tuple(states * (np.arange(D) != 0) for states in stimuli.states)
    result = _judge(Stimuli(TEMPLATES, flat), axes)
    own = sum(name == stimuli.emotions[0] for each in TEMPLATES for name in each.directions)
    assert one(result, "V5").value == one(result, "V6").value == 24 - own


def test_intervals_draw_whole_templates_and_stay_among_the_counts() -> None:
    stimuli, axes = _stimuli(drift=0.0, felt=1.0)
    turned = (-stimuli.states[0], -stimuli.states[1], *stimuli.states[2:])
    result = _judge(Stimuli(TEMPLATES, turned), axes)
    row = one(result, "V5")
    assert (row.value, row.ci_low, row.ci_high) == (16, 8.0, 24.0)
    stated = one(result, "V5.stated")
    assert 0.0 <= (stated.ci_low or 0.0) < (stated.value or 0.0) < (stated.ci_high or 0.0) <= 12.0


def test_the_scores_are_those_of_the_demos_scorecard(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    vectors = made_up_vectors(3)
    lab = open_criteria_lab(conn, workspace, model, vectors)
    result = run(suite_inputs(lab, model))
    with torch.inference_mode():
        expected = demo_intensity(demo_reader(model), DEMO, vectors)
    found = values(result)
    assert [found[key] for key in ("V5", "V6", "V5.stated")] == [
        expected[key] for key in ("V5", "V6", "V5_stated")
    ]
    rows = {(row["template"], row["emotion"]): row["rho"] for row in records(result, "trends")}
    table = expected["intensity"]
    assert isinstance(table, dict)
    for (template, emotion), rho in rows.items():
        assert rho == pytest.approx(table[template][emotion], abs=0.005)


def test_every_prompt_is_shown_with_its_number_and_the_token_read(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    prompts = records(run(suite_inputs(lab, model)), "prompts")
    assert len(prompts) == sum(len(template.values) for template in TEMPLATES)
    row = next(row for row in prompts if row["key"] == "painkiller 16000")
    assert row["rendered"] == (
        "<bos>Human: My back ached and I took 16000 mg of the painkiller.\n\nAssistant:"
    )
    assert (row["kind"], row["read_token"], row["source"]) == ("intensity", ":", "own")


def test_the_grid_has_the_suites_colours_and_marks_what_is_expected(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    files = run_analysis(ANALYSIS, suite_inputs(lab, model)).files
    assert "intensity.curves.png" in {path.name for path in files}
    place = (conn, READER, CORPUS, "intensity")
    rows = Rows(tuple(read_metrics(*place)), tuple(read_tables(*place)))
    panels = draw(rows)["curves"].axes
    assert [axes.get_title(loc="left").split(":")[0] for axes in panels] == [
        template.key for template in TEMPLATES
    ]
    for axes, template in zip(panels, TEMPLATES, strict=True):
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        assert ticks == [str(x) for x in template.values]
        _check_lines(axes, template, rows)


def _check_lines(axes: Axes, template: IntensityTemplate, rows: Rows) -> None:
    drawn = {line.get_color(): line for line in axes.lines if line.get_marker() == "o"}
    notes = {text.get_color(): text.get_text() for text in axes.texts}
    for name, direction in template.directions.items():
        line = drawn[COLOURS[name]]
        assert line.get_linestyle() == ("-" if direction.stated else "--")
        curve = [
            row["cosine"]
            for row in rows.records("curves", LAYER)
            if (row["template"], row["emotion"]) == (template.key, name)
        ]
        np.testing.assert_array_equal(np.asarray(line.get_ydata()), curve)
        arrow = "\N{UPWARDS ARROW}" if direction.sign > 0 else "\N{DOWNWARDS ARROW}"
        assert notes[COLOURS[name]].startswith(f"{name} {arrow} ")
        rho = np.sign(float(notes[COLOURS[name]].split()[2]))
        assert notes[COLOURS[name]].endswith("against") is bool(rho != direction.sign)


def test_a_protocol_without_templates_is_told_what_to_add(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    bare = replace(DEMO, intensity=())
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors(), bare)
    with pytest.raises(NotReady, match=r"no intensity\.tsv, which V5 and V6 read; add it"):
        run(suite_inputs(lab, model))


def test_templates_about_other_emotions_are_drawn_in_other_colours(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    some = TEMPLATES[0].directions
    about = {"proud": some["happy"], "ashamed": some["sad"]}
    templates = (replace(TEMPLATES[0], directions=about), TEMPLATES[1])
    lab = open_criteria_lab(
        conn, workspace, model, made_up_vectors(), replace(DEMO, intensity=templates)
    )
    result = run(suite_inputs(lab, model))
    assert one(result, "V5").n == 6
    first, second = draw(Rows(result.metrics, result.tables))["curves"].axes
    colours = [line.get_color() for line in first.lines if line.get_marker() == "o"]
    assert len(set(colours)) == 2
    assert not set(colours) & set(COLOURS.values())
    assert len([line for line in second.lines if line.get_marker() == "o"]) == 4
