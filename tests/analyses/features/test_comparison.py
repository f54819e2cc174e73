"""Laws of the comparison's rows: they are what plain arithmetic says, each beside its control's."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from analyses.base import Result, Rows
from analyses.features import comparison, validity
from analyses.features.choosing import Best, align, choose_features, find_best
from analyses.features.comparison import compare_features
from analyses.features.reading import Crosscheck, Dictionary
from analyses.keeping import Home, read_rows
from analyses.methods.alignment import principal_axes
from analyses.methods.geometry import unit
from analyses.methods.telling import feature_aucs
from engine.packing import Segment
from stores.database import Connection, open_database
from stores.encodings import BANKS, Bank
from stores.errors import Stopped
from stores.results import Metric, open_run, publish
from stores.workspace import Workspace
from tests.analyses.features.crosschecks import make_crosscheck, read_stories, segment_of
from tests.analyses.lab import CORPUS, READER

EVERY, TOPICS, FEATURES = 9, 4, 96
SMALL: dict[str, Any] = {
    "every": EVERY,
    "topics": TOPICS,
    "features": FEATURES,
    "k": 6,
    "permutations": 49,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crosscheck]:
    torch.set_num_threads(1)
    workspace = Workspace(tmp_path_factory.mktemp("small"))
    with closing(open_database(workspace.database)) as conn:
        yield make_crosscheck(conn, workspace, **SMALL)


@pytest.fixture(autouse=True)
def few_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The few stories of the corpus themselves, not a sample."""

    def sample(found: Crosscheck, tokens: int) -> list[Segment]:
        return [segment_of(text) for text in read_stories(EVERY, TOPICS).texts[:6]]

    monkeypatch.setattr(validity, "read_sample", sample)


@pytest.fixture(scope="module")
def best(found: Crosscheck) -> Best:
    return find_best(found)


@pytest.fixture
def result(found: Crosscheck, best: Best) -> Result:
    return compare_features(found, best)


def one(result: Result, metric: str, subject: str | None = None) -> Metric:
    return next(r for r in result.metrics if (r.metric, r.subject) == (metric, subject))


def records(result: Result, name: str) -> list[dict[str, Any]]:
    table = next(each for each in result.tables if each.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def settings_of(result: Result) -> dict[str, Any]:
    return {str(row["setting"]): row["value"] for row in records(result, "settings")}


def changed(found: Crosscheck, bank: Bank, **changes: Any) -> Crosscheck:
    other = replace(found[bank], **changes)
    return replace(found, dictionaries={**found.dictionaries, bank: other})


def test_every_number_of_the_sae_stands_beside_the_same_of_its_control(result: Result) -> None:
    names = {row.metric for row in result.metrics}
    both = {name.replace(".control", "") for name in names if ".control" in name}
    assert both == {name for name in names if ".control" not in name} - {
        *("variance_unexplained", "l0", "dead_features", "loss_recovered", "loss_recovered.mean"),
        *("auc.gain", "rsa.gain", "cosine.gain"),
        *(f"rebuild.{v}.gain.{k}" for v in ("raw", "denoised") for k in (1, 2, 4, 8, 16, 32)),
    }
    for name in ("auc.mean", "auc.found", "cosine.found", "rsa"):
        control = one(result, f"{name}.control").value
        assert one(result, name).chance == control
    for k in (1, 8, 32):
        control = one(result, f"rebuild.denoised.control.{k}").value
        assert one(result, f"rebuild.denoised.{k}").chance == control
    for name in ("variance_unexplained", "l0", "dead_features", "loss_recovered"):
        assert one(result, name, "sae").chance == one(result, name, "control").value


@pytest.mark.parametrize("bank", BANKS)
def test_validity_is_that_of_all_pooled_tokens_together(
    found: Crosscheck, result: Result, bank: Bank
) -> None:
    sae: Any = found[bank].sae
    tokens = torch.from_numpy(np.concatenate(read_stories(EVERY, TOPICS).tokens))
    with torch.inference_mode():
        codes = sae.encode(tokens)
        error = (tokens - sae.decode(codes)).double().square().sum()
    exact = tokens.double()
    apart = (exact - exact.mean(dim=0)).square().sum()
    row = one(result, "variance_unexplained", bank)
    assert row.value == pytest.approx(float(error / apart), rel=1e-4)
    assert row.n == len(tokens)
    assert row.ci_low < row.value < row.ci_high  # type: ignore[operator]
    fired = (codes > 0).double().sum(dim=1)
    assert one(result, "l0", bank).value == pytest.approx(float(fired.mean()))
    dead = float((~(codes > 0).any(dim=0)).double().mean())
    assert one(result, "dead_features", bank).value == pytest.approx(dead)


def test_loss_recovered_is_what_is_won_back_of_what_ablation_costs(result: Result) -> None:
    for row in records(result, "validity"):
        clean, spliced = row["loss_clean"], row["loss_spliced"]
        for worst, name in (("loss_zero", ""), ("loss_mean", ".mean")):
            share = (row[worst] - spliced) / (row[worst] - clean)
            got = one(result, f"loss_recovered{name}", row["bank"])
            assert got.value == pytest.approx(share)
            assert got.ci_low <= got.value <= got.ci_high  # type: ignore[operator]


def test_best_cosines_are_those_of_rows_that_fire(found: Crosscheck) -> None:
    sae = found["sae"]
    cosines = found.directions @ unit(sae.rows).T
    silent = np.unique(cosines.argmax(axis=1))[:5]
    alive = sae.alive.copy()
    alive[silent] = False
    other = find_best(changed(found, "sae", alive=alive))
    cosines[:, ~alive] = -1.0
    near = other.aligned["sae"]
    np.testing.assert_array_equal(near.feature, cosines.argmax(axis=1))
    np.testing.assert_allclose(near.cosine, cosines.max(axis=1), atol=1e-6)
    assert near.rows == FEATURES
    assert not set(silent) & {
        *other.telling["sae"].feature,
        *other.telling["sae"].fold_features.flat,
    }


def test_random_rows_that_fire_are_not_found_near_more_often_than_they_should_be(
    found: Crosscheck,
) -> None:
    """Rows that activations choose lie along them, as what is looked for does."""
    rng, widths = np.random.default_rng(0), 1.0 / np.arange(1.0, 25.0)
    axes = principal_axes(np.diag(widths**2))
    p = []
    for _ in range(60):
        rows, tokens, directions = (unit(rng.normal(size=(n, 24)) * widths) for n in (512, 60, 40))
        alive = np.zeros(512, dtype=np.bool_)
        alive[(tokens @ rows.T).argmax(axis=1)] = True
        dictionary = replace(found["control"], rows=rows.astype(np.float32), alive=alive)
        p.append(align(directions, dictionary, axes).p)
    assert np.mean(np.array(p) < 0.05) < 0.06
    assert np.mean(np.array(p) < 0.005) < 0.008


def test_what_is_chosen_is_what_the_rows_name(best: Best, result: Result) -> None:
    chosen = choose_features(best)
    rows = records(result, "emotions")
    assert chosen["cosine"].tolist() == [row["feature"] for row in rows]
    assert chosen["auc"].tolist() == [row["auc_feature"] for row in rows]
    np.testing.assert_array_equal(chosen["control"], best.telling["control"].feature)
    for row in rows:
        assert one(result, "auc", row["emotion"]).value == row["auc"]
        assert one(result, "cosine", row["emotion"]).value == row["cosine"]
        assert one(result, "cosine.control", row["emotion"]).value == row["control_cosine"]
        assert one(result, "cosine", row["emotion"]).passed == (row["q"] < 0.05)


def test_the_first_row_that_rebuilds_a_vector_is_the_one_most_alike(
    found: Crosscheck, result: Result
) -> None:
    sae = found["sae"]
    cosines = found.directions @ unit(sae.rows[sae.alive]).T
    expected = np.square(cosines).max(axis=1)
    assert one(result, "rebuild.denoised.1").value == pytest.approx(expected.mean(), rel=1e-5)
    curve = [
        row["explained"]
        for row in records(result, "rebuild")
        if (row["target"], row["bank"]) == ("denoised", "sae")
    ]
    assert len(curve) == 32
    assert curve == sorted(curve)
    rows = [row for row in records(result, "rebuilt") if row["bank"] == "sae"]
    assert all(row["k1"] <= row["k4"] <= row["k16"] for row in rows)


def test_aucs_are_listed_by_feature_and_emotion_in_one_order(
    found: Crosscheck, best: Best, result: Result
) -> None:
    table = next(each for each in result.tables if each.name == "aucs")
    names, features = table.columns[1:], [int(str(row[0])) for row in table.rows]
    assert sorted(names) == sorted(found.emotions)
    assert set(features) == set(best.telling["sae"].feature.tolist())
    own = dict(zip(found.emotions, best.telling["sae"].feature.tolist(), strict=True))
    first = [features.index(own[name]) for name in names]
    assert [f for i, f in enumerate(first) if f not in first[:i]] == list(range(len(features)))
    aucs = feature_aucs(found["sae"].codes, found.own, len(found.emotions))
    for row in table.rows:
        expected = [aucs[found.emotions.index(name), int(str(row[0]))] for name in names]
        np.testing.assert_allclose(np.array(row[1:], np.float64), expected)


def test_a_gain_is_the_mean_difference_to_the_control(best: Best, result: Result) -> None:
    differences = best.telling["sae"].auc - best.telling["control"].auc
    assert one(result, "auc.gain").value == pytest.approx(differences.mean())
    sae, control = (one(result, name).value or 0.0 for name in ("rsa", "rsa.control"))
    assert one(result, "rsa.gain").value == pytest.approx(sae - control, abs=1e-9)
    for name, k in (("cosine", "mean"), ("rebuild.denoised", "1"), ("rebuild.raw", "8")):
        names = (f"{name}.{k}", f"{name}.{k}.control" if k == "mean" else f"{name}.control.{k}")
        sae, control = (one(result, each).value or 0.0 for each in names)
        gain = "cosine.gain" if name == "cosine" else f"{name}.gain.{k}"
        assert one(result, gain).value == pytest.approx(sae - control, abs=1e-9)


def test_an_sae_that_is_its_control_gains_nothing_at_all(found: Crosscheck) -> None:
    twin: dict[Bank, Dictionary] = {
        "sae": replace(found["control"], bank="sae"),
        "control": found["control"],
    }
    same = replace(found, dictionaries=twin)
    best = find_best(same)
    result = compare_features(same, best)
    for row in result.metrics:
        if ".gain" in row.metric:
            assert row.value == 0.0
            continue
        other = row.metric.replace("rebuild.raw", "rebuild.raw.control")
        other = other.replace("rebuild.denoised", "rebuild.denoised.control")
        if ".control" in row.metric or row.subject in BANKS:
            continue
        other = other if ".control" in other else f"{other}.control"
        twin_row = one(result, other, row.subject)
        kept = ("value", "n", "ci_low", "ci_high", "p_value", "passed")
        assert [getattr(row, k) for k in kept] == pytest.approx(
            [getattr(twin_row, k) for k in kept], nan_ok=True
        )


def test_the_same_inputs_give_the_same_rows(found: Crosscheck, best: Best, result: Result) -> None:
    again = compare_features(found, find_best(found))
    assert repr(again) == repr(result)


def test_an_emotion_without_stories_has_no_auc_and_the_others_keep_theirs(
    found: Crosscheck,
) -> None:
    kept = found.own != 0
    dictionaries = {
        bank: replace(
            each,
            codes=each.codes[kept],
            pooled=replace(
                each.pooled,
                **{
                    name: getattr(each.pooled, name)[kept]
                    for name in ("text_ids", "tokens", "l0", "error", "square")
                },
            ),
        )
        for bank, each in found.dictionaries.items()
    }
    fewer = replace(
        found, own=found.own[kept], topics=found.topics[kept], dictionaries=dictionaries
    )
    result = compare_features(fewer, find_best(fewer))
    lost, *others = records(result, "emotions")
    assert np.isnan(lost["auc"])
    assert not one(result, "auc", lost["emotion"]).passed
    assert np.isfinite([row["auc"] for row in others]).all()
    assert np.isfinite(lost["cosine"])
    for name in ("auc.mean", "auc.gain", "rsa"):
        assert one(result, name).n == len(others)


def test_clusters_stand_in_for_families_where_the_protocol_has_none(
    found: Crosscheck, best: Best
) -> None:
    protocol = found.inputs.protocol
    plain = tuple(replace(each, family=None, valence=None) for each in protocol.emotions)
    inputs = replace(found.inputs, protocol=replace(protocol, emotions=plain))
    result = compare_features(replace(found, inputs=inputs), best)
    assert settings_of(result)["families"] == "k-means of the vectors"
    assert {str(row["family"]).split()[0] for row in records(result, "emotions")} == {"cluster"}
    assert one(result, "jaccard.within").n


def test_what_was_forced_stands_in_the_settings(found: Crosscheck, best: Best) -> None:
    assert settings_of(compare_features(found, best))["forced"] == 0
    kept = {**found.encoding.settings, "differences": ["layer 5, not 3", "another model"]}
    forced = replace(found, encoding=replace(found.encoding, settings=kept))
    settings = settings_of(compare_features(forced, best))
    assert (settings["forced"], settings["differences"]) == (1, "layer 5, not 3; another model")


def test_without_raw_vectors_the_denoised_ones_are_rebuilt(found: Crosscheck, best: Best) -> None:
    alone = replace(found, vectors={"denoised": found.vectors["denoised"]})
    result = compare_features(alone, best)
    assert {row["target"] for row in records(result, "rebuild")} == {"denoised"}


def test_a_stop_ends_it_between_two_parts(found: Crosscheck, best: Best) -> None:
    stop, seen = threading.Event(), list[str]()

    def watch(_stage: str, _done: int, _total: int, note: str) -> None:
        seen.append(note)
        stop.set()

    inputs = replace(found.inputs, stop=stop, watch=watch)
    with pytest.raises(Stopped, match="codes are kept"):
        compare_features(replace(found, inputs=inputs), best)
    assert seen == ["validity"]


@pytest.mark.parametrize("every", [57, 100])
def test_three_emotions_or_two_are_compared_as_far_as_that_goes(
    conn: Connection, workspace: Workspace, every: int
) -> None:
    found = make_crosscheck(conn, workspace, **SMALL | {"every": every})
    result = compare_features(found, find_best(found))
    assert len(records(result, "emotions")) == len(found.emotions) == 1 + 170 // every
    assert one(result, "cosine.mean").n == len(found.emotions)


def test_rows_can_be_published_and_read_back_and_drawn_from(
    found: Crosscheck, result: Result
) -> None:
    inputs = found.inputs
    run = open_run(inputs.conn, "sae compare", {})
    place = (inputs.conn, run, READER, CORPUS, "sae.small")
    publish(*place, result.metrics, result.tables)
    rows: Rows = read_rows(Home(inputs.conn, inputs.workspace, READER, CORPUS), "sae.small")
    assert len(rows.metrics) == len(result.metrics)
    drawn = comparison.figures(rows)
    assert {"cosines", "aucs", "rebuild", "features", "components"} <= set(drawn)
