"""Tokens are drawn exactly as often as they should be, with numbers that belong to their row."""

from typing import Any

import numpy as np
import pytest
import torch

from engine.backends.sampling import RowSampler, SamplingProcessor, keep_nucleus, row_numbers
from tests.engine.backends.asking import request

CPU = torch.device("cpu")
LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]
ROWS = 20_000
# four standard errors of a share estimated from 20,000 rows
SHARE_ERROR = 4 * 0.5 / ROWS**0.5


def test_the_numbers_of_a_row_depend_on_its_seed_alone() -> None:
    assert np.array_equal(row_numbers(5, 100)[:7], row_numbers(5, 7))
    assert not np.array_equal(row_numbers(5, 7), row_numbers(6, 7))


def frequencies(logits: list[float], rows: int, **changes: Any) -> torch.Tensor:
    """How often each token is drawn by many rows that see the same scores."""
    requests = [request(key, **changes) for key in range(rows)]
    numbers = np.concatenate([row_numbers(each.seed, 1) for each in requests])
    drawn = RowSampler(requests, CPU).draw(torch.tensor([logits]).expand(rows, -1), numbers)
    return torch.bincount(drawn, minlength=len(logits)) / rows


def test_tokens_are_drawn_as_often_as_their_probability() -> None:
    expected = torch.softmax(torch.tensor(LOGITS) / 0.7, dim=0)
    found = frequencies(LOGITS, ROWS, temperature=0.7)
    assert torch.allclose(found, expected, atol=SHARE_ERROR)


def test_the_nucleus_is_drawn_from_and_nothing_else() -> None:
    expected = torch.softmax(torch.tensor(LOGITS), dim=0)
    expected[3:] = 0  # the first three hold .88 of the mass, the first two .74
    found = frequencies(LOGITS, ROWS, top_p=0.8)
    assert found[3:].sum() == 0
    assert torch.allclose(found, expected / expected.sum(), atol=SHARE_ERROR)


def test_temperature_zero_takes_the_likeliest_beside_rows_that_are_sampled() -> None:
    requests = [request(key, temperature=float(key % 2)) for key in range(200)]
    numbers = np.concatenate([row_numbers(each.seed, 1) for each in requests])
    drawn = RowSampler(requests, CPU).draw(torch.tensor([LOGITS]).expand(200, -1), numbers)
    assert set(drawn[::2].tolist()) == {0}
    assert len(set(drawn[1::2].tolist())) > 1


def test_generate_is_left_the_drawn_token_alone() -> None:
    requests = [request(key, max_tokens=4) for key in range(50)]
    scores = torch.tensor([LOGITS]).expand(50, -1)
    processor: Any = SamplingProcessor(requests, 3, CPU)
    for step in range(4):
        numbers = np.stack([row_numbers(each.seed, 4)[step] for each in requests])
        left = processor(torch.zeros((50, 3 + step), dtype=torch.long), scores)
        assert torch.equal(left.argmax(dim=1), RowSampler(requests, CPU).draw(scores, numbers))
        assert torch.equal(left.isfinite().sum(dim=1), torch.ones(50))


@pytest.mark.parametrize(("top_p", "kept"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.8, 2), (1.0, 4)])
def test_the_nucleus_is_the_fewest_tokens_that_reach_its_mass(top_p: float, kept: int) -> None:
    probabilities = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    nucleus = keep_nucleus(probabilities, torch.tensor([[top_p]]))
    assert int((nucleus > 0).sum()) == kept
    assert torch.equal(nucleus[nucleus > 0], probabilities[nucleus > 0])
