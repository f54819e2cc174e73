"""Matrices of layers or sets as heatmaps."""

from collections.abc import Sequence
from math import ceil
from textwrap import wrap

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.figures.canvas import (
    BAR,
    DIVERGING,
    FOOT,
    HEAD,
    INK,
    UNKNOWN,
    Floats,
    add_bar,
    add_box,
    new_sheet,
    paint,
    shortened,
    text_width,
)

SEQUENTIAL = "YlGnBu"
WRITTEN = 12
"""Rows and columns up to which every cell bears its number."""
SIDE, CELL = 5.2, 0.62
"""Inches of the longer side of a matrix, and of a cell that bears its number."""
SIZE = 8.5
"""Font size of names and numbers."""
LINE, LETTER = 0.18, 0.085
"""Inches from line to line and from letter to letter of what names an axis."""
SHORT = 0.35
"""Names up to this width in inches, such as numbers of layers, always lie."""


def draw_layers_matrix(
    matrix: Floats,
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    values_name: str,
    axis_names: tuple[str, str] = ("", ""),
    limits: tuple[float, float] | None = None,
    marked: tuple[int, int] | None = None,
) -> Figure:
    """A matrix (r, c) of layers or sets in the order given; NaN cells are left grey.

    axis_names: what the rows and what the columns are. Without limits the colours span the values.
    They run from light to dark, or, where values or limits have two signs, evenly around 0.
    marked: a cell to frame, such as that of the analysis layers. Small matrices bear their numbers,
    long axes every few names.
    """
    rows, columns = ([shortened(name, 48) for name in names] for names in (row_names, column_names))
    up, across = _pitch(len(rows), matrix), _pitch(len(columns), matrix)
    wide, high = across * len(columns), up * len(rows)
    beside, under = (text_width(names, SIZE) / 72.0 for names in (rows, columns))
    upright = under > max(0.9 * across, SHORT)
    down, along = _wrapped(axis_names[0], high), _wrapped(axis_names[1], wide)
    left = 0.28 + LINE * (1 + down.count("\n")) + beside
    bottom = FOOT + 0.17 + LINE * (1 + along.count("\n")) + (under if upright else 0.15)
    length = min(BAR, max(high, 1.2))
    size = (max(6.0, left + wide + 1.15), bottom + max(high, length, _length(down)) + HEAD)
    figure = new_sheet(*size, title, subtitle)
    axes, scale = add_box(figure, left, bottom, wide, high), _span(matrix, limits)
    paint(axes, scale.to_rgba(matrix))
    _name_ticks(axes.xaxis, columns, across, 0.0 if upright else 1.15 * under, upright=upright)
    _name_ticks(axes.yaxis, rows, up, 0.0)
    axes.tick_params(length=0, pad=3, labelsize=SIZE, labelbottom=True, labelleft=True)
    # What is longer than its axis starts where the axis does, so as not to leave the sheet.
    axes.set_ylabel(down, loc="center" if _length(down) <= high else "bottom", parse_math=False)
    axes.set_xlabel(along, loc="center" if _length(along) <= wide else "left", parse_math=False)
    if len(rows) <= WRITTEN and len(columns) <= WRITTEN:
        _write_numbers(axes, matrix, scale)
    if marked is not None:
        _frame(axes, *marked)
    add_bar(figure, left + wide + 0.2, bottom, scale, values_name, length=length, lying=False)
    return figure


def _wrapped(name: str, inches: float) -> str:
    return "\n".join(wrap(name, max(24, int(inches / LETTER)), break_on_hyphens=False))


def _length(name: str) -> float:
    return max(map(len, name.split("\n"))) * LETTER


def _pitch(count: int, matrix: Floats) -> float:
    """Inches from the middle of a cell to that of the next along an axis of `count` of them."""
    if max(matrix.shape) <= WRITTEN:
        return CELL
    least = 0.25 if count <= WRITTEN else 0.0
    return float(max(SIDE / max(matrix.shape), least))


def _frame(axes: Axes, row: int, column: int) -> None:
    for colour, width in ((INK, 3.4), ("white", 1.4)):
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1.0, 1.0, fill=False, edgecolor=colour, linewidth=width,
                zorder=3, clip_on=False,
            )
        )  # fmt: skip


def _span(matrix: Floats, limits: tuple[float, float] | None) -> ScalarMappable:
    known = matrix[np.isfinite(matrix)]
    colours = SEQUENTIAL
    if limits is None:
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if low < 0.0:
            colours, high = DIVERGING, max(-low, high)
            low = -high
        elif high - low < 1e-9:
            low, high = 0.0, high or 1.0
    else:
        low, high = limits
        if low < 0.0:
            colours, high = DIVERGING, max(-low, high)
            low = -high
    return ScalarMappable(Normalize(low, high), colormaps[colours].with_extremes(bad=UNKNOWN))


def _name_ticks(
    axis: Axis, names: Sequence[str], pitch: float, room: float, *, upright: bool = False
) -> None:
    """Name every cell, or every few if a name takes more room, in inches, than there is."""
    every = ceil(max(room, 0.145) / pitch)
    shown = range(0, len(names), every)
    turn = 90 if upright else 0
    axis.set_ticks(shown, [names[i] for i in shown], rotation=turn, parse_math=False)


def _write_numbers(axes: Axes, matrix: Floats, scale: ScalarMappable) -> None:
    low, high = scale.get_clim()
    places = 3 if high - low < 0.1 else 2
    shades = scale.to_rgba(matrix)[..., :3] @ np.array([0.299, 0.587, 0.114])
    for i, j in np.ndindex(matrix.shape):
        if np.isfinite(matrix[i, j]):
            number = f"{matrix[i, j]:.{places}f}".replace("-", "\N{MINUS SIGN}")
            ink = "white" if shades[i, j] < 0.55 else INK
            axes.text(j, i, number, ha="center", va="center", fontsize=SIZE, color=ink)
