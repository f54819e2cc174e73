"""What the protocol or human norms say of emotions, and whether components of vectors follow it.

Many layers and components are looked at, so each correlation has a p corrected for all of them
beside its own. Knows nothing of where labels or components come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.methods import statistics
from stores.errors import UsageError
from stores.protocol import Protocol
from stores.results import Metric, Table

Floats = NDArray[np.float64]
Label = Literal["valence", "arousal"]

LABELS: tuple[Label, ...] = ("valence", "arousal")
ALPHA = 0.05
TESTED = 5
"""Components of a layer that are held against labels."""
COLUMNS = (
    *("layer", "component", "label", "source", "n"),
    *("r", "ci_low", "ci_high", "p", "p_max", "q"),
)


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of some emotions, in their order."""

    source: str
    """Who gave them: 'planted', 'editorial', or the name of norms."""
    values: Mapping[Label, Floats]
    """(e,), NaN where unknown; a label is left out unless 3 are known and they vary."""
    families: tuple[str, ...] | None
    """None unless every emotion has one."""


def read_labels(protocol: Protocol, emotions: Sequence[str]) -> Labels:
    """The labels of these emotions; those of emotions the protocol does not list are missing."""
    known = {emotion.name: emotion for emotion in protocol.emotions}
    rows = [known.get(name) for name in emotions]
    values = {
        label: np.array([getattr(row, label, None) for row in rows], dtype=np.float64)
        for label in LABELS
    }
    families = tuple(row.family for row in rows if row and row.family)
    return Labels(protocol.labels, usable(values), families if len(families) == len(rows) else None)


def usable(values: Mapping[Label, Floats]) -> dict[Label, Floats]:
    """The labels that at least 3 emotions have and that are not the same for all of them."""
    return {
        label: column
        for label, column in values.items()
        if np.isfinite(column).sum() >= 3 and len(set(column[np.isfinite(column)])) > 1
    }


def correlate_labels(
    components: Mapping[int, Floats], labels: Labels, permutations: int, rng: np.random.Generator
) -> Result:
    """Correlate the first TESTED components of each layer with the labels.

    `components` are the scores (e, k) of all components of a layer: the intervals count that other
    emotions would turn the first ones towards the rest.

    r_<label>       value, 95% interval, its own p, and mean |r| of shuffled labels as chance
    r_<label>_max   p corrected for all layers and components (max statistic); threshold is the |r|
                    that the largest of them reaches in 5% of shuffles
    r_<label>_fdr   p is the false discovery rate over layers, components and labels
    best_<label>    the component of a layer with the largest |r|, with its corrected p

    UsageError when the labelled emotions do not vary along a component, as where all have one
    vector.
    """
    fits = list(components.values())
    places = [
        (at, name)
        for at, scores in components.items()
        for name in component_names(scores[:, :TESTED])
    ]
    try:
        found = {
            label: statistics.correlate_components(
                fits, values, rng, permutations=permutations, tested=TESTED
            )
            for label, values in labels.values.items()
        }
    except ValueError as error:
        raise UsageError(
            f"the emotions that have labels ({labels.source}) cannot be told apart: {error}; "
            "label others, or leave out what has no vector of its own"
        ) from error
    if not found:
        return Result()
    rates = statistics.benjamini_hochberg(np.stack([judged.test.p for judged in found.values()]))
    metrics, rows = [], []
    for (label, judged), q in zip(found.items(), rates, strict=True):
        metrics += list(_judgements(label, judged, q, places))
        numbers = (judged.r, judged.low, judged.high, judged.test.p, judged.test.p_max, q)
        about = (label, labels.source, judged.n)
        rows += [
            (*place, *about, *row)
            for place, row in zip(places, np.stack(numbers, axis=1).tolist(), strict=True)
        ]
    return Result(tuple(metrics), (Table("labels", COLUMNS, tuple(rows)),))


def component_names(scores: Floats) -> list[str]:
    """PC1, PC2, ... for the columns of scores (e, k)."""
    return [f"PC{i + 1}" for i in range(scores.shape[1])]


def _judgements(
    label: str, judged: statistics.Correlated, q: Floats, places: Sequence[tuple[int, str]]
) -> Iterator[Metric]:
    test, limit = judged.test, judged.test.max_threshold
    best: dict[int, int] = {}
    for i, (layer, name) in enumerate(places):
        r, place = judged.r[i], (layer, name, judged.n)
        interval = (judged.low[i], judged.high[i])
        yield Metric(f"r_{label}", r, *place, test.chance[i], *interval, p_value=test.p[i])
        yield _verdict(f"r_{label}_max", r, place, test.p_max[i], limit)
        yield _verdict(f"r_{label}_fdr", r, place, q[i], ALPHA)
        if abs(r) >= abs(judged.r[best.setdefault(layer, i)]):
            best[layer] = i
    for i in best.values():
        place = (*places[i], judged.n)
        yield _verdict(f"best_{label}", judged.r[i], place, test.p_max[i], limit)


def _verdict(
    metric: str, value: float, place: tuple[int, str, int], p: float, threshold: float
) -> Metric:
    return Metric(metric, value, *place, p_value=p, passed=bool(p <= ALPHA), threshold=threshold)
