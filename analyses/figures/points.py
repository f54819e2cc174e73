"""Points with their names, each name in the nearest free place."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analyses.figures.canvas import (
    FAINT,
    GREY,
    INK,
    Floats,
    add_scale,
    new_figure,
    scale_of,
    shortened,
)
from analyses.figures.placing import find_places, leader_ends

DOT = 3.0
"""Radius of a point in a scatter, in points."""


def draw_scatter(
    points: Floats,
    names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
    values: Floats | None = None,
    values_name: str = "",
) -> Figure:
    """Points (n, 2) with their names, coloured by `values` (n,) on a scale centred at 0.

    Every point is drawn, one whose value is NaN in grey. Each name stands in the nearest free
    place; those that find none are left out, and their number is written below.
    """
    figure, axes = new_figure(12.5, 9.5, title, subtitle)
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_xlabel(axis_names[0], parse_math=False)
    axes.set_ylabel(axis_names[1], parse_math=False)
    axes.margins(0.06)
    _draw_dots(figure, axes, points, values, values_name)
    left_out = place_names(figure, axes, points, names)
    notes = []
    if left_out:
        notes.append(f"{_counted(left_out, 'name is', 'names are')} left out for want of room")
    if values is not None and np.isnan(values).any():
        notes.append(f"grey: {int(np.isnan(values).sum())} without {values_name}")
    figure.text(
        0.005, 0.004, "; ".join(notes), ha="left", va="bottom", fontsize=8, color=GREY,
        parse_math=False,
    )  # fmt: skip
    return figure


def _draw_dots(
    figure: Figure, axes: Axes, points: Floats, values: Floats | None, values_name: str
) -> None:
    shades = np.full(len(points), np.nan) if values is None else values
    scale = scale_of(shades)
    axes.scatter(
        points[:, 0],
        points[:, 1],
        color=scale.to_rgba(shades),
        s=28,
        linewidths=0.5,
        edgecolors="#555555",
        zorder=2,
    )
    if not np.isnan(shades).all():
        add_scale(figure, axes, scale, values_name)


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def place_names(figure: Figure, axes: Axes, points: Floats, names: Sequence[str]) -> int:
    """Write each name where it covers neither point nor name, and count those left out."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # A canvas that keeps its renderer: without it every extent below would build one anew.
    FigureCanvasAgg(figure)
    pixel = figure.dpi / 72.0
    texts = [
        axes.annotate(
            shortened(name), tuple(point), xytext=(0.0, 0.0), textcoords="offset points",
            ha="center", va="center", fontsize=7.5, color=INK, zorder=3, parse_math=False,
        )
        for name, point in zip(names, points, strict=True)
    ]  # fmt: skip
    extents = [text.get_window_extent() for text in texts]
    halves = np.array([(box.width / 2.0 + pixel, box.height / 2.0) for box in extents])
    centres = axes.transData.transform(points)
    limits = np.asarray(axes.bbox.extents)
    middles = find_places(centres, halves, DOT * pixel, limits, pixel)
    placed = ~np.isnan(middles[:, 0])
    for text, offset, keep in zip(texts, (middles - centres) / pixel, placed, strict=True):
        if keep:
            text.set_position(tuple(offset))
        else:
            text.remove()
    boxes = np.hstack([middles - halves, middles + halves])[placed]
    leaders = np.stack([centres[placed], leader_ends(centres[placed], boxes)], axis=1)
    segments = list(axes.transData.inverted().transform(leaders.reshape(-1, 2)).reshape(-1, 2, 2))
    axes.add_collection(
        LineCollection(segments, colors="#999999", linewidths=0.45, zorder=1), autolim=False
    )
    return len(names) - len(segments)
