"""Shares by layer, as stacked bars."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analyses.figures.canvas import Floats, new_figure

WIDEST = 16.0
"""Inches across a figure with a bar for every layer, at most."""


def draw_variance(shares: Floats, layers: Sequence[int], *, title: str, subtitle: str) -> Figure:
    """Stacked shares (l, k) of the variance, one bar a layer, the first component at the bottom."""
    width = min(max(6.5, 2.4 + 0.25 * len(layers)), WIDEST)
    figure, axes = new_figure(width, 5.0, title, subtitle)
    # Every component differs from its neighbours, and the later ones fade.
    shades = colormaps["YlGnBu"](np.linspace(0.97, 0.12, shares.shape[1]))
    starts, places = np.cumsum(shares, axis=1) - shares, np.arange(len(layers))
    for i in range(shares.shape[1]):
        axes.bar(
            places,
            shares[:, i],
            width=0.84,
            bottom=starts[:, i],
            color=shades[i],
            edgecolor="white",
            linewidth=0.5,
            label=f"PC{i + 1}",
        )
    every = ceil(0.2 * len(layers) / (width - 1.9))
    axes.set_xticks(places[::every], [str(layer) for layer in layers[::every]])
    axes.tick_params(axis="x", length=0, labelsize=8.5)
    axes.set_xlim(-0.7, max(len(layers), 6) - 0.3)
    axes.set_xlabel("layer (block, counted from 0)")
    axes.set_ylabel("share of variance")
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    return figure
