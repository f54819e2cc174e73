"""What changes with depth, for every set: variance, correlations with labels, reliability.

Read back from the rows of each set. Where human norms were run they are taken, else the protocol's
own labels, and every row says which. Knows nothing of vectors.
"""

from collections.abc import Iterator, Sequence

from analyses.comparing.sets import OpenSet
from stores.results import Cell, Metric, Table

LABELLED = {"valence": "PC1", "arousal": "PC2"}
"""Label -> the component that is expected to follow it."""
PARTS = ("r", "low", "high", "p", "chance")
COLUMNS = (
    *("set", "layer", "depth", "pc1_variance", "pc2_variance", "reliability", "labels"),
    *(f"{label}_{part}" for label in LABELLED for part in PARTS),
)


def depths(sets: Sequence[OpenSet]) -> Table:
    """A row for each layer of each set; cells without a row behind them are empty.

    <label>_r is that of the label's component; chance is what the largest |r| over all layers and
    components reaches in 5% of shuffles.
    """
    return Table("depths", COLUMNS, tuple(row for opened in sets for row in _rows(opened)))


def _rows(opened: OpenSet) -> Iterator[tuple[Cell, ...]]:
    geometry, norms = (opened.metrics.get(name, []) for name in ("geometry", "norms"))
    judged = norms or geometry
    for layer in opened.spaces.layers:
        shares = [_value(geometry, "pc_variance", f"PC{i}", layer) for i in (1, 2)]
        reliability = _value(opened.metrics.get("vectors", []), "reliability", None, layer)
        correlated = [cell for label in LABELLED for cell in _correlated(judged, label, layer)]
        place = (opened.name, layer, opened.depth(layer))
        yield (*place, *shares, reliability, opened.labels, *correlated)


def _correlated(rows: Sequence[Metric], label: str, layer: int) -> tuple[Cell, ...]:
    component = LABELLED[label]
    found = _at(rows, f"r_{label}", component, layer)
    if found is None:
        return (None,) * len(PARTS)
    largest = _at(rows, f"r_{label}_max", component, layer)
    chance = None if largest is None else largest.threshold
    return (found.value, found.ci_low, found.ci_high, found.p_value, chance)


def _value(rows: Sequence[Metric], metric: str, subject: str | None, layer: int) -> float | None:
    found = _at(rows, metric, subject, layer)
    return None if found is None else found.value


def _at(rows: Sequence[Metric], metric: str, subject: str | None, layer: int) -> Metric | None:
    wanted = (metric, subject, layer)
    return next((row for row in rows if (row.metric, row.subject, row.layer) == wanted), None)
