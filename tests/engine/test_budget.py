"""The token budget of extraction: halved by what does not fit, grown back slowly, remembered."""

import random

import pytest

from engine.budget import (
    DEFAULT_ELSEWHERE,
    DEFAULT_TOKENS,
    GROW_AFTER,
    ExtractionBudget,
    open_budget,
)
from stores.budgets import remembered_budget
from stores.database import Connection


def read(budget: ExtractionBudget, room: int, batches: int, chances: random.Random) -> list[int]:
    """Read full and part-filled batches on a device with `room` tokens; the size of each."""
    sizes = []
    for _ in range(batches):
        size = chances.randint((budget.tokens + 1) // 2, budget.tokens)
        sizes.append(size)
        if size > room:
            budget.shrink(size)
        else:
            budget.succeed()
    return sizes


@pytest.mark.parametrize("seed", range(30))
def test_any_device_ends_in_batches_that_fit_and_wastes_few(seed: int) -> None:
    chances = random.Random(seed)
    ceiling, room = chances.randint(1, 30_000), chances.randint(1, 30_000)
    budget = ExtractionBudget(ceiling)
    sizes = read(budget, room, 4000, chances)
    failed = [size for size in sizes if size > room]
    assert all(1 <= size <= ceiling for size in sizes)
    assert len(failed) <= ceiling.bit_length() + (4000 // GROW_AFTER).bit_length()
    assert budget.tokens >= min(ceiling, room) // 2
    assert budget.shrunk == bool(failed)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_failures_and_successes_give_the_same_sizes(seed: int) -> None:
    told: list[list[int]] = [[], []]
    runs = [
        read(ExtractionBudget(9000, remember=kept.append), 700, 500, random.Random(seed))
        for kept in told
    ]
    assert runs[0] == runs[1]
    assert told[0] == told[1] != []


def test_what_did_not_fit_is_halved_down_to_one_token() -> None:
    budget = ExtractionBudget(4096)
    assert budget.shrink(4000) == 2000
    assert budget.shrink(9000) == 1000, "a text longer than the budget was alone in its batch"
    for _ in range(12):
        budget.shrink(budget.tokens)
    assert budget.tokens == 1


def test_sixteen_good_batches_win_an_eighth_back_and_a_bad_one_doubles_the_wait() -> None:
    budget = ExtractionBudget(1600)
    assert budget.shrink(1600) == 800
    for _ in range(GROW_AFTER - 1):
        budget.succeed()
    assert budget.tokens == 800
    budget.succeed()
    assert budget.tokens == 900
    for _ in range(GROW_AFTER - 1):
        budget.succeed()
    budget.shrink(900)
    for _ in range(2 * GROW_AFTER - 1):
        budget.succeed()
    assert budget.tokens == 450, "what was won back failed: the next try comes twice as late"
    budget.succeed()
    assert budget.tokens == 506


def test_no_size_is_begun_a_third_time_after_it_failed_twice() -> None:
    budget = ExtractionBudget(1000)
    failed: list[int] = []
    for _ in range(100_000):
        assert sum(size <= budget.tokens for size in failed) < 2
        if budget.tokens >= 700:
            failed.append(budget.tokens)
            budget.shrink(budget.tokens)
        else:
            budget.succeed()
    assert len(failed) < 16


def test_nothing_is_ever_larger_than_what_was_asked() -> None:
    told: list[int] = []
    budget = ExtractionBudget(500, start=9000, remember=told.append)
    assert budget.tokens == 500
    for _ in range(10 * GROW_AFTER):
        budget.succeed()
    assert (budget.tokens, told, budget.shrunk) == (500, [], False)


@pytest.mark.parametrize(("ceiling", "start"), [(0, None), (-1, None), (5, 0)])
def test_room_for_nothing_is_refused(ceiling: int, start: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ExtractionBudget(ceiling, start=start)


def test_the_next_run_begins_with_what_fitted_unless_it_is_told_otherwise(
    conn: Connection,
) -> None:
    place = {"model": "m float32", "device": "cuda:0"}
    first = open_budget(conn, None, **place)
    assert first.tokens == DEFAULT_ELSEWHERE
    first.shrink(first.tokens)
    assert remembered_budget(conn, "extract", "m float32", "cuda:0") == DEFAULT_ELSEWHERE // 2
    assert open_budget(conn, None, **place).tokens == DEFAULT_ELSEWHERE // 2
    assert open_budget(conn, 12_000, **place).tokens == 12_000
    assert open_budget(conn, None, model="m float32", device="cpu").tokens == DEFAULT_TOKENS["cpu"]


def test_a_shortage_that_has_passed_is_forgotten_slowly(conn: Connection) -> None:
    place = {"model": "m float32", "device": "cuda:0"}
    open_budget(conn, None, **place).shrink(2000)
    later = open_budget(conn, None, **place)
    for _ in range(GROW_AFTER):
        later.succeed()
    assert later.tokens == 1125
    assert open_budget(conn, None, **place).tokens == 1125
