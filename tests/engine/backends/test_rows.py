"""What fits: rows times the longest of them within a bound, halved when memory ran short."""

import pytest

from engine.backends.rows import Row, TokenBudget, longest
from engine.backends.sampling import row_numbers
from tests.engine.backends.asking import request


def row(prompt: int, limit: int) -> Row:
    numbers = row_numbers(0, limit + 1)
    return Row(request=request(0), prompt=(5,) * prompt, limit=limit, numbers=numbers)


@pytest.mark.parametrize(
    ("tokens", "cost", "places"),
    [(None, 900, 8), (100, 10, 8), (100, 20, 5), (100, 51, 1), (100, 101, 1), (100, 0, 8)],
)
def test_as_many_places_as_the_tokens_allow_but_always_one(
    tokens: int | None, cost: int, places: int
) -> None:
    assert TokenBudget(8, tokens).places(cost) == places


def test_rows_padded_to_one_another_cost_the_longest_prompt_and_the_longest_answer() -> None:
    assert longest([row(30, 5), row(4, 50)]) == 80
    assert longest([]) == 0


def test_half_of_what_did_not_fit_is_left() -> None:
    budget = TokenBudget(8, None)
    assert budget.halve([row(10, 40)] * 6) == 150
    assert budget.places(50) == 3
    assert budget.halve([row(10, 40)] * 3) == 75


@pytest.mark.parametrize(("workers", "tokens"), [(0, None), (1, 0)])
def test_room_for_nothing_is_refused(workers: int, tokens: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TokenBudget(workers, tokens)
