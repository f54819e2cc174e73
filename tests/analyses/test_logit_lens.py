"""Laws of V1 and V2: planted words are found, none are found by chance, and a lean is no proof."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from analyses.base import run_analysis
from analyses.logit_lens import ANALYSIS, OPPOSITES, run, score_opposites, score_words
from analyses.methods.geometry import unit
from engine.demo.criteria import score_words as demo_words
from engine.loading import LazyModel
from stores.database import Connection
from stores.results import read_metrics, read_tables
from stores.workspace import Workspace
from tests.analyses.criteria_lab import (
    DEMO,
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

NAMES = (*(name for pair in OPPOSITES for name in pair), "curious", "smug")


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return demo_model()


def _rng() -> np.random.Generator:
    return np.random.default_rng(5)


def _unembedding(model: LazyModel) -> Floats:
    network: Any = model.loaded.model
    rows: Floats = network.get_output_embeddings().weight.detach().double().numpy()
    return rows


def _word_vectors(model: LazyModel) -> Floats:
    """What raises " word" and least of anything else, for every emotion; made up for several."""
    vectors = made_up_vectors()
    raising = np.linalg.pinv(_unembedding(model)).T
    for i, name in enumerate(DEMO.names):
        ids = model.loaded.tokenizer(" " + name, add_special_tokens=False).input_ids
        if len(ids) == 1:
            vectors[i] = 100.0 * raising[ids[0]]
    return vectors


def test_vectors_that_are_their_words_are_found_and_words_of_several_tokens_do_not_count(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, _word_vectors(model))
    result = run(suite_inputs(lab, model))
    assert one(result, "V1").n == 171
    eligible = one(result, "V1.controlled")
    assert eligible.n == 164
    assert (eligible.value or 0) >= 160
    assert (eligible.passed, eligible.p_value) == (True, 1 / 200)
    words = {(row["reading"], row["emotion"]): row for row in records(result, "words")}
    assert words["raw", "afraid"] == {
        "reading": "raw", "emotion": "afraid", "own_tokens": "' afraid' 'afraid'", "rank": 1,
        "hit": True,
    }  # fmt: skip
    assert words["raw", "grief-stricken"]["own_tokens"] == ""
    assert words["raw", "grief-stricken"]["rank"] is None
    tops = [row for row in records(result, "tokens") if (row["emotion"], row["rank"]) == ("sad", 1)]
    assert [row["token"] for row in tops if (row["reading"], row["end"]) == ("raw", "top")] == [
        " sad"
    ]


def test_through_the_norm_the_counts_are_those_of_the_demos_scorecard(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    vectors = _word_vectors(model) + 0.5 * made_up_vectors(1)
    lab = open_criteria_lab(conn, workspace, model, vectors)
    found = values(run(suite_inputs(lab, model)))
    with torch.inference_mode():
        expected = demo_words(demo_reader(model), DEMO, vectors)
    assert found["V1.norm"] == expected["V1"]
    assert found["V2.norm"] == expected["V2"]
    assert 0 < int(str(expected["V1"])) < 164


def test_products_are_those_of_logits_over_the_whole_vocabulary_as_they_are_and_centred(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    vectors = made_up_vectors()
    lab = open_criteria_lab(conn, workspace, model, vectors)
    rows = records(run(suite_inputs(lab, model)), "pairs")
    logits = unit(vectors) @ _unembedding(model).T
    readings = {"raw": logits, "centred": logits - logits.mean(axis=1, keepdims=True)}
    for reading, read in readings.items():
        found = [row["dot"] for row in rows if row["reading"] == reading]
        places = [[DEMO.names.index(name) for name in pair] for pair in OPPOSITES]
        expected = [read[i] @ read[j] for i, j in places]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_vectors_that_nobody_made_for_their_words_pass_nothing(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    words = _word_vectors(model)
    rng = np.random.default_rng(0)
    lab = open_criteria_lab(conn, workspace, model, words[rng.permutation(len(words))])
    result = run(suite_inputs(lab, model))
    for metric in ("V1", "V1.norm", "V1.eligible", "V1.controlled", "V2.controlled"):
        assert one(result, metric).passed is False
    controlled = one(result, "V1.controlled")
    assert (controlled.p_value or 0.0) > 0.05
    assert controlled.chance == pytest.approx(controlled.value, abs=4.0)


def test_chance_is_the_mean_over_all_ways_to_deal_the_words() -> None:
    """Vectors that all have the same three words on top: three are hit, as by any other deal."""
    hits = np.zeros((30, 30), np.bool_)
    hits[:, :3] = True
    everyone = np.ones(30, np.bool_)
    official = one(score_words({"raw": hits, "norm": hits}, everyone, 3, 199, _rng()), "V1")
    assert (official.value, official.chance, official.p_value) == (3.0, 3.0, 1.0)


def test_without_a_word_of_one_token_v1_fails_and_says_so() -> None:
    hits = np.zeros((30, 30), np.bool_)
    result = score_words({"raw": hits, "norm": hits}, hits[0], 3, 99, _rng())
    controlled = one(result, "V1.controlled")
    assert (controlled.value, controlled.n, controlled.passed) == (0.0, 0, False)


def _dots(flipped: int, lean: float = 0.0) -> Floats:
    """Products of random logits in which so many opposites point apart, and all share a lean."""
    logits = np.random.default_rng(2).normal(size=(len(NAMES), 4000))
    logits[1:10:2] = logits[0:10:2]
    logits[1 : 2 * flipped : 2] *= -1.0
    logits += lean
    dots: Floats = logits @ logits.T
    return dots


@pytest.mark.parametrize(
    ("flipped", "passed", "controlled"), [(5, True, True), (4, True, False), (3, False, False)]
)
def test_opposites_are_counted_and_p_is_binomial_with_the_share_of_all_pairs(
    flipped: int, passed: bool, controlled: bool
) -> None:
    dots = _dots(flipped)
    result = score_opposites(NAMES, {"raw": dots, "norm": dots, "centred": dots}, 3)
    row = one(result, "V2")
    share = (dots[np.triu_indices(len(NAMES), 1)] < 0).mean()
    assert (row.value, row.n, row.passed) == (flipped, 5, passed)
    assert row.chance == pytest.approx(5 * share)
    assert row.p_value == pytest.approx(binom.sf(flipped - 1, 5, share))
    assert one(result, "V2.controlled").passed is controlled
    cosines = [record["cosine"] for record in records(result, "pairs")][:5]
    np.testing.assert_allclose(cosines, [-1.0] * flipped + [1.0] * (5 - flipped))


def test_when_most_pairs_point_apart_five_opposites_prove_nothing() -> None:
    axes = np.eye(len(NAMES)) - 1 / len(NAMES)
    dots = axes @ axes.T
    result = score_opposites(NAMES, {"raw": dots, "norm": dots, "centred": dots}, 3)
    assert one(result, "V2").passed is True
    assert one(result, "V2.controlled").passed is False
    assert one(result, "V2").chance == 5.0


def test_a_shared_lean_hides_opposites_only_from_the_readings_that_keep_it() -> None:
    dots = {"raw": _dots(5, lean=3.0), "norm": _dots(5, lean=3.0), "centred": _dots(5)}
    found = values(score_opposites(NAMES, dots, 3))
    assert (found["V2"], found["V2.norm"], found["V2.centred"]) == (0, 0, 5)


def test_opposites_that_are_not_listed_are_left_out_and_none_at_all_is_a_fail() -> None:
    dots = {reading: _dots(5)[:3, :3] for reading in ("raw", "norm", "centred")}
    row = one(score_opposites(NAMES[:3], dots, 3), "V2")
    assert (row.value, row.n, row.passed) == (1, 1, False)
    nothing = one(score_opposites(("x", "y", "z"), dots, 3), "V2.controlled")
    assert (nothing.value, nothing.n, nothing.passed, nothing.p_value) == (0, 0, False, 1.0)


def test_every_reading_is_a_row_of_the_analysis_layer_and_a_second_run_changes_nothing(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors())
    assert run_analysis(ANALYSIS, suite_inputs(lab, model)).status == "done"
    rows = read_metrics(conn, READER, CORPUS, "logit_lens")
    readings = ["V1", "V1.norm", "V1.eligible", "V1.controlled"]
    readings += ["V2", "V2.norm", "V2.centred", "V2.controlled"]
    assert [row.metric for row in rows] == readings
    assert {(row.layer, row.subject) for row in rows} == {(3, None)}
    tables = {table.name for table in read_tables(conn, READER, CORPUS, "logit_lens")}
    assert tables == {"settings", "words", "tokens", "pairs"}
    assert run_analysis(ANALYSIS, suite_inputs(lab, model)).status == "unchanged"
    again = run(suite_inputs(lab, model))
    assert [replace(row, passed=None) for row in again.metrics] == [
        replace(row, passed=None) for row in rows
    ]
