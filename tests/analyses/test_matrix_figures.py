"""Laws of matrices of layers and sets: rows down, columns across, numbers and frames in place."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analyses.figures import draw_layers_matrix, render
from analyses.figures.canvas import DIVERGING, UNKNOWN
from analyses.figures.matrices import SEQUENTIAL, WRITTEN
from tests.analyses.planted import Floats, frozen
from tests.analyses.sheets import ODD_NAMES, outside, overlapping


def layers(count: int) -> list[str]:
    return [str(layer) for layer in range(count)]


def matrix_of(rows: int, columns: int, low: float = 0.0) -> Floats:
    rng = np.random.default_rng(0)
    return frozen(rng.uniform(low, 1.0, size=(rows, columns)))


def drawn(
    matrix: Floats,
    limits: tuple[float, float] | None = None,
    marked: tuple[int, int] | None = None,
) -> Figure:
    return draw_layers_matrix(
        matrix,
        layers(matrix.shape[0]),
        layers(matrix.shape[1]),
        title="Which layers are alike?",
        subtitle="reader a, corpus b",
        values_name="Pearson r",
        axis_names=("layer of a", "layer of b"),
        limits=limits,
        marked=marked,
    )


def cells(axes: Axes) -> NDArray[np.uint8]:
    return np.asarray(axes.images[0].get_array(), np.uint8)


def colour(name: str, share: float) -> NDArray[np.uint8]:
    return (np.array(colormaps[name](share)) * 255.0).round().astype(np.uint8)


def test_rows_run_down_and_columns_across_each_with_its_name() -> None:
    matrix = np.zeros((3, 5))
    matrix[2, 4] = 1.0
    figure = drawn(frozen(matrix))
    axes = figure.axes[0]
    np.testing.assert_array_equal(cells(axes)[2, 4], colour(SEQUENTIAL, 1.0))
    np.testing.assert_array_equal(cells(axes)[0, 0], colour(SEQUENTIAL, 0.0))
    figure.draw_without_rendering()
    rows = [label.get_window_extent().y0 for label in axes.get_yticklabels()]
    columns = [label.get_window_extent().x0 for label in axes.get_xticklabels()]
    assert [label.get_text() for label in axes.get_yticklabels()] == layers(3)
    assert [label.get_text() for label in axes.get_xticklabels()] == layers(5)
    assert rows == sorted(rows, reverse=True)
    assert columns == sorted(columns)
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("layer of a", "layer of b")


def test_colours_span_the_values_or_lie_around_nought() -> None:
    positive = np.array([[0.4, 0.6], [0.9, 0.5]])
    shown = cells(drawn(frozen(positive)).axes[0])
    np.testing.assert_array_equal(shown[0, 0], colour(SEQUENTIAL, 0.0))
    np.testing.assert_array_equal(shown[1, 0], colour(SEQUENTIAL, 1.0))
    signed = np.array([[-0.4, 0.0], [0.8, np.nan]])
    shown = cells(drawn(frozen(signed)).axes[0])
    np.testing.assert_array_equal(shown[0, 0], colour(DIVERGING, 0.25))
    np.testing.assert_array_equal(shown[0, 1], colour(DIVERGING, 0.5))
    np.testing.assert_array_equal(shown[1, 0], colour(DIVERGING, 1.0))
    np.testing.assert_array_equal(shown[1, 1], np.round(np.array(to_rgba(UNKNOWN)) * 255.0))


def test_limits_of_two_signs_are_coloured_around_zero() -> None:
    matrix = frozen(np.array([[1.0, 0.0], [0.0, -0.01]]))
    shown = cells(drawn(matrix, limits=(-0.01, 1.0)).axes[0])
    np.testing.assert_array_equal(shown[0, 1], colour(DIVERGING, 0.5))


def test_limits_are_kept_when_given() -> None:
    shown = cells(drawn(frozen(np.array([[0.5]])), limits=(0.0, 1.0)).axes[0])
    np.testing.assert_array_equal(shown[0, 0], colour(SEQUENTIAL, 0.5))


def test_small_matrices_bear_their_numbers_and_large_ones_do_not() -> None:
    matrix = np.array([[1.0, -0.256, 0.5], [0.0, np.nan, 0.3]])
    texts = [text.get_text() for text in drawn(frozen(matrix)).axes[0].texts]
    assert texts == ["1.00", "\N{MINUS SIGN}0.26", "0.50", "0.00", "0.30"]
    alike = drawn(frozen(np.array([[1.0, 0.996]]))).axes[0].texts
    assert [text.get_text() for text in alike] == ["1.000", "0.996"]
    assert len(drawn(matrix_of(WRITTEN, WRITTEN)).axes[0].texts) == WRITTEN**2
    assert not drawn(matrix_of(WRITTEN + 1, 2)).axes[0].texts


def test_numbers_are_white_on_dark_cells_and_black_on_light_ones() -> None:
    axes = drawn(frozen(np.linspace(0.0, 1.0, 144).reshape(12, 12))).axes[0]
    light = cells(axes)[..., :3].reshape(-1, 3) @ np.array([0.299, 0.587, 0.114]) / 255.0
    inks = [float(np.mean(to_rgba(text.get_color())[:3])) for text in axes.texts]
    assert min(abs(ink - behind) for ink, behind in zip(inks, light, strict=True)) > 0.35


def test_the_frame_is_around_the_cell_of_that_row_and_column() -> None:
    axes = drawn(matrix_of(20, 30), marked=(4, 17)).axes[0]
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert {(f.get_x() + 0.5, f.get_y() + 0.5) for f in frames} == {(17.0, 4.0)}
    # Two colours: it must be seen on the darkest and on the lightest cell.
    assert len({f.get_edgecolor() for f in frames}) == 2
    assert not drawn(matrix_of(20, 30)).axes[0].patches


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 60), (60, 2), (12, 12), (35, 35), (60, 26), (80, 80)]
)
def test_names_of_any_number_of_layers_lie_apart_and_on_the_sheet(shape: tuple[int, int]) -> None:
    figure = drawn(matrix_of(*shape, low=-0.2), marked=(0, 0))
    assert outside(figure) == []
    assert overlapping(figure) == []
    assert max(figure.get_size_inches()) < 12.0


def test_long_and_odd_names_of_sets_fit() -> None:
    names = ["llama-3.1-8b-instruct/claude-stories", "x" * 80, *ODD_NAMES]
    figure = draw_layers_matrix(
        matrix_of(7, 7), names, names, title="T" * 80, subtitle="S-s, " * 80,
        values_name="$r_$ of a quantity that takes many words to name",
    )  # fmt: skip
    assert outside(figure) == []
    assert overlapping(figure) == []
    svg = render(figure, "svg").decode()
    assert all(name in svg for name in (names[0], "cash $", "a_$b$_{c", "_hidden"))
    assert "x" * 60 not in svg


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (40, 2), (6, 26)])
def test_long_names_of_axes_fit(shape: tuple[int, int]) -> None:
    names = ("layer of some-very-large-model-70b/imported", "layer of another-model/its-own-corpus")
    rows, columns = layers(shape[0]), layers(shape[1])
    figure = draw_layers_matrix(
        matrix_of(*shape), rows, columns, title="T", subtitle="S", values_name="Pearson r",
        axis_names=names,
    )  # fmt: skip
    assert outside(figure) == []
    assert overlapping(figure) == []


def test_a_matrix_without_any_number_is_grey() -> None:
    shown = cells(drawn(frozen(np.full((2, 2), np.nan))).axes[0])
    assert (shown == np.round(np.array(to_rgba(UNKNOWN)) * 255.0)).all()
