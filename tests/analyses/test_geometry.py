"""Laws of the geometry: a planted one is found, whatever its signs, and figures come from rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA

from analyses.base import Result, Rows, run_analysis
from analyses.geometry import ANALYSIS, draw, run
from analyses.methods.geometry import cosine_matrix, upper_triangle
from stores.database import Connection
from stores.protocol import Protocol
from stores.results import Metric, Table, read_metrics, read_tables
from stores.vectors import Variant, read_vectors
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, Lab, open_lab, store_vectors
from tests.analyses.planted import Floats, World, frozen, planted_world

WORLD = planted_world(e=40, d=24)


def _lab(conn: Connection, workspace: Workspace, world: World = WORLD, labels: str = "own") -> Lab:
    lab = open_lab(conn, workspace, world, labels)
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


def test_pairs_are_the_ends_of_all_cosines(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))
    cosines = np.sort(upper_triangle(cosine_matrix(WORLD.vectors)))
    closest = [row["cosine"] for row in _table(result, "closest") if row["layer"] == 2]
    opposite = [row["cosine"] for row in _table(result, "opposite") if row["layer"] == 2]
    np.testing.assert_allclose(np.array(closest, float), cosines[::-1][:15])
    np.testing.assert_allclose(np.array(opposite, float), cosines[:15])
    matrix = next(table for table in result.tables if table.name == "cosines")
    assert matrix.layer == 2
    assert sorted(matrix.columns[1:]) == list(lab.protocol.names)
    assert [row[0] for row in matrix.rows] == list(matrix.columns[1:])
    order = [lab.protocol.names.index(name) for name in matrix.columns[1:]]
    stored = np.array([row[1:] for row in matrix.rows], dtype=np.float64)
    expected = cosine_matrix(WORLD.vectors)[np.ix_(order, order)]
    np.testing.assert_allclose(stored, expected, atol=1e-6)


def test_likeness_of_layers_and_of_raw_vectors_equals_that_of_scipy(lab: Lab) -> None:
    result = run(lab.inputs(0, 2))

    def triangle(layer: int, variant: Variant) -> Floats:
        found = read_vectors(lab.conn, lab.workspace, READER, CORPUS, layer, variant)
        return upper_triangle(cosine_matrix(found.vectors))

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


def test_published_figures_say_what_they_show(conn: Connection, workspace: Workspace) -> None:
    lab = _lab(conn, workspace, labels="planted")
    files = run_analysis(ANALYSIS, lab.inputs(0, 2)).files
    figures = {path.name: path.read_bytes().decode() for path in files if path.suffix == ".svg"}
    names = ("components", "cosines", "labels", "layers", "variance")
    assert sorted(figures) == [f"geometry.{name}.svg" for name in names]
    assert all("toy model, planted geometry" in text for text in figures.values())
    share = read_metrics(conn, READER, CORPUS, "geometry", metric="pc_variance", layer=2)[0].value
    assert f"PC1 ({share:.1%} of variance)" in figures["geometry.components.svg"]
    assert all(name in figures["geometry.cosines.svg"] for name in lab.protocol.names)


def test_the_scatter_is_of_the_analysis_layer(lab: Lab) -> None:
    run_analysis(ANALYSIS, lab.inputs(0, 2))
    place = (lab.conn, READER, CORPUS, "geometry")
    figures = draw(Rows(tuple(read_metrics(*place)), tuple(read_tables(*place))))
    shown = np.asarray(figures["components"].axes[0].collections[0].get_offsets())
    reference = np.abs(PCA(n_components=2).fit_transform(WORLD.vectors))
    np.testing.assert_allclose(np.abs(shown), reference, atol=1e-9)


def test_figures_need_only_what_is_there() -> None:
    """Two concepts without labels at one layer: one component, no scatter, no labels, no layers."""
    tables = (
        Table("settings", ("setting", "value"), (
            ("reader", "r"), ("corpus", "c"), ("concept", "colour"), ("labels", "user"),
            ("layer", 1), ("vectors", "denoised"),
        )),
        Table("cosines", ("emotion", "red", "blue"), (("red", 1.0, -1.0), ("blue", -1.0, 1.0)), 1),
    )  # fmt: skip
    rows = Rows((Metric("pc_variance", 1.0, 1, "PC1", n=2),), tables)
    assert sorted(draw(rows)) == ["cosines", "variance"]


def test_two_concepts_are_enough_to_run(conn: Connection, workspace: Workspace) -> None:
    pole = np.array([1.0, 0.0, 0.0, 0.0])
    world = World(frozen(np.stack([pole, -pole])), pole[:2], pole[:2], np.array([0, 1]))
    lab = open_lab(conn, workspace, world)
    store_vectors(lab, {0: world.vectors})
    result = run(lab.inputs(0))
    assert _one(result, "pc_variance", "PC1", layer=0).value == 1.0
    assert not [row for row in result.metrics if row.metric.startswith("r_")]
