"""Decoder rows beside the emotion vectors: the nearest row, and vectors rebuilt from few rows.

    cosine            best cosine of an emotion's direction with a row that fires; chance is what
                      the best of as many random rows as there are, fire or not, stays below half
                      of the time, threshold 95 % of the time, p that it comes as near;
                      `passed`: q < .05 over the emotions
    cosine.mean       mean over emotions; chance the mean of theirs
    cosine.gain       how much more that is than the control's; interval and p by exchanging rows
                      between the two
    cosine.found      emotions with q < .05; chance the control's
    rebuild.V.K       share of the squared length of vectors V (raw, denoised) that the best K rows
                      explain, mean over emotions; chance the control's
    rebuild.V.gain.K  how much more that is than the control's; interval and p by quarters of
                      the control, which differ more than whole dictionaries do: rather too wide

Intervals of `cosine.mean` and `rebuild.V.K` are of other emotions alone: emotions share rows, and
other random rows come out elsewhere for all of them together. The control's own rows have
`.control` in their names. Random rows have the covariance of the tokens' activations.
Knows nothing of codes.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from analyses.base import Result
from analyses.features.choosing import Aligned, Best
from analyses.features.reading import Crosscheck, Floats
from analyses.methods.gains import Gain, nearness_gain, parted_gains
from analyses.methods.pursuit import Rebuilt, rebuild
from analyses.methods.resampling import draw_rows, percentile_interval
from stores.encodings import BANKS, Bank
from stores.results import Cell, Metric, Table

STEPS = 32
"""Rows that a vector is rebuilt from, at most."""
REPORTED = (1, 2, 4, 8, 16, 32)
TABLED = (1, 4, 16)
QUARTERS = 4
CURVES = ("target", "bank", "k", "explained", "low", "high")
ALPHA = 0.05
SUFFIX: dict[Bank, str] = {"sae": "", "control": ".control"}


def describe_alignment(found: Crosscheck, best: Best) -> Result:
    """The rows of cosines; what stands in tables is in `emotions`."""
    found_by_chance = float((best.aligned["control"].q < ALPHA).sum())
    rows = [
        row
        for bank in BANKS
        for row in _cosine_rows(found, best.aligned[bank], SUFFIX[bank], found_by_chance)
    ]
    sae, control = (found[bank].rows[found[bank].alive] for bank in BANKS)
    gain = nearness_gain(
        found.directions,
        sae,
        control,
        np.random.default_rng(found.inputs.seed),
        permutations=found.inputs.permutations,
    )
    return Result((*rows, gain_row(found, "cosine.gain", gain, len(found.emotions))))


def _cosine_rows(
    found: Crosscheck, aligned: Aligned, suffix: str, found_by_chance: float
) -> Iterator[Metric]:
    q, n = aligned.q, len(found.emotions)
    for i, emotion in enumerate(found.emotions):
        yield Metric(
            f"cosine{suffix}",
            aligned.cosine[i],
            found.layer,
            emotion,
            aligned.rows,
            chance=aligned.half[i],
            p_value=aligned.p[i],
            passed=bool(q[i] < ALPHA),
            threshold=aligned.high[i],
        )
    interval = mean_interval(aligned.cosine, found.inputs.seed)
    half = float(aligned.half.mean())
    mean = float(aligned.cosine.mean())
    yield Metric(f"cosine.mean{suffix}", mean, found.layer, None, n, half, *interval)
    chance = None if suffix else found_by_chance
    yield Metric(f"cosine.found{suffix}", float((q < ALPHA).sum()), found.layer, None, n, chance)


def mean_interval(values: Floats, seed: int) -> tuple[float, float]:
    """95% interval of the mean of [e], by bootstrap over emotions."""
    drawn = draw_rows(len(values), np.random.default_rng(seed))
    low, high = percentile_interval(values[drawn].mean(axis=1))
    return float(low), float(high)


def gain_row(found: Crosscheck, name: str, gain: Gain, n: int) -> Metric:
    """What the SAE has more than its control; chance 0."""
    interval = (gain.low, gain.high)
    return Metric(name, gain.value, found.layer, None, n, 0.0, *interval, p_value=gain.p)


def describe_rebuilding(found: Crosscheck) -> Result:
    """Vectors rebuilt from rows that fire: curves by number of rows, and a row for each emotion."""
    rebuilt = {
        (target, bank): _rebuild(found, target, bank) for target in found.vectors for bank in BANKS
    }
    metrics, curves, rows = [], list[tuple[Cell, ...]](), list[tuple[Cell, ...]]()
    for (target, bank), each in rebuilt.items():
        control = rebuilt[target, "control"].explained.T
        for k, explained in enumerate(each.explained.T, 1):
            mean, interval = float(explained.mean()), mean_interval(explained, found.inputs.seed)
            curves.append((target, bank, k, mean, *interval))
            if k in REPORTED:
                name = f"rebuild.{target}{SUFFIX[bank]}.{k}"
                chance = float(control[k - 1].mean()) if bank == "sae" else None
                place = (found.layer, None, len(explained), chance)
                metrics.append(Metric(name, mean, *place, *interval))
        rows += [
            (emotion, target, bank, *(_at(explained, k) for k in TABLED))
            for emotion, explained in zip(found.emotions, each.explained, strict=True)
        ]
    metrics += [
        gain for target in found.vectors for gain in _rebuilding_gains(found, target, rebuilt)
    ]
    named = ("emotion", "target", "bank", *(f"k{k}" for k in TABLED))
    return Result(
        tuple(metrics),
        (
            Table("rebuild", CURVES, tuple(curves), found.layer),
            Table("rebuilt", named, tuple(rows), found.layer),
        ),
    )


def _rebuilding_gains(
    found: Crosscheck, target: str, rebuilt: Mapping[tuple[str, Bank], Rebuilt]
) -> Iterator[Metric]:
    """Of fewer rows than quarters nothing is said."""
    if int(found["control"].alive.sum()) < QUARTERS:
        return
    sae, control = (_mean_curve(rebuilt[target, bank]) for bank in BANKS)
    parts = [_mean_curve(_rebuild(found, target, "control", part)) for part in range(QUARTERS)]
    for k, gain in zip(REPORTED, parted_gains(sae, control, np.stack(parts)), strict=True):
        yield gain_row(found, f"rebuild.{target}.gain.{k}", gain, len(found.emotions))


def _mean_curve(rebuilt: Rebuilt) -> Floats:
    """Mean share explained over the emotions, by each number of rows REPORTED."""
    shares = np.array([[_at(each, k) for k in REPORTED] for each in rebuilt.explained])
    curve: Floats = shares.mean(axis=0)
    return curve


def _rebuild(found: Crosscheck, target: str, bank: Bank, part: int | None = None) -> Rebuilt:
    """From the rows that fire, or from a quarter of them."""
    dictionary = found[bank]
    rows = dictionary.rows[dictionary.alive]
    if part is not None:
        rows = rows[part::QUARTERS]
    return rebuild(found.vectors[target], rows, min(STEPS, len(rows)))


def _at(explained: Floats, k: int) -> float:
    """With k rows, or all that there are."""
    return float(explained[min(k, len(explained)) - 1])
