"""Laws of the figures of the geometry: drawn from rows alone, they say what they show."""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from analyses.base import Rows, home_of, run_analysis
from analyses.geometry import ANALYSIS
from analyses.geometry_figures import draw
from analyses.keeping import read_rows
from stores.database import Connection, open_database
from stores.results import Cell, Metric, Table
from stores.workspace import Workspace
from tests.analyses.lab import Lab, open_lab, store_vectors
from tests.analyses.planted import planted_world
from tests.analyses.sets import open_reader

WORLD = planted_world(e=40, d=24)
NAMES = (
    *("components", "cosines", "labels", "layers", "rotation", "subspaces", "tree", "variance"),
)


@dataclass(frozen=True)
class Shown:
    """What an analysis published, and its figures as text."""

    lab: Lab
    rows: Rows
    texts: dict[str, str]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    workspace = Workspace(tmp_path_factory.mktemp("figures"))
    with closing(open_database(workspace.database)) as conn:
        lab = open_lab(conn, workspace, WORLD)
        open_reader(lab)
        noise = 0.4 * np.random.default_rng(0).normal(size=WORLD.vectors.shape)
        store_vectors(lab, {0: WORLD.vectors + noise, 2: WORLD.vectors})
        files = run_analysis(ANALYSIS, lab.inputs(0, 2)).files
        rows = read_rows(home_of(lab.inputs(0, 2)), "geometry")
        yield Shown(lab, rows, _texts(files))


def _texts(files: Iterable[Path]) -> dict[str, str]:
    return {path.name: path.read_text() for path in files if path.suffix == ".svg"}


def test_published_figures_say_what_they_show(shown: Shown) -> None:
    figures, layer = shown.texts, "layer 2, denoised vectors"
    assert sorted(figures) == [f"geometry.{name}.svg" for name in NAMES]
    assert all("toy model, planted geometry" in text for text in figures.values())
    assert all("reader toy, corpus main" in text for text in figures.values())
    share = shown.rows.select("pc_variance", 2)[0].value
    assert f"PC1 ({share:.1%} of variance)" in figures["geometry.components.svg"]
    for name in ("cosines", "tree"):
        text = figures[f"geometry.{name}.svg"]
        assert all(emotion in text for emotion in shown.lab.protocol.names)
        assert layer in text


def test_the_scatter_is_of_the_analysis_layer(shown: Shown) -> None:
    points = draw(shown.rows)["components"].axes[0].collections[0].get_offsets()
    reference = np.abs(PCA(n_components=2).fit_transform(WORLD.vectors))
    np.testing.assert_allclose(np.abs(np.asarray(points)), reference, atol=1e-9)


def test_every_number_of_a_figure_is_in_a_row(shown: Shown) -> None:
    """Rows of made-up likeness draw made-up likeness: nothing is computed from vectors."""
    rows = shown.rows
    layers = rows.table("layers")
    fake = Table(
        "layers",
        layers.columns,
        tuple((*row[:2], *[0.123 if row[0] != row[1] else 1.0] * 5) for row in layers.rows),
    )
    figures = draw(
        Rows(rows.metrics, (*(each for each in rows.tables if each.name != "layers"), fake))
    )
    for name in ("layers", "rotation", "subspaces"):
        written = [text.get_text() for text in figures[name].axes[0].texts]
        assert [float(text) for text in written if text] == [1.0, 0.12, 0.12, 1.0]


def test_figures_need_only_what_is_there() -> None:
    """Two concepts without labels at one layer: one component, no scatter, no labels, no layers."""
    scores = ("layer", "emotion", "valence", "arousal", "family", "PC1", "PC2")
    place = {"reader": "r", "corpus": "c", "concept": "colour", "labels": "user"}
    settings: dict[str, Cell] = {**place, "layer": 1, "vectors": "raw"}
    apart = (("red", 1.0), ("blue", -1.0))
    tables = (
        Table("settings", ("setting", "value"), tuple(settings.items())),
        Table("layers_read", ("layer", "depth"), ((1, 0.5),)),
        Table("scores", scores, tuple((1, name, *[None] * 3, at, None) for name, at in apart)),
        Table("groups", ("layer", "emotion", "kmeans", "tree"), tuple(
            (1, name, i, i) for i, (name, _) in enumerate(apart)
        )),
        Table("cosines", ("emotion", "red", "blue"), (("red", 1.0, -1.0), ("blue", -1.0, 1.0)), 1),
        Table("linkage", ("first", "second", "height", "size"), ((0, 1, 2.0, 2),), 1),
    )  # fmt: skip
    rows = Rows((Metric("pc_variance", 1.0, 1, "PC1", n=2),), tables)
    assert sorted(draw(rows)) == ["cosines", "tree", "variance"]


def test_the_scatter_names_labels_only_where_it_shows_them(shown: Shown) -> None:
    scores = shown.rows.table("scores")
    bare = Table("scores", scores.columns, tuple((*row[:2], None, *row[3:]) for row in scores.rows))
    others = (each for each in shown.rows.tables if each.name != "scores")
    for rows, told in ((shown.rows, True), (Rows(shown.rows.metrics, (*others, bare)), False)):
        written = [text.get_text() for text in draw(rows)["components"].texts]
        assert any("labels:" in text for text in written) == told


def test_labels_stand_at_their_depth(shown: Shown) -> None:
    axes = draw(shown.rows)["labels"].axes[0]
    drawn = [line.get_xdata() for line in axes.lines if len(np.atleast_1d(line.get_xdata())) == 2]
    assert any(np.allclose(np.asarray(line, np.float64), [1 / 9, 3 / 9]) for line in drawn)


def test_an_emotion_is_drawn_as_it_is_spelled(conn: Connection, workspace: Workspace) -> None:
    lab = open_lab(conn, workspace, WORLD)
    open_reader(lab)
    odd = ("$\\alpha$ $5", "at ease", "grief-stricken", "_under_", "a" * 60)
    store_vectors(lab, {0: WORLD.vectors}, names=(*odd, *lab.protocol.names[5:]))
    texts = _texts(run_analysis(ANALYSIS, lab.inputs(0)).files)
    for name in ("cosines", "tree"):
        written = re.sub(r"\s+", " ", texts[f"geometry.{name}.svg"])
        assert all(emotion in written for emotion in odd[:4])
