"""Sizes that make no sense are refused; what is not asked for follows from the width and kind."""

from math import inf, nan
from typing import Any

import pytest

from tests.engine.features.training.made import settings_of


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "gated"}, "a kind of"),
        ({"layer": -1}, "a layer"),
        ({"l0": 0}, "--l0 0"),
        ({"l0": 49}, "--l0 49"),
        ({"batch_tokens": 0}, "--batch-tokens 0"),
        ({"tokens": 59}, "--tokens 59"),
        ({"buffer_tokens": 59}, "--buffer-tokens 59"),
        ({"held_out": 0.0}, "--held-out 0.0"),
        ({"held_out": 1.0}, "--held-out 1.0"),
        ({"held_out": nan}, "--held-out nan"),
        ({"lr": 0.0}, "--lr 0.0"),
        ({"lr": 1e38}, "--lr 1e[+]38"),
        ({"lr": nan}, "--lr nan"),
        ({"sparsity": -1.0}, "--sparsity -1.0"),
        ({"sparsity": inf}, "--sparsity inf"),
        ({"sparsity": nan}, "--sparsity nan"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        settings_of(**changes)


def test_a_wider_sae_learns_in_smaller_steps() -> None:
    assert settings_of(width=512).learning_rate == pytest.approx(2e-3)
    assert settings_of(width=65_536).learning_rate == pytest.approx(1.77e-4, rel=0.01)
    assert settings_of(width=65_536, lr=0.1).learning_rate == 0.1


def test_a_kind_has_its_own_sparsity_unless_one_is_given() -> None:
    own = {kind: settings_of(kind=kind).coefficient for kind in ("topk", "jumprelu", "standard")}
    assert own == {"topk": 0.0, "jumprelu": 1.0, "standard": 2.0}
    assert settings_of(kind="standard", sparsity=0.0).coefficient == 0.0
