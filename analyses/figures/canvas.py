"""The sheet every figure is drawn on: size, titles, colours, and how it becomes a file.

Uses the object interface only (no pyplot, no global state). Names are drawn as they are: a dollar
sign in one is a dollar sign, not mathematics.
"""

import io

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy import float64
from numpy.typing import NDArray

Floats = NDArray[float64]

DPI = 150
INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
SERIES = ("#b2182b", "#2166ac", "#1b7837", "#762a83", "#b35806", "#01665e")
DIVERGING = "RdBu_r"
HEAD, FOOT = 0.62, 0.22
"""Inches kept free above the axes for the titles and below them for what `stamp` writes."""


def stamp(figure: Figure, note: str) -> None:
    """Write `note` in the lower right corner: what a reader must know before believing a figure."""
    figure.text(
        0.995, 0.004, note, ha="right", va="bottom", fontsize=9, style="italic", color="#b2182b",
        parse_math=False,
    )  # fmt: skip


def render(figure: Figure, file_format: str) -> bytes:
    """The figure as 'png' or 'svg' bytes, the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "figure"}):
        figure.savefig(buffer, format=file_format, metadata=metadata)
    figure.set_layout_engine("none")
    return buffer.getvalue()


def new_figure(width: float, height: float, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """A figure of width x height inches with one pair of axes, a title and a line below it."""
    inner = (0.0, FOOT / height, 1.0, 1.0 - (HEAD + FOOT) / height)
    layout = ConstrainedLayoutEngine(rect=inner)
    figure = Figure((width, height), DPI, layout=layout, facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    left = 0.12 / width
    figure.text(
        left, 1.0 - 0.12 / height, title, va="top", fontsize=14, weight="bold", color=INK,
        parse_math=False,
    )  # fmt: skip
    figure.text(
        left, 1.0 - 0.42 / height, subtitle, va="top", fontsize=9.5, color=GREY, parse_math=False
    )
    return figure, axes


def add_scale(figure: Figure, axes: Axes, colours: ScalarMappable, name: str) -> None:
    bar = figure.colorbar(colours, ax=axes, shrink=0.45, aspect=28, pad=0.015)
    bar.set_label(name, parse_math=False)
    bar.outline.set_visible(False)
