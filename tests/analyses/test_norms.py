"""Laws of the norms: planted ratings are found, shuffled ones are not, and none is ever kept.

Every rating here is made up: a planted axis with noise, in files that look like the real ones.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.base import Result, Rows, home_of, run_analysis
from analyses.geometry import ANALYSIS as GEOMETRY
from analyses.keeping import read_rows
from analyses.norms import ANALYSIS, draw, match_here, run
from analyses.vector_import import import_vectors
from stores.activations import ArraySettings, open_arrays
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.norms import Norms, load_norms
from stores.published import load_published, read_published
from stores.results import Metric, read_metrics
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, Lab, open_lab, store_vectors
from tests.analyses.planted import Floats, World, frozen, planted_world

WORLD = planted_world(e=40, d=24)
N_LAYERS = 9
ASTRAY = 4
"""Emotions that the made-up norms do not have: the last ones."""


def _lab(conn: Connection, workspace: Workspace, world: World = WORLD, labels: str = "own") -> Lab:
    lab = open_lab(conn, workspace, world, labels)
    d = world.vectors.shape[1]
    read = ArraySettings("toy", "r", "w", N_LAYERS, d, 50, "raw", "float32", lab.protocol.digest)
    open_arrays(conn, workspace, READER, CORPUS, "stories", read, 17)
    other = frozen(world.vectors + 0.4 * np.random.default_rng(0).normal(size=world.vectors.shape))
    store_vectors(lab, {0: other, 2: world.vectors})
    return lab


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return _lab(conn, workspace)


def _ratings(world: World = WORLD, seed: int = 0) -> Floats:
    """Valence and arousal (2, e), on 0 to 1 with 7 decimals: the planted ones and some noise."""
    noise = np.random.default_rng(seed).normal(size=(2, len(world.valence))) * 0.1
    planted = np.stack([world.valence, world.arousal]) + noise
    ratings: Floats = np.clip(0.5 + 0.4 * planted, 0.0, 1.0).round(7)
    return ratings


def _norms(folder: Path, names: Sequence[str], ratings: Floats, name: str = "made_up.txt") -> Norms:
    """A file that looks like NRC VAD v1; names that start with - are left out."""
    lines = [
        f"{name}\t{valence:.7f}\t{arousal:.7f}\t0.5"
        for name, valence, arousal in zip(names, *ratings, strict=True)
        if not name.startswith("-")
    ]
    path = folder / name
    path.write_text("\n".join(["Word\tValence\tArousal\tDominance", *lines]) + "\n")
    return load_norms(path)


def _made_up(lab: Lab, folder: Path, ratings: Floats | None = None) -> Norms:
    """Norms of all emotions of the lab but the last few."""
    names = list(lab.protocol.names)
    left = [*names[:-ASTRAY], *(f"-{name}" for name in names[-ASTRAY:])]
    return _norms(folder, left, _ratings() if ratings is None else ratings)


def _one(result: Result | Rows, metric: str, subject: str | None = None, layer: int = 2) -> Metric:
    rows = [row for row in result.metrics if (row.metric, row.layer) == (metric, layer)]
    return next(row for row in rows if row.subject == subject)


def _whole(result: Result | Rows, metric: str, subject: str | None = None) -> Metric:
    return next(
        row
        for row in result.metrics
        if (row.metric, row.subject, row.layer) == (metric, subject, None)
    )


def test_planted_ratings_are_found_over_the_matched_words(lab: Lab, tmp_path: Path) -> None:
    norms = _made_up(lab, tmp_path)
    result = run(lab.inputs(0, 2, norms=norms))
    for metric, subject, planted in (("valence", "PC1", 0), ("arousal", "PC2", 1)):
        own = _one(result, f"r_{metric}", subject)
        known = slice(None, -ASTRAY)
        scores = WORLD.vectors @ np.linalg.svd(WORLD.vectors)[2][planted]
        expected = abs(np.corrcoef(scores[known], _ratings()[planted, known])[0, 1])
        assert own.value == pytest.approx(expected, abs=1e-9)
        assert own.n == 40 - ASTRAY
        assert (own.p_value, own.ci_low is not None and own.ci_low > 0.8) == (1 / 200, True)
        assert _one(result, f"best_{metric}", subject).passed
    assert _whole(result, "matched") == Metric("matched", 36, n=40)


def test_every_layer_and_five_components_are_corrected_for_together(
    lab: Lab, tmp_path: Path
) -> None:
    norms = _made_up(lab, tmp_path)
    result = run(lab.inputs(0, 2, norms=norms))
    alone = run(lab.inputs(2, norms=norms))
    (labels,) = [table for table in result.tables if table.name == "labels"]
    looked = [(row[0], row[1], row[2]) for row in labels.rows]
    components = [f"PC{i}" for i in range(1, 6)]
    assert sorted(looked) == sorted(
        (at, name, label)
        for at in (0, 2)
        for name in components
        for label in ("valence", "arousal")
    )
    assert {row[3] for row in labels.rows} == {norms.source}
    both, one = (_one(found, "r_valence_max", "PC1").threshold or 0.0 for found in (result, alone))
    assert both > one > 0.3


def test_single_answers_have_the_names_of_the_published_numbers(lab: Lab, tmp_path: Path) -> None:
    result = run(lab.inputs(0, 2, norms=_made_up(lab, tmp_path)))
    load_published(lab.conn)
    for i, label in ((1, "valence"), (2, "arousal"), (3, "valence")):
        assert read_published(lab.conn, f"r_pc{i}_{label}")
        answer = _one(result, f"r_pc{i}_{label}")
        own = _one(result, f"r_{label}", f"PC{i}")
        assert replace(answer, metric=own.metric, subject=own.subject) == own
    assert not [row for row in result.metrics if row.metric == "r_pc1_valence" and row.layer != 2]


def test_shuffled_ratings_find_nothing(lab: Lab, tmp_path: Path) -> None:
    """The best of 20 looks passes in about one shuffle of twenty, not in most of them."""
    passed, own = [], []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40)
        norms = _made_up(lab, tmp_path, _ratings()[:, order])
        result = run(lab.inputs(0, 2, norms=norms, seed=seed))
        best = [row for row in result.metrics if row.metric.startswith("best_")]
        passed += [any(row.passed for row in best if row.metric == name) for name in
                   ("best_valence", "best_arousal")]  # fmt: skip
        own += [row.p_value or 1.0 for row in result.metrics if row.metric == "r_valence"]
    assert np.mean(passed) <= 0.15
    assert 0.02 < np.mean(np.array(own) <= 0.1) < 0.2


def test_no_rating_is_kept_anywhere(
    conn: Connection, workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Not in the ledger, the exports or the figures; not as text, not as a number."""
    lab = _lab(conn, workspace)
    norms = _made_up(lab, tmp_path_factory.mktemp("elsewhere"))
    run_analysis(ANALYSIS, lab.inputs(0, 2, norms=norms))
    values = [*norms.valence.values(), *norms.arousal.values()]
    forms = [f"{value:.6f}"[1:].encode() for value in values if 0.0 < value < 1.0]
    forms += [f"{value:.7f}"[1:7].encode() for value in values if 0.0 < value < 1.0]
    forms += [struct.pack(order, value) for value in values for order in ("<d", ">d")]
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert {".svg", ".png", ".json", ".csv"} <= {path.suffix for path in files}
    assert workspace.database in files
    found = [
        (path.name, form)
        for path in files
        if (content := path.read_bytes())
        for form in forms
        if form in content
    ]
    assert found == []


def test_what_is_said_of_single_emotions_is_text(lab: Lab, tmp_path: Path) -> None:
    """Else ratings could be worked back from a table, whatever its scale."""
    result = run(lab.inputs(0, 2, norms=_made_up(lab, tmp_path)))
    names = set(lab.protocol.names)
    for table in result.tables:
        for row in table.rows:
            if names & set(row):
                assert not [cell for cell in row if isinstance(cell, float | int)]
    assert not [row for row in result.metrics if row.subject in names]


def test_words_rules_and_misses_are_listed(lab: Lab, tmp_path: Path) -> None:
    names = ["e 00", "e-01", *lab.protocol.names[2:-ASTRAY], *["-"] * ASTRAY]
    norms = _norms(tmp_path, names, _ratings())
    inputs = lab.inputs(0, 2, norms=norms)
    result = run(inputs)
    tables = {table.name: table for table in result.tables}
    assert tables["words"].rows[:3] == (
        ("e00", None, None), ("e01", None, None), ("e02", "e02", "exact"),
    )  # fmt: skip
    missed = ("e00", "e01", *lab.protocol.names[-ASTRAY:])
    assert tables["misses"].rows == tuple((name,) for name in missed)
    assert match_here(inputs).misses == missed
    settings = {str(key): value for key, value in tables["settings"].rows}
    assert settings["norms"] == norms.source
    assert settings["licence"] == norms.licence
    assert (settings["file"], settings["sha256"]) == ("made_up.txt", norms.sha256)
    assert (settings["n_layers"], settings["vectors"]) == (N_LAYERS, "denoised")


def test_the_two_ratings_and_the_labels_are_compared(lab: Lab, tmp_path: Path) -> None:
    norms = _made_up(lab, tmp_path)
    result = run(lab.inputs(2, norms=norms))
    valence, arousal = _ratings()[:, :-ASTRAY]
    both = _whole(result, "norms_valence_arousal")
    assert both.value == pytest.approx(np.corrcoef(valence, arousal)[0, 1])
    assert (both.n, (both.p_value or 0.0) > 0.05) == (36, True)
    agree = _whole(result, "norms_labels", "valence")
    expected = np.corrcoef(valence, WORLD.valence[:-ASTRAY])[0, 1]
    assert agree.value == pytest.approx(expected, abs=1e-6)
    assert agree.ci_low is not None
    assert agree.ci_low < expected < (agree.ci_high or 0.0)
    assert (agree.n, agree.p_value) == (36, 1 / 200)


def test_geometry_keeps_its_own_labels_beside_norms(lab: Lab, tmp_path: Path) -> None:
    inputs = lab.inputs(0, 2, norms=_made_up(lab, tmp_path))
    run_analysis(GEOMETRY, inputs)
    before = read_rows(home_of(inputs), "geometry")
    run_analysis(ANALYSIS, inputs)
    assert read_rows(home_of(inputs), "geometry") == before
    labels, norms = before, read_rows(home_of(inputs), "norms")
    assert _one(labels, "r_valence", "PC1").n == 40
    assert _one(norms, "r_valence", "PC1").n == 36
    assert before.settings["labels"] == "own"


def test_other_norms_are_computed_anew_and_the_same_ones_are_not(lab: Lab, tmp_path: Path) -> None:
    first = lab.inputs(2, norms=_made_up(lab, tmp_path))
    assert run_analysis(ANALYSIS, first).status == "done"
    assert run_analysis(ANALYSIS, first).status == "unchanged"
    other = lab.inputs(2, norms=_made_up(lab, tmp_path, _ratings(seed=1)))
    assert run_analysis(ANALYSIS, other).status == "done"


@pytest.mark.parametrize("kept", [0, 2])
def test_fewer_than_three_matches_are_refused_in_one_line(
    lab: Lab, tmp_path: Path, kept: int
) -> None:
    names = [*lab.protocol.names[:kept], *(f"x{i}" for i in range(40 - kept))]
    norms = _norms(tmp_path, names, _ratings())
    with pytest.raises(UsageError) as caught:
        run_analysis(ANALYSIS, lab.inputs(2, norms=norms))
    message = str(caught.value)
    assert message.startswith(f"{kept} of the 40 emotions of {READER}/{CORPUS} are in NRC VAD")
    assert "--norms" in message
    assert "\n" not in message
    assert read_metrics(lab.conn, READER, CORPUS, "norms") == []


def test_three_matches_are_enough(lab: Lab, tmp_path: Path) -> None:
    names = [*lab.protocol.names[:3], *(f"x{i}" for i in range(37))]
    run_analysis(ANALYSIS, lab.inputs(0, 2, norms=_norms(tmp_path, names, _ratings())))
    (row,) = read_metrics(lab.conn, READER, CORPUS, "norms", metric="r_pc1_valence")
    assert row.n == 3


def test_ratings_that_are_all_the_same_are_refused_and_one_that_varies_is_used(
    lab: Lab, tmp_path: Path
) -> None:
    flat = np.full((2, 40), 0.5)
    with pytest.raises(UsageError, match="all the same"):
        run(lab.inputs(2, norms=_made_up(lab, tmp_path, flat)))
    flat[0] = _ratings()[0]
    inputs = lab.inputs(2, norms=_made_up(lab, tmp_path, flat))
    run_analysis(ANALYSIS, inputs)
    rows = read_rows(home_of(inputs), "norms")
    assert _one(rows, "r_pc1_valence").n == 36
    assert not rows.select("r_arousal")
    assert rows.settings["sign of PC2"] == "arousal, own"
    assert _whole(rows, "norms_valence_arousal").value is None


def test_without_norms_or_vectors_it_says_what_is_missing(
    conn: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    lab = open_lab(conn, workspace, WORLD)
    with pytest.raises(NotReady, match="no vectors"):
        run_analysis(ANALYSIS, lab.inputs(0, norms=_made_up(lab, tmp_path)))
    store_vectors(lab, {0: WORLD.vectors})
    with pytest.raises(UsageError, match="--norms"):
        run_analysis(ANALYSIS, lab.inputs(0))
    with pytest.raises(UsageError, match="--norms"):
        run(lab.inputs(0))


def test_the_figure_says_whose_ratings_and_how_many_words(lab: Lab, tmp_path: Path) -> None:
    inputs = lab.inputs(0, 2, norms=_made_up(lab, tmp_path))
    files = {path.name: path for path in run_analysis(ANALYSIS, inputs).files}
    drawn = files["norms.depth.svg"].read_text()
    for said in ("NRC VAD Lexicon v1", "36 of 40 emotions", "PC1 with valence", "PC2 with arousal"):
        assert said in drawn
    assert "norms.depth.png" in files
    document = json.loads(files["norms.json"].read_text())
    assert document["tables"]["settings"]["rows"][3][1].startswith("NRC VAD")


def test_the_figure_is_of_the_rows(lab: Lab, tmp_path: Path) -> None:
    inputs = lab.inputs(0, 2, norms=_made_up(lab, tmp_path))
    run_analysis(ANALYSIS, inputs)
    rows = read_rows(home_of(inputs), "norms")
    lines = draw(rows)["depth"].axes[0].get_lines()
    places = {tuple(np.round(np.asarray(line.get_xydata()).ravel(), 9)) for line in lines}
    for label, component in (("valence", "PC1"), ("arousal", "PC2")):
        at = [_one(rows, f"r_{label}", component, layer).value for layer in (0, 2)]
        expected = np.array([1 / N_LAYERS, at[0], 3 / N_LAYERS, at[1]], np.float64)
        assert tuple(np.round(expected, 9)) in places


def _import(lab: Lab, folder: Path, names: Sequence[str], vectors: Floats) -> None:
    """Raw vectors at layers 0 and 1 from a file, as reader `theirs`."""
    path = folder / "theirs.npz"
    layers = np.stack([vectors, vectors[:, ::-1]])
    np.savez(path, allow_pickle=False, means=layers, emotions=np.array(names), layers=[0, 1])
    place = (lab.conn, lab.workspace, lab.protocol, "theirs", "imported")
    import_vectors(*place, [path], n_layers=4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_imported_vectors_of_unknown_emotions_are_oriented_by_the_ratings(
    lab: Lab, tmp_path: Path, sign: float
) -> None:
    names = [f"un-known{i}" for i in range(40)]
    _import(lab, tmp_path, names, sign * WORLD.vectors)
    norms = _norms(tmp_path, [name.replace("-", "") for name in names], _ratings())
    inputs = lab.inputs(0, 1, reader="theirs", corpus="imported", norms=norms)
    run_analysis(ANALYSIS, inputs)
    rows = read_rows(home_of(inputs), "norms")
    assert rows.settings["vectors"] == "raw"
    assert rows.settings["sign of PC1"] == f"valence, {norms.source}"
    for layer in (0, 1):
        assert (_one(rows, "r_valence", "PC1", layer).value or 0.0) > 0.9
        assert (_one(rows, "r_arousal", "PC2", layer).value or 0.0) > 0.9
    assert _whole(rows, "norms_labels", "valence") == Metric(
        "norms_labels", None, subject="valence", n=0
    )
