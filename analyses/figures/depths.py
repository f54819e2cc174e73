"""Lines over depth, 0 to 1, so that models of different numbers of layers stand side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.figures.canvas import FAINT, GREY, MARKERS, SERIES, Floats, add_key, new_figure

NOTHING = "#efefef"
"""The colour of what chance reaches."""
ALIKE = 0.05
"""Chances that differ by no more than this are drawn as one."""
DOTS = (0, (1, 2))
DASHES = ("-", "--", ":")
"""Lines of the same colour, when there are more lines than colours."""


@dataclass(frozen=True, slots=True, eq=False)
class DepthLine:
    """One line: values (l,) at depths (l,), the ends of their intervals, NaN where there is none.

    chance: the size that its largest value reaches by chance, 0 where that is not known.
    home: the place of the analysis layer among the depths, which is drawn with a larger dot.
    """

    name: str
    depths: Floats
    values: Floats
    low: Floats
    high: Floats
    chance: float = 0.0
    home: int | None = None


def draw_depths(
    lines: Sequence[DepthLine],
    *,
    title: str,
    subtitle: str,
    value_name: str,
) -> Figure:
    """Every line with the band of its interval, and what chance reaches.

    Chances that are (nearly) the same are one grey band as wide as the largest, others are dotted
    lines in the colour of theirs.
    """
    sizes = np.array([line.chance for line in lines])
    names = [line.name for line in lines] + [_chance_name(sizes)] * bool(sizes.any())
    figure, axes = new_figure(10.0, 5.0, title, subtitle, names)
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    artists = [_draw_line(axes, line, i) for i, line in enumerate(lines)]
    if sizes.any():
        artists.append(_draw_chance(axes, sizes))
    axes.set_xlim(-0.01, 1.02)
    axes.set_xlabel("depth (the last block is 1)")
    axes.set_ylabel(value_name, parse_math=False)
    add_key(figure, artists, names)
    return figure


def _alike(sizes: Floats) -> bool:
    return bool(np.ptp(sizes) <= ALIKE)


def _chance_name(sizes: Floats) -> str:
    if not _alike(sizes):
        return "chance (95%), of the line of its colour"
    return f"chance (95%){f', at most {sizes.max():.2f}' if np.ptp(sizes) else ''}"


def _draw_chance(axes: Axes, sizes: Floats) -> Artist:
    if _alike(sizes):
        return axes.axhspan(-sizes.max(), sizes.max(), color=NOTHING, linewidth=0, zorder=-1)
    for i in np.flatnonzero(sizes):
        for end in (-sizes[i], sizes[i]):
            axes.axhline(end, color=SERIES[i % len(SERIES)], linestyle=DOTS, linewidth=1.1)
    return Line2D([], [], color=GREY, linestyle=DOTS, linewidth=1.1)


def _draw_line(axes: Axes, line: DepthLine, place: int) -> Artist:
    colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(SERIES)]
    dashes = DASHES[place // len(SERIES) % len(DASHES)]
    if len(line.depths) == 1:
        axes.vlines(line.depths, line.low, line.high, color=colour, alpha=0.5, linewidth=1.5)
    axes.fill_between(line.depths, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
    drawn = axes.plot(
        line.depths,
        line.values,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=3.6,
        linewidth=1.6,
    )[0]
    if line.home is not None:
        home = np.array([line.home])
        axes.plot(
            line.depths[home], line.values[home], color=colour, marker=marker, markersize=8.5,
            markeredgecolor="white", markeredgewidth=1.3, zorder=3,
        )  # fmt: skip
    return drawn
