"""How far two sets of vectors agree: the shapes of their layers, and single vectors where they can.

Vectors are centred over all emotions of their own set first; then the emotions that both sets have
are compared. Shapes are compared whatever the models: at the analysis layers, at the layers of
nearest depth, and every layer with every other. Vectors themselves only where both lie in the
residual stream of one model, as those of two corpora do. Knows nothing of where they come from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.comparing.sets import OpenSet
from analyses.methods import agreement, geometry, statistics
from stores.errors import UsageError
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]

Watch = Callable[[str, int, int, str], None]
"""Told a stage, how many of its steps are done, of how many, and which one is next."""

COMPONENTS = 10
"""Of each shape that are rotated onto each other (Procrustes)."""
FEWEST = 3
"""Emotions that two sets must share."""
KINDS = (*(f"rsa_{kind}" for kind in get_args(agreement.Kind)), "procrustes")
AT = ("set", "other", "layer", "other_layer", "depth", "other_depth", "emotions")
NUMBERS = ("value", "chance", "ci_low", "ci_high", "p")
PAIR_COLUMNS = (*AT, "kind", *NUMBERS)
DEPTH_COLUMNS = (*PAIR_COLUMNS, "q")
LAYER_COLUMNS = ("set", "other", "layer", "other_layer", "pearson", "spearman", "cosine")
MATCHED_COLUMNS = ("set", "other", "layer", "emotion", "cosine")


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A set's vectors by layer as coordinates (e, k), which keep every length and angle.

    Centred over all emotions of the set; k < e. Rows are those of the emotions that both sets have.
    """

    opened: OpenSet
    layers: Mapping[int, Floats]

    @property
    def name(self) -> str:
        return self.opened.name


def read_shapes(opened: OpenSet) -> Shape:
    """The coordinates of every layer; small enough to be kept for all sets at once."""
    return Shape(opened, {space.layer: space.found.scores for space in opened.spaces})


def compare_pairs(
    sets: Sequence[OpenSet], *, seed: int, permutations: int, watch: Watch | None = None
) -> Result:
    """Agreement of every two sets, as metrics of the analysis layers and four tables.

    UsageError when the emotions that two sets share have one vector, so that they have no shape.
    """
    shapes = [read_shapes(opened) for opened in sets]
    pairs = list(combinations(shapes, 2))
    found = Result()
    streams = np.random.default_rng(seed).spawn(len(pairs))
    for done, ((a, b), rng) in enumerate(zip(pairs, streams, strict=True)):
        if watch is not None:
            watch("pairs", done, len(pairs), f"{a.name} & {b.name}")
        try:
            found += compare_pair(a, b, rng, permutations)
        except ValueError as error:
            raise UsageError(
                f"{a.name} and {b.name} cannot be compared: of the emotions that both have, "
                f"{error}; compare without one of them"
            ) from error
    return Result(found.metrics, _joined(found.tables))


def compare_pair(a: Shape, b: Shape, rng: np.random.Generator, permutations: int) -> Result:
    """Agreement of two sets; one metric without a value where they share too few emotions."""
    common = [name for name in a.opened.spaces.emotions if name in b.opened.spaces.emotions]
    about, n = f"{a.name} & {b.name}", len(common)
    if n < FEWEST:
        return Result(tuple(Metric(kind, None, subject=about, n=n) for kind in KINDS))
    a, b = _of(a, common), _of(b, common)
    here, there = a.opened.inputs.layer, b.opened.inputs.layer
    main = _agree(a.layers[here], b.layers[there], rng, permutations)
    place = _place(a, b, here, there, n)
    metrics = [_metric(kind, found, None, about, n) for kind, found in main.items()]
    tables = (
        Table("pairs", PAIR_COLUMNS, tuple((*place, *_cells(main, kind)) for kind in main)),
        compare_by_depth(a, b, n, rng, permutations),
        compare_all_layers(a, b),
    )
    return Result(tuple(metrics), tables) + compare_vectors(a, b, common, rng, permutations)


def compare_by_depth(
    a: Shape, b: Shape, n: int, rng: np.random.Generator, permutations: int
) -> Table:
    """Every layer of the set with fewer layers against that of the other nearest in depth.

    q is the false discovery rate over the layers, for each kind apart.
    """
    matched = match_depths(a.opened, b.opened)
    found = [_agree(a.layers[here], b.layers[there], rng, permutations) for here, there in matched]
    rates = {
        kind: statistics.benjamini_hochberg(np.array([each[kind].p for each in found])).tolist()
        for kind in KINDS
    }
    rows: list[tuple[Cell, ...]] = [
        (*_place(a, b, *layers, n), *_cells(each, kind), rates[kind][i])
        for i, (layers, each) in enumerate(zip(matched, found, strict=True))
        for kind in KINDS
    ]
    return Table("by_depth", DEPTH_COLUMNS, tuple(rows))


def match_depths(a: OpenSet, b: OpenSet) -> list[tuple[int, int]]:
    """Each layer of the set with fewer layers (a, if they have as many) and the other's nearest."""
    if len(a.spaces) > len(b.spaces):
        return [(here, there) for there, here in match_depths(b, a)]
    nearest = {
        here: min(b.spaces.layers, key=lambda there: abs(a.depth(here) - b.depth(there)))
        for here in a.spaces.layers
    }
    return list(nearest.items())


def compare_all_layers(a: Shape, b: Shape) -> Table:
    """Likeness of the cosines of every layer with those of every layer of the other set."""
    triangles = [
        geometry.upper_triangle(geometry.cosine_matrix(scores))
        for shape in (a, b)
        for scores in shape.layers.values()
    ]
    alike = geometry.representational_similarity(np.stack(triangles))
    rows: list[tuple[Cell, ...]] = [
        (a.name, b.name, here, there, *(float(kind[i, j]) for kind in _matrices(alike)))
        for i, here in enumerate(a.layers)
        for j, there in enumerate(b.layers, len(a.layers))
    ]
    return Table("rsa_layers", LAYER_COLUMNS, tuple(rows))


def compare_vectors(
    a: Shape, b: Shape, common: Sequence[str], rng: np.random.Generator, permutations: int
) -> Result:
    """matched_cosine by layer: mean cosine of an emotion's vectors in two sets of one model.

    chance is that of two different emotions. Nothing where the models are two.
    """
    if not one_model(a.opened, b.opened):
        return Result()
    metrics, rows = [], []
    for layer in sorted(a.layers.keys() & b.layers.keys()):
        one, other = (_vectors(shape.opened, layer, common) for shape in (a, b))
        found = agreement.matched_cosines(one, other, rng, permutations=permutations)
        about = f"{a.name} & {b.name}"
        metrics.append(_metric("matched_cosine", found.mean, layer, about, len(common)))
        rows += [
            (a.name, b.name, layer, emotion, cosine)
            for emotion, cosine in zip(common, found.cosines.tolist(), strict=True)
        ]
    return Result(tuple(metrics), (Table("matched", MATCHED_COLUMNS, tuple(rows)),))


def one_model(a: OpenSet, b: OpenSet) -> bool:
    """Whether both sets' vectors lie in one residual stream: one reader, or one model by name."""
    named = a.inputs.reader == b.inputs.reader or a.model == b.model != ""
    return named and (a.n_layers, a.width) == (b.n_layers, b.width)


def _vectors(opened: OpenSet, layer: int, common: Sequence[str]) -> Floats:
    found = opened.read(layer)
    centred = found.vectors - found.vectors.mean(axis=0)
    chosen: Floats = centred[[found.emotions.index(name) for name in common]]
    return chosen


def _of(shape: Shape, common: Sequence[str]) -> Shape:
    rows = [shape.opened.spaces.emotions.index(name) for name in common]
    return Shape(shape.opened, {layer: scores[rows] for layer, scores in shape.layers.items()})


def _agree(
    a: Floats, b: Floats, rng: np.random.Generator, permutations: int
) -> dict[str, agreement.Agreement]:
    one, other = geometry.cosine_matrix(a), geometry.cosine_matrix(b)
    found = {
        f"rsa_{kind}": agreement.rsa(one, other, rng, permutations=permutations, kind=kind)
        for kind in get_args(agreement.Kind)
    }
    whole = agreement.procrustes(a, b, COMPONENTS, rng, permutations=permutations)
    return found | {"procrustes": whole}


def _place(a: Shape, b: Shape, here: int, there: int, n: int) -> tuple[Cell, ...]:
    depths = a.opened.depth(here), b.opened.depth(there)
    return (a.name, b.name, here, there, *depths, n)


def _cells(found: Mapping[str, agreement.Agreement], kind: str) -> tuple[Cell, ...]:
    one = found[kind]
    return (kind, one.value, one.chance, one.ci_low, one.ci_high, one.p)


def _metric(name: str, found: agreement.Agreement, layer: int | None, about: str, n: int) -> Metric:
    interval = (found.ci_low, found.ci_high)
    return Metric(name, found.value, layer, about, n, found.chance, *interval, found.p)


def _matrices(alike: geometry.Similarities) -> Iterator[Floats]:
    yield from (alike.pearson, alike.spearman, alike.cosine)


def _joined(tables: Sequence[Table]) -> tuple[Table, ...]:
    """Tables of one name as one, in the order of their first."""
    names = dict.fromkeys((table.name, table.columns) for table in tables)
    return tuple(
        Table(name, columns, tuple(row for t in tables if t.name == name for row in t.rows))
        for name, columns in names
    )
