"""Products by oneDNN are the same numbers as torch's own, and leave no trace behind."""

import pytest
import torch
from torch import nn

from engine.products import fast_products, has_onednn

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (3, 7, 48), (0, 48)])
def test_products_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, given = nn.Linear(48, 80, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        expected = linear(given)
        with fast_products([linear]):
            found = linear(given)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # another order of 48 sums


def test_a_module_is_as_it_was_after_an_error() -> None:
    linear = nn.Linear(4, 4)
    before = dict(vars(linear))
    with pytest.raises(KeyError), fast_products([linear]):
        assert "forward" in vars(linear)
        raise KeyError
    assert vars(linear) == before


def test_only_plain_float32_linear_modules_change() -> None:
    class Other(nn.Linear):
        pass

    replaced = nn.Linear(4, 4)
    replaced.forward = lambda input: input  # type: ignore[method-assign]  # noqa: A006
    others: list[nn.Module] = [
        nn.Linear(4, 4, dtype=torch.bfloat16),
        nn.Linear(4, 4, device="meta"),
        Other(4, 4),
        nn.Embedding(4, 4),
        replaced,
    ]
    before = [vars(module).get("forward") for module in others]
    with fast_products(others):
        assert [vars(module).get("forward") for module in others] == before
    assert [vars(module).get("forward") for module in others] == before
