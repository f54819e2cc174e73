"""Every plot: arrays in, a matplotlib Figure out. Knows nothing of rows, readers or files.

Uses the object interface only (no pyplot, no global state). Names are drawn as they are: a dollar
sign in one is a dollar sign, not mathematics.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DPI = 150
INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
SERIES = ("#b2182b", "#2166ac", "#1b7837", "#762a83", "#b35806", "#01665e")
DIVERGING = "RdBu_r"
HEAD, FOOT = 0.62, 0.22
"""Inches kept free above the axes for the titles and below them for what `stamp` writes."""
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
    figure, axes = _new_figure(11.5, 9.0, title, subtitle)
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
        _add_scale(figure, axes, dots, values_name)
    left_out = _place_names(figure, axes, points, names)
    if left_out:
        note = f"{left_out} names are left out for want of room"
        figure.text(0.005, 0.004, note, ha="left", va="bottom", fontsize=8, color=GREY)
    return figure


def draw_heatmap(
    matrix: Floats,
    names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    values_name: str,
    limits: tuple[float, float] = (-1.0, 1.0),
    colours: str = DIVERGING,
) -> Figure:
    """A square matrix (n, n) in the order given, with a name at every row and column."""
    side = max(5.0, 2.4 + 0.085 * len(names))
    figure, axes = _new_figure(side + 0.8, side, title, subtitle)
    image = axes.imshow(matrix, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="none")
    axes.spines[:].set_visible(False)
    size = 5.2 if len(names) > 60 else 8.0
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=2)
    _add_scale(figure, axes, image, values_name)
    return figure


def draw_variance(shares: Floats, layers: Sequence[int], *, title: str, subtitle: str) -> Figure:
    """Stacked shares (l, k) of the variance, one bar a layer, the first component at the bottom."""
    figure, axes = _new_figure(max(6.5, 3.0 + 0.4 * len(layers)), 5.0, title, subtitle)
    shades = colormaps["Blues"](np.linspace(0.9, 0.2, shares.shape[1]))
    starts = np.cumsum(shares, axis=1) - shares
    for i in range(shares.shape[1]):
        axes.bar(
            [str(layer) for layer in layers],
            shares[:, i],
            bottom=starts[:, i],
            color=shades[i],
            edgecolor="white",
            linewidth=0.6,
            label=f"PC{i + 1}",
        )
    axes.set_xlabel("layer (block, counted from 0)")
    axes.set_ylabel("share of variance")
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    return figure


def draw_lines(
    layers: Sequence[int],
    lines: Mapping[str, Floats],
    *,
    title: str,
    subtitle: str,
    value_name: str,
    chance: float = 0.0,
) -> Figure:
    """A line by layer for each name: (3, l) of correlations, low ends and high ends of intervals.

    chance, if not 0, is the size that the largest of them reaches by chance.
    """
    figure, axes = _new_figure(max(6.5, 3.0 + 0.4 * len(layers)), 5.0, title, subtitle)
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    if chance > 0.0:
        axes.axhspan(-chance, chance, color="#f0f0f0", zorder=0, label="chance (95%)")
    places = np.arange(len(layers))
    for i, (name, (values, low, high)) in enumerate(lines.items()):
        colour = SERIES[i % len(SERIES)]
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.vlines(places, low, high, color=colour, alpha=0.5, linewidth=1.0)
        axes.plot(places, values, color=colour, marker="o", markersize=4, label=name)
    axes.set_xticks(places, [str(layer) for layer in layers])
    axes.set_xlabel("layer (block, counted from 0)")
    axes.set_ylabel(value_name)
    lowest = min([-chance, *(float(line.min()) for line in lines.values())])
    axes.set_ylim(lowest - 0.05, 1.02)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def stamp(figure: Figure, note: str) -> None:
    """Write `note` in the lower right corner: what a reader must know before believing a figure."""
    figure.text(
        0.995, 0.004, note, ha="right", va="bottom", fontsize=9, style="italic", color="#b2182b",
        parse_math=False,
    )  # fmt: skip


def render(figure: Figure, file_format: str) -> bytes:
    """The figure as 'png' or 'svg' bytes, the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "figure"}):
        figure.savefig(buffer, format=file_format, metadata=metadata)
    figure.set_layout_engine("none")
    return buffer.getvalue()


def _new_figure(width: float, height: float, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """A figure of width x height inches with one pair of axes, a title and a line below it."""
    inner = (0.0, FOOT / height, 1.0, 1.0 - (HEAD + FOOT) / height)
    layout = ConstrainedLayoutEngine(rect=inner)
    figure = Figure((width, height), DPI, layout=layout, facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    left = 0.12 / width
    figure.text(
        left, 1.0 - 0.12 / height, title, va="top", fontsize=14, weight="bold", color=INK,
        parse_math=False,
    )  # fmt: skip
    figure.text(
        left, 1.0 - 0.42 / height, subtitle, va="top", fontsize=9.5, color=GREY, parse_math=False
    )
    return figure, axes


def _add_scale(figure: Figure, axes: Axes, colours: ScalarMappable, name: str) -> None:
    bar = figure.colorbar(colours, ax=axes, shrink=0.45, aspect=28, pad=0.015)
    bar.set_label(name, parse_math=False)
    bar.outline.set_visible(False)


def _place_names(figure: Figure, axes: Axes, points: Floats, names: Sequence[str]) -> int:
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
