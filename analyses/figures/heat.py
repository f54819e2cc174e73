"""A wide heatmap whose every row and column is named, with some cells marked."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from analyses.figures.canvas import (
    DIVERGING,
    FOOT,
    HEAD,
    INK,
    MARGIN,
    UNKNOWN,
    Floats,
    add_bar,
    add_box,
    new_sheet,
    paint,
    shortened,
    text_width,
)

MANY = 60
"""Names from which on they are small."""
SMALL, LARGE = 5.8, 8.0
"""Font sizes of names."""
CELL = 0.2
"""Inches of a cell with a name of the larger size."""
WIDEST = 4.5
"""Points across a mark, at most."""
SCALES, LEAST = 0.6, 6.4
"""Inches below the titles for the scale of colours, and across a figure at least."""


def draw_heat(
    matrix: Floats,
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
    values_name: str,
    middle: float,
    marked: Sequence[tuple[int, int]] = (),
) -> Figure:
    """A matrix (r, c) in the order given, coloured around `middle`; NaN cells are grey.

    marked: cells (row, column) that bear a dot.
    """
    (small, up), (size, across) = _type(len(row_names)), _type(len(column_names))
    wide, high = across * len(column_names), up * len(row_names)
    beside = text_width(map(shortened, row_names), small) / 72.0 + 0.12
    under = text_width(map(shortened, column_names), size) / 72.0 + 0.12
    left, bottom = MARGIN + 0.25 + beside, FOOT + 0.25 + under
    width = max(LEAST, left + wide + 0.2)
    figure = new_sheet(width, bottom + high + SCALES + HEAD, title, subtitle)
    axes, scale = add_box(figure, left, bottom, wide, high), _scale(matrix, middle)
    paint(axes, scale.to_rgba(matrix))
    _mark(axes, marked, min(across, up))
    axes.set_yticks(range(len(row_names)), [shortened(name) for name in row_names])
    axes.set_xticks(range(len(column_names)), [shortened(name) for name in column_names])
    axes.tick_params(axis="y", labelsize=small, labelleft=True, pad=2)
    axes.tick_params(axis="x", labelsize=size, labelbottom=True, pad=2, rotation=90)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    _name_axes(figure, axis_names, (left, bottom, wide, high))
    add_bar(figure, left, bottom + high + 0.18, scale, values_name)
    return figure


def _type(count: int) -> tuple[float, float]:
    """Font size of so many names, and inches from one to the next."""
    return (SMALL, SMALL * 1.15 / 72.0) if count > MANY else (LARGE, CELL)


def _scale(matrix: Floats, middle: float) -> ScalarMappable:
    limit = float(np.nanmax(np.abs(matrix - middle), initial=1e-12))
    # Without the darkest ends, on which a mark is hard to see.
    shades = ListedColormap(colormaps[DIVERGING](np.linspace(0.08, 0.92, 256)))
    limits = Normalize(middle - limit, middle + limit)
    return ScalarMappable(limits, shades.with_extremes(bad=UNKNOWN))


def _mark(axes: Axes, marked: Sequence[tuple[int, int]], cell: float) -> None:
    if marked:
        rows, columns = np.array(marked).T
        size = min(0.42 * cell * 72.0, WIDEST) ** 2
        axes.scatter(columns, rows, s=size, c=INK, edgecolors="white", linewidths=0.5, zorder=3)


def _name_axes(
    figure: Figure, names: tuple[str, str], box: tuple[float, float, float, float]
) -> None:
    left, bottom, wide, high = box
    width, height = figure.get_size_inches()
    figure.text(
        (MARGIN + 0.05) / width, (bottom + high / 2.0) / height, names[0], fontsize=9.5, color=INK,
        rotation=90, ha="left", va="center", parse_math=False,
    )  # fmt: skip
    figure.text(
        (left + wide / 2.0) / width, (FOOT + 0.05) / height, names[1], fontsize=9.5, color=INK,
        ha="center", va="bottom", parse_math=False,
    )  # fmt: skip
