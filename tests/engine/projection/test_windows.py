from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.projection.summaries import WINDOW
from engine.projection.windows import Window, find_windows

OPEN = np.full(3, -np.inf)


def spans_of(lengths: list[int]) -> list[tuple[int, int]]:
    return list(pairwise([0, *np.cumsum(lengths).tolist()]))


def numbers(tokens: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(3, tokens)).astype(np.float32)


def test_the_best_windows_are_those_that_a_plain_search_finds() -> None:
    spans = spans_of([40, 12, 30, 77, 29, 55])
    scores = numbers(spans[-1][1])
    found = list(find_windows(scores, spans, OPEN, 3))
    for probe, row in enumerate(scores.astype(np.float64)):
        plain = []
        for document, (start, stop) in enumerate(spans):
            firsts = range(stop - start - WINDOW + 1)
            means = [row[start + first :][:WINDOW].mean() for first in firsts]
            if means:
                plain.append((max(means), document, int(np.argmax(means))))
        best = sorted(plain, reverse=True)[:3]
        own = [each for each in found if each.probe == probe]
        assert [(each.document, each.first) for each in own] == [each[1:] for each in best]
        np.testing.assert_allclose([each.score for each in own], [each[0] for each in best])


def test_of_equal_windows_the_earlier_documents_come_first() -> None:
    same = np.tile(numbers(WINDOW), 4)
    found = find_windows(same, spans_of([WINDOW] * 4), OPEN, 2)
    assert [(each.probe, each.document) for each in found] == [
        (probe, document) for probe in range(3) for document in (0, 1)
    ]


def test_a_window_must_be_above_its_bar() -> None:
    scores = np.repeat(np.array([[1.0], [2.0], [3.0]], np.float32), WINDOW, axis=1)
    bars = np.array([1.0, 1.5, np.inf])
    found = list(find_windows(scores, [(0, WINDOW)], bars, 5))
    assert found == [Window(probe=1, document=0, first=0, score=2.0)]


def test_documents_shorter_than_a_window_have_none() -> None:
    assert list(find_windows(numbers(58), spans_of([29, 29]), OPEN, 5)) == []
