"""Numbers by layer: stacked bars and lines with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analyses.figures.canvas import FAINT, SERIES, Floats, new_figure


def draw_variance(shares: Floats, layers: Sequence[int], *, title: str, subtitle: str) -> Figure:
    """Stacked shares (l, k) of the variance, one bar a layer, the first component at the bottom."""
    figure, axes = new_figure(max(6.5, 3.0 + 0.4 * len(layers)), 5.0, title, subtitle)
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
    figure, axes = new_figure(max(6.5, 3.0 + 0.4 * len(layers)), 5.0, title, subtitle)
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
