"""Panels side by side on one scale: heatmaps to compare, and curves over numbers as written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.figures.canvas import DIVERGING, FAINT, GREY, INK, Floats, new_figure

ACROSS = 2
"""Panels of curves beside each other."""
DARK = 0.6
"""Share of the scale from which a number is written in white."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a panel, and what is written beside it."""

    values: Floats
    colour: str
    note: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over the same places, which are named as they are written."""

    title: str
    places: tuple[str, ...]
    lines: tuple[Line, ...]


def draw_matrices(
    panels: Mapping[str, Floats],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
    values_name: str,
) -> Figure:
    """Matrices (r, c) by their titles, side by side, on one scale up to the largest size in any.

    Every cell bears its number, the highest of its column in bold. Framed: the cells whose row and
    column have the same name. `axis_names`: what the rows and what the columns are.
    """
    limit = max(float(np.abs(matrix).max()) for matrix in panels.values())
    width = max(9.0, 2.0 + (0.42 * len(columns) + 0.2) * len(panels))
    height = 2.5 + 0.3 * len(rows)
    figure, grid = _new_grid((1, len(panels)), (width, height), title, subtitle)
    for axes, (name, matrix) in zip(grid, panels.items(), strict=True):
        image = axes.imshow(
            matrix, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="none"
        )
        axes.set_title(name, fontsize=10, color=INK, parse_math=False)
        axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
        axes.set_yticks(range(len(rows)), rows, parse_math=False)
        axes.set_xlabel(axis_names[1], parse_math=False)
        axes.tick_params(length=0, pad=2, labelsize=8.5)
        axes.spines[:].set_visible(False)
        _write_numbers(axes, matrix, limit)
        _frame_own(axes, rows, columns)
    grid[0].set_ylabel(axis_names[0], parse_math=False)
    bar = figure.colorbar(image, ax=grid, shrink=0.6, aspect=28, pad=0.01)
    bar.set_label(values_name, parse_math=False)
    bar.outline.set_visible(False)
    return figure


def _write_numbers(axes: Axes, matrix: Floats, limit: float) -> None:
    for (i, j), value in np.ndenumerate(matrix):
        axes.text(
            j,
            i,
            f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1),
            ha="center",
            va="center",
            fontsize=6.8,
            color="white" if abs(value) > DARK * limit else INK,
            weight="bold" if value == matrix[:, j].max() else "normal",
        )


def _frame_own(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row == column:
                frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=INK, zorder=3)
                axes.add_patch(frame)


def draw_curves(
    panels: Sequence[Panel],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
) -> Figure:
    """A grid of panels, two beside each other, on one vertical scale.

    Places stand at even distances whatever their numbers are. The notes of the lines stand to the
    right of each panel, in the order in which the lines end.
    """
    down = ceil(len(panels) / ACROSS)
    figure, grid = _new_grid((down, ACROSS), (12.0, 1.2 + 2.75 * down), title, subtitle)
    low, high = _range(panels)
    for axes, panel in zip(grid, panels, strict=False):
        axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
        axes.set_title(panel.title, fontsize=9.5, color=INK, loc="left", parse_math=False)
        axes.set_xticks(range(len(panel.places)), panel.places, fontsize=8, parse_math=False)
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(low, high)
        for line in panel.lines:
            axes.plot(
                line.values,
                color=line.colour,
                linestyle="--" if line.dashed else "-",
                marker="o",
                markersize=3.5,
                linewidth=1.6,
            )
        _write_notes(axes, panel.lines)
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.supxlabel(axis_names[0], fontsize=9.5, color=GREY, parse_math=False)
    figure.supylabel(axis_names[1], fontsize=9.5, color=GREY, parse_math=False)
    return figure


def _range(panels: Sequence[Panel]) -> tuple[float, float]:
    values = np.concatenate([line.values for panel in panels for line in panel.lines])
    margin = 0.05 * float(np.ptp(values)) or 0.05
    return float(values.min()) - margin, float(values.max()) + margin


def _write_notes(axes: Axes, lines: Sequence[Line]) -> None:
    ends = sorted(lines, key=lambda line: -line.values[-1])
    for line, place in zip(ends, np.linspace(0.88, 0.12, max(len(ends), 4)), strict=False):
        axes.annotate(
            line.note,
            (1.015, place),
            xycoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=line.colour,
            parse_math=False,
        )


def _new_grid(
    shape: tuple[int, int], size: tuple[float, float], title: str, subtitle: str
) -> tuple[Figure, list[Axes]]:
    figure, single = new_figure(*size, title, subtitle)
    single.remove()
    return figure, list(figure.subplots(*shape, squeeze=False).ravel())
