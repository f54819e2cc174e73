"""Quantities that change on the way, one below the other over the same axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter

from analyses.figures.canvas import FOOT, GREY, HEAD, INK, SERIES, Floats, new_sheet

PANEL = 1.7
"""Inches a panel is high."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """Its values on the way (m,), and others drawn across, by what they are."""

    name: str
    values: Floats
    marks: Mapping[str, float]


def draw_progress(
    places: Floats, quantities: Sequence[Quantity], *, title: str, subtitle: str, place_name: str
) -> Figure:
    """A panel for each over `places` (m,), from 0 on; NaN where a value is not known."""
    figure = new_sheet(9.0, HEAD + FOOT + PANEL * len(quantities) + 0.4, title, subtitle)
    height = figure.get_figheight()
    inner = (0.0, FOOT / height, 1.0, (height - HEAD - FOOT) / height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=inner))
    sheets = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, quantity) in enumerate(zip(sheets, quantities, strict=True)):
        _draw_panel(axes, places, quantity, SERIES[i % len(SERIES)])
    sheets[-1].set_xlabel(place_name, parse_math=False)
    sheets[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    figure.align_ylabels(list(sheets))
    return figure


def _draw_panel(axes: Axes, places: Floats, quantity: Quantity, colour: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(places, quantity.values, color=colour, linewidth=1.4, marker="o", markersize=2.0)
    for name, height in quantity.marks.items():
        axes.axhline(height, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            name, (1.0, height), xycoords=("axes fraction", "data"), xytext=(-2.0, 2.5),
            textcoords="offset points", ha="right", fontsize=8, color=INK, parse_math=False,
        )  # fmt: skip
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.01)
    axes.set_ylabel(quantity.name, parse_math=False)
