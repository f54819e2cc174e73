"""Laws of panels: one scale for all, every number written, lines as they were asked for."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.figures import render
from analyses.figures.panels import Line, Panel, draw_curves, draw_matrices
from tests.analyses.planted import Floats, frozen

NAMES = ("calm", "sad", "$afraid$")
SMALL = frozen(np.array([[0.05, -0.02, 0.0], [0.01, 0.04, 0.03], [-0.001, 0.02, 0.01]]))


def _matrices(*panels: Floats, rows: tuple[str, ...] = NAMES) -> Figure:
    named = {f"panel {i}": panel for i, panel in enumerate(panels)}
    return draw_matrices(
        named,
        rows,
        NAMES,
        title="t",
        subtitle="s",
        axis_names=("probe", "scenario"),
        values_name="cosine",
    )


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title() or axes.get_title(loc="left")]


def test_all_matrices_share_a_scale_that_ends_at_the_largest_size_of_any() -> None:
    figure = _matrices(SMALL, frozen(-10.0 * SMALL))
    limits = [axes.images[0].get_clim() for axes in _panels(figure)]
    assert limits == [(-0.5, 0.5), (-0.5, 0.5)]
    shown = [np.asarray(axes.images[0].get_array()) for axes in _panels(figure)]
    np.testing.assert_array_equal(shown[0], SMALL)
    np.testing.assert_array_equal(shown[1], -10.0 * SMALL)


def test_every_cell_bears_its_number_and_the_highest_of_a_column_is_bold() -> None:
    axes = _panels(_matrices(SMALL))[0]
    assert [text.get_text() for text in axes.texts] == [
        *(".05", "-.02", ".00"),
        *(".01", ".04", ".03"),
        *(".00", ".02", ".01"),
    ]
    bold = [i for i, text in enumerate(axes.texts) if text.get_fontweight() == "bold"]
    assert bold == [0, 4, 5]


def test_cells_whose_row_and_column_have_one_name_are_framed_wherever_they_stand() -> None:
    axes = _panels(_matrices(SMALL, rows=("sad", "calm", "glad")))[0]
    frames = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frames == [(0.5, -0.5), (-0.5, 0.5)]


def _panel(title: str, *curves: tuple[float, ...]) -> Panel:
    lines = [
        Line(np.array(curve), f"#00000{i}", f"note {i}", dashed=i == 1)
        for i, curve in enumerate(curves)
    ]
    return Panel(title, ("500", "1000", "16000"), tuple(lines))


def _curves(*panels: Panel) -> Figure:
    return draw_curves(panels, title="t", subtitle="s", axis_names=("number", "cosine"))


def test_curves_share_a_scale_and_stand_over_their_numbers_as_written() -> None:
    figure = _curves(_panel("a", (0.0, 0.2, 0.4)), _panel("b", (-0.6, 0.0, 0.1), (0.0, 0.0, 0.2)))
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim() == pytest.approx((-0.65, 0.45))
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["500", "1000", "16000"]
    drawn = [line for line in second.lines if line.get_marker() == "o"]
    assert [(line.get_color(), line.get_linestyle()) for line in drawn] == [
        ("#000000", "-"),
        ("#000001", "--"),
    ]
    np.testing.assert_array_equal(np.asarray(drawn[0].get_ydata()), [-0.6, 0.0, 0.1])


def test_notes_stand_in_the_order_in_which_the_lines_end() -> None:
    axes = _curves(_panel("a", (0.5, 0.0, 0.1), (0.0, 0.0, 0.3), (0.9, 0.0, -0.2))).axes[0]
    heights = {text.get_text(): text.xy[1] for text in axes.texts if hasattr(text, "xy")}
    assert heights["note 1"] > heights["note 0"] > heights["note 2"]


def test_a_place_without_a_panel_is_empty_and_flat_curves_are_drawn() -> None:
    figure = _curves(*(_panel(name, (0.1, 0.1, 0.1)) for name in "abc"))
    assert len(figure.axes) == 3
    assert render(figure, "svg") == render(_curves(*(_panel(n, (0.1,) * 3) for n in "abc")), "svg")
