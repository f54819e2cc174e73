"""The same names on several planes side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.figures.canvas import (
    FAINT,
    FOOT,
    GREY,
    HEAD,
    INK,
    MARGIN,
    UNKNOWN,
    Floats,
    add_bar,
    add_box,
    add_key,
    key_room,
    new_sheet,
    scale_of,
)
from analyses.figures.points import place_names
from analyses.figures.trees import GROUPS

SIDE, APART = 6.2, 0.75
"""Inches of a plane, and left of each for its axis."""
HEADING, BELOW, SCALES = 0.35, 0.5, 0.5
"""Inches above a plane for its name, below it for its axis, and for a scale of colours."""


def draw_planes(
    planes: Mapping[str, Floats],
    names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
    values: Floats | None = None,
    values_name: str = "",
    groups: Sequence[str] = (),
) -> Figure:
    """Points (e, 2) by the name of their plane, each plane on scales of its own.

    Coloured by `values` (e,) around 0 (NaN is grey), else by `groups` (e,). Each name stands in the
    nearest free place; how many find none is written below.
    """
    artists, kinds = ([], []) if values is not None else _key(groups)
    width = MARGIN + len(planes) * (APART + SIDE) + 0.1
    below = FOOT + key_room(width, kinds) + BELOW
    above = HEADING + (SCALES if values is not None else 0.0) + HEAD
    figure = new_sheet(width, below + SIDE + above, title, subtitle)
    scale = scale_of(np.full(len(names), np.nan) if values is None else values)
    colours = _colours(scale, len(names), values, groups)
    left_out = 0
    for i, (name, points) in enumerate(planes.items()):
        left = MARGIN + APART + i * (APART + SIDE)
        axes = add_box(figure, left, below, SIDE, SIDE)
        _draw_plane(axes, points, colours, name, axis_names)
        left_out += place_names(figure, axes, points, names)
    if values is not None:
        add_bar(figure, MARGIN + APART, below + SIDE + HEADING + 0.1, scale, values_name)
    if kinds:
        add_key(figure, artists, kinds)
    _note(figure, left_out, values, values_name)
    return figure


def _colours(
    scale: ScalarMappable, count: int, values: Floats | None, groups: Sequence[str]
) -> Floats:
    if values is not None:
        return np.asarray(scale.to_rgba(values), np.float64)
    kinds = list(dict.fromkeys(groups))
    shades = [GROUPS[kinds.index(each) % len(GROUPS)] for each in groups] or [UNKNOWN] * count
    return np.array([to_rgba(shade) for shade in shades])


def _key(groups: Sequence[str]) -> tuple[list[Artist], list[str]]:
    kinds = list(dict.fromkeys(groups))
    artists: list[Artist] = [
        Line2D([], [], linestyle="", marker="o", color=GROUPS[i % len(GROUPS)])
        for i in range(len(kinds))
    ]
    return artists, kinds


def _draw_plane(
    axes: Axes, points: Floats, colours: Floats, name: str, axis_names: tuple[str, str]
) -> None:
    axes.scatter(
        points[:, 0],
        points[:, 1],
        color=colours,
        s=24,
        linewidths=0.5,
        edgecolors="#555555",
        zorder=2,
    )
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.margins(0.06)
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.tick_params(length=3, labelbottom=True, labelleft=True, labelsize=7.5, colors=GREY)
    axes.locator_params(nbins=5)
    axes.set_title(name, fontsize=11, color=INK, loc="left", pad=8, parse_math=False)
    axes.set_xlabel(axis_names[0], fontsize=9, parse_math=False)
    axes.set_ylabel(axis_names[1], fontsize=9, parse_math=False)


def _note(figure: Figure, left_out: int, values: Floats | None, values_name: str) -> None:
    notes = []
    if left_out:
        plural = "s are" if left_out > 1 else " is"
        notes.append(f"{left_out} name{plural} left out for want of room")
    if values is not None and np.isnan(values).any():
        notes.append(f"grey: {int(np.isnan(values).sum())} without {values_name}")
    figure.text(
        0.005, 0.004, "; ".join(notes), ha="left", va="bottom", fontsize=8, color=GREY,
        parse_math=False,
    )  # fmt: skip
