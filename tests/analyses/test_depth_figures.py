"""Laws of lines over depth and curves over numbers of texts: every value, interval and bound."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analyses.figures import DepthLine, draw_curve, draw_depths, render, stamp
from analyses.figures.canvas import SERIES
from tests.analyses.planted import Floats, frozen
from tests.analyses.sheets import ODD_NAMES, outside, overlapping, shown_texts


def line_of(
    name: str, layers: int = 35, chance: float = 0.2, home: int | None = 3, seed: int = 0
) -> DepthLine:
    values = np.random.default_rng(seed).uniform(-0.2, 0.9, layers)
    depths = (np.arange(layers) + 1.0) / layers
    return DepthLine(name, depths, values, values - 0.1, values + 0.05, chance, home)


def drawn(*lines: DepthLine) -> Figure:
    return draw_depths(lines, title="T", subtitle="S", value_name="Pearson r")


def key(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def values_of(axes: Axes) -> list[Line2D]:
    """The lines that join values, not bounds and dots."""
    return [line for line in axes.lines if len(np.asarray(line.get_xdata())) > 2]


def bands(axes: Axes) -> list[Floats]:
    return [
        np.asarray(found.get_paths()[0].vertices)
        for found in axes.collections
        if isinstance(found, PolyCollection) and found.get_paths()
    ]


def chance_bands(axes: Axes) -> list[tuple[float, float]]:
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in patches]


def bounds(axes: Axes) -> list[tuple[float, str]]:
    """Heights and colours of the lines from side to side, that of nought excepted."""
    across = [line for line in axes.lines if list(np.asarray(line.get_xdata())) == [0, 1]]
    found = [(float(np.asarray(line.get_ydata())[0]), str(line.get_color())) for line in across]
    return [(height, colour) for height, colour in found if height]


def test_every_value_stands_at_its_depth_within_its_interval() -> None:
    line = line_of("a")
    axes = drawn(line).axes[0]
    (found,) = values_of(axes)
    np.testing.assert_array_equal(found.get_xdata(), line.depths)
    np.testing.assert_array_equal(found.get_ydata(), line.values)
    (band,) = bands(axes)
    for depth, low, high in zip(line.depths, line.low, line.high, strict=True):
        here = band[np.isclose(band[:, 0], depth), 1]
        assert (here.min(), here.max()) == pytest.approx((low, high))
    low, high = axes.get_xlim()
    assert -0.05 < low < 0.0
    assert 1.0 < high < 1.05


def test_the_analysis_layer_has_the_larger_dot() -> None:
    line = line_of("a", home=7)
    dots = [found for found in drawn(line).axes[0].lines if len(np.asarray(found.get_xdata())) == 1]
    assert [float(np.asarray(dot.get_xdata())[0]) for dot in dots] == [line.depths[7]]
    assert [float(np.asarray(dot.get_ydata())[0]) for dot in dots] == [line.values[7]]
    without = drawn(line_of("a", home=None)).axes[0].lines
    assert not [found for found in without if len(np.asarray(found.get_xdata())) == 1]


def test_chance_that_all_share_is_one_band_as_wide_as_the_largest() -> None:
    figure = drawn(line_of("a", chance=0.2), line_of("b", chance=0.21))
    assert chance_bands(figure.axes[0]) == [pytest.approx((-0.21, 0.21))]
    assert key(figure) == ["a", "b", "chance (95%), at most 0.21"]
    assert key(drawn(line_of("a"), line_of("b"))) == ["a", "b", "chance (95%)"]


def test_chances_that_differ_are_lines_in_the_colour_of_theirs() -> None:
    figure = drawn(*(line_of(name, chance=c) for name, c in (("a", 0.2), ("b", 0.0), ("c", 0.5))))
    axes = figure.axes[0]
    first, third = SERIES[0], SERIES[2]
    expected = [(-0.2, first), (0.2, first), (-0.5, third), (0.5, third)]
    assert bounds(axes) == expected
    assert not chance_bands(axes)
    assert key(figure)[-1] == "chance (95%), of the line of its colour"


def test_no_word_about_chance_where_none_is_known() -> None:
    figure = drawn(line_of("a", chance=0.0))
    assert key(figure) == ["a"]
    assert not chance_bands(figure.axes[0])
    assert not bounds(figure.axes[0])


def test_lines_differ_in_colour_and_marker_or_in_dashes() -> None:
    lines = values_of(drawn(*(line_of(f"set {i}", seed=i) for i in range(12))).axes[0])
    assert len({line.get_marker() for line in lines[:6]}) == 6
    assert len({line.get_color() for line in lines[:6]}) == 6
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12


def test_values_that_are_not_there_leave_gaps() -> None:
    whole = line_of("a")
    values = np.where(np.arange(35) == 10, np.nan, whole.values)
    nothing = np.full(35, np.nan)
    figure = drawn(DepthLine("a", whole.depths, values, nothing, nothing))
    (found,) = values_of(figure.axes[0])
    assert np.isnan(np.asarray(found.get_ydata(), np.float64)[10])
    assert render(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("layers", [1, 2, 80])
def test_any_number_of_layers_and_names_of_any_length_fit(layers: int) -> None:
    names = ["reader-one/corpus", "x" * 200, *ODD_NAMES, "llama-3.1-8b & gemma-2-2b (NRC VAD v2)"]
    figure = drawn(*(line_of(name, layers, home=0, seed=i) for i, name in enumerate(names)))
    stamp(figure, "toy model, planted geometry")
    assert outside(figure) == []
    assert overlapping(figure) == []
    assert len(key(figure)) == len(names) + 1
    assert render(figure, "svg")


def test_one_layer_shows_its_interval() -> None:
    axes = drawn(line_of("a", 1, home=0)).axes[0]
    (bar,) = [found for found in axes.collections if isinstance(found, LineCollection)]
    np.testing.assert_allclose(np.ptp(bar.get_segments()[0], axis=0), [0.0, 0.15])


def test_the_key_lies_below_the_axes_and_the_note_below_the_key() -> None:
    figure = drawn(*(line_of(f"reader-{i}/a-corpus-with-a-name", seed=i) for i in range(6)))
    stamp(figure, "note")
    texts = {text.get_text(): text.get_window_extent() for text in shown_texts(figure)}
    names = [box for name, box in texts.items() if name.startswith("reader-")]
    depth = texts["depth (the last block is 1)"]
    assert max(box.y1 for box in names) < depth.y0
    assert min(box.y0 for box in names) > texts["note"].y1


SIZES = [2.0, 4.0, 8.0, 16.0, 40.0]


def curve_of(shift: float = 0.0) -> Floats:
    values = np.array([0.2, 0.4, 0.6, 0.8, 0.9]) - shift
    return frozen(np.stack([values, values - 0.1, values + 0.05]))


def curves(dots: dict[str, Floats] | None = None, marks: dict[str, float] | None = None) -> Figure:
    return draw_curve(
        SIZES,
        {"texts": curve_of(), "topics": curve_of(0.15)},
        title="T",
        subtitle="S",
        size_name="stories per emotion",
        value_name="reliability",
        dots=dots,
        marks=marks,
    )


def test_curves_double_from_step_to_step_and_every_size_is_named() -> None:
    axes = curves().axes[0]
    places = axes.transData.transform([(size, 0.0) for size in SIZES])[:, 0]
    np.testing.assert_allclose(np.diff(places)[:3], np.diff(places)[0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4", "8", "16", "40"]
    found = values_of(axes)
    np.testing.assert_array_equal(found[0].get_ydata(), curve_of()[0])
    np.testing.assert_array_equal(found[1].get_ydata(), curve_of(0.15)[0])
    bars = [band for band in axes.collections if isinstance(band, LineCollection)]
    np.testing.assert_allclose(np.sort(bars[0].get_segments()[0][:, 1]), [0.1, 0.25])


def test_a_strip_shows_every_value_and_their_median_on_the_same_scale() -> None:
    values = frozen(np.append(np.random.default_rng(0).uniform(0.5, 1.0, 170), np.nan))
    figure = curves({"texts": values, "topics": frozen(values - 0.1)})
    axes, strip = figure.axes
    clouds = [found for found in strip.collections if isinstance(found, PathCollection)]
    shown = np.asarray(clouds[0].get_offsets())
    np.testing.assert_allclose(np.sort(shown[:, 1]), np.sort(values[:170]))
    assert np.abs(shown[:, 0]).max() < 0.4
    medians = [float(np.asarray(line.get_ydata())[0]) for line in strip.lines]
    assert medians[:2] == pytest.approx([np.nanmedian(values), np.nanmedian(values) - 0.1])
    assert axes.get_ylim() == strip.get_ylim()
    assert strip.get_xlabel().startswith("each of 170")
    for cloud, colour in zip(clouds, SERIES, strict=False):
        np.testing.assert_allclose(np.asarray(cloud.get_facecolor())[0, :3], to_rgb(colour))


def test_marks_are_drawn_across_with_their_names() -> None:
    figure = curves({"texts": frozen(np.array([0.7]))}, {"0.9": 0.9, "0.95": 0.95})
    for axes in figure.axes:
        heights = [set(np.asarray(line.get_ydata()).tolist()) for line in axes.lines]
        assert {0.9} in heights
        assert {0.95} in heights
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.9", "0.95"]


@pytest.mark.parametrize("sizes", [[3.0], [2.0, 3.0], [2.0**i for i in range(1, 12)]])
def test_curves_of_any_length_fit(sizes: list[float]) -> None:
    curve = frozen(np.tile(np.linspace(0.1, 0.9, len(sizes)), (3, 1)))
    curve = frozen(np.where(np.arange(len(sizes)) == 1, np.nan, curve))
    figure = draw_curve(
        sizes,
        {"cash $": curve},
        title="T" * 100,
        subtitle="first line\nsecond line",
        size_name="$n_$",
        value_name="$r_$",
        dots={"cash $": frozen(np.array([0.3, np.nan]))},
        marks={"$m_$": 0.9},
    )
    assert outside(figure) == []
    assert overlapping(figure) == []
    assert "cash $" in render(figure, "svg").decode()
