"""A value of each name beside a rival's, as dots over a bar: columns of names side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analyses.figures.canvas import (
    FAINT,
    FOOT,
    GREY,
    HEAD,
    INK,
    MARGIN,
    SERIES,
    Floats,
    add_box,
    add_key,
    key_room,
    new_sheet,
    shortened,
    text_width,
)

SIZE = 8.0
"""Font size of names."""
PITCH, ACROSS, APART = 0.155, 2.7, 0.25
"""Inches from name to name, from end to end of the axis of values, and between columns."""
TALL, MOST = 60, 3
"""Names in a column before there is another one, and columns at most."""
BELOW, LEAST = 0.5, 7.0
"""Inches below the dots for an axis, and across a figure at least."""
BAR = "#cfcfcf"


@dataclass(frozen=True, slots=True, eq=False)
class Dots:
    """Values (e,) of names, NaN where there is none.

    low, high: the ends of each bar. solid: which values are drawn full, the others hollow.
    """

    names: Sequence[str]
    values: Floats
    rivals: Floats
    low: Floats
    high: Floats
    solid: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> "Dots":
        return Dots(
            [self.names[i] for i in rows],
            self.values[rows],
            self.rivals[rows],
            self.low[rows],
            self.high[rows],
            self.solid[rows],
        )


def draw_dots(
    dots: Dots,
    *,
    title: str,
    subtitle: str,
    value_name: str,
    key: tuple[str, str, str, str],
    chance: float | None = None,
) -> Figure:
    """Every name with its dots, from the highest value down; names without a value come last.

    key: what a solid dot is, a hollow one, the rival's and the bar. chance: drawn down through all.
    """
    ordered = dots.take(np.argsort(-dots.values, kind="stable"))
    parts = np.array_split(
        np.arange(len(dots.names)), min(MOST, max(1, ceil(len(dots.names) / TALL)))
    )
    room = text_width(map(shortened, dots.names), SIZE) / 72.0 + 0.12
    artists, names = _key(key, chance)
    width = max(LEAST, MARGIN + len(parts) * (room + ACROSS + APART))
    side, below = PITCH * len(parts[0]), FOOT + key_room(width, names) + BELOW
    figure = new_sheet(width, below + side + HEAD, title, subtitle)
    across = (width - MARGIN) / len(parts) - room - APART
    limits = _limits(dots, chance)
    for i, part in enumerate(parts):
        left, height = MARGIN + i * (room + across + APART) + room, PITCH * len(part)
        axes = add_box(figure, left, below + side - height, across, height)
        axes.set_xlim(*limits)
        _draw_column(axes, ordered.take(part), chance)
        axes.set_xlabel(value_name, fontsize=8.5, parse_math=False)
    add_key(figure, artists, names)
    return figure


def _key(key: tuple[str, str, str, str], chance: float | None) -> tuple[list[Artist], list[str]]:
    solid, hollow, rival = SERIES[0], "white", SERIES[1]
    artists: list[Artist] = [
        Line2D([], [], linestyle="", marker="o", color=SERIES[0], markerfacecolor=solid),
        Line2D([], [], linestyle="", marker="o", color=SERIES[0], markerfacecolor=hollow),
        Line2D([], [], linestyle="", marker="x", color=rival, markersize=5),
        Patch(facecolor=BAR),
    ]
    names = list(key)
    if chance is not None:
        artists.append(Line2D([], [], color=INK, linewidth=1.0, linestyle=(0, (4, 3))))
        names.append("chance")
    return artists, names


def _limits(dots: Dots, chance: float | None) -> tuple[float, float]:
    drawn = np.concatenate([dots.values, dots.rivals, dots.low, dots.high])
    known = [*drawn[np.isfinite(drawn)].tolist(), *([] if chance is None else [chance])] or [0.0]
    air = 0.03 * (max(known) - min(known)) or 0.05
    return min(known) - air, max(known) + air


def _draw_column(axes: Axes, dots: Dots, chance: float | None) -> None:
    places = np.arange(len(dots.names), dtype=np.float64)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.hlines(places, *axes.get_xlim(), colors="#f2f2f2", linewidths=0.6, zorder=0)
    axes.hlines(places, dots.low, dots.high, colors=BAR, linewidths=6.0, zorder=1)
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2)
    axes.scatter(dots.rivals, places, s=16, marker="x", c=SERIES[1], linewidths=1.1, zorder=5)
    faces = np.where(dots.solid, SERIES[0], "white").tolist()
    axes.scatter(dots.values, places, s=20, c=faces, edgecolors=SERIES[0], linewidths=1.1, zorder=4)
    axes.set_yticks(
        places, [shortened(name) for name in dots.names], fontsize=SIZE, color=INK, parse_math=False
    )
    axes.tick_params(axis="y", length=0, pad=2, labelleft=True)
    axes.tick_params(axis="x", length=3, labelbottom=True, labelsize=7.5, colors=GREY)
    axes.spines["bottom"].set_visible(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
