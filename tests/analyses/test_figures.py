"""Laws of figures: nothing is hidden, nothing overlaps, the same input gives the same bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from analyses.figures import (
    draw_heatmap,
    draw_lines,
    draw_scatter,
    draw_variance,
    render,
    stamp,
)
from tests.analyses.planted import Floats, frozen

ROOT = Path(__file__).parent.parent.parent


def _points(n: int = 171, seed: int = 0) -> tuple[Floats, list[str]]:
    """Five crowded islands."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-3.0, 3.0, size=(5, 2))
    names = [f"emotion {i}" for i in range(n)]
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
    assert len(texts) > 100
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    centres = _axes(figure).transData.transform(points)
    assert not any(box.contains(x, y) for box in boxes for x, y in centres)


def test_names_left_out_are_counted() -> None:
    points, names = _points()
    away = np.array([5.0, 0.0]) * (np.arange(171) == 170)[:, None]
    crowded = _scatter(points * 0.01 + away, names)
    shown = sum(isinstance(text, Annotation) for text in _axes(crowded).texts)
    assert shown < 171
    assert f"{171 - shown} names are left out" in _written(crowded)
    roomy = _scatter(points[:4], names[:4])
    assert "left out" not in _written(roomy)


def test_the_scale_of_colours_is_centred_on_nought() -> None:
    points, names = _points(10)
    dots = _axes(_scatter(points, names, np.linspace(-0.2, 0.9, 10))).collections[0]
    assert dots.get_clim() == (-0.9, 0.9)


def test_a_dollar_sign_is_a_dollar_sign() -> None:
    points, _ = _points(3)
    names = ["cash $", "a_$b$_{c", r"\frac"]
    assert all(name in _written(_scatter(points, names)) for name in names)
    heat = draw_heatmap(np.eye(3), names, title="$", subtitle="$_$", values_name="$x_$")
    assert render(heat, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("n", [3, 171])
def test_a_heatmap_names_every_row_and_column_in_order(n: int) -> None:
    names = [f"emotion {i}" for i in range(n)]
    matrix = frozen(np.random.default_rng(0).uniform(-1.0, 1.0, size=(n, n)))
    figure = draw_heatmap(matrix, names, title="T", subtitle="S", values_name="cosine")
    axes = _axes(figure)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
    figure.draw_without_rendering()
    heights = [label.get_window_extent().height for label in axes.get_yticklabels()]
    step = abs(axes.transData.transform((0, 1))[1] - axes.transData.transform((0, 0))[1])
    assert max(heights) < 1.25 * step
    assert axes.images[0].get_clim() == (-1.0, 1.0)


def test_stacked_shares_end_where_their_sum_does() -> None:
    shares = frozen(np.array([[0.4, 0.2, 0.1], [0.5, 0.3, 0.05]]))
    axes = _axes(draw_variance(shares, [3, 7], title="T", subtitle="S"))
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert max(bar.get_y() + bar.get_height() for bar in bars[::2]) == pytest.approx(0.7)
    assert max(bar.get_y() + bar.get_height() for bar in bars[1::2]) == pytest.approx(0.85)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "7"]


def test_lines_show_every_interval_and_chance() -> None:
    line = frozen(np.array([[0.1, 0.8], [-0.3, 0.7], [0.4, 0.9]]))
    axes = _axes(
        draw_lines([0, 5], {"a": line}, title="T", subtitle="S", value_name="r", chance=0.2)
    )
    low, high = axes.get_ylim()
    assert low < -0.3
    assert high > 0.9
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), [0.1, 0.8])


def test_a_stamp_is_on_the_figure() -> None:
    figure = draw_variance(np.array([[0.5]]), [0], title="T", subtitle="S")
    stamp(figure, "toy model")
    assert "toy model" in _written(figure)


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_the_same_figure_is_the_same_bytes(file_format: str) -> None:
    points, names = _points(20)
    first, second = _scatter(points, names), _scatter(points, names)
    assert render(first, file_format) == render(second, file_format)


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
