"""Laws of what criteria share: when a reading passes, and that what was read is shown."""

import numpy as np
import pytest
import torch

from analyses.criteria import Question, judge, read_ends
from analyses.methods.scoring import Scored
from analyses.suite import Suite
from engine.loading import LazyModel
from stores.database import Connection
from stores.workspace import Workspace
from tests.analyses.criteria_lab import (
    LAYER,
    demo_model,
    made_up_vectors,
    open_criteria_lab,
    suite_inputs,
)

ASKED = (
    Question("sad 1", "My cat died and I cried in the empty house.", "own"),
    Question("calm 1", "I sit in a hammock.", "seed"),
)


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return demo_model()


def _scored(value: float, p: float) -> Scored:
    return Scored(value, 12, 1.0, 0.0, 12.0, p)


@pytest.mark.parametrize(
    ("metric", "value", "p", "passed"),
    [
        ("V3", 8, 0.5, True),
        ("V3", 7, 0.001, False),
        ("V3.controlled", 8, 0.05, True),
        ("V3.controlled", 8, 0.051, False),
        ("V3.controlled", 7, 0.001, False),
    ],
)
def test_a_controlled_reading_needs_the_bar_and_a_small_p_and_others_the_bar_alone(
    metric: str, value: float, p: float, passed: bool
) -> None:
    row = judge(metric, _scored(value, p), 3, at_least=8)
    assert (row.passed, row.threshold, row.p_value, row.n) == (passed, 8, p, 12)


def test_a_mean_rank_passes_from_below_and_a_reading_without_a_bar_not_at_all() -> None:
    assert judge("V4", _scored(3.0, 0.5), 3, at_most=3.0).passed is True
    assert judge("V4", _scored(3.1, 0.001), 3, at_most=3.0).passed is False
    bare = judge("V3.top3", _scored(11.0, 0.001), 3)
    assert (bare.passed, bare.threshold) == (None, None)


def test_states_are_those_of_a_plain_pass_at_the_last_token_which_is_shown(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    states, table = read_ends(suite_inputs(lab, model), "scenario", ASKED)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["key"], row["kind"], row["source"]) for row in rows] == [
        ("sad 1", "scenario", "own"),
        ("calm 1", "scenario", "seed"),
    ]
    for state, row, question in zip(states, rows, ASKED, strict=True):
        text = f"<bos>Human: {question.text}\n\nAssistant:"
        assert (row["form"], row["rendered"], row["read_token"]) == ("chat", text, ":")
        ids = model.loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            run = model.loaded.model(input_ids=ids, output_hidden_states=True)
        expected = run.hidden_states[LAYER + 1][0, -1].numpy()
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-4)


def test_the_form_that_is_asked_for_is_the_one_that_is_read(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    _, table = read_ends(suite_inputs(lab, model, suite=Suite(form="plain")), "scenario", ASKED)
    assert {row[table.columns.index("form")] for row in table.rows} == {"plain"}
