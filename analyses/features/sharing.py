"""Do emotions that are alike share their top features? Jaccard overlap of the TOP by AUC.

    jaccard.synonyms    pairs that are each other's nearest by their vectors
    jaccard.within      pairs of one family; of one cluster of the vectors where no family is known
    jaccard.across      all other pairs

Chance and p by shuffled emotions. The control's own rows have `.control` in their names. Knows
nothing of decoder rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.features.alignment import SUFFIX
from analyses.features.reading import Crosscheck, Dictionary, Floats, Ints
from analyses.groups import KMEANS_GROUPS
from analyses.labels import Labels
from analyses.methods.clustering import kmeans
from analyses.methods.overlap import jaccard, score_pairs, top_features
from analyses.methods.telling import feature_aucs
from stores.encodings import BANKS
from stores.results import Cell, Metric, Table

TOP = 10
"""Features of an emotion."""
COLUMNS = ("pairs", "bank", "value", "pairs_n", "chance", "low", "high", "p")
SYNONYMS = "each other's nearest by cosine of the vectors"


@dataclass(frozen=True, slots=True)
class Families:
    """Which emotions are alike, and who says so."""

    names: tuple[str, ...]
    """[e]"""
    source: str

    @property
    def numbers(self) -> Ints:
        """[e]"""
        numbers: Ints = np.unique(self.names, return_inverse=True)[1]
        return numbers


def find_families(found: Crosscheck, labels: Labels) -> Families:
    """Those of the protocol, or clusters of the vectors."""
    if labels.families is not None:
        return Families(labels.families, f"families of the protocol ({labels.source})")
    groups = min(KMEANS_GROUPS, max(2, len(found.emotions) // 2))
    parts = kmeans(found.directions, groups, np.random.default_rng(found.inputs.seed))
    return Families(
        tuple(f"cluster {label + 1}" for label in parts.labels), "k-means of the vectors"
    )


def describe_sharing(found: Crosscheck, families: Families) -> Result:
    """Metrics and the table `overlap`; kinds of pairs of which there is none are left out."""
    metrics, rows = [], list[tuple[Cell, ...]]()
    kinds = _pairs(found.directions, families.numbers)
    for bank in BANKS:
        table = jaccard(_top(found, found[bank]))
        for kind, pairs in kinds.items():
            rng = np.random.default_rng(found.inputs.seed)
            overlap = score_pairs(table, pairs, permutations=found.inputs.permutations, rng=rng)
            metrics.append(
                Metric(
                    f"jaccard.{kind}{SUFFIX[bank]}",
                    overlap.value,
                    found.layer,
                    None,
                    overlap.pairs,
                    overlap.chance,
                    overlap.low,
                    overlap.high,
                    overlap.p,
                )
            )
            judged = (overlap.chance, overlap.low, overlap.high, overlap.p)
            rows.append((kind, bank, overlap.value, overlap.pairs, *judged))
    return Result(tuple(metrics), (Table("overlap", COLUMNS, tuple(rows), found.layer),))


def _top(found: Crosscheck, dictionary: Dictionary) -> Ints:
    """[e, TOP] of the features that fire, by AUC over all stories."""
    alive = dictionary.codes[:, np.flatnonzero(dictionary.alive)]
    aucs = feature_aucs(alive, found.own, len(found.emotions))
    return top_features(np.nan_to_num(aucs, nan=-1.0), TOP)


def _pairs(directions: Floats, families: Ints) -> dict[str, NDArray[np.bool_]]:
    """Kinds of pairs, symmetric [e, e] each."""
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    e = len(directions)
    nearest = np.zeros((e, e), dtype=np.bool_)
    nearest[np.arange(e), cosines.argmax(axis=1)] = True
    same = families[:, None] == families
    apart = ~np.eye(e, dtype=np.bool_)
    kinds = {"synonyms": nearest & nearest.T, "within": same & apart, "across": ~same}
    return {kind: pairs for kind, pairs in kinds.items() if pairs.any()}
