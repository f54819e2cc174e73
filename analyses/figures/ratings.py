"""Ratings and what moves them: bars by name, points with their line, groups in panels, doses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.figures.canvas import (
    DIVERGING,
    FAINT,
    GREY,
    INK,
    SERIES,
    Floats,
    add_scale,
    new_figure,
    write_plainly,
)
from analyses.figures.points import place_names

LABELLED = 40
"""Bars that bear their name, evenly spaced from the first to the last."""
GROUP_COLOURS = (
    *("#1b9e77", "#d95f02", "#377eb8", "#e7298a"),
    *("#444444", "#984ea3", "#e6ab02", "#8b3a00"),
)
MARKERS = "os^D"
"""Groups that share a marker differ in colour most."""


def draw_bars(
    values: Floats,
    names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    value_name: str,
    shades: Floats,
    shades_name: str,
    bars: Sequence[float] = (),
) -> Figure:
    """Values (n,) as bars from the highest to the lowest, coloured by `shades` (n,) around 0.

    LABELLED of them, evenly spaced, bear their names; `bars` are thresholds drawn across.
    """
    figure, axes = new_figure(14.0, 6.5, title, subtitle)
    order = np.argsort(-values, kind="stable")
    limit = max(float(np.abs(shades).max()), 1e-12)
    scale = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    axes.bar(
        range(len(values)),
        values[order],
        width=0.9,
        color=scale.to_rgba(shades[order]),
        edgecolor="#777777",
        linewidth=0.3,
    )
    for height in bars:
        axes.axhline(height, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    shown = np.linspace(0, len(values) - 1, min(LABELLED, len(values))).round().astype(int)
    for place in shown:
        _name_bar(axes, int(place), float(values[order[place]]), names[order[place]])
    axes.set_xlim(-1.0, len(values))
    axes.margins(y=0.22)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(f"{len(values)} in order; {len(shown)} of them named")
    axes.set_ylabel(value_name, parse_math=False)
    add_scale(figure, axes, scale, shades_name)
    return figure


def _name_bar(axes: Axes, place: int, value: float, name: str) -> None:
    up = value >= 0.0
    axes.annotate(
        name, (place, value), xytext=(1.0, 3.0 if up else -3.0), textcoords="offset points",
        rotation=90, ha="center", va="bottom" if up else "top", fontsize=7.5, color=INK,
        parse_math=False,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cloud:
    """Some points (n, 2) of a scatter that look alike; those without names stay nameless."""

    label: str
    points: Floats
    colour: str
    names: Sequence[str] = ()
    marker: str = "o"
    filled: bool = True


def draw_clouds(
    clouds: Sequence[Cloud],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
    line: tuple[float, float] | None = None,
    line_name: str = "",
) -> Figure:
    """Clouds of points with their names, and the straight line of (slope, intercept)."""
    figure, axes = new_figure(11.5, 8.0, title, subtitle)
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_xlabel(axis_names[0], parse_math=False)
    axes.set_ylabel(axis_names[1], parse_math=False)
    axes.margins(0.06)
    for cloud in clouds:
        _scatter(axes, cloud.points, cloud.colour, cloud.marker, cloud.filled, cloud.label)
    if line is not None:
        ends = np.array(axes.get_xlim())
        axes.plot(ends, line[0] * ends + line[1], color=GREY, linewidth=1.2, label=line_name)
        axes.set_xlim(*ends)
    write_plainly(figure.legend(loc="outside right center", frameon=False))
    named = [cloud for cloud in clouds if cloud.names]
    if named:
        points = np.vstack([cloud.points for cloud in named])
        place_names(figure, axes, points, [name for cloud in named for name in cloud.names])
    return figure


def _scatter(
    axes: Axes, points: Floats, colour: str, marker: str, filled: bool, label: str
) -> None:
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=30,
        marker=marker,
        facecolors=colour if filled else "white",
        edgecolors=colour,
        linewidths=0.9,
        label=label,
        zorder=2,
    )


@dataclass(frozen=True, slots=True)
class Panel:
    """Points (n, 2) of one panel, with what stands above it."""

    title: str
    points: Floats


def draw_groups(
    panels: Sequence[Panel],
    groups: Sequence[str],
    *,
    title: str,
    subtitle: str,
    axis_names: tuple[str, str],
    hollow: NDArray[np.bool_] | None = None,
    diagonal: bool = False,
) -> Figure:
    """Panels side by side, each point coloured by its group (n,), `hollow` (n,) ones unfilled.

    diagonal: the line y = x, and the same limits on all axes; else each panel's regression line.
    """
    figure, axes = new_figure(1.8 + 5.4 * len(panels), 6.2, title, subtitle)
    figure.delaxes(axes)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    kinds = list(dict.fromkeys(groups))
    of_group = np.array([kinds.index(group) for group in groups])
    empty = np.zeros(len(groups), np.bool_) if hollow is None else hollow
    for axes, panel in zip(row, panels, strict=True):
        for k, kind in enumerate(kinds):
            colour, marker = GROUP_COLOURS[k % len(GROUP_COLOURS)], MARKERS[k % len(MARKERS)]
            for filled in (True, False):
                chosen = (of_group == k) & (empty != filled)
                name = kind if filled else ""
                _scatter(axes, panel.points[chosen], colour, marker, filled, name)
        axes.set_title(panel.title, fontsize=10.5, color=INK, parse_math=False)
        axes.set_xlabel(axis_names[0], parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        _draw_line(axes, panel.points, diagonal)
    row[0].set_ylabel(axis_names[1], parse_math=False)
    marks, names = row[0].get_legend_handles_labels()
    write_plainly(figure.legend(marks, names, loc="outside right center", frameon=False))
    return figure


def _draw_line(axes: Axes, points: Floats, diagonal: bool) -> None:
    if diagonal:
        ends = np.array([points.min(), points.max()])
        axes.plot(ends, ends, color=GREY, linewidth=1.0, zorder=0)
        axes.set_aspect("equal", adjustable="datalim")
    elif np.ptp(points[:, 0]) > 0.0:
        slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
        ends = np.array([points[:, 0].min(), points[:, 0].max()])
        axes.plot(ends, slope * ends + intercept, color=GREY, linewidth=1.0, zorder=0)


def draw_doses(
    strengths: Sequence[float],
    curves: Mapping[str, Floats],
    controls: Mapping[str, Floats],
    *,
    title: str,
    subtitle: str,
    value_name: str,
) -> Figure:
    """A curve (strengths,) for each name, and the same for the controls in grey."""
    figure, axes = new_figure(8.5, 5.2, title, subtitle)
    axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    for name, values in controls.items():
        axes.plot(strengths, values, color=GREY, linestyle="--", marker="D", ms=4, label=name)
    for i, (name, values) in enumerate(curves.items()):
        axes.plot(strengths, values, color=SERIES[i % len(SERIES)], marker="o", ms=5, label=name)
    axes.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
    axes.set_xlabel("strength (fraction of the mean residual norm)")
    axes.set_ylabel(value_name, parse_math=False)
    write_plainly(figure.legend(loc="outside right center", frameon=False))
    return figure
