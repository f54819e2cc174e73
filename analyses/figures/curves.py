"""Curves over a number of texts that doubles from point to point."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import NullLocator

from analyses.figures.canvas import (
    GREY,
    INK,
    MARKERS,
    SERIES,
    Floats,
    add_key,
    new_figure,
)

Look = tuple[str, str]
"""Colour and marker."""
SPREAD = 0.32
"""Half the width of a strip of dots, where the distance of two strips is 1."""


def draw_curve(
    sizes: Sequence[float],
    curves: Mapping[str, Floats],
    *,
    title: str,
    subtitle: str,
    size_name: str,
    value_name: str,
    dots: Mapping[str, Floats] | None = None,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Curves (3, m) of values, low ends and high ends of intervals over sizes (m,), on a log axis.

    NaN where a curve has no value. `dots`: many single values (e,) by the name of their curve, as a
    strip at the right with its median; `marks`: values drawn across, with their names.
    """
    names, strips = list(curves), dots or {}
    looks = dict(zip(names, cycle(zip(SERIES, MARKERS, strict=True)), strict=False))
    figure, axes = new_figure(10.0, 5.0, title, subtitle, names)
    artists = [_draw_curve(axes, sizes, curve, looks[name]) for name, curve in curves.items()]
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [f"{size:,g}" for size in sizes], parse_math=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(size_name, parse_math=False)
    axes.set_ylabel(value_name, parse_math=False)
    sheets = [axes]
    if strips:
        grid = GridSpec(1, 2, figure, width_ratios=(8.0, 0.5 + 0.8 * len(strips)))
        axes.set_subplotspec(grid[0])
        sheets.append(figure.add_subplot(grid[1], sharey=axes))
        _draw_strips(sheets[1], strips, looks)
    for sheet in sheets:
        for place in (marks or {}).values():
            sheet.axhline(place, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    for name, place in (marks or {}).items():
        axes.annotate(
            name, (0.0, place), xycoords=("axes fraction", "data"), xytext=(3.0, 2.0),
            textcoords="offset points", fontsize=8, color=GREY, parse_math=False,
        )  # fmt: skip
    add_key(figure, artists, names)
    return figure


def _draw_curve(axes: Axes, sizes: Sequence[float], curve: Floats, look: Look) -> Artist:
    (values, low, high), (colour, marker) = curve, look
    axes.fill_between(sizes, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.vlines(sizes, low, high, color=colour, alpha=0.45, linewidth=1.0)
    return axes.plot(sizes, values, color=colour, marker=marker, markersize=4.5)[0]


def _draw_strips(axes: Axes, strips: Mapping[str, Floats], looks: Mapping[str, Look]) -> None:
    for at, (name, values) in enumerate(strips.items()):
        known = np.sort(values[~np.isnan(values)])
        # Neighbours in order stand far apart from side to side: steps of the golden ratio.
        aside = (np.arange(len(known)) * 0.6180339887 % 1.0 * 2.0 - 1.0) * SPREAD
        colour, marker = looks[name]
        axes.scatter(at + aside, known, s=9, c=colour, marker=marker, alpha=0.55, linewidths=0)
        if len(known):
            axes.plot(
                [at - 0.42, at + 0.42], [np.median(known)] * 2, color=INK, linewidth=1.6, zorder=3
            )
    most = max((int((~np.isnan(values)).sum()) for values in strips.values()), default=0)
    axes.set_xlim(-0.6, len(strips) - 0.4)
    axes.set_xticks([])
    axes.set_xlabel(f"each of {most}\nbar: median", fontsize=9)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelleft=False)
