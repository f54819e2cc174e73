"""Points with their names, each name in the nearest free place."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.figures.canvas import DIVERGING, FAINT, GREY, INK, Floats, add_scale, new_figure

DOT = 3.0
"""Radius of a point in a scatter, in points."""
_ANGLES = np.radians([0, 180, 90, 270, 30, 150, 210, 330, 60, 120, 240, 300])
_STEPS = np.array([4.0, 7.0, 11.0, 16.0, 22.0, 30.0, 40.0])
DIRECTIONS = np.tile(np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)]), (len(_STEPS), 1))
OFFSETS = DIRECTIONS * np.repeat(_STEPS, len(_ANGLES))[:, None]
"""Where a name may stand, as distances in points from its point, the nearest first."""


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

    Every point is drawn. Names are placed from the outside inwards, each in the nearest free place;
    those that find none are left out, and their number is written below.
    """
    figure, axes = new_figure(11.5, 9.0, title, subtitle)
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_xlabel(axis_names[0], parse_math=False)
    axes.set_ylabel(axis_names[1], parse_math=False)
    axes.margins(0.06)
    limit = 1.0 if values is None else max(float(np.abs(values).max()), 1e-12)
    dots = axes.scatter(
        points[:, 0],
        points[:, 1],
        c=np.zeros(len(points)) if values is None else values,
        cmap=DIVERGING,
        norm=Normalize(-limit, limit),
        s=28,
        linewidths=0.5,
        edgecolors="#555555",
        zorder=2,
    )
    if values is not None:
        add_scale(figure, axes, dots, values_name)
    left_out = place_names(figure, axes, points, names)
    if left_out:
        note = f"{left_out} names are left out for want of room"
        figure.text(0.005, 0.004, note, ha="left", va="bottom", fontsize=8, color=GREY)
    return figure


def place_names(figure: Figure, axes: Axes, points: Floats, names: Sequence[str]) -> int:
    """Write each name where it covers neither point nor name, and count those left out."""
    figure.draw_without_rendering()
    # A canvas that keeps its renderer: without it every extent below would build one anew.
    FigureCanvasAgg(figure)
    pixel = figure.dpi / 72.0
    centres = axes.transData.transform(points)
    taken = np.hstack([centres - DOT * pixel, centres + DOT * pixel])
    limits = np.asarray(axes.bbox.extents)
    leaders = []
    distance = np.linalg.norm(points - points.mean(axis=0), axis=1)
    for i in np.argsort(-distance, kind="stable"):
        text = axes.annotate(
            names[i], tuple(points[i]), xytext=(0.0, 0.0), textcoords="offset points",
            ha="center", va="center", fontsize=7.5, color=INK, zorder=3, parse_math=False,
        )  # fmt: skip
        extent = text.get_window_extent()
        half = np.array([extent.width / 2.0 + pixel, extent.height / 2.0])
        middles = centres[i] + OFFSETS * pixel + DIRECTIONS * half
        boxes = np.hstack([middles - half, middles + half])
        free = np.flatnonzero(_inside(boxes, limits) & ~_overlaps(boxes, taken))
        if not len(free):
            text.remove()
            continue
        box, offset = boxes[free[0]], middles[free[0]] - centres[i]
        text.set_position(tuple(offset / pixel))
        taken = np.vstack([taken, box])
        leaders.append(np.vstack([centres[i], np.clip(centres[i], box[:2], box[2:])]))
    segments = [axes.transData.inverted().transform(leader) for leader in leaders]
    axes.add_collection(
        LineCollection(segments, colors="#bbbbbb", linewidths=0.5, zorder=1), autolim=False
    )
    return len(names) - len(segments)


def _inside(boxes: Floats, limits: Floats) -> NDArray[np.bool_]:
    """Which boxes (n, 4: left, bottom, right, top) lie within limits (4,)."""
    within = np.hstack([boxes[:, :2] >= limits[:2], boxes[:, 2:] <= limits[2:]])
    return np.asarray(within.all(axis=1))


def _overlaps(boxes: Floats, taken: Floats) -> NDArray[np.bool_]:
    """Which boxes (n, 4) overlap any of taken (m, 4)."""
    lower = boxes[:, None, :2] < taken[None, :, 2:]
    upper = boxes[:, None, 2:] > taken[None, :, :2]
    return np.asarray(np.all(lower & upper, axis=2).any(axis=1))
