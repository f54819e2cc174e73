"""The best feature of each emotion, of the SAE and of its control: by cosine, and by telling.

Only features that fire are candidates. Both banks are judged on the same folds and shuffles. Knows
nothing of rows and tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analyses.features.reading import Crosscheck, Dictionary, Floats, Ints
from analyses.methods.alignment import (
    Axes,
    best_cosines,
    best_tail,
    expected_best,
    principal_axes,
    row_tail,
)
from analyses.methods.statistics import benjamini_hochberg
from analyses.methods.telling import Telling, tell_apart
from stores.encodings import BANKS, Bank

HIGH = 0.95
"""Of random dictionaries, the share whose best cosine lies below `Aligned.high`."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """The row nearest to each of e directions, and how near random rows would come."""

    feature: Ints
    cosine: Floats
    half: Floats
    """[e]: what the best of as many random rows stays below half of the time."""
    high: Floats
    """[e]: and 95 % of the time."""
    p: Floats
    """[e]: that the best of as many random rows comes as near."""
    rows: int
    """Of the dictionary, whether they fire or not."""

    @property
    def q(self) -> Floats:
        """[e] False discovery rate over the emotions."""
        return benjamini_hochberg(self.p)


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """Each emotion's best feature [e], by bank; features are numbered as the SAE numbers them."""

    aligned: Mapping[Bank, Aligned]
    telling: Mapping[Bank, Telling]


def find_best(found: Crosscheck) -> Best:
    """Both choices for both banks: the part of a comparison that takes longest."""
    axes = principal_axes(found.spread.covariance)
    return Best(
        {bank: align(found.directions, found[bank], axes) for bank in BANKS},
        {bank: _tell(found, found[bank]) for bank in BANKS},
    )


def choose_features(best: Best) -> dict[str, Ints]:
    """Features [e] by name: `auc` and `cosine` of the SAE's, `control` of the control's by AUC."""
    return {
        "auc": best.telling["sae"].feature,
        "cosine": best.aligned["sae"].feature,
        "control": best.telling["control"].feature,
    }


def align(directions: Floats, dictionary: Dictionary, axes: Axes) -> Aligned:
    """Directions [e, d] against the rows that fire; random rows vary along `axes`.

    Those that never fire count among the random ones: what fires was chosen by the activations,
    which emotions are directions of, and lies nearer to these than a row by chance.
    """
    alive, count = np.flatnonzero(dictionary.alive), len(dictionary.rows)
    cosines, nearest = best_cosines(directions, dictionary.rows[alive])
    tails = row_tail(cosines, directions, axes)
    return Aligned(
        feature=alive[nearest],
        cosine=cosines,
        half=expected_best(directions, axes, count, 0.5),
        high=expected_best(directions, axes, count, HIGH),
        p=best_tail(tails, count),
        rows=count,
    )


def _tell(found: Crosscheck, dictionary: Dictionary) -> Telling:
    alive = np.flatnonzero(dictionary.alive)
    told = tell_apart(
        dictionary.codes[:, alive],
        found.own,
        found.topics,
        len(found.emotions),
        permutations=found.inputs.permutations,
        rng=np.random.default_rng(found.inputs.seed),
    )
    return replace(told, feature=alive[told.feature], fold_features=alive[told.fold_features])
