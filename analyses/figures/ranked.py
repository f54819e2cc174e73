"""Names ranked by a value, as lying bars: the highest and the lowest, columns side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import int64
from numpy.typing import NDArray

from analyses.figures.canvas import (
    FAINT,
    FOOT,
    GREY,
    HEAD,
    INK,
    MARGIN,
    Floats,
    add_bar,
    add_box,
    new_sheet,
    scale_of,
    shortened,
    text_width,
)

ENDS = 15
"""Names at each end that are drawn."""
SIZE = 8.0
"""Font size of names."""
PITCH, BARS, APART = 0.155, 2.5, 0.3
"""Inches from bar to bar, from end to end of the axis of values, and between columns."""
ABOVE, BELOW = 0.62, 0.55
"""Inches above the bars for the headings of a band and of a column, and below them for an axis."""
SCALES, LEAST = 0.5, 6.4
"""Inches for the scale of colours, and across a figure of one column at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """One column: values (e,) with the ends of their intervals, NaN where there is none.

    shades: what the bars (e,) are coloured by, around 0; NaN is grey.
    """

    name: str
    names: Sequence[str]
    values: Floats
    low: Floats
    high: Floats
    shades: Floats
    lowest: int = ENDS
    """Names drawn at the lower end: 0 where most are equal there, and none is the lowest."""


@dataclass(frozen=True, slots=True)
class Band:
    """Columns on one scale, side by side."""

    heading: str
    value_name: str
    columns: Sequence[Ranked]
    chance: float | None = None
    """Drawn down through every column."""


def draw_ranked(bands: Sequence[Band], *, title: str, subtitle: str, shades_name: str) -> Figure:
    """Bands below each other; in every column the ENDS highest and the lowest of its names.

    How many are left out there is written; names without a value are not drawn, and counted.
    Bold are names that stand at that end in every column of their band.
    """
    columns = [column for band in bands for column in band.columns]
    scale = scale_of(np.concatenate([column.shades for column in columns]))
    coloured = any(np.isfinite(column.shades).any() for column in columns)
    names = [shortened(name) for column in columns for name in column.names]
    room = text_width(names, SIZE, "bold") / 72.0 + 0.1
    width = MARGIN + max(len(band.columns) for band in bands) * (room + BARS + APART)
    sides = [PITCH * max(_lines(column) for column in band.columns) for band in bands]
    tall = FOOT + sum(sides) + len(bands) * (ABOVE + BELOW) + SCALES * coloured + HEAD
    figure = new_sheet(max(width, LEAST), tall, title, subtitle)
    bottom = FOOT
    for band, side in zip(reversed(bands), reversed(sides), strict=True):
        _draw_band(figure, band, (bottom + BELOW, side, room), scale)
        bottom += BELOW + side + ABOVE
    if coloured:
        add_bar(figure, MARGIN + 0.05, bottom + 0.12, scale, shades_name)
    grey = coloured and any(np.isnan(column.shades).any() for column in columns)
    told = {
        "bold: at that end in every column": any(any(_shared(band)) for band in bands),
        "dashed: chance": any(band.chance is not None for band in bands),
        f"grey: without {shades_name}": grey,
    }
    notes = "; ".join(note for note, true in told.items() if true)
    figure.text(
        0.005, 0.004, notes, ha="left", va="bottom", fontsize=8, color=GREY, parse_math=False
    )
    return figure


def _lines(column: Ranked) -> int:
    shown, between = _ends(column)
    return max(1, len(shown) + bool(between))


def _draw_band(
    figure: Figure, band: Band, place: tuple[float, float, float], scale: ScalarMappable
) -> None:
    """The columns of a band over (bottom, height, room for names) in inches."""
    bottom, side, room = place
    _write(figure, MARGIN, bottom + side + 0.34, band.heading, 10.5, "bold")
    limits, shared = _limits(band), _shared(band)
    for i, column in enumerate(band.columns):
        left = MARGIN + i * (room + BARS + APART)
        _write(figure, left + room, bottom + side + 0.09, _heading(column), 9.0, "normal")
        # What is shorter than its neighbours begins as high as they do.
        height = PITCH * _lines(column)
        axes = add_box(figure, left + room, bottom + side - height, BARS, height)
        axes.set_xlim(*limits)
        if band.chance is not None:
            axes.axvline(band.chance, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=4)
        _draw_column(axes, column, scale, shared)
        axes.set_xlabel(band.value_name, fontsize=8.5, parse_math=False)


def _write(figure: Figure, left: float, bottom: float, text: str, size: float, weight: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(
        left / width, bottom / height, shortened(text, 90), fontsize=size, weight=weight, color=INK,
        va="bottom", parse_math=False,
    )  # fmt: skip


def _heading(column: Ranked) -> str:
    left_out = int((~np.isfinite(column.values)).sum())
    return shortened(column.name) + (f"; {left_out} without a value" if left_out else "")


def _shared(band: Band) -> tuple[set[str], set[str]]:
    """The names at the upper and at the lower end of all columns; none where all names are drawn,
    or where there is nothing to compare."""
    if len(band.columns) < 2 or not all(_ends(column)[1] for column in band.columns):
        return set(), set()
    upper, lower = [
        [{column.names[i] for i in _ends(column)[0][part]} for column in band.columns]
        for part in (slice(None, ENDS), slice(ENDS, None))
    ]
    return set.intersection(*upper), set.intersection(*lower)


def _ends(column: Ranked) -> tuple[NDArray[int64], int]:
    """The names to draw from the highest to the lowest, and how many are left out after ENDS."""
    known = int(np.isfinite(column.values).sum())
    order = np.argsort(-column.values, kind="stable")[:known]
    between = max(known - ENDS - column.lowest, 0)
    return np.concatenate([order[:ENDS], order[ENDS + between :]]), between


def _limits(band: Band) -> tuple[float, float]:
    drawn = [0.0, band.chance or 0.0]
    for column in band.columns:
        shown, _ = _ends(column)
        for ends in (column.values, column.low, column.high):
            drawn += [float(x) for x in ends[shown] if np.isfinite(x)]
    air = 0.04 * (max(drawn) - min(drawn)) or 1.0
    return min(drawn) - air, max(drawn) + air


def _draw_column(
    axes: Axes, column: Ranked, scale: ScalarMappable, shared: tuple[set[str], set[str]]
) -> None:
    shown, between = _ends(column)
    places = np.arange(len(shown), dtype=np.float64)
    places[ENDS:] += bool(between)
    axes.set_ylim(_lines(column) - 0.5, -0.5)
    axes.axvline(0.0, color=INK, linewidth=0.6, zorder=3)
    axes.barh(
        places, column.values[shown], height=0.78, color=scale.to_rgba(column.shades[shown]),
        edgecolor="#777777", linewidth=0.3,
    )  # fmt: skip
    axes.hlines(places, column.low[shown], column.high[shown], colors=INK, linewidths=0.9, zorder=4)
    _name_bars(axes, places, [column.names[i] for i in shown], shared)
    axes.tick_params(axis="x", length=3, labelbottom=True, labelsize=7.5)
    axes.spines["bottom"].set_visible(True)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    if between:
        rest = f"… {between} {'between' if column.lowest else 'more'} …"
        axes.text(
            0.5, ENDS, rest, fontsize=7.5, color=GREY, ha="center", va="center", zorder=5,
            transform=axes.get_yaxis_transform(),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip


def _name_bars(
    axes: Axes, places: Floats, names: Sequence[str], shared: tuple[set[str], set[str]]
) -> None:
    axes.set_yticks(places, [shortened(name) for name in names], fontsize=SIZE, parse_math=False)
    axes.tick_params(axis="y", length=0, pad=2, labelleft=True)
    for i, (label, name) in enumerate(zip(axes.get_yticklabels(), names, strict=True)):
        if name in shared[i >= ENDS]:
            label.set_fontweight("bold")
