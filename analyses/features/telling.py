"""Which features tell an emotion's stories from the others: AUC on topics they were not chosen on.

    auc         of each emotion's best feature; chance .5; `passed`: q < .05 over the emotions
    auc.mean    mean over emotions; chance the control's
    auc.gain    mean over emotions of what the SAE's feature tells more than the control's; interval
                by bootstrap over families, p by exchanging the two for whole families at a time,
                because a feature that happens to tell one emotion tells those like it
    auc.found   emotions with q < .05; chance the control's

The control's own rows have `.control` in their names. Knows nothing of decoder rows.
"""

from collections.abc import Iterator

import numpy as np

from analyses.base import Result
from analyses.features.alignment import ALPHA, SUFFIX, gain_row, mean_interval
from analyses.features.choosing import Best
from analyses.features.reading import Crosscheck, Floats, Ints
from analyses.figures.trees import leaves
from analyses.methods.clustering import tree_of
from analyses.methods.gains import mean_gain
from analyses.methods.statistics import benjamini_hochberg
from analyses.methods.telling import Telling, feature_aucs
from stores.encodings import BANKS
from stores.results import Metric, Table

SHOWN = 60
"""Features of the table `aucs`, at most."""


def describe_telling(found: Crosscheck, best: Best, families: Ints) -> Result:
    """The rows of AUCs, and the table `aucs`: best features by all emotions."""
    sae, control = (best.telling[bank] for bank in BANKS)
    known = np.isfinite(sae.auc) & np.isfinite(control.auc)
    metrics = [
        row for bank in BANKS for row in _auc_rows(found, best.telling[bank], SUFFIX[bank], control)
    ]
    if known.any():
        gain = mean_gain(
            sae.auc[known] - control.auc[known],
            families[known],
            np.random.default_rng(found.inputs.seed),
            permutations=found.inputs.permutations,
        )
        metrics.append(gain_row(found, "auc.gain", gain, int(known.sum())))
    return Result(tuple(metrics), (_list_features(found, sae),))


def discovery_rates(p: Floats) -> Floats:
    """q of p [e]; NaN where p is, which counts for nothing."""
    known = np.isfinite(p)
    q = np.full(len(p), np.nan)
    q[known] = benjamini_hochberg(p[known])
    return q


def _auc_rows(
    found: Crosscheck, telling: Telling, suffix: str, control: Telling
) -> Iterator[Metric]:
    q, counts = discovery_rates(telling.p), np.bincount(found.own, minlength=len(found.emotions))
    for i, emotion in enumerate(found.emotions):
        yield Metric(
            f"auc{suffix}",
            telling.auc[i],
            found.layer,
            emotion,
            int(counts[i]),
            chance=0.5,
            ci_low=telling.low[i],
            ci_high=telling.high[i],
            p_value=telling.p[i],
            passed=bool(q[i] < ALPHA),
        )
    known = telling.auc[np.isfinite(telling.auc)]
    if not len(known):
        return
    mean, n = float(known.mean()), len(known)
    interval = mean_interval(known, found.inputs.seed)
    chance = 0.5 if suffix else float(np.nanmean(control.auc))
    yield Metric(f"auc.mean{suffix}", mean, found.layer, None, n, chance, *interval)
    by_chance = None if suffix else float((discovery_rates(control.p) < ALPHA).sum())
    yield Metric(f"auc.found{suffix}", float((q < ALPHA).sum()), found.layer, None, n, by_chance)


def _list_features(found: Crosscheck, telling: Telling) -> Table:
    """AUCs of the distinct best features, for every emotion, both in the order of the tree."""
    order = leaves(tree_of(found.directions)) if len(found.emotions) > 2 else range(2)
    emotions = list(order)[: len(found.emotions)]
    best = np.nan_to_num(telling.auc, nan=-1.0)
    by_auc = telling.feature[np.argsort(-best, kind="stable")].tolist()
    kept = set(list(dict.fromkeys(by_auc))[:SHOWN])
    features = [f for f in dict.fromkeys(telling.feature[emotions].tolist()) if f in kept]
    aucs = feature_aucs(found["sae"].codes[:, features], found.own, len(found.emotions))
    rows = zip(features, aucs[emotions].T.tolist(), strict=True)
    named = ("feature", *(found.emotions[i] for i in emotions))
    return Table("aucs", named, tuple((f, *values) for f, values in rows), found.layer)
