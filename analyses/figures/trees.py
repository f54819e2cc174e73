"""Trees of names: as a dendrogram, and beside the matrix they put in order.

A tree comes as the linkage (e - 1, 4) that scipy and scikit-learn use: the two that are joined (a
name below e, else e + the row where it was made), the height, the size. Knows nothing of how it
was made.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy import int64
from numpy.typing import NDArray

from analyses.figures.canvas import (
    BAR,
    DIVERGING,
    FOOT,
    GREY,
    HEAD,
    INK,
    Floats,
    add_bar,
    add_box,
    new_sheet,
    paint,
    scale_of,
    shortened,
    text_width,
)

Ints = NDArray[int64]

GROUPS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#a5a618", "#17becf", "#393b79"),
    *("#637939", "#c49c2f", "#843c39", "#7b4173", "#3b7c8c"),
)
"""Colours of groups in the order in which the tree's leaves come to them, then from the start."""
STRIP, GAP = 0.17, 0.05
"""Inches across a strip of colours, and between what stands side by side."""
EDGE = 0.15
SCALES = 0.55
"""Inches for the scales of colours, below the titles."""
LEAST = 8.3
"""Inches across a sheet with two scales beside each other."""
HIGHEST = 40.0
"""Inches from the first name to the last at most; more names stand closer, and not all show."""


def draw_clustermap(
    cosines: Floats,
    names: Sequence[str],
    linkage: Floats,
    groups: Ints,
    *,
    title: str,
    subtitle: str,
    values: Floats | None = None,
    values_name: str = "",
) -> Figure:
    """Cosines (e, e) with their tree, a strip of the groups (e,) and one of `values` (e,).

    All in the original order: rows and columns are put into the order of the tree's leaves here.
    The numbers in the strips are those of the groups.
    """
    order, values = leaves(linkage), _known(values)
    size, pitch = _type(len(names), 5.5, 3.2)
    side, room = pitch * len(names), text_width(map(shortened, names), size) / 72.0 + 0.1
    tree, strips = 1.5, (1 if values is None else 2) * (STRIP + GAP) + GAP
    width = EDGE + tree + strips + side + room + EDGE
    above = STRIP + GAP + SCALES + HEAD
    figure = new_sheet(max(width, LEAST), FOOT + room + side + above, title, subtitle)
    left, bottom = EDGE + tree + strips, FOOT + room
    _add_tree(figure, (EDGE, bottom, tree, side), linkage, order, groups)
    _add_strips(figure, (EDGE + tree, bottom, side), order, groups, values)
    numbers = groups[order]
    top = add_box(figure, left, bottom + side + GAP, side, STRIP)
    paint(top, _group_colours(numbers)[None])
    _number(top, numbers, pitch, across=True)
    axes = add_box(figure, left, bottom, side, side)
    scale = ScalarMappable(Normalize(-1.0, 1.0), DIVERGING)
    paint(axes, scale.to_rgba(cosines[np.ix_(order, order)]))
    _name_leaves(axes, [names[i] for i in order], size, pitch, below=True)
    place = bottom + side + STRIP + GAP + 0.2
    add_bar(figure, left, place, scale, "cosine")
    if values is not None:
        add_bar(figure, left + BAR + 0.5, place, scale_of(values), values_name)
    return figure


def draw_dendrogram(
    linkage: Floats,
    names: Sequence[str],
    groups: Ints,
    *,
    title: str,
    subtitle: str,
    values: Floats | None = None,
    values_name: str = "",
    height_name: str = "cosine distance",
) -> Figure:
    """The tree from left to right with all its names, coloured by group (e,).

    Branches within one group have its colour. `values` (e,) are a strip beside the names.
    """
    order, values = leaves(linkage), _known(values)
    size, pitch = _type(len(names), 6.8, 1.2)
    side, room = pitch * len(names), text_width(map(shortened, names), size) / 72.0 + 0.1
    tree, strips = 5.6, (1 if values is None else 2) * (STRIP + GAP)
    width = EDGE + 0.2 + tree + strips + room + EDGE
    bottom, scales = FOOT + 0.5, 0.25 if values is None else SCALES
    figure = new_sheet(width, bottom + side + scales + HEAD, title, subtitle)
    left = EDGE + 0.2
    axes = _add_tree(figure, (left, bottom, tree, side), linkage, order, groups)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_position(("outward", 4))
    axes.tick_params(axis="x", length=3, labelbottom=True, labelsize=8)
    axes.set_xlabel(height_name, fontsize=9, parse_math=False)
    ends = _add_strips(figure, (left + tree, bottom, side), order, groups, values)
    _name_leaves(ends, [names[i] for i in order], size, pitch, below=False)
    if values is not None:
        add_bar(figure, left, bottom + side + 0.22, scale_of(values), values_name)
    return figure


def leaves(linkage: Floats) -> list[int]:
    """The names in the order of the tree's leaves, from the first branch of each pair down."""
    count = len(linkage) + 1
    waiting, order = [2 * count - 2], []
    while waiting:
        node = waiting.pop()
        if node < count:
            order.append(node)
        else:
            first, second = linkage[node - count, :2].astype(int)
            waiting += [second, first]
    return order


def _known(values: Floats | None) -> Floats | None:
    return None if values is None or np.isnan(values).all() else values


def _type(count: int, size: float, least: float) -> tuple[float, float]:
    """Size of type in points and inches from name to name, for names at least `least` from end
    to end."""
    size = size if count > 60 else 8.0
    return size, min(max(size * 1.12 / 72.0, least / count), HIGHEST / count)


def _add_tree(
    figure: Figure,
    box: tuple[float, float, float, float],
    linkage: Floats,
    order: Sequence[int],
    groups: Ints,
) -> Axes:
    axes = add_box(figure, *box)
    count = len(order)
    place = np.zeros(2 * count - 1)
    place[order] = np.arange(count)
    height = np.concatenate([np.zeros(count), linkage[:, 2]])
    group = np.concatenate([groups, np.full(count - 1, -1)])
    mixed = np.zeros(2 * count - 1, bool)
    shades = dict(zip(groups[order], _group_colours(groups[order]), strict=True))
    bends, colours = [], []
    for row, (a, b) in enumerate(linkage[:, :2].astype(int), count):
        place[row] = (place[a] + place[b]) / 2.0
        mixed[row] = mixed[a] or mixed[b] or group[a] != group[b]
        group[row] = group[a]
        across, down = height[[a, row, row, b]], place[[a, a, b, b]]
        bends.append(np.column_stack([across, down]))
        colours.append(to_rgba(GREY) if mixed[row] else shades[group[a]])
    axes.add_collection(LineCollection(bends, colors=colours, linewidths=0.8), autolim=False)
    axes.set_xlim(max(float(height.max(initial=0.0)) * 1.02, 1e-12), min(0.0, float(height.min())))
    axes.set_ylim(count - 0.5, -0.5)
    return axes


def _add_strips(
    figure: Figure,
    corner: tuple[float, float, float],
    order: Sequence[int],
    groups: Ints,
    values: Floats | None,
) -> Axes:
    """Strips of the groups and of the values from (left, bottom) up; the axes of the last."""
    left, bottom, side = corner
    axes = add_box(figure, left + GAP, bottom, STRIP, side)
    numbers = groups[order]
    paint(axes, _group_colours(numbers)[:, None])
    _number(axes, numbers, side / len(order), across=False)
    if values is not None:
        axes = add_box(figure, left + 2 * GAP + STRIP, bottom, STRIP, side)
        paint(axes, scale_of(values).to_rgba(values[order])[:, None])
    return axes


def _group_colours(numbers: Ints) -> Floats:
    """Colours (e, 4) of groups (e,), one for each number, in the order in which they come."""
    kinds = list(dict.fromkeys(numbers.tolist()))
    return np.array([to_rgba(GROUPS[kinds.index(n) % len(GROUPS)]) for n in numbers.tolist()])


def _number(axes: Axes, numbers: Ints, pitch: float, *, across: bool) -> None:
    """Write the number of each run of one group in its middle, where there is room for it."""
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
        if (end - start) * pitch < 0.13:
            continue
        middle = (start + end - 1) / 2.0
        x, y = (middle, 0.0) if across else (0.0, middle)
        axes.text(
            x, y, str(numbers[start]), ha="center", va="center_baseline", fontsize=6.5,
            weight="bold", color="white", parse_math=False,
        )  # fmt: skip


def _name_leaves(
    axes: Axes, names: Sequence[str], size: float, pitch: float, *, below: bool
) -> None:
    """Names right of the axes, one a row, and below them one a column if asked."""
    every = ceil(size / 72.0 / pitch)
    right, low = axes.get_xlim()[1], axes.get_ylim()[0]
    inches = axes.figure.dpi_scale_trans
    beside = axes.transData + ScaledTranslation(0.04, 0.0, inches)
    under = axes.transData + ScaledTranslation(0.0, -0.04, inches)
    for i in range(0, len(names), every):
        axes.text(
            right, i, shortened(names[i]), transform=beside, ha="left", va="center_baseline",
            fontsize=size, color=INK, parse_math=False,
        )  # fmt: skip
        if below:
            axes.text(
                i, low, shortened(names[i]), transform=under, ha="center", va="top",
                fontsize=size, color=INK, rotation=90, parse_math=False,
            )  # fmt: skip
