"""Laws of figures: nothing is hidden, nothing overlaps, the same input gives the same bytes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from analyses.figures import (
    DepthLine,
    draw_clustermap,
    draw_depths,
    draw_scatter,
    draw_variance,
    render,
    stamp,
)
from analyses.figures.canvas import UNKNOWN, scale_of
from tests.analyses.planted import Floats, frozen
from tests.analyses.sheets import ODD_NAMES, outside, overlapping, planted_tree, words

ROOT = Path(__file__).parent.parent.parent


def _points(n: int = 171, seed: int = 0) -> tuple[Floats, list[str]]:
    """Five crowded islands."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-3.0, 3.0, size=(5, 2))
    names = words(n)
    return frozen(centres[np.arange(n) % 5] + 0.3 * rng.normal(size=(n, 2))), names


def _scatter(points: Floats, names: list[str], values: Floats | None = None) -> Figure:
    return draw_scatter(
        points,
        names,
        title="Title",
        subtitle="Subtitle",
        axis_names=("PC1 (40% of variance)", "PC2 (20% of variance)"),
        values=values,
        values_name="valence",
    )


def _axes(figure: Figure) -> Axes:
    return figure.axes[0]


def _written(figure: Figure) -> str:
    return render(figure, "svg").decode()


def test_every_point_is_drawn_and_names_lie_apart() -> None:
    points, names = _points()
    figure = _scatter(points, names, points[:, 0])
    dots = _axes(figure).collections[0]
    np.testing.assert_array_equal(np.asarray(dots.get_offsets()), points)
    render(figure, "png")
    texts = [text for text in _axes(figure).texts if isinstance(text, Annotation)]
    boxes = [text.get_window_extent().shrunk(0.98, 0.9) for text in texts]
    assert len(texts) > 165
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    centres = _axes(figure).transData.transform(points)
    assert not any(box.contains(x, y) for box in boxes for x, y in centres)


def test_names_left_out_are_counted() -> None:
    points, names = _points()
    away = np.array([5.0, 0.0]) * (np.arange(171) == 170)[:, None]
    crowded = _scatter(points * 1e-6 + away, names)
    shown = sum(isinstance(text, Annotation) for text in _axes(crowded).texts)
    assert 50 < shown < 170
    assert f"{171 - shown} names are left out" in _written(crowded)
    roomy = _scatter(points[:4], names[:4])
    assert "left out" not in _written(roomy)


def test_the_scale_of_colours_is_centred_on_nought_and_unknown_is_grey() -> None:
    points, names = _points(10)
    values = np.linspace(-0.2, 0.9, 10)
    values[3] = np.nan
    figure = _scatter(points, names, values)
    dots = _axes(figure).collections[0]
    assert isinstance(dots, PathCollection)
    shown = np.asarray(dots.get_facecolor())
    np.testing.assert_allclose(shown[3], to_rgba(UNKNOWN))
    np.testing.assert_allclose(shown, scale_of(values).to_rgba(values))
    np.testing.assert_allclose(scale_of(values).get_clim(), (-0.9, 0.9))
    np.testing.assert_allclose(figure.axes[1].get_ylim(), (-0.9, 0.9))
    assert "grey: 1 without valence" in _written(figure)
    nothing = _scatter(points, names, np.full(10, np.nan))
    assert len(nothing.axes) == 1
    assert "grey: 10 without valence" in _written(nothing)


def test_a_dollar_sign_is_a_dollar_sign_and_a_long_name_ends_in_an_ellipsis() -> None:
    points, _ = _points(6)
    figure = _scatter(points, [*ODD_NAMES, "x" * 80])
    written = _written(figure)
    assert all(name in written for name in ("cash $", "a_$b$_{c", "frac", "_hidden"))
    assert "x" * 31 + "…" in written
    assert "x" * 33 not in written
    assert outside(figure) == []


def test_titles_too_wide_are_broken_and_take_nothing_from_the_axes() -> None:
    shares = np.array([[0.5, 0.3]])
    plain = draw_variance(shares, [0], title="T", subtitle="S")
    titled = draw_variance(shares, [0], title="Long words " * 20, subtitle="first\n" + "more " * 90)
    heights = []
    for figure in (plain, titled):
        assert outside(figure) == []
        assert overlapping(figure) == []
        heights.append(_axes(figure).bbox.height)
    assert heights[1] == pytest.approx(heights[0], rel=0.01)
    assert titled.get_figheight() > plain.get_figheight() + 1.0


def test_texts_of_a_scatter_lie_on_the_sheet() -> None:
    points, names = _points()
    figure = _scatter(points, names, points[:, 0])
    stamp(figure, "toy model, planted geometry")
    assert outside(figure) == []


def test_stacked_shares_end_where_their_sum_does() -> None:
    shares = frozen(np.array([[0.4, 0.2, 0.1], [0.5, 0.3, 0.05]]))
    axes = _axes(draw_variance(shares, [3, 7], title="T", subtitle="S"))
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert max(bar.get_y() + bar.get_height() for bar in bars[::2]) == pytest.approx(0.7)
    assert max(bar.get_y() + bar.get_height() for bar in bars[1::2]) == pytest.approx(0.85)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "7"]


@pytest.mark.parametrize("layers", [1, 6, 35, 120])
def test_bars_of_any_number_of_layers_fit_and_their_names_lie_apart(layers: int) -> None:
    shares = frozen(np.full((layers, 10), 0.08))
    figure = draw_variance(shares, range(layers), title="T", subtitle="S")
    assert outside(figure) == []
    assert overlapping(figure) == []
    assert figure.get_figwidth() <= 16.0
    named = [label.get_text() for label in _axes(figure).get_xticklabels()]
    assert set(named) <= {str(layer) for layer in range(layers)}
    assert len(named) >= min(layers, 35)
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == [f"PC{i}" for i in range(10, 0, -1)]


def test_a_stamp_is_on_the_figure() -> None:
    figure = draw_variance(np.array([[0.5]]), [0], title="T", subtitle="S")
    stamp(figure, "toy model")
    assert "toy model" in _written(figure)


def _small_clustermap() -> Figure:
    cosines, joins, groups = planted_tree(20, 4)
    return draw_clustermap(cosines, words(20), joins, groups, title="T", subtitle="S")


def _small_depths() -> Figure:
    values = np.linspace(0.1, 0.9, 5)
    line = DepthLine("a", values, values, values - 0.1, values + 0.1, 0.2, 3)
    return draw_depths([line], title="T", subtitle="S", value_name="r")


@pytest.mark.parametrize("file_format", ["png", "svg"])
@pytest.mark.parametrize("draw", [lambda: _scatter(*_points(20)), _small_clustermap, _small_depths])
def test_the_same_figure_is_the_same_bytes(draw: Callable[[], Figure], file_format: str) -> None:
    assert render(draw(), file_format) == render(draw(), file_format)


def test_drawing_leaves_no_global_state() -> None:
    script = (
        "import sys, numpy as np, matplotlib\n"
        "before = matplotlib.rcParams.copy()\n"
        "from analyses.figures import draw_variance, render\n"
        "render(draw_variance(np.eye(2), [0, 1], title='', subtitle=''), 'svg')\n"
        "print(matplotlib.rcParams.copy() == before, 'matplotlib.pyplot' in sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "False"]
