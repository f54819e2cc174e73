"""Laws of curves of a training: every value at its place, everything legible on the sheet."""

import numpy as np
import pytest

from analyses.figures import render
from analyses.figures.progress import Quantity, draw_progress
from tests.analyses.planted import frozen
from tests.analyses.sheets import ODD_NAMES, outside, shown_texts


def quantities(m: int, n: int) -> list[Quantity]:
    rng = np.random.default_rng(0)
    return [
        Quantity(ODD_NAMES[i], frozen(rng.uniform(0.1, 5.0, m)), {ODD_NAMES[-i]: 0.3})
        for i in range(n)
    ]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (200, 3), (5, 4)])
def test_every_quantity_has_its_panel_from_nought_on(m: int, n: int) -> None:
    places, given = frozen(np.arange(m) * 1.7e8 / m), quantities(m, n)
    figure = draw_progress(places, given, title="T $x", subtitle="S", place_name="tokens")
    assert len(figure.axes) == n
    for axes, quantity in zip(figure.axes, given, strict=True):
        curve, mark = axes.lines
        np.testing.assert_array_equal(np.asarray(curve.get_xdata()), places)
        np.testing.assert_array_equal(np.asarray(curve.get_ydata()), quantity.values)
        assert set(np.asarray(mark.get_ydata()).tolist()) == {0.3}
        assert axes.get_ylim()[0] == 0.0
        assert axes.get_ylabel() == quantity.name
    assert outside(figure) == []
    assert {text.get_parse_math() for text in shown_texts(figure) if "$" in text.get_text()} <= {
        False
    }
    assert render(figure, "png").startswith(b"\x89PNG")
