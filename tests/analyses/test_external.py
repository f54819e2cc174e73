"""Laws of texts of others: centring finds what was planted, raw scores what all texts share."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from analyses.base import Result, inputs_digest, run_analysis
from analyses.external import ANALYSIS, run
from analyses.external_rows import DOCUMENTS, RANKING, SNIPPETS, SOURCES, TOKEN_QUANTILES
from engine.projection.summaries import KEPT
from stores.database import Connection
from stores.errors import NotReady
from stores.judgements import Question, answer_judgement, open_judgements, plan_judgements
from stores.results import Cell, Metric
from stores.rows import Row
from stores.workspace import Workspace
from tests.analyses.lab import (
    Lab,
    dialogue_plan,
    open_lab,
    store_vectors,
    story_plan,
    write_activations,
    write_texts,
)
from tests.analyses.planted import Floats, planted_world
from tests.analyses.projected import Texts, plant_pass
from tests.stores.arranged import IMPORTED

E, D, N = 12, 16, 120
WORLD = planted_world(e=E, d=D, families=4)
UNIT = WORLD.vectors / np.linalg.norm(WORLD.vectors, axis=1, keepdims=True)
OFFSET = 60.0 * np.random.default_rng(1).normal(size=D)
"""What every text has, of whatever kind."""
LAYERS = (0, 1)


def _texts(seed: int, n: int = N, excited: int | None = None, strength: float = 1.5) -> Floats:
    """Pooled residuals (n, d): the offset, noise and perhaps one emotion's direction."""
    residuals = OFFSET + np.random.default_rng(seed).normal(size=(n, D))
    if excited is not None:
        residuals = residuals + strength * UNIT[excited]
    return residuals


def _scores(*args: int, **more: int) -> dict[int, Floats]:
    return dict.fromkeys(LAYERS, _texts(*args, **more) @ UNIT.T)


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    """A reader with neutral dialogues, stories and vectors at two layers."""
    made = open_lab(conn, workspace, WORLD)
    read_neutral_texts(made, per_topic=40)
    return made


def read_neutral_texts(lab: Lab, per_topic: int) -> Floats:
    """What the reader pooled of neutral dialogues, (n, d); one story each beside them."""
    residuals = _texts(99, n=3 * per_topic)
    story: Callable[[Row], Floats] = lambda row: residuals[0]  # noqa: E731
    spoken: Callable[[Row], Floats] = lambda row: residuals[row.row]  # noqa: E731
    write_texts(lab, "stories", story_plan(lab.protocol.names, 1))
    write_texts(lab, "dialogues", dialogue_plan(per_topic))
    write_activations(lab, "stories", dict.fromkeys(LAYERS, story), d_model=D)
    write_activations(lab, "dialogues", dict.fromkeys(LAYERS, spoken), d_model=D)
    store_vectors(lab, dict.fromkeys(LAYERS, WORLD.vectors))
    return residuals


def _one(result: Result, metric: str, subject: str, layer: int | None = 1) -> Metric:
    (row,) = (
        row
        for row in result.metrics
        if (row.metric, row.subject, row.layer) == (metric, subject, layer)
    )
    return row


def _table(result: Result, name: str) -> list[dict[str, Cell]]:
    (table,) = (table for table in result.tables if table.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _settings(result: Result) -> dict[Cell, Cell]:
    return {row["setting"]: row["value"] for row in _table(result, "settings")}


def test_raw_every_source_ranks_alike_and_centred_each_ranks_first_what_it_has(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1, excited=3), "happy"))
    plant_pass(lab, Texts(_scores(2, excited=8), "sad"))
    result = run(lab.inputs(*LAYERS))
    ranking = _table(result, "ranking")
    for source, excited in (("happy", "e03"), ("sad", "e08")):
        rows = [row for row in ranking if row["source"] == source]
        assert next(row["emotion"] for row in rows if row["neutral_rank"] == 1) == excited
        found = _one(result, f"neutral.{source}", excited)
        assert found.ci_low is not None and found.ci_low > 1.0
        assert found.p_value == pytest.approx(1 / 1001)
        assert _one(result, "same_first.raw", source).value == 1.0
        centred = _one(result, "same_first.centred", source)
        assert centred.value is not None and centred.value < 0.35
        assert (_one(result, "offset_share", source).value or 0.0) > 0.99
    firsts = {row["emotion"] for row in ranking if row["raw_rank"] == 1}
    assert len(firsts) == 1
    assert not firsts & {"e03", "e08"}
    raw, neutral = (_one(result, f"agreement.{name}", "happy~sad") for name in ("raw", "neutral"))
    assert raw.value == pytest.approx(1.0, abs=0.02)
    assert neutral.value is not None and neutral.value < 0.6
    assert (neutral.p_value or 0.0) > 0.05
    change = _one(result, "agreement.change", "happy~sad")
    assert change.value == pytest.approx((raw.value or 0.0) - neutral.value)
    assert change.ci_low is not None and change.ci_low > 0.0


def test_two_sources_with_the_same_in_them_agree_beyond_random_contrasts(lab: Lab) -> None:
    for seed, source in ((1, "one"), (2, "two")):
        plant_pass(lab, Texts(_scores(seed, excited=3), source))
    found = _one(run(lab.inputs(*LAYERS)), "agreement.neutral", "one~two")
    assert (found.value or 0.0) > 0.9
    assert (found.p_value or 1.0) <= 0.05


def test_values_are_those_of_a_plain_computation(conn: Connection, workspace: Workspace) -> None:
    made = open_lab(conn, workspace, WORLD)
    neutral = read_neutral_texts(made, per_topic=20).astype(np.float32) @ UNIT.T
    scores = _scores(1, excited=3)
    plant_pass(made, Texts(scores))
    result = run(made.inputs(*LAYERS))
    given = scores[1].astype(np.float32).astype(np.float64)
    unit = neutral.std(axis=0)
    mean, sd = given.mean(axis=0), given.std(axis=0)
    z = (given - mean) / sd
    firsts = np.bincount(z.argmax(axis=1), minlength=E)
    for i, emotion in enumerate(made.protocol.names):
        assert _one(result, "raw.pile", emotion).value == pytest.approx(mean[i])
        expected = (mean[i] - neutral.mean(axis=0)[i]) / unit[i]
        assert _one(result, "neutral.pile", emotion).value == pytest.approx(expected, abs=1e-4)
        first = _one(result, "first.pile", emotion)
        assert (first.value, first.n, first.chance) == (firsts[i] / N, N, 1 / E)
    documents = _table(result, "documents")
    best = [row for row in documents if row["emotion"] == "e03"]
    order = np.argsort(-given[:, 3])[:5]
    assert [row["place"] for row in best] == [f"row {i}" for i in order]
    np.testing.assert_allclose([float(row["z"] or 0) for row in best], z[order, 3])
    np.testing.assert_allclose([float(row["score"] or 0) for row in best], given[order, 3])


def test_tables_have_the_columns_that_figures_and_pages_are_drawn_from(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1), short=3, length=500))
    result = run(lab.inputs(*LAYERS))
    columns = {table.name: (table.columns, table.layer) for table in result.tables}
    assert columns == {
        "settings": (("setting", "value"), None),
        "sources": (SOURCES, None),
        "outcomes": (("source", "outcome", "documents"), None),
        "ranking": (RANKING, 1),
        "token_quantiles": (TOKEN_QUANTILES, 1),
        "documents": (DOCUMENTS, 1),
        "snippets": (SNIPPETS, 1),
    }
    (about,) = _table(result, "sources")
    counted = {key: about[key] for key in ("seen", "kept", "documents", "unread", "cut", "tokens")}
    assert counted == {
        **{"seen": N + 6, "kept": N + 3, "documents": N, "unread": 3, "cut": 12},
        "tokens": 4 * N,
    }
    assert (about["origin"], about["skipped"]) == ("someone/pile", '{"empty":3}')
    for name in ("documents", "unread", "cut"):
        assert _one(result, name, "pile", None).value == about[name]
    assert _one(result, "tokens", "pile", None).value == 4 * N
    outcomes = {row["outcome"]: row["documents"] for row in _table(result, "outcomes")}
    assert outcomes == {"done": N, "cut": 12, "too_short": 3}
    assert max(len(str(row["beginning"])) for row in _table(result, "documents")) == 300


def test_snippets_stand_beside_the_tokens_of_their_source(lab: Lab) -> None:
    scores = _scores(1)
    plant_pass(lab, Texts(scores))
    result = run(lab.inputs(*LAYERS))
    snippets = [row for row in _table(result, "snippets") if row["emotion"] == "e05"]
    quantiles = {row["emotion"]: row for row in _table(result, "token_quantiles")}["e05"]
    exact = (scores[1][:, 5, None] + np.array([-0.3, -0.1, 0.1, 0.3])).ravel()
    assert [row["rank"] for row in snippets] == list(range(1, 11))
    assert float(snippets[0]["score"] or 0) == pytest.approx(scores[1][:, 5].max(), rel=1e-5)
    for row in snippets:
        pieces, heat = json.loads(str(row["tokens"])), json.loads(str(row["heat"]))
        assert len(pieces) == len(heat) == 30
        assert row["bar"] == quantiles["q90"]
        score = float(row["score"] or 0)
        assert row["z"] == pytest.approx((score - exact.mean()) / exact.std(), rel=1e-4)
        assert str(row["place"]).startswith("row ")
    below = (exact <= float(quantiles["q90"] or 0)).mean()
    error = _one(result, "token_rank_error", "pile").value or 0.0
    assert abs(below - 0.9) <= error + 2 / len(exact)
    assert quantiles["mean"] == pytest.approx(exact.mean(), rel=1e-5)
    assert quantiles["sd"] == pytest.approx(exact.std(), rel=1e-4)


def test_without_neutral_texts_neutral_rows_are_left_out_and_that_is_told(
    conn: Connection, workspace: Workspace
) -> None:
    made = open_lab(conn, workspace, WORLD)
    write_texts(made, "stories", story_plan(made.protocol.names, 1))
    write_activations(made, "stories", {0: lambda _: OFFSET, 1: lambda _: OFFSET}, d_model=D)
    store_vectors(made, dict.fromkeys(LAYERS, WORLD.vectors))
    for seed, source in enumerate(("one", "two")):
        plant_pass(made, Texts(_scores(seed), source))
    result = run(made.inputs(*LAYERS))
    names = {row.metric for row in result.metrics}
    assert not names & {"neutral.one", "neutral.two", "agreement.neutral", "agreement.change"}
    assert {"agreement.raw", "agreement.first", "agreement.spread"} <= names
    assert {row["neutral"] for row in _table(result, "ranking")} <= {None} | _nans(result)
    told = _settings(result)
    assert told["neutral_texts"] == 0
    assert str(told["neutral"]).startswith("none: fewer than 10 neutral dialogues of corpus main")


@pytest.mark.parametrize(("per_topic", "known"), [(3, ()), (4, ("neutral",))])
def test_few_neutral_texts_are_told_and_halved_or_taken_only_where_they_are_enough(
    conn: Connection, workspace: Workspace, per_topic: int, known: tuple[str, ...]
) -> None:
    made = open_lab(conn, workspace, WORLD)
    read_neutral_texts(made, per_topic)
    for seed, source in enumerate(("one", "two")):
        plant_pass(made, Texts(_scores(seed), source))
    result = run(made.inputs(*LAYERS))
    names = {row.metric.partition(".")[0] for row in result.metrics if row.subject == "e00"}
    assert names == {"raw", "first", *known}
    assert not [row for row in result.metrics if row.metric == "agreement.neutral"]
    told = str(_settings(result)["neutral"])
    assert told.endswith("; too few of them to compare sources by") == bool(known)
    assert told.startswith("none: fewer than 10 neutral dialogues") == (not known)


def _nans(result: Result) -> set[Cell]:
    cells = {row["neutral"] for row in _table(result, "ranking")}
    return {cell for cell in cells if isinstance(cell, float) and np.isnan(cell)}


def test_one_source_has_no_pairs_and_another_changes_none_of_its_numbers(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1), "one"))
    alone = run(lab.inputs(*LAYERS))
    assert not [row for row in alone.metrics if row.metric.startswith("agreement")]
    assert str(_settings(alone)["pairs"]).startswith("one source alone")
    plant_pass(lab, Texts(_scores(2), "two"))
    both = run(lab.inputs(*LAYERS))
    assert set(alone.metrics) <= set(both.metrics)
    assert _settings(both)["pairs"] is None
    pairs = {row.subject for row in both.metrics if row.metric.startswith("agreement")}
    assert pairs == {"one~two"}


def test_the_same_documents_are_drawn_at_every_layer(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1)))
    result = run(lab.inputs(*LAYERS))
    rows = [
        {row.subject: row.ci_low for row in result.metrics if (row.metric, row.layer) == at}
        for at in (("raw.pile", 0), ("raw.pile", 1))
    ]
    assert rows[0] == rows[1]


def test_layers_are_those_that_every_source_has_and_the_nearest_is_drawn(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1), "both"))
    plant_pass(lab, Texts({0: _scores(2)[0]}, "lower"))
    result = run(lab.inputs(*LAYERS))
    assert {row.layer for row in result.metrics} == {None, 0}
    told = _settings(result)
    assert (told["layer"], told["layers"], told["left_out"]) == (0, "0", None)
    assert str(told["layer_note"]).startswith("layer 1 was asked for and not projected")


def test_where_no_layer_is_in_every_source_the_nearest_decides_and_the_rest_is_told(
    lab: Lab,
) -> None:
    plant_pass(lab, Texts({0: _scores(1)[0]}, "lower"))
    plant_pass(lab, Texts({1: _scores(2)[1]}, "upper"))
    told = _settings(run(lab.inputs(*LAYERS)))
    assert (told["sources"], told["layer"]) == ("upper", 1)
    assert str(told["left_out"]).startswith("lower: not projected at layer 1; run `cli.py project")


def test_a_pass_on_vectors_that_were_built_anew_is_left_out_and_named(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1), "before"))
    store_vectors(lab, dict.fromkeys(LAYERS, 1.5 * WORLD.vectors))
    with pytest.raises(NotReady, match="before: projected on vectors that were built anew since"):
        run(lab.inputs(*LAYERS))
    plant_pass(lab, Texts(_scores(1), "after"))
    told = _settings(run(lab.inputs(*LAYERS)))
    assert told["sources"] == "after"
    assert str(told["left_out"]).startswith("before: projected on vectors that were built anew")


def test_a_pass_whose_summaries_are_of_another_form_is_left_out_and_named(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1), "before", form=KEPT - 1))
    with pytest.raises(NotReady, match="before: its tokens were summarised in another form"):
        run(lab.inputs(*LAYERS))
    plant_pass(lab, Texts(_scores(1), "after"))
    told = _settings(run(lab.inputs(*LAYERS)))
    assert told["sources"] == "after"
    assert str(told["left_out"]).startswith("before: its tokens were summarised in another form")


def test_too_few_documents_are_left_out_and_named(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1, n=4), "tiny"))
    with pytest.raises(NotReady, match="tiny: 4 of its documents could be read, and 5"):
        run(lab.inputs(*LAYERS))


def test_the_newest_pass_of_a_source_counts_and_an_unfinished_one_does_not(lab: Lab) -> None:
    plant_pass(lab, Texts(_scores(1)))
    plant_pass(lab, Texts(_scores(2, n=50), seed=1))
    plant_pass(lab, Texts(_scores(3, n=70), seed=2, finished=False))
    assert _one(run(lab.inputs(*LAYERS)), "documents", "pile", None).value == 50


def test_without_a_projection_the_command_that_makes_one_is_named(lab: Lab) -> None:
    message = "run `cli.py project PATH --reader toy --corpus main`"
    with pytest.raises(NotReady, match=message):
        inputs_digest(ANALYSIS, lab.inputs(*LAYERS))
    plant_pass(lab, Texts(_scores(1), finished=False))
    with pytest.raises(NotReady, match=message):
        run_analysis(ANALYSIS, lab.inputs(*LAYERS))


def test_imported_vectors_have_no_model_to_project_with_and_that_is_told(
    conn: Connection, workspace: Workspace
) -> None:
    made = open_lab(conn, workspace, WORLD)
    store_vectors(made, dict.fromkeys(LAYERS, WORLD.vectors))
    conn.execute("UPDATE vectors SET settings = ?", (json.dumps(IMPORTED),))
    with pytest.raises(NotReady, match="the vectors of reader toy were imported"):
        inputs_digest(ANALYSIS, made.inputs(*LAYERS))


def test_rows_are_made_anew_when_a_source_or_an_answer_is_added_and_not_else(lab: Lab) -> None:
    projection = plant_pass(lab, Texts(_scores(1), "one"))
    inputs, plain = lab.inputs(*LAYERS), replace(ANALYSIS, draw=lambda _rows: {})
    assert run_analysis(plain, inputs).status == "done"
    assert run_analysis(plain, inputs).status == "unchanged"
    plant_pass(lab, Texts(_scores(2), "two"))
    done = run_analysis(plain, inputs)
    assert done.status == "done"
    names = {path.name for path in done.files}
    assert {"external.json", "external.snippets.layer_1.csv"} <= names
    before = inputs_digest(ANALYSIS, inputs)
    document, first = lab.conn.execute(
        "SELECT document_id, first FROM snippets WHERE projection_id = ? AND layer = 1 "
        "AND emotion = 'e00'",
        (projection.id,),
    ).fetchone()
    asked = [Question("e00", document, first, name) for name in ("e00", "e07")]
    plan_judgements(lab.conn, projection.id, 1, "somebody", "sha", asked)
    opened = open_judgements(lab.conn, projection.id, 1, "somebody", "sha")
    for score, each in zip((8.0, 2.0), opened, strict=True):
        answer_judgement(lab.conn, each.id, score, None, None)
    assert inputs_digest(ANALYSIS, inputs) != before
    result = run(inputs)
    assert _one(result, "judge.one", "somebody").value == 6.0
    assert [row["own"] for row in _table(result, "judgements")] == [8.0]


def test_q_is_the_false_discovery_rate_over_the_emotions_of_a_source(lab: Lab) -> None:
    for seed, source in enumerate(("one", "two")):
        plant_pass(lab, Texts(_scores(seed, excited=seed), source))
    ranking = _table(run(lab.inputs(*LAYERS)), "ranking")
    for source in ("one", "two"):
        rows = [row for row in ranking if row["source"] == source]
        p, q = (np.array([row[f"neutral_{name}"] for row in rows], np.float64) for name in "pq")
        np.testing.assert_allclose(q, false_discovery_control(p))
        assert len(rows) == E
        assert [row["valence"] for row in rows] == [each.valence for each in lab.protocol.emotions]


def test_the_same_seed_gives_the_same_rows(lab: Lab) -> None:
    for seed, source in enumerate(("one", "two")):
        plant_pass(lab, Texts(_scores(seed), source))
    assert run(lab.inputs(*LAYERS)) == run(lab.inputs(*LAYERS))
