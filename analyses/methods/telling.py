"""Which features tell an emotion's texts from the rest, chosen on some topics, judged on others.

Knows nothing of SAEs: a feature is a column of numbers, most of them 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csc_array, csr_array
from scipy.special import expit, logit

from analyses.methods.codespace import column_sums
from analyses.methods.statistics import TIE, permutation_p

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS = 256
"""Features that are ranked at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Telling:
    """e emotions; two folds of topics: a feature chosen on one is judged on the other.

    NaN for an emotion that has no texts in a fold, or all of them.
    """

    feature: Ints
    """[e]: the best on all topics, for what comes after."""
    fold_features: Ints
    """[e, 2]: what is judged on each fold, chosen on the other."""
    auc: Floats
    """[e]: mean over the folds, each judged on topics it was not chosen on. Chance is 1/2."""
    low: Floats
    high: Floats
    """95% intervals over topics of the chosen features; NaN where topics tell nothing of it."""
    p: Floats
    """[e]: one-sided, labels permuted within topics, features chosen anew for each permutation."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ranks:
    """Midranks of n texts on f features."""

    excess: csr_array
    """[n, f]: how far above those where a feature is silent."""
    silent: Floats
    """[f]: rank of the texts where it is."""


def feature_aucs(codes: csr_array, own: Ints, emotions: int) -> NDArray[np.float32]:
    """[e, f] AUC of each feature's codes [n, f] (none negative) for the texts of each emotion
    against all others; ties count half. `own` [n] says whose a text is. NaN where an emotion has
    all or none of the texts. ValueError for a code that is negative or not finite."""
    return _aucs(_rank(codes), own, emotions)


def tell_apart(
    codes: csr_array,
    own: Ints,
    topics: Ints,
    emotions: int,
    *,
    permutations: int,
    rng: np.random.Generator,
) -> Telling:
    """The best feature of each emotion, for codes [n, f] of texts of `own` [n] and `topics` [n].

    Every emotion stands on the same footing when labels are shuffled, so that a shuffle gives a
    draw of chance for each: as many shuffles as make `permutations` draws. The choice is part of
    what is shuffled, because two folds that choose alike also err alike. ValueError for fewer than
    two topics.
    """
    folds = _split(topics, rng)
    ranks = [_rank(codes[fold]) for fold in folds]
    owns, places = [own[fold] for fold in folds], [topics[fold] for fold in folds]
    fold_features, aucs = _judge(ranks, owns, emotions)
    drawn = [
        _weigh(_judge(ranks, _shuffle(owns, places, rng), emotions)[1], own)
        for _ in range(-(-permutations // emotions))
    ]
    low, high = _intervals(codes, own, topics, folds, fold_features)
    return Telling(
        feature=_best(feature_aucs(codes, own, emotions)),
        fold_features=fold_features,
        auc=aucs.mean(axis=1),
        low=low,
        high=high,
        p=_share(_weigh(aucs, own), np.concatenate(drawn)),
    )


def _split(topics: Ints, rng: np.random.Generator) -> list[Ints]:
    """Rows of two folds of topics, as many in each as can be."""
    known = rng.permutation(np.unique(topics))
    if len(known) < 2:
        raise ValueError(f"{len(known)} topics cannot be divided: needs at least two")
    first = np.isin(topics, known[: len(known) // 2])
    return [np.flatnonzero(first), np.flatnonzero(~first)]


def _judge(ranks: Sequence[_Ranks], owns: Sequence[Ints], emotions: int) -> tuple[Ints, Floats]:
    """Features [e, 2] and AUCs [e, 2]: on each fold those of what is best on the other."""
    aucs = [_aucs(fold, own, emotions) for fold, own in zip(ranks, owns, strict=True)]
    features = np.stack([_best(aucs[1]), _best(aucs[0])], axis=1)
    each = np.arange(emotions)
    judged = [aucs[fold][each, features[:, fold]] for fold in (0, 1)]
    return features, np.stack(judged, axis=1).astype(np.float64)


def _best(aucs: NDArray[np.float32]) -> Ints:
    """[e] The feature of highest AUC; the first where none is known."""
    features: Ints = np.nan_to_num(aucs, nan=-1.0).argmax(axis=1)
    return features


def _weigh(aucs: Floats, own: Ints) -> Floats:
    """Mean AUCs [e] from [e, 2] in units that are alike for emotions of more and of fewer texts."""
    counts = np.bincount(own, minlength=len(aucs))
    weighed: Floats = (aucs.mean(axis=1) - 0.5) * np.sqrt(counts * (1.0 - counts / len(own)))
    return weighed


def _share(observed: Floats, drawn: Floats) -> Floats:
    """[e] p of each observed value among all draws; NaN for NaN."""
    drawn = np.sort(drawn[np.isfinite(drawn)])
    below = np.searchsorted(drawn, observed - TIE)
    return np.where(np.isfinite(observed), permutation_p(len(drawn) - below, len(drawn)), np.nan)


def _shuffle(owns: Sequence[Ints], places: Sequence[Ints], rng: np.random.Generator) -> list[Ints]:
    """The labels of each fold, shuffled among the texts of a topic."""
    shuffled = []
    for own, topics in zip(owns, places, strict=True):
        order = np.lexsort((rng.random(len(own)), topics))
        mixed = np.empty_like(own)
        mixed[np.argsort(topics, kind="stable")] = own[order]
        shuffled.append(mixed)
    return shuffled


def _rank(codes: csr_array) -> _Ranks:
    """Midranks of the texts on every feature, as far as they differ from the silent ones'."""
    if not np.isfinite(codes.data).all() or (codes.data < 0.0).any():
        raise ValueError("codes must be finite and none negative")
    columns = csc_array(codes, dtype=np.float32, copy=True)
    columns.eliminate_zeros()
    n, f = columns.shape
    fired = np.diff(columns.indptr)
    silent = (n - fired + 1) / 2.0
    for start in range(0, f, COLUMNS):
        stop = min(start + COLUMNS, f)
        inside = slice(columns.indptr[start], columns.indptr[stop])
        within = np.repeat(np.arange(stop - start), fired[start:stop])
        # What fires ranks above all that is silent: n - fired + its rank, less (n - fired + 1) / 2.
        offset = (n - fired[start:stop] - 1) / 2.0
        columns.data[inside] = _midranks(columns.data[inside], within) + offset[within]
    return _Ranks(csr_array(columns), silent)


def _midranks(values: NDArray[np.float32], column: Ints) -> Floats:
    """Rank of each value, 1 and up, among those of its column; equals share their mean rank.

    The columns are in order. The bits of numbers above 0 sort as the numbers do.
    """
    keys = (column.astype(np.uint64) << np.uint64(32)) | values.view(np.uint32)
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(ordered))
    ranks[order] = np.repeat(starts + (lengths + 1) / 2.0, lengths)
    first: Ints = np.searchsorted(column, np.arange(column.max(initial=-1) + 1))
    return ranks - first[column]


def _aucs(ranks: _Ranks, own: Ints, emotions: int) -> NDArray[np.float32]:
    """[e, f] from the sums of ranks of each emotion's texts (Mann and Whitney 1947)."""
    n, f = ranks.excess.shape
    aucs = np.full((emotions, f), np.nan, dtype=np.float32)
    for emotion in range(emotions):
        texts = np.flatnonzero(own == emotion)
        m = len(texts)
        if 0 < m < n:
            ranked = column_sums(ranks.excess, texts) + m * ranks.silent
            above = ranked - m * (m + 1) / 2.0
            aucs[emotion] = above / (m * (n - m))
    return aucs


def _intervals(
    codes: csr_array, own: Ints, topics: Ints, folds: Sequence[Ints], features: Ints
) -> tuple[Floats, Floats]:
    """95% intervals [e] of the mean of two folds' AUCs: low, high.

    The jackknife over topics within each fold (Tukey 1958), on the logit, where it covers best; t
    with as many degrees of freedom as there are topics less the folds. NaN where a fold has one
    topic, or leaving out any changes nothing: that tells nothing of others. Too narrow for few
    texts on a feature that is mostly silent.
    """
    aucs, variances = np.zeros((2, 2, len(features)))
    for fold, rows in enumerate(folds):
        place = np.unique(topics[rows], return_inverse=True)[1]
        values = codes[rows][:, features[:, fold]].toarray()
        for emotion, column in enumerate(values.T):
            wins, pairs = _wins(column, own[rows] == emotion, place)
            aucs[fold, emotion], variances[fold, emotion] = _jackknife(wins, pairs)
    degrees, mean = len(np.unique(topics)) - len(folds), aucs.mean(axis=0)
    inside = np.where((mean > 0.0) & (mean < 1.0), mean, np.nan)
    errors = np.sqrt(variances.sum(axis=0)) / len(folds) / (inside * (1.0 - inside))
    reach = stats.t.ppf(0.975, max(degrees, 1)) * np.where(errors > 0.0, errors, np.nan)
    low, high = expit(logit(inside) - reach), expit(logit(inside) + reach)
    return low, high


def _jackknife(wins: Floats, pairs: Floats) -> tuple[float, float]:
    """AUC of pairs by topics [t, t], and its variance; NaN where it is not defined without one."""
    if not pairs.sum():
        return np.nan, np.nan
    t = len(wins)
    left, total = _without_each(wins), _without_each(pairs)
    without = left / np.where(total > 0.0, total, np.nan)
    variance = (t - 1.0) / t * np.square(without - without.mean()).sum()
    return float(wins.sum() / pairs.sum()), float(variance)


def _without_each(table: Floats) -> Floats:
    """[t] What a table [t, t] adds up to without each row and its column."""
    sums: Floats = table.sum() - table.sum(axis=0) - table.sum(axis=1) + np.diag(table)
    return sums


def _wins(values: Floats, mine: NDArray[np.bool_], place: Ints) -> tuple[Floats, Floats]:
    """[t, t] By topics: pairs of an own text and another that the own one wins, and all pairs."""
    t = int(place.max()) + 1
    wins = np.zeros((t, t))
    for topic in range(t):
        others = np.sort(values[~mine & (place == topic)])
        below = np.searchsorted(others, values[mine], side="left")
        upto = np.searchsorted(others, values[mine], side="right")
        wins[:, topic] = np.bincount(place[mine], weights=(below + upto) / 2.0, minlength=t)
    own, other = (np.bincount(place[rows], minlength=t) for rows in (mine, ~mine))
    return wins, np.outer(own, other).astype(np.float64)
