"""When memory runs short, fewer rows are written at once, and the same replies come out."""

from collections.abc import Callable

import pytest

from engine.backends.base import Failure
from engine.backends.listed import Listed
from engine.backends.local import LocalBackend
from engine.models import Model
from tests.engine.backends.asking import answer, collect, mixed_requests, request, texts
from tests.engine.backends.watching import exhaust_memory, watched
from tests.engine.tiny import text_of


@pytest.fixture(params=["continuous", "static"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "static":
        monkeypatch.setattr("engine.backends.local.joining_obstacle", lambda _model: "so it is")
    return str(request.param)


def short_at(*passes: int) -> Callable[[int, tuple[int, int]], None]:
    """An allocator that fails in the passes of these numbers."""
    calls = iter(range(10**6))

    def fail(_count: int, _shape: tuple[int, int]) -> None:
        if next(calls) in passes:
            exhaust_memory()

    return fail


def short_beyond(rows: int) -> Callable[[int, tuple[int, int]], None]:
    """An allocator that fails whenever more rows are computed at once."""

    def fail(_count: int, shape: tuple[int, int]) -> None:
        if shape[0] > rows:
            exhaust_memory()

    return fail


@pytest.mark.parametrize("passes", [(0,), (1,), (9,), (14, 20)])
def test_no_row_is_lost_or_changed_wherever_memory_runs_short(
    tiny: Model, mode: str, passes: tuple[int, ...]
) -> None:
    requests = mixed_requests(12)
    expected = texts(answer(tiny, requests, workers=5))
    budgets: list[int] = []
    with watched(tiny, short_at(*passes)):
        found = answer(tiny, requests, workers=5, remember=budgets.append)
    assert texts(found) == expected
    assert len(budgets) == len(passes)


def test_the_budget_is_halved_until_the_rows_fit_and_remembered(tiny: Model, mode: str) -> None:
    requests = [request(key, prompt=text_of(5), temperature=0.0) for key in range(16)]
    budgets: list[int] = []
    backend = LocalBackend(tiny, workers=16, remember=budgets.append)
    with watched(tiny, short_beyond(3)) as passes:
        answers = collect(backend, Listed(requests))
    cost = len(tiny.tokenizer(f"<bos>Human: {text_of(5)}\nAssistant:")["input_ids"]) - 1 + 24
    assert len(answers) == 16
    assert budgets == [8 * cost, 4 * cost, 2 * cost]
    assert max(rows for rows, _ in passes) == 2
    assert f"memory ran short: {2 * cost} tokens at once" in backend.note()


def test_a_row_that_does_not_fit_alone_fails_for_good_and_others_go_on(
    tiny: Model, mode: str
) -> None:
    requests = [request(0), request(1, prompt=text_of(60)), request(2)]
    budgets: list[int] = []

    def fail(_count: int, shape: tuple[int, int]) -> None:
        if shape[1] > 50:
            exhaust_memory()

    with watched(tiny, fail):
        answers = answer(tiny, requests, workers=3, remember=budgets.append)
    failed = answers.pop(1)
    assert isinstance(failed, Failure)
    assert failed.reason.startswith("out_of_memory: ")
    assert failed.final
    assert sorted(texts(answers)) == [0, 2]
    assert all(tokens > 1 for tokens in budgets)


def test_a_known_budget_needs_no_failure_to_find_it(tiny: Model, mode: str) -> None:
    requests = [request(key, prompt=text_of(5)) for key in range(8)]
    budgets: list[int] = []
    with watched(tiny, short_beyond(3)):
        answer(tiny, requests, workers=8, remember=budgets.append)
        found = budgets.pop()
        budgets.clear()
        answer(tiny, requests, workers=8, tokens_per_batch=found, remember=budgets.append)
    assert budgets == []


def test_another_error_is_not_taken_for_a_lack_of_memory(tiny: Model, mode: str) -> None:
    def fail(count: int, _shape: tuple[int, int]) -> None:
        if count == 3:
            raise RuntimeError("the model is broken")

    with watched(tiny, fail), pytest.raises(RuntimeError, match="the model is broken"):
        answer(tiny, mixed_requests(4))
