"""Laws of the bench of geometry: it measures what it says, sees a wrong number, and cleans up."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analyses.base import Rows
from analyses.geometry_bench import (
    GeometryBench,
    measure_geometry,
    name_emotions,
    worst_difference,
)
from analyses.geometry_rows import DECIMALS, REPORTED
from analyses.groups import TREE_GROUPS
from analyses.keeping import Home, read_rows
from analyses.methods.plain_geometry import PlainGeometry, plain_geometry
from stores.database import open_database
from stores.errors import UsageError
from stores.vectors import read_vectors
from stores.workspace import Workspace

measure = partial(measure_geometry, layers=2, emotions=32, d_model=40)


def test_a_small_run_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    steps: list[str] = []
    found = measure(tmp_path / "bench", watch=steps.append)
    assert (found.layers, found.emotions, found.d_model) == (2, 32, 40)
    assert found.file_bytes > 2 * 32 * 40 * 4
    assert 0.0 < found.computing_s + found.drawing_s < found.first_s
    assert min(found.import_s, found.computing_s, found.drawing_s, found.plain_s) > 0.0
    assert 0.0 < found.again_s < found.first_s
    assert 50e6 < found.peak_memory < 4e9
    assert found.worst_error < 1e-9
    assert steps[0] == "writing a file"
    assert steps[-1] == "calling the libraries plainly"
    assert list(tmp_path.iterdir()) == []


def _kept(folder: Path) -> tuple[Rows, PlainGeometry]:
    measure(folder, keep=True)
    workspace = Workspace(folder)
    conn = open_database(workspace.database, read_only=True)
    sets = [read_vectors(conn, workspace, "bench", "imported", i, "raw").vectors for i in (0, 1)]
    rows = read_rows(Home(conn, workspace, "bench", "imported"), "geometry")
    conn.close()
    plain = plain_geometry(
        sets, components=REPORTED, kmeans_groups=3, tree_groups=TREE_GROUPS, runs=2, starts=1
    )
    return rows, plain


def test_a_wrong_number_shows_as_the_largest_difference(tmp_path: Path) -> None:
    rows, plain = _kept(tmp_path)
    assert worst_difference(rows, plain) < 1e-9
    for name in ("shares", "cosines", "spearman", "silhouettes"):
        wrong = getattr(plain, name).copy()
        wrong[(1,) * wrong.ndim if name != "cosines" else (1, 0, 1)] += 0.25
        changed = replace(plain, **{name: wrong})
        assert worst_difference(rows, changed) == pytest.approx(0.25, abs=10.0**-DECIMALS)
    assert np.isfinite(plain.stability).all()


def test_the_rows_tell_time_memory_and_the_difference() -> None:
    bench = GeometryBench(
        layers=35,
        emotions=171,
        d_model=1536,
        file_bytes=36_800_000,
        import_s=0.6,
        first_s=11.5,
        computing_s=2.94,
        drawing_s=1.1,
        again_s=0.17,
        plain_s=7.5,
        peak_memory=635 * 2**20,
        worst_error=1e-15,
    )
    rows = dict(bench.rows())
    assert rows["vectors"] == "35 layers x 171 x 1,536: a file of 36.8 MB"
    assert rows["geometry, first run"] == "11.5 s (computing 2.9 s, figures 1.1 s)"
    assert rows["geometry, again"] == "0.17 s"
    assert rows["memory at most"] == "635 MiB"
    assert rows["largest difference from them"] == "1.0e-15"
    assert len(GeometryBench.columns) == 2


def test_more_emotions_than_the_protocol_has_get_names_of_their_own() -> None:
    assert name_emotions(("a", "b"), 2) == ("a", "b")
    assert name_emotions(("a", "b"), 4) == ("a", "b", "feeling 3", "feeling 4")


def test_a_folder_in_use_and_a_set_too_small_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        measure(tmp_path)
    with pytest.raises(UsageError, match="too few"):
        measure(tmp_path / "new", emotions=12)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
