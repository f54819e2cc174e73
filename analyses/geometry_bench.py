"""Measures a set of vectors of published size on this machine: import, geometry, geometry again.

The vectors are made up, but come in by the door that a user's files come in by. The same numbers by
scikit-learn and scipy called plainly are the yardstick. Knows nothing of models.
"""

import io
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import ClassVar, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from analyses import geometry
from analyses.array_bench import MIB, peak_memory
from analyses.base import Inputs, run_analysis
from analyses.geometry_rows import DECIMALS, REPORTED
from analyses.groups import KMEANS_GROUPS, TREE_GROUPS
from analyses.keeping import Home, Rows, read_rows
from analyses.methods.geometry import upper_triangle
from analyses.methods.plain_geometry import PlainGeometry, plain_geometry
from analyses.opening import open_inputs
from analyses.vector_import import import_vectors
from stores.database import open_database
from stores.errors import UsageError
from stores.files import write_file_atomically
from stores.protocol import DEFAULT_PROTOCOL, load_protocol
from stores.vectors import read_vectors
from stores.workspace import Workspace

READER, CORPUS = "bench", "imported"
PERMUTATIONS = 1000
FEWEST = 2 * TREE_GROUPS
"""Emotions, and dimensions, below which the analysis makes fewer groups than are asked for."""

Floats = NDArray[np.float64]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GeometryBench:
    """What the geometry of one synthetic set took, in seconds and bytes."""

    layers: int
    emotions: int
    d_model: int
    file_bytes: int
    """Of the imported file."""
    import_s: float
    first_s: float
    """The analysis: computing, publishing, exporting, drawing."""
    computing_s: float
    drawing_s: float
    """Of it, making the figures; writing them as files is not in it."""
    again_s: float
    """The same command with nothing changed."""
    plain_s: float
    """Components, cosines, groups and likeness of layers by scikit-learn and scipy alone."""
    peak_memory: int
    """Most bytes resident in this process, from its start to the end of the second analysis."""
    worst_error: float
    """Largest difference of a share, cosine, likeness or silhouette from the libraries'."""

    columns: ClassVar[tuple[str, ...]] = ("measured", "value")

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to see first."""
        shape = f"{self.layers} layers x {self.emotions} x {self.d_model:,}"
        parts = f"computing {self.computing_s:.1f} s, figures {self.drawing_s:.1f} s"
        return [
            ("vectors", f"{shape}: a file of {self.file_bytes / 1e6:,.1f} MB"),
            ("import", f"{self.import_s:.1f} s"),
            ("geometry, first run", f"{self.first_s:.1f} s ({parts})"),
            ("geometry, again", f"{self.again_s:.2f} s"),
            ("memory at most", f"{self.peak_memory / MIB:,.0f} MiB"),
            ("scikit-learn and scipy alone", f"{self.plain_s:.1f} s (no tests, no rows)"),
            ("largest difference from them", f"{self.worst_error:.1e}"),
        ]


def measure_geometry(
    folder: Path,
    *,
    layers: int = 35,
    emotions: int = 171,
    d_model: int = 1536,
    keep: bool = False,
    watch: Callable[[str], None] = lambda _: None,
) -> GeometryBench:
    """Import made-up vectors into a workspace in `folder` and analyse their geometry twice.

    `folder` must be empty, and is deleted afterwards unless it is to be kept. `watch` hears of each
    step. Raises UsageError when the folder is not empty or the set is too small for the groups.
    """
    if min(emotions, d_model) < FEWEST or layers < 1:
        raise UsageError(
            f"{layers} layers x {emotions} x {d_model} are too few: give at least a layer, "
            f"{FEWEST} emotions and {FEWEST} dimensions"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give a folder that is, or that is not there")
    try:
        return _measure(folder, layers, emotions, d_model, watch)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _measure(
    folder: Path, layers: int, emotions: int, d_model: int, watch: Callable[[str], None]
) -> GeometryBench:
    workspace, protocol = Workspace(folder), load_protocol(DEFAULT_PROTOCOL)
    watch("writing a file")
    file = _write_file(folder, name_emotions(protocol.names, emotions), layers, d_model)
    with closing(open_database(workspace.database)) as conn:
        watch("importing")
        place = (conn, workspace, protocol, READER, CORPUS)
        summary, import_s = _timed(import_vectors)(*place, [file], n_layers=layers)
        inputs = open_inputs(*place, summary.layers, None, seed=0, permutations=PERMUTATIONS)
        watch("analysing")
        seconds, first_s = _analyse(inputs)
        watch("analysing again")
        again_s = _analyse(inputs)[1]
        memory = peak_memory()
        watch("calling the libraries plainly")
        plain, plain_s = _timed(_call_plainly)(inputs)
        rows = read_rows(Home(conn, workspace, READER, CORPUS), geometry.ANALYSIS.name)
    return GeometryBench(
        layers=layers,
        emotions=emotions,
        d_model=d_model,
        file_bytes=file.stat().st_size,
        import_s=import_s,
        first_s=first_s,
        computing_s=seconds["run"],
        drawing_s=seconds["draw"],
        again_s=again_s,
        plain_s=plain_s,
        peak_memory=memory,
        worst_error=worst_difference(rows, plain),
    )


def name_emotions(known: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The first `count` names of the protocol, and made-up ones where it has no more."""
    return (*known[:count], *(f"feeling {i}" for i in range(len(known) + 1, count + 1)))


def _write_file(folder: Path, names: tuple[str, ...], layers: int, d_model: int) -> Path:
    """Means (l, e, d) that share a common part and turn a little from layer to layer."""
    e = len(names)
    rng = np.random.default_rng(0)
    means = np.empty((layers, e, d_model), np.float32)
    traits, axes = rng.normal(size=(e, 8)), rng.normal(size=(8, d_model))
    for layer in range(layers):
        axes += 0.2 * rng.normal(size=axes.shape)
        noise = rng.normal(size=(e, d_model))
        means[layer] = 10.0 + traits / np.arange(1.0, 9.0) @ axes + 0.5 * noise
    buffer = io.BytesIO()
    np.savez(buffer, emotions=np.array(names), layers=np.arange(layers), means=means)
    file = folder / "means.npz"
    write_file_atomically(file, buffer.getvalue())
    return file


def _timed(work: Callable[P, T]) -> Callable[P, tuple[T, float]]:
    @wraps(work)
    def measured(*args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
        began = time.perf_counter()
        found = work(*args, **kwargs)
        return found, time.perf_counter() - began

    return measured


def _analyse(inputs: Inputs) -> tuple[dict[str, float], float]:
    """Seconds of computing and of drawing, where it came to that, and of the whole analysis."""
    seconds: dict[str, float] = {}

    def noting(name: str, work: Callable[P, T]) -> Callable[P, T]:
        def noted(*args: P.args, **kwargs: P.kwargs) -> T:
            found, seconds[name] = _timed(work)(*args, **kwargs)
            return found

        return noted

    run, draw = noting("run", geometry.ANALYSIS.run), noting("draw", geometry.ANALYSIS.draw)
    whole = _timed(run_analysis)(replace(geometry.ANALYSIS, run=run, draw=draw), inputs)[1]
    return seconds, whole


def _call_plainly(inputs: Inputs) -> PlainGeometry:
    place = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus)
    sets = [read_vectors(*place, layer, "raw").vectors for layer in inputs.layers]
    return plain_geometry(
        sets,
        components=REPORTED,
        kmeans_groups=KMEANS_GROUPS,
        tree_groups=TREE_GROUPS,
    )


def worst_difference(rows: Rows, plain: PlainGeometry) -> float:
    """The largest difference of any number that both have; cosines are rounded in tables."""
    shares = np.array([row.value for row in rows.select("pc_variance")], np.float64)
    silhouettes = np.array([row.value for row in rows.select("tree_silhouette")], np.float64)
    spearman = np.array([row["rsa_spearman"] for row in rows.records("layers")], np.float64)
    triangles = np.array([row[2:] for row in rows.table("pairs").rows], np.float64).T
    expected = np.stack([upper_triangle(matrix) for matrix in plain.cosines])
    differences = (
        shares - plain.shares.ravel(),
        silhouettes - plain.silhouettes,
        spearman - plain.spearman.ravel(),
        triangles - expected.round(DECIMALS),
    )
    return max(float(np.abs(difference).max()) for difference in differences)
