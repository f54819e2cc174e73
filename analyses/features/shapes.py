"""The geometry of emotions in code space beside that of their linear vectors.

    rsa         Spearman's r of the cosines of code vectors (an emotion's mean codes less the mean
                over emotions) with those of the linear vectors; chance the control's, p by Mantel's
                test, which asks whether there is any likeness at all
    rsa.gain    how much more than the control's; chance 0

The control's own row is `rsa.control`, its chance that of shuffled emotions. Random projections
keep geometry, so that a high r alone says nothing of an SAE. Knows nothing of decoder rows.
"""

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.features.alignment import gain_row
from analyses.features.reading import Crosscheck, Floats
from analyses.labels import LABELS, Labels
from analyses.methods.agreement import Agreement
from analyses.methods.codespace import code_vectors, compare_geometries, mean_codes
from analyses.methods.gains import likeness_gain
from analyses.methods.geometry import orient, principal_components
from stores.encodings import BANKS, Bank
from stores.results import Metric, Table

COMPONENTS = (
    *("emotion", "family", "valence"),
    *("linear_1", "linear_2", "coded_1", "coded_2", "control_1", "control_2"),
)


def describe_shapes(found: Crosscheck, labels: Labels, families: tuple[str, ...]) -> Result:
    """Metrics, and the table `components`: first two of each space.

    Of emotions without a story, or that have the same codes as the mean, nothing is said.
    """
    linear, coded = found.vectors["denoised"], {bank: _code_vectors(found, bank) for bank in BANKS}
    known = np.all([np.linalg.norm(each, axis=1) > 0.0 for each in coded.values()], axis=0)
    metrics = _likenesses(found, coded, known) if known.sum() > 2 else ()
    planes = [_plane(vectors, labels) for vectors in (linear, *coded.values())]
    valence = labels.values.get("valence", np.full(len(found.emotions), np.nan))
    rows = zip(found.emotions, families, valence, *np.hstack(planes).T, strict=True)
    return Result(metrics, (Table("components", COMPONENTS, tuple(rows), found.layer),))


def _likenesses(
    found: Crosscheck, coded: dict[Bank, Floats], known: NDArray[np.bool_]
) -> tuple[Metric, ...]:
    linear, n = found.directions[known], int(known.sum())
    seed, permutations = found.inputs.seed, found.inputs.permutations
    sae, control = (
        compare_geometries(
            linear, coded[bank][known], permutations=permutations, rng=np.random.default_rng(seed)
        )
        for bank in BANKS
    )
    gain = likeness_gain(
        linear, coded["sae"][known], coded["control"][known], np.random.default_rng(seed)
    )
    return (
        _rsa_row(found, "rsa", sae, n, control.value),
        _rsa_row(found, "rsa.control", control, n, control.chance),
        gain_row(found, "rsa.gain", gain, n),
    )


def _rsa_row(found: Crosscheck, name: str, rsa: Agreement, n: int, chance: float) -> Metric:
    interval = (rsa.ci_low, rsa.ci_high)
    return Metric(name, rsa.value, found.layer, None, n, chance, *interval, p_value=rsa.p)


def _code_vectors(found: Crosscheck, bank: Bank) -> Floats:
    """[e, f]; 0 for an emotion without stories."""
    means = mean_codes(found[bank].codes, found.own, len(found.emotions))
    known = np.isfinite(means).all(axis=1)
    vectors = np.zeros_like(means)
    vectors[known] = code_vectors(means[known])
    return vectors


def _plane(vectors: Floats, labels: Labels) -> Floats:
    """[e, 2] First two components, the labels' way up; NaN where there are fewer."""
    if not vectors.any():
        return np.full((len(vectors), 2), np.nan)
    references = {
        i: np.nan_to_num(labels.values[label], nan=float(np.nanmean(labels.values[label])))
        for i, label in enumerate(LABELS)
        if label in labels.values
    }
    scores = orient(principal_components(vectors), references).scores[:, :2]
    return np.hstack([scores, np.full((len(scores), 2 - scores.shape[1]), np.nan)])
