"""A ratio of losses has a value only where there was something to lose."""

import numpy as np
import pytest

from analyses.features.validity import Share, share_of


def test_a_share_is_the_ratio_of_the_sums_within_its_interval() -> None:
    wholes = np.random.default_rng(0).uniform(1.0, 3.0, 200)
    share = share_of(0.25 * wholes, wholes, 0)
    assert [share.value, share.low, share.high] == pytest.approx([0.25] * 3)


@pytest.mark.parametrize("lost", [0.0, -1.0, 0.02])
def test_where_nothing_certain_was_lost_nothing_was_recovered(lost: float) -> None:
    wholes = lost + np.random.default_rng(0).normal(0.0, 1.0, 200)
    assert share_of(np.ones(200), wholes, 0) == Share(None, None, None)
