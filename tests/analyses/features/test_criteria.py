"""Laws of V1 to V4 read with features: the vectors' rows are the suite's, and codes are codes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from analyses import logit_lens, scenarios
from analyses.base import Result
from analyses.criteria import read_ends
from analyses.features.criteria import score_features, with_nearest
from analyses.features.reading import Crosscheck
from analyses.methods.geometry import unit
from analyses.scenarios import ask_scenarios, scenario_emotions
from engine.loading import LazyModel
from stores.database import Connection
from stores.protocol import Protocol, load_protocol
from stores.workspace import Workspace
from tests.analyses.criteria_lab import (
    D_MODEL,
    DEMO,
    demo_model,
    made_up_vectors,
    open_criteria_lab,
    records,
    suite_inputs,
)
from tests.analyses.features.behaving import choose, compare, number, random_rows, row_of
from tests.analyses.planted import Floats
from tests.engine.features.saes import make_sae

E, F = len(DEMO.names), 400
FEATURES = np.random.default_rng(1).permutation(F)[:E]
"""Whose decoder rows are the vectors, where they are planted."""
HIGH = 30.0
"""What the planted encoder makes of a state that is its own; of others it makes 0."""


@pytest.fixture(scope="module")
def model() -> LazyModel:
    return demo_model()


@pytest.fixture(scope="module")
def saes() -> dict[Any, Any]:
    return {bank: make_sae("standard", d_in=D_MODEL, d_sae=F) for bank in ("sae", "control")}


def _with_alternates() -> Protocol:
    default = load_protocol()
    return replace(DEMO, scenarios=default.scenarios, alternates=default.alternates)


def _speaking(model: LazyModel, names: Sequence[str]) -> Floats:
    """Vectors that raise the words of half of the emotions, and others that nobody made for any."""
    network: Any = model.loaded.model
    vectors, raising = made_up_vectors(), network.get_output_embeddings().weight
    raising = np.linalg.pinv(raising.detach().double().numpy()).T
    for i in range(0, len(names), 2):
        ids = model.loaded.tokenizer(" " + names[i], add_special_tokens=False).input_ids
        vectors[i] += 400.0 * raising[ids[0]]
    return vectors


def _found(
    conn: Connection,
    workspace: Workspace,
    model: LazyModel,
    saes: dict[Any, Any],
    protocol: Protocol = DEMO,
) -> Crosscheck:
    """The SAE holds each vector, of another length, among random rows; its control does not."""
    vectors = _speaking(model, protocol.names)
    lab = open_criteria_lab(conn, workspace, model, vectors, protocol)
    rows = random_rows(F, D_MODEL, 2)
    rows[FEATURES] = np.linspace(0.2, 3.0, E)[:, None] * unit(vectors)
    control = random_rows(F, D_MODEL, 3)
    return compare(suite_inputs(lab, model), {"sae": rows, "control": control}, saes)


def test_the_vectors_own_rows_are_those_of_the_verification_suite_bit_for_bit(
    conn: Connection, workspace: Workspace, model: LazyModel, saes: dict[Any, Any]
) -> None:
    found = _found(conn, workspace, model, saes, _with_alternates())
    result = score_features(found, choose(auc=FEATURES))
    suite = logit_lens.run(found.inputs) + scenarios.run(found.inputs)
    assert len(suite.metrics) == 21
    for row in suite.metrics:
        assert row_of(result, f"{row.metric}.vector") == replace(row, metric=f"{row.metric}.vector")
    first = {row["emotion"]: row for row in records(suite, "scenarios")}
    own = [row for row in records(result, "scenarios") if row["by"] == "vector"]
    assert [row["reading"] for row in own] == [each["cosine"] for each in first.values()]


def test_features_that_are_the_vectors_count_as_they_do_and_a_random_dictionarys_do_not(
    conn: Connection, workspace: Workspace, model: LazyModel, saes: dict[Any, Any]
) -> None:
    found = _found(conn, workspace, model, saes)
    result = score_features(found, choose(auc=FEATURES))
    assert number(result, "V1.vector") >= 60
    for row in [row for row in result.metrics if row.metric.endswith(".vector")]:
        reading = row.metric.removesuffix(".vector")
        for choice in ("auc", "cosine"):
            assert number(result, f"{reading}.{choice}") == pytest.approx(row.value), row
    for rival in ("control", "control_cosine"):
        chance = row_of(result, f"V1.controlled.{rival}")
        assert (chance.passed, number(result, f"V1.{rival}") <= 6) == (False, True)
    readings = {row["reading"]: row for row in records(result, "criteria")}
    assert readings["V1"]["vector"] == readings["V1"]["cosine"] == number(result, "V1.vector")
    assert (readings["V1"]["bar"], readings["V1"]["cosine.codes"]) == (20, None)


def test_the_rival_of_the_nearest_feature_is_the_controls_nearest_that_ever_fires(
    conn: Connection, workspace: Workspace, model: LazyModel, saes: dict[Any, Any]
) -> None:
    found = _found(conn, workspace, model, saes)
    held = replace(found["control"], rows=found["sae"].rows)
    for fires in (True, False):
        held.alive[FEATURES] = fires
        control = replace(found, dictionaries={"sae": found["sae"], "control": held})
        nearest = with_nearest(control, choose(auc=FEATURES))["control_cosine"]
        assert bool(np.array_equal(nearest, FEATURES)) == fires
        assert held.alive[nearest].all()


def test_emotions_that_share_one_feature_are_not_told_apart(
    conn: Connection, workspace: Workspace, model: LazyModel, saes: dict[Any, Any]
) -> None:
    found = _found(conn, workspace, model, saes)
    result = score_features(found, choose(auc=np.full(E, 7), cosine=FEATURES))
    assert [number(result, f"V{i}.auc") for i in (2, 3, 4)] == [0, 0, 6.5]
    assert [row_of(result, f"V{i}.controlled.auc").passed for i in (1, 2, 3, 4)] == [False] * 4


def _plant_encoder(found: Crosscheck, sae: Any, features: Sequence[int]) -> None:
    """Features that fire at the end of one scenario each, whatever their decoder rows are."""
    states, _ = read_ends(found.inputs, "scenario", ask_scenarios(found.inputs.protocol))
    alone = torch.from_numpy(np.linalg.pinv(states).astype(np.float32))
    with torch.no_grad():
        sae.b_dec.zero_()
        for weight in (sae.W_enc, sae.b_enc):
            weight.zero_()
        sae.W_enc[:, list(features)] = HIGH * alone
        sae.b_enc[list(features)] = -0.1 * HIGH


def test_codes_are_read_from_the_encoder_at_the_end_of_each_scenario(
    conn: Connection, workspace: Workspace, model: LazyModel, saes: dict[Any, Any]
) -> None:
    sae = make_sae("standard", d_in=D_MODEL, d_sae=F, seed=4)
    found = _found(conn, workspace, model, {"sae": sae, "control": saes["control"]})
    names = scenario_emotions(found.inputs.protocol)
    own = [found.emotions.index(name) for name in names]
    unspoken = np.setdiff1d(np.arange(F), FEATURES)[:E]
    chosen = choose(auc=np.resize(unspoken, E), cosine=FEATURES)
    _plant_encoder(found, sae, chosen["auc"][own].tolist())
    result = score_features(found, chosen)
    assert (number(result, "V3.auc.codes"), number(result, "V4.auc.codes")) == (12, 1)
    assert row_of(result, "V3.controlled.auc.codes").passed is True
    assert row_of(result, "V3.controlled.auc").passed is False
    assert (number(result, "V3.cosine.codes"), number(result, "V4.cosine.codes")) == (0, 6.5)
    read = [row for row in records(result, "scenarios") if row["by"] == "auc.codes"]
    assert [row["reading"] for row in read] == pytest.approx([0.9 * HIGH] * 12, rel=1e-2)
    assert [row["highest"] for row in read] == list(names)
    assert [row["feature"] for row in read] == chosen["auc"][own].tolist()


def test_a_protocol_without_scenarios_leaves_v3_and_v4_without_a_value(
    conn: Connection, workspace: Workspace, model: LazyModel
) -> None:
    bare = replace(DEMO, scenarios=(), alternates=())
    lab = open_criteria_lab(conn, workspace, model, made_up_vectors(), bare)
    rows = random_rows(F, D_MODEL, 2)
    found = compare(suite_inputs(lab, model), {"sae": rows, "control": rows})
    result: Result = score_features(found, choose(auc=FEATURES))
    for criterion in ("V3", "V4"):
        values = {row.value for row in result.metrics if row.metric.startswith(criterion)}
        assert values == {None}
    assert row_of(result, "V1.cosine").n == E


def test_the_same_seed_gives_the_same_rows(
    conn: Connection, workspace: Workspace, model: LazyModel, saes: dict[Any, Any]
) -> None:
    found, chosen = _found(conn, workspace, model, saes), choose(auc=FEATURES)
    assert score_features(found, chosen) == score_features(found, chosen)
