"""Laws of the figures about ratings: what is drawn where, and what bears a name."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.figures.canvas import GREY, SERIES, render
from analyses.figures.ratings import (
    GROUP_COLOURS,
    LABELLED,
    Cloud,
    Panel,
    draw_bars,
    draw_clouds,
    draw_doses,
    draw_groups,
)

RNG = np.random.default_rng(0)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bars_of(n: int, shades: np.ndarray | None = None) -> tuple[np.ndarray, Axes]:
    values = RNG.uniform(-1.0, 1.0, n)
    figure = draw_bars(
        values,
        [f"e{i}" for i in range(n)],
        title="T",
        subtitle="S",
        value_name="r",
        shades=values if shades is None else shades,
        shades_name="valence",
        bars=(-0.3, 0.3),
    )
    return values, figure.axes[0]


@pytest.mark.parametrize(("n", "named"), [(171, LABELLED), (12, 12)])
def test_all_bars_stand_in_order_and_about_forty_bear_names(n: int, named: int) -> None:
    values, axes = bars_of(n)
    heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert heights == sorted(values, reverse=True)
    shown = texts(axes)
    assert len(shown) == named
    order = np.argsort(-values, kind="stable")
    assert (shown[0], shown[-1]) == (f"e{order[0]}", f"e{order[-1]}")


def test_bars_are_coloured_by_their_shade_and_not_by_their_height() -> None:
    shades = np.array([-1.0, 1.0, 0.0])
    values, axes = bars_of(3, shades)
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    by_emotion = dict(zip(np.argsort(-values), colours, strict=True))
    red, blue = by_emotion[1], by_emotion[0]
    assert int(red[1:3], 16) > int(red[5:7], 16)
    assert int(blue[1:3], 16) < int(blue[5:7], 16)


def test_names_of_bars_stand_outside_them() -> None:
    _, axes = bars_of(30)
    for text in axes.texts:
        up = text.xy[1] >= 0.0  # type: ignore[attr-defined]
        assert text.get_verticalalignment() == ("bottom" if up else "top")


def test_clouds_are_named_where_asked_and_the_line_is_the_one_given() -> None:
    clouds = [
        Cloud("up", np.array([[0.1, 2.0], [0.9, 20.0]]), SERIES[0], ["glad", "$x$"]),
        Cloud("random", np.array([[0.0, -3.0]]), GREY, marker="D", filled=False),
    ]
    figure = draw_clouds(
        clouds, title="T", subtitle="S", axis_names=("r", "Elo"), line=(20.0, 1.0), line_name="fit"
    )
    axes = figure.axes[0]
    assert set(texts(axes)) == {"glad", "$x$"}
    line = next(line for line in axes.lines if line.get_label() == "fit")
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    np.testing.assert_allclose(y, 20.0 * x + 1.0)
    assert legend(figure) == ["up", "random", "fit"]
    assert b"$x$" in render(figure, "svg")


def test_groups_keep_their_colour_in_every_panel_and_controls_are_hollow() -> None:
    groups = ["Helpful", "Helpful", "Unsafe", "Unsafe"]
    before = np.array([1200.0, 1100.0, 700.0, 600.0])
    panels = [
        Panel("glad", np.column_stack([before, before + 5.0])),
        Panel("sad", np.column_stack([before, before - 5.0])),
    ]
    hollow = np.array([False, True, False, True])
    figure = draw_groups(
        panels, groups, title="T", subtitle="S", axis_names=("a", "b"), hollow=hollow, diagonal=True
    )
    for axes, panel in zip(figure.axes, panels, strict=True):
        drawn = [np.asarray(dots.get_offsets()) for dots in axes.collections]
        assert [len(points) for points in drawn] == [1, 1, 1, 1]
        np.testing.assert_allclose(np.vstack(drawn), panel.points)
        edges = [to_hex(dots.get_edgecolors()[0]) for dots in axes.collections]  # type: ignore[attr-defined]
        assert edges == [GROUP_COLOURS[0]] * 2 + [GROUP_COLOURS[1]] * 2
        faces = [to_hex(dots.get_facecolors()[0]) for dots in axes.collections]  # type: ignore[attr-defined]
        assert faces == [GROUP_COLOURS[0], "#ffffff", GROUP_COLOURS[1], "#ffffff"]
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), axes.lines[0].get_ydata())
    assert legend(figure) == ["Helpful", "Unsafe"]


def test_without_a_diagonal_each_panel_has_its_own_least_squares_line() -> None:
    x = np.array([0.0, 1.0, 2.0])
    panels = [Panel(str(k), np.column_stack([x, k * x + 3.0])) for k in (2.0, -1.0)]
    figure = draw_groups(panels, ["a", "b", "a"], title="T", subtitle="S", axis_names=("x", "y"))
    for axes, slope in zip(figure.axes, (2.0, -1.0), strict=True):
        y = np.asarray(axes.lines[0].get_ydata())
        np.testing.assert_allclose(y, [3.0, 3.0 + 2.0 * slope])


def test_doses_are_curves_and_controls_are_grey() -> None:
    strengths = [-0.5, 0.0, 0.5]
    curves = {"glad": np.array([-20.0, 0.0, 20.0]), "sad": np.array([15.0, 0.0, -15.0])}
    controls = {"random 1": np.array([-2.0, 0.0, 2.0])}
    figure = draw_doses(strengths, curves, controls, title="T", subtitle="S", value_name="effect")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert legend(figure) == ["random 1", "glad", "sad"]
    for name, values in (curves | controls).items():
        np.testing.assert_array_equal(lines[name].get_xdata(), strengths)
        np.testing.assert_array_equal(lines[name].get_ydata(), values)
    assert lines["random 1"].get_color() == GREY


def test_a_dollar_sign_in_a_key_is_a_dollar_sign() -> None:
    curve = np.array([-1.0, 0.0, 1.0])
    figure = draw_doses(
        [-0.5, 0.0, 0.5], {"$a_$": curve}, {"b$_$": curve}, title="T", subtitle="S", value_name="E"
    )
    assert b"$a_$" in render(figure, "svg")
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())
