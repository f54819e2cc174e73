"""Laws of the geometry: a planted one is found, whatever its signs and wherever it came from."""

import threading
import tracemalloc
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA

from analyses.base import Result, Rows, run_analysis
from analyses.geometry import ANALYSIS, run
from analyses.groups import TREE_GROUPS
from analyses.methods.geometry import cosine_matrix, upper_triangle
from analyses.vector_import import import_vectors
from stores.database import Connection
from stores.errors import Stopped
from stores.protocol import Protocol
from stores.published import load_published, read_published
from stores.results import Metric
from stores.vectors import VARIANTS, Variant, read_vectors
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, Lab, open_lab, store_vectors
from tests.analyses.planted import Floats, World, frozen, planted_world
from tests.analyses.sets import N_LAYERS, open_reader, store_set

WORLD = planted_world(e=40, d=24)


def _lab(conn: Connection, workspace: Workspace, world: World = WORLD, labels: str = "own") -> Lab:
    lab = open_lab(conn, workspace, world, labels)
    open_reader(lab)
    other = frozen(world.vectors + 0.4 * np.random.default_rng(0).normal(size=world.vectors.shape))
    store_vectors(lab, {0: other, 2: world.vectors})
    return lab


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return _lab(conn, workspace)


def _one(result: Result, metric: str, subject: str | None = None, layer: int = 2) -> Metric:
    rows = [row for row in result.metrics if (row.metric, row.layer) == (metric, layer)]
    return next(row for row in rows if row.subject == subject)


def _table(result: Result, name: str) -> list[dict[str, object]]:
    table = next(table for table in result.tables if table.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


@pytest.mark.parametrize(("e", "d"), [(40, 24), (12, 30)])
def test_the_planted_plane_is_recovered(
    conn: Connection, workspace: Workspace, e: int, d: int
) -> None:
    result = run(_lab(conn, workspace, planted_world(e=e, d=d)).inputs(0, 2))
    for metric, subject in (("r_valence", "PC1"), ("r_arousal", "PC2")):
        own = _one(result, metric, subject)
        assert own.value is not None
        assert own.value > 0.9
        assert own.p_value == 1 / 200
        assert own.n == e
        assert own.ci_low is not None
        assert own.ci_low > 0.6
    assert _one(result, "best_valence", "PC1").passed
    assert (_one(result, "ari_families", "k-means", layer=0).p_value or 1.0) <= 1.0


def test_components_are_those_of_sklearn(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))
    reference = PCA(n_components=5).fit(WORLD.vectors)
    shares = [_one(result, "pc_variance", f"PC{i + 1}").value for i in range(5)]
    np.testing.assert_allclose(np.array(shares, float), reference.explained_variance_ratio_)
    scores = [row for row in _table(result, "scores") if row["layer"] == 2]
    found = np.array([[row[f"PC{i + 1}"] for i in range(5)] for row in scores], dtype=np.float64)
    np.testing.assert_allclose(np.abs(found), np.abs(reference.transform(WORLD.vectors)))
    assert _one(result, "pc1_score", "e07").value == found[7, 0]


def test_signs_of_the_vectors_change_nothing_but_the_scores_beyond(
    conn: Connection, workspace: Workspace
) -> None:
    lab = open_lab(conn, workspace, WORLD)
    open_reader(lab)
    store_vectors(lab, {0: WORLD.vectors, 1: frozen(-WORLD.vectors)})
    result = run(lab.inputs(0, 1))
    for metric in ("r_valence", "r_arousal"):
        for subject in ("PC1", "PC2"):
            a, b = (_one(result, metric, subject, layer).value for layer in (0, 1))
            assert a == pytest.approx(b or 0.0)
    assert _one(result, "rsa_spearman", "layer 1", layer=0).value == pytest.approx(1.0)


def test_when_arousal_spreads_wider_the_best_component_says_so(
    conn: Connection, workspace: Workspace
) -> None:
    swapped = World(WORLD.vectors, WORLD.arousal, WORLD.valence, WORLD.families)
    result = run(_lab(conn, workspace, swapped).inputs(2))
    assert _one(result, "best_valence", "PC2").passed
    assert _one(result, "best_arousal", "PC1").passed
    assert not _one(result, "r_valence_max", "PC1").passed


def _shuffled(protocol: Protocol, seed: int) -> Protocol:
    """The same emotions with each other's labels."""
    order = np.random.default_rng(seed).permutation(len(protocol.emotions))
    others = [protocol.emotions[i] for i in order]
    emotions = tuple(
        replace(own, valence=other.valence, arousal=other.arousal, family=other.family)
        for own, other in zip(protocol.emotions, others, strict=True)
    )
    return replace(protocol, emotions=emotions)


def test_shuffled_labels_find_nothing(lab: Lab) -> None:
    """About one shuffle in twenty may pass a test at 5%; of 10 shuffles x 2 labels, one."""
    passed, families = 0, []
    for seed in range(10):
        result = run(lab.inputs(2, protocol=_shuffled(lab.protocol, seed), seed=seed))
        for metric in ("best_valence", "best_arousal"):
            passed += sum(bool(row.passed) for row in result.metrics if row.metric == metric)
        families.append(_one(result, "ari_families", "k-means").p_value)
    assert passed <= 3
    assert np.mean(np.array(families, dtype=np.float64) <= 0.05) <= 0.2


def test_pairs_are_the_ends_of_all_cosines_of_every_layer(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))
    cosines = np.sort(upper_triangle(cosine_matrix(WORLD.vectors)))
    closest = [row["cosine"] for row in _table(result, "closest") if row["layer"] == 2]
    opposite = [row["cosine"] for row in _table(result, "opposite") if row["layer"] == 2]
    np.testing.assert_allclose(np.array(closest, float), cosines[::-1][:15])
    np.testing.assert_allclose(np.array(opposite, float), cosines[:15])
    pairs = _table(result, "pairs")
    assert [(row["emotion"], row["other"]) for row in pairs] == [*combinations(_names(lab), 2)]
    for layer in (0, 2):
        found = np.array([row[f"layer_{layer}"] for row in pairs], np.float64)
        expected = upper_triangle(cosine_matrix(_read(lab, layer, "denoised")))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def _names(lab: Lab) -> list[str]:
    return list(lab.protocol.names)


def _read(lab: Lab, layer: int, variant: Variant) -> Floats:
    return read_vectors(lab.conn, lab.workspace, READER, CORPUS, layer, variant).vectors


def test_the_cosines_and_the_tree_over_them_are_those_of_the_analysis_layer(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))
    matrix, linkage = (
        next(table for table in result.tables if table.name == name)
        for name in ("cosines", "linkage")
    )
    assert (matrix.layer, linkage.layer) == (2, 2)
    assert list(matrix.columns[1:]) == [row[0] for row in matrix.rows] == _names(lab)
    stored = np.array([row[1:] for row in matrix.rows], dtype=np.float64)
    np.testing.assert_allclose(stored, cosine_matrix(WORLD.vectors), atol=1e-6)
    joins = np.array(linkage.rows, dtype=np.float64)
    first = joins[0, :2].astype(int)
    assert joins[0, 2] == pytest.approx(1.0 - upper_triangle(cosine_matrix(WORLD.vectors)).max())
    assert stored[tuple(first)] == pytest.approx(1.0 - joins[0, 2], abs=1e-6)
    cut = fcluster(joins, TREE_GROUPS, criterion="maxclust")
    groups = [row["tree"] for row in _table(result, "groups") if row["layer"] == 2]
    for i, j in combinations(range(len(cut)), 2):
        assert (cut[i] == cut[j]) == (groups[i] == groups[j])


def test_loadings_turn_vectors_into_scores(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))
    loadings = next(table for table in result.tables if table.name == "loadings")
    assert loadings.layer == 2
    assert [row[0] for row in loadings.rows] == list(range(24))
    axes = np.array([row[1:] for row in loadings.rows], np.float64)
    rows = [row for row in _table(result, "scores") if row["layer"] == 2]
    scores = np.array([[row[f"PC{i}"] for i in range(1, 6)] for row in rows], np.float64)
    centred = WORLD.vectors - WORLD.vectors.mean(axis=0)
    np.testing.assert_allclose(centred @ axes, scores, atol=1e-12)


def test_likeness_of_layers_and_of_raw_vectors_equals_that_of_scipy(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))

    def triangle(layer: int, variant: Variant) -> Floats:
        return upper_triangle(cosine_matrix(_read(lab, layer, variant)))

    expected = spearmanr(triangle(0, "denoised"), triangle(2, "denoised"))[0]
    assert _one(result, "rsa_spearman", "layer 2", layer=0).value == pytest.approx(expected)
    pearson = pearsonr(triangle(0, "denoised"), triangle(2, "denoised"))[0]
    assert _one(result, "rsa_pearson", "layer 2", layer=0).value == pytest.approx(pearson)
    raw = spearmanr(triangle(2, "denoised"), triangle(2, "raw"))[0]
    assert _one(result, "denoised_rsa").value == pytest.approx(raw)


def test_the_same_seed_gives_the_same_rows(lab: Lab) -> None:
    first, second = run(lab.inputs(0, 2)), run(lab.inputs(0, 2))
    assert first == second
    assert run(lab.inputs(0, 2, seed=8)) != first


def test_a_run_with_nothing_new_is_not_repeated(lab: Lab) -> None:
    first = run_analysis(ANALYSIS, lab.inputs(0, 2))
    again = run_analysis(ANALYSIS, lab.inputs(0, 2))
    assert (again.status, again.run_id, again.files) == ("unchanged", first.run_id, ())


def test_variance_at_the_analysis_layer_bears_the_names_that_publications_are_kept_under(
    lab: Lab,
) -> None:
    result = run(lab.inputs(0, 2))
    load_published(lab.conn)
    for component in ("PC1", "PC2"):
        named = f"{component.lower()}_variance"
        rows = [row for row in result.metrics if row.metric == named]
        assert [(row.layer, row.subject) for row in rows] == [(2, None)]
        assert rows[0].value == _one(result, "pc_variance", component).value
        assert read_published(lab.conn, named)


def test_every_layer_has_its_depth(lab: Lab) -> None:
    table = _table(run(lab.inputs(0, 2)), "layers_read")
    assert table == [
        {"layer": 0, "depth": 1 / N_LAYERS},
        {"layer": 2, "depth": 3 / N_LAYERS},
    ]


@pytest.mark.parametrize("variant", ["raw", "denoised"])
def test_a_set_of_one_variant_is_told_apart_and_compared_with_no_other(
    conn: Connection, workspace: Workspace, variant: str
) -> None:
    lab = open_lab(conn, workspace, WORLD)
    open_reader(lab)
    store_set(lab, 2, **{variant: WORLD.vectors})  # type: ignore[arg-type]
    alone = run(lab.inputs(2))
    settings = {str(row["setting"]): row["value"] for row in _table(alone, "settings")}
    assert (settings["vectors"], settings["beside"]) == (variant, None)
    assert not [row for row in alone.metrics if row.metric.startswith("denoised_")]
    store_vectors(lab, {2: WORLD.vectors})
    both = run(lab.inputs(2))
    settings = {str(row["setting"]): row["value"] for row in _table(both, "settings")}
    assert (settings["vectors"], settings["beside"]) == ("denoised", "raw")
    shared = tuple(row for row in both.metrics if not row.metric.startswith("denoised_"))
    assert alone.metrics == shared


def test_emotions_without_labels_take_part_and_are_counted(
    conn: Connection, workspace: Workspace
) -> None:
    lab = open_lab(conn, workspace, WORLD)
    open_reader(lab)
    names = [*lab.protocol.names[:30], *(f"new {i}" for i in range(10))]
    store_vectors(lab, {0: WORLD.vectors}, names=names)
    result = run(lab.inputs(0))
    counted = next(row for row in result.metrics if row.metric == "unlabelled")
    assert (counted.value, counted.n) == (10, 40)
    assert [row["emotion"] for row in _table(result, "unlabelled")] == names[30:]
    assert _one(result, "r_valence", "PC1", layer=0).n == 30
    assert _one(result, "pc_variance", "PC1", layer=0).n == 40
    assert not [row for row in result.metrics if row.metric == "ari_families"]
    scores = _table(result, "scores")
    assert np.isnan([row["valence"] for row in scores[30:]]).all()  # type: ignore[arg-type]
    assert "labels" in ANALYSIS.draw(Rows(result.metrics, result.tables))


def test_emotions_without_any_label_have_no_correlation_and_are_drawn_all_the_same(
    conn: Connection, workspace: Workspace
) -> None:
    lab = open_lab(conn, workspace, WORLD)
    open_reader(lab)
    store_vectors(lab, {0: WORLD.vectors}, names=[f"new {i}" for i in range(40)])
    result = run(lab.inputs(0))
    assert not [row for row in result.metrics if row.metric.startswith(("r_", "best_"))]
    figures = ANALYSIS.draw(Rows(result.metrics, result.tables))
    assert "components" in figures
    assert "labels" not in figures


def test_memory_holds_one_layer_and_what_is_compared_of_the_others(
    conn: Connection, workspace: Workspace
) -> None:
    """A further layer costs its directions while layers are compared, not all that is made of
    it."""
    rng = np.random.default_rng(3)
    e, d = 24, 6000
    lab = open_lab(conn, workspace, WORLD)
    open_reader(lab)
    vectors = {layer: rng.normal(size=(e, d)) for layer in range(6)}
    store_vectors(lab, vectors, names=[f"new {i}" for i in range(e)])
    run(lab.inputs(0))
    peaks = []
    for layers in (range(2), range(6)):
        tracemalloc.start()
        run(lab.inputs(*layers))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 4 < 1.6 * e * d * 8


def test_a_stop_publishes_nothing_and_every_layer_is_told_of(lab: Lab) -> None:
    told: list[tuple[str, int, int, str]] = []
    stop = threading.Event()

    def watch(*step: object) -> None:
        told.append(step)  # type: ignore[arg-type]
        stop.set()

    with pytest.raises(Stopped, match="geometry was stopped"):
        run_analysis(ANALYSIS, lab.inputs(0, 2, watch=watch, stop=stop))
    assert told == [("geometry", 0, 2, "layer 0")]
    assert lab.outcomes()[-1][0] == "analyze geometry"
    assert not lab.conn.execute("SELECT 1 FROM metrics").fetchall()
    run(lab.inputs(0, 2, watch=watch))
    assert told[1:] == [
        ("geometry", 0, 2, "layer 0"),
        ("geometry", 1, 2, "layer 2"),
        ("geometry", 2, 2, "layers compared"),
    ]


@pytest.mark.parametrize("e", [2, 3])
def test_few_emotions_at_one_layer_are_enough_to_run_and_to_draw(
    conn: Connection, workspace: Workspace, e: int
) -> None:
    pole = np.array([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0]])
    label = np.array([0.5, -0.5, 0.1])
    world = World(frozen(pole[:e]), label[:e], label[::-1][3 - e :], np.arange(e))
    lab = open_lab(conn, workspace, world)
    open_reader(lab)
    store_set(lab, 0, raw=world.vectors)
    result = run(lab.inputs(0))
    assert len([row for row in result.metrics if row.metric == "pc_variance"]) == e - 1
    assert bool([row for row in result.metrics if row.metric == "r_valence"]) == (e == 3)
    assert (_one(result, "kmeans_silhouette", layer=0).value is None) == (e == 2)
    assert run_analysis(ANALYSIS, lab.inputs(0)).status == "done"


def test_vectors_from_a_file_have_the_geometry_they_would_have_had_here(
    lab: Lab, tmp_path: Path
) -> None:
    """The same numbers under another name, with the number of layers the importer was told."""
    raw, denoised = (
        np.stack([_read(lab, layer, variant) for layer in (0, 2)]) for variant in VARIANTS
    )
    file = tmp_path / "set.npz"
    names, layers = np.array(_names(lab)), np.array([0, 2])
    np.savez(file, emotions=names, layers=layers, raw=raw, denoised=denoised)
    place = (lab.conn, lab.workspace, lab.protocol, "theirs", "imported")
    import_vectors(*place, [file], n_layers=N_LAYERS)
    ours = run(lab.inputs(0, 2))
    theirs = run(lab.inputs(0, 2, reader="theirs", corpus="imported"))
    assert theirs.metrics == ours.metrics
    assert theirs.tables[1:] == ours.tables[1:]
    changed = {"reader": "theirs", "corpus": "imported"}
    for (name, value), (same, expected) in zip(
        theirs.tables[0].rows, ours.tables[0].rows, strict=True
    ):
        assert (name, value) == (same, changed.get(str(name), expected))


def test_the_length_of_a_vector_plays_no_part_in_cosines_groups_and_likeness(
    conn: Connection, workspace: Workspace
) -> None:
    """Separation along components of unequal vectors may be one of length; nothing else is."""
    lengths = np.random.default_rng(4).uniform(0.2, 5.0, size=(40, 1))
    lab = _lab(conn, workspace)
    before = run(lab.inputs(0, 2))
    for layer in (0, 2):
        store_set(lab, layer, raw=lengths * _read(lab, layer, "denoised"))
    after = run(lab.inputs(0, 2))
    told = ("kmeans_", "tree_", "ari_", "rsa_", "vector_cosine")
    for row in after.metrics:
        if row.metric.startswith(told) and row.layer is not None:
            same = _one(before, row.metric, row.subject, row.layer)
            assert (row.value, row.p_value) == pytest.approx((same.value, same.p_value))
    for name in ("closest", "opposite", "kmeans", "tree", "groups"):
        for new, old in zip(_table(after, name), _table(before, name), strict=True):
            assert {**new, "cosine": None} == {**old, "cosine": None}
    assert _one(after, "pc_variance", "PC1").value != pytest.approx(
        _one(before, "pc_variance", "PC1").value or 0.0
    )
