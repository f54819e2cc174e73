"""The geometry of emotions in code space, beside that of their linear vectors.

Knows nothing of SAEs: a code is a row of numbers, most of them 0.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from analyses.methods.agreement import Agreement, rsa
from analyses.methods.geometry import cosine_matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = csr_array
"""[n, f] Mean codes of texts, sparse."""


def as_sparse(
    bounds: Ints,
    features: NDArray[np.int32],
    means: NDArray[np.float32],
    width: int,
) -> csr_array:
    """[n, width] Codes of n texts, of which text i has `features[bounds[i]:bounds[i + 1]]`."""
    return csr_array((means, features, bounds), shape=(len(bounds) - 1, width))


def column_sums(codes: csr_array, texts: Ints) -> Floats:
    """[f] What the codes [n, f] of some texts add up to."""
    some = codes[texts]
    sums = np.bincount(some.indices, weights=some.data, minlength=some.shape[1])
    return np.asarray(sums, dtype=np.float64)


def mean_codes(codes: csr_array, own: Ints, emotions: int) -> Floats:
    """[e, f] Mean code of each emotion's texts; codes [n, f]. NaN rows for one without texts."""
    means = np.full((emotions, codes.shape[1]), np.nan)
    for emotion in np.unique(own):
        texts = np.flatnonzero(own == emotion)
        means[emotion] = column_sums(codes, texts) / len(texts)
    return means


def code_vectors(means: Floats) -> Floats:
    """[e, f] Mean codes less their mean over the emotions (that have texts), as linear vectors."""
    vectors: Floats = means - np.nanmean(means, axis=0)
    return vectors


def compare_geometries(
    linear: Floats, coded: Floats, *, permutations: int, rng: np.random.Generator
) -> Agreement:
    """Spearman of the pairwise cosines of two sets of vectors, [e, d] and [e, f], with Mantel's p.

    RSA (Kriegeskorte et al. 2008): value, ci_low, ci_high, chance, p as `rsa`. ValueError for fewer
    than 3 emotions, or a vector without length.
    """
    a, b = cosine_matrix(linear), cosine_matrix(coded)
    return rsa(a, b, rng, permutations=permutations, kind="spearman")
