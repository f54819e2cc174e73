"""Whether a judge finds the emotions in their snippets: own labels against shuffled ones, as rows.

Knows nothing of how a judge is asked.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analyses.methods.resampling import against_chance, draw_clusters, percentile_interval
from stores.judgements import Judgement
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]
Pair = tuple[str, float, float]
"""Emotion, score of the own label, score of the other one."""

COLUMNS = ("source", "judge", "emotion", "document_id", "own", "other", "other_emotion")


def judge_metrics(
    source: str,
    judgements: Sequence[Judgement],
    layer: int,
    permutations: int,
    rng: np.random.Generator,
) -> list[Metric]:
    """What every judge (the subject) said of a source's snippets at one layer.

    `judge.S`: mean score of the own label less that of the other, in points of 10.
    `judge_preferred.S`: share of snippets whose own label scores higher, ties half.
    `judge_unread.S`: share of questions that have no score. Of the first two, n counts the snippets
    whose two questions have one.
    """
    rows = []
    pairs = _pairs(judgements)
    for judge in sorted({each.judge for each in judgements}):
        scores = [each.score for each in judgements if each.judge == judge]
        unread = scores.count(None) / len(scores)
        rows.append(Metric(f"judge_unread.{source}", unread, layer, judge, len(scores)))
        if pairs[judge]:
            emotions, own, other = zip(*pairs[judge], strict=True)
            gaps = np.array(own) - np.array(other)
            for name, values, chance in (
                (f"judge.{source}", gaps, 0.0),
                (f"judge_preferred.{source}", np.sign(gaps) / 2.0 + 0.5, 0.5),
            ):
                rows.append(_row(name, judge, layer, emotions, values, chance, permutations, rng))
    return rows


def _row(
    name: str,
    judge: str,
    layer: int,
    emotions: Sequence[str],
    values: Floats,
    chance: float,
    permutations: int,
    rng: np.random.Generator,
) -> Metric:
    """The mean. Interval: a bootstrap over emotions. p: the two labels of snippets exchanged."""
    drawn = [values[chosen].mean() for chosen in draw_clusters(emotions, rng)]
    low, high = percentile_interval(drawn)
    signs = rng.choice((-1.0, 1.0), size=(permutations, len(values)))
    exchanged = signs @ (values - chance) / len(values) + chance
    return Metric(
        name,
        float(values.mean()),
        layer=layer,
        subject=judge,
        n=len(values),
        chance=chance,
        ci_low=float(low),
        ci_high=float(high),
        p_value=float(against_chance(values.mean(), exchanged).p),
    )


def judge_table(judgements: Sequence[tuple[str, Judgement]], layer: int) -> Table:
    """Both scores of every snippet that was asked about, by source; None where there is none."""
    found: dict[tuple[str, ...], dict[bool, Judgement]] = defaultdict(dict)
    for source, each in judgements:
        question = each.question
        key = (source, each.judge, question.emotion, str(question.document_id))
        found[key][question.asked == question.emotion] = each
    rows: list[tuple[Cell, ...]] = []
    for (source, judge, emotion, document), both in found.items():
        own, other = both.get(True), both.get(False)
        scores = [None if each is None else each.score for each in (own, other)]
        named = None if other is None else other.question.asked
        rows.append((source, judge, emotion, int(document), *scores, named))
    return Table("judgements", COLUMNS, tuple(rows), layer)


def _pairs(judgements: Sequence[Judgement]) -> dict[str, list[Pair]]:
    """By judge, the snippets whose own and other label both have a score."""
    found: dict[tuple[str, str, int, int], dict[bool, float]] = defaultdict(dict)
    for each in judgements:
        question = each.question
        if each.score is not None:
            key = (each.judge, question.emotion, question.document_id, question.first)
            found[key][question.asked == question.emotion] = each.score
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for (judge, emotion, _, _), scores in found.items():
        if len(scores) == 2:
            pairs[judge].append((emotion, scores[True], scores[False]))
    return pairs
