"""Is the SAE valid on this text at all, read beside a random one that fires as often?

    variance_unexplained   squared error of the reconstruction, as a share of the tokens' squared
                           distance from their mean
    l0                     features that fire on a token
    dead_features          share of the features that fire on no pooled token
    loss_recovered         how much of the next-token loss that a zeroed residual costs is won back
                           by the reconstruction in its place; 1: all of it
    loss_recovered.mean    the same for a residual replaced by its mean

Subjects are `sae` and `control`; chance is the control's value. All over the tokens that are
pooled; intervals by bootstrap over stories. Losses are those of a sample of stories. Knows nothing
of emotions.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analyses.base import Result
from analyses.features.reading import Crosscheck, Floats, Ints, read_sample
from analyses.methods.resampling import draw_rows, percentile_interval
from stores.encodings import BANKS, Bank
from stores.layers import iter_layer_chunks
from stores.results import Cell, Metric, Table
from stores.rows import read_rows

if TYPE_CHECKING:
    from engine.features.validity import Losses

LOSS_TOKENS = 4096
"""Tokens, about, whose next one is predicted with the SAE in the way."""
COLUMNS = (
    *("bank", "variance_unexplained", "l0", "dead"),
    *("loss_clean", "loss_spliced", "loss_mean", "loss_zero"),
    *("loss_recovered", "loss_recovered_mean", "tokens"),
    *("stated_l0", "stated_variance_unexplained"),
)


@dataclass(frozen=True, slots=True)
class Share:
    """A ratio of two sums over texts, and its interval.

    Without a value where what is divided by may as well be 0: nothing was lost to be recovered.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None


def describe_validity(found: Crosscheck) -> Result:
    """Metrics of both banks and the table `validity`."""
    losses = _measure_losses(found)
    apart = _squared_distances(found)
    shares = {bank: _shares(found, bank, apart, losses) for bank in BANKS}
    dead = {bank: 1.0 - float(found[bank].alive.mean()) for bank in BANKS}
    metrics = list[Metric]()
    for bank in BANKS:
        tokens = int(found[bank].pooled.tokens.sum())
        for name, share in shares[bank].items():
            n = int(losses.tokens.sum()) if name.startswith("loss") else tokens
            chance = None if bank == "control" else shares["control"][name].value
            place = (found.layer, bank, n, chance)
            metrics.append(Metric(name, share.value, *place, share.low, share.high))
        chance = None if bank == "control" else dead["control"]
        metrics.append(Metric("dead_features", dead[bank], found.layer, bank, tokens, chance))
    rows = tuple(_row(found, bank, shares[bank], dead[bank], losses) for bank in BANKS)
    return Result(tuple(metrics), (Table("validity", COLUMNS, rows, found.layer),))


def _row(
    found: Crosscheck, bank: Bank, shares: dict[str, Share], dead: float, losses: "Losses"
) -> tuple[Cell, ...]:
    stated = found.identity.stated if bank == "sae" else {}
    every = (losses.clean, losses.spliced[bank], losses.ablated, losses.zeroed)
    return (
        bank,
        shares["variance_unexplained"].value,
        shares["l0"].value,
        dead,
        *(float(np.average(loss, weights=losses.tokens)) for loss in every),
        shares["loss_recovered"].value,
        shares["loss_recovered.mean"].value,
        int(found[bank].pooled.tokens.sum()),
        stated.get("l0"),
        stated.get("variance_unexplained"),
    )


def _shares(found: Crosscheck, bank: Bank, apart: Floats, losses: "Losses") -> dict[str, Share]:
    """By name of the metric."""
    pooled, seed = found[bank].pooled, found.inputs.seed
    tokens, judged = pooled.tokens.astype(np.float64), losses.tokens.astype(np.float64)
    spliced = losses.spliced[bank]
    sums = {
        "variance_unexplained": (pooled.error * tokens, apart * tokens),
        "l0": (pooled.l0 * tokens, tokens),
    }
    for name, worst in (("", losses.zeroed), (".mean", losses.ablated)):
        sums[f"loss_recovered{name}"] = (
            (worst - spliced) * judged,
            (worst - losses.clean) * judged,
        )
    return {name: share_of(*parts, seed) for name, parts in sums.items()}


def share_of(parts: Floats, wholes: Floats, seed: int) -> Share:
    """Sum of parts over sum of wholes, [n] each; the interval by bootstrap over texts."""
    drawn = draw_rows(len(parts), np.random.default_rng(seed))
    drawn_wholes = wholes[drawn].sum(axis=1)
    if percentile_interval(drawn_wholes)[0] <= 0:
        return Share()
    low, high = percentile_interval(parts[drawn].sum(axis=1) / drawn_wholes)
    return Share(float(parts.sum() / wholes.sum()), float(low), float(high))


def _measure_losses(found: Crosscheck) -> "Losses":
    from engine.features.validity import measure_losses

    return measure_losses(
        found.model,
        found.layer,
        {bank: found[bank].sae for bank in BANKS},
        found.spread.mean,
        read_sample(found, LOSS_TOKENS),
        start_token=int(found.encoding.settings["start_token"]),
    )


def _squared_distances(found: Crosscheck) -> Floats:
    """[n] Mean over a story's tokens of their squared distance from the mean of all tokens.

    Exactly, from the story's own mean m and mean square s: s - 2 m.M + M.M.
    """
    pooled = found["sae"].pooled
    weights, total = pooled.tokens.astype(np.float64), np.zeros(len(found.spread.mean))
    for places, means in _story_means(found):
        total += weights[places] @ means
    mean, distances = total / weights.sum(), np.empty(len(weights))
    for places, means in _story_means(found):
        distances[places] = pooled.square[places] - 2.0 * means @ mean + mean @ mean
    return distances


def _story_means(found: Crosscheck) -> Iterator[tuple[Ints, Floats]]:
    """The stories' pooled means as they were extracted, a few at a time, and whose they are."""
    inputs = found.inputs
    place = {text_id: i for i, text_id in enumerate(found["sae"].pooled.text_ids.tolist())}
    rows = read_rows(inputs.conn, inputs.reader, inputs.corpus, "stories")
    here = {row.row: place[row.text_id] for row in rows if row.text_id in place}
    chunks = iter_layer_chunks(
        inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, "stories", found.layer
    )
    with closing(chunks):
        for first, block in chunks:
            used = [i for i in range(len(block)) if first + i in here]
            places = np.array([here[first + i] for i in used], dtype=np.int64)
            yield places, block[used].astype(np.float64)
