"""A judge who sees the emotions tells own labels from shuffled ones; one who guesses does not."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from analyses.external_judge import judge_metrics, judge_table
from stores.judgements import Judgement, Question
from stores.results import Metric

LAYER = 3


def judgements(own: Sequence[float | None], other: Sequence[float | None]) -> list[Judgement]:
    """One snippet of each emotion, asked about its own and the next one's."""
    found: list[Judgement] = []
    for i, scores in enumerate(zip(own, other, strict=True)):
        for asked, score in zip((f"e{i}", f"e{i + 1}"), scores, strict=True):
            question = Question(f"e{i}", i, 0, asked)
            reason = None if score is not None else "unparsed"
            found.append(Judgement(len(found), question, "api model", score, reason))
    return found


def rows(found: list[Judgement], seed: int = 0, permutations: int = 999) -> dict[str, Metric]:
    rng = np.random.default_rng(seed)
    return {row.metric: row for row in judge_metrics("notes", found, LAYER, permutations, rng)}


def test_a_judge_who_sees_the_emotion_gives_the_planted_gap() -> None:
    row = rows(judgements([8.0] * 20, [3.0] * 20))
    gap, preferred = row["judge.notes"], row["judge_preferred.notes"]
    assert (gap.value, gap.n, gap.chance, gap.subject) == (5.0, 20, 0.0, "api model")
    assert (preferred.value, preferred.chance) == (1.0, 0.5)
    assert gap.p_value == preferred.p_value == pytest.approx(1 / 1000)
    assert row["judge_unread.notes"].value == 0.0


def test_ties_count_half() -> None:
    row = rows(judgements([5.0, 7.0], [5.0, 1.0]))
    assert row["judge_preferred.notes"].value == 0.75


def test_a_judge_who_guesses_has_uniform_p() -> None:
    rng = np.random.default_rng(1)
    p: list[float] = []
    for seed in range(150):
        own, other = rng.normal(5, 2, (2, 30)).tolist()
        found = rows(judgements(own, other), seed, 199)["judge.notes"].p_value
        assert found is not None
        p.append(found)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_snippet_with_one_score_alone_is_no_pair_and_is_counted() -> None:
    row = rows(judgements([8.0, None, 6.0], [3.0, 4.0, 2.0]))
    assert row["judge.notes"].n == 2
    assert row["judge_unread.notes"].value == pytest.approx(1 / 6)
    assert row["judge_unread.notes"].n == 6


def test_without_a_single_score_there_is_only_the_count() -> None:
    assert list(rows(judgements([None], [None]))) == ["judge_unread.notes"]


def test_the_table_shows_both_scores_of_each_snippet() -> None:
    found = judgements([8.0, None], [3.0, 4.0])
    table = judge_table([("notes", each) for each in found], LAYER)
    assert table.rows == (
        ("notes", "api model", "e0", 0, 8.0, 3.0, "e1"),
        ("notes", "api model", "e1", 1, None, 4.0, "e2"),
    )
