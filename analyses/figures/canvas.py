"""The sheet every figure is drawn on: size, titles, colours, and how it becomes a file.

Uses the object interface only (no pyplot, no global state). Names are drawn as they are: a dollar
sign in one is a dollar sign, not mathematics.
"""

import io
from collections.abc import Iterable, Sequence
from math import ceil
from textwrap import wrap

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy import float64
from numpy.typing import NDArray

Floats = NDArray[float64]

DPI = 150
INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
UNKNOWN = "#b9b9b9"
"""The colour of what has no value."""
SERIES = ("#b2182b", "#2166ac", "#1b7837", "#762a83", "#b35806", "#01665e")
MARKERS = "osD^vP"
"""A shape for each colour, for whoever cannot tell the colours apart."""
DIVERGING = "RdBu_r"
HEAD, FOOT = 0.62, 0.22
"""Inches kept free above the axes for two lines of titles, and below them for what `stamp` writes.
Titles that need more lines make a figure higher."""
MARGIN = 0.12
"""Inches left of the titles."""
KEY, KEY_LINE = 9.5, 0.2
"""Font size of the names of what is drawn, and inches from one of them to the next below."""
BAR = 2.2
"""Inches from end to end of a scale of colours at a given place."""
LONGEST = 32
"""Characters of a name that are written; a longer one ends in an ellipsis."""


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


def new_sheet(width: float, height: float, title: str, subtitle: str) -> Figure:
    """An empty figure of width x height inches with a title and, below it, a subtitle.

    Titles wider than the figure are broken into lines, for which the figure grows in height.
    """
    room = (width - 2.0 * MARGIN) * 72.0
    titles, below = _broken(title, 14.0, room, "bold"), _broken(subtitle, 9.5, room)
    first, lower = 0.27 * (len(titles) - 1), 0.17 * (len(below) - 1)
    height += first + lower
    figure = Figure((width, height), DPI, facecolor="white")
    left = MARGIN / width
    figure.text(
        left, 1.0 - 0.12 / height, "\n".join(titles), va="top", fontsize=14, weight="bold",
        color=INK, linespacing=1.05, parse_math=False,
    )  # fmt: skip
    figure.text(
        left, 1.0 - (0.42 + first) / height, "\n".join(below), va="top", fontsize=9.5, color=GREY,
        linespacing=1.05, parse_math=False,
    )  # fmt: skip
    return figure


def new_figure(
    width: float, height: float, title: str, subtitle: str, key: Sequence[str] = ()
) -> tuple[Figure, Axes]:
    """A sheet with one pair of axes, which are laid out when it is drawn.

    key: the names that `add_key` will write below the axes, for which the figure grows in height.
    """
    below = FOOT + key_room(width, key)
    figure = new_sheet(width, height + below - FOOT, title, subtitle)
    whole = figure.get_figheight()
    inner = (0.0, below / whole, 1.0, (height - HEAD - FOOT) / whole)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=inner))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def add_box(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Bare axes at a place given in inches from the lower left corner."""
    axes = figure.add_axes(_share(figure, left, bottom, width, height))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.set_facecolor("none")
    return axes


def scale_of(values: Floats) -> ScalarMappable:
    """Colours around 0 as far as the largest of the values, grey for NaN."""
    limit = float(np.nanmax(np.abs(values), initial=1e-12))
    # Without the darkest ends, which look alike on a small dot.
    shades = ListedColormap(colormaps[DIVERGING](np.linspace(0.1, 0.9, 256)))
    return ScalarMappable(Normalize(-limit, limit), shades.with_extremes(bad=UNKNOWN))


def paint(axes: Axes, colours: Floats) -> None:
    """Cells of colours (r, c, 4), the first row above, which fill the axes."""
    # Bytes are drawn several times faster than floats.
    shades = (colours * 255.0).round().astype(np.uint8)
    axes.imshow(shades, aspect="auto", interpolation="none")


def add_scale(figure: Figure, axes: Axes, colours: ScalarMappable, name: str) -> None:
    bar = figure.colorbar(colours, ax=axes, shrink=0.45, aspect=28, pad=0.015)
    bar.set_label(name, parse_math=False)
    bar.outline.set_visible(False)


def add_bar(
    figure: Figure,
    left: float,
    bottom: float,
    colours: ScalarMappable,
    name: str,
    *,
    length: float = BAR,
    lying: bool = True,
) -> None:
    """A scale of colours at a place in inches, its name above it if it lies, else beside it."""
    size = (length, 0.09) if lying else (0.11, length)
    axes = figure.add_axes(_share(figure, left, bottom, *size))
    bar = figure.colorbar(colours, axes, orientation="horizontal" if lying else "vertical")
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4 if lying else 6)
    axes.tick_params(labelsize=7 if lying else 8.5, length=2, pad=1.5)
    if lying:
        name = shortened(name, 48)
        axes.set_title(name, fontsize=8, color=INK, loc="left", pad=3, parse_math=False)
    else:
        axes.set_ylabel(
            "\n".join(wrap(name, int(15.5 * length))), fontsize=9.5, color=INK, parse_math=False
        )


def _share(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    across, up = figure.get_size_inches()
    return left / across, bottom / up, width / across, height / up


def key_room(width: float, names: Sequence[str]) -> float:
    """Inches above the foot that `add_key` takes on a figure of this width."""
    return KEY_LINE * (_lines(width, names) + 0.6) if names else 0.0


def add_key(figure: Figure, artists: Sequence[Artist], names: Sequence[str]) -> None:
    """The names of what is drawn, below the axes in as many columns as fit."""
    width, height = figure.get_size_inches()
    key = figure.legend(
        list(artists),
        _fitting(width, names),
        loc="lower left",
        bbox_to_anchor=((MARGIN - 0.05) / width, FOOT / height),
        frameon=False,
        fontsize=KEY,
        borderaxespad=0.0,
        ncols=_columns(width, names),
    )
    key.set_in_layout(False)
    write_plainly(key)


def write_plainly(key: Legend) -> None:
    """Show the names in a key as they are, dollar signs and all."""
    for text in key.get_texts():
        text.set_parse_math(False)


def _fitting(width: float, names: Sequence[str]) -> list[str]:
    most = int((width * 72.0 - 60.0) / (0.66 * KEY))
    return [shortened(name, most) for name in names]


def _columns(width: float, names: Sequence[str]) -> int:
    column = text_width(_fitting(width, names), KEY) + 46.0
    return max(1, min(len(names), int((width * 72.0 - 10.0) // column)))


def _lines(width: float, names: Sequence[str]) -> int:
    return ceil(len(names) / _columns(width, names))


def shortened(name: str, most: int = LONGEST) -> str:
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def text_width(names: Iterable[str], size: float, weight: str = "normal") -> float:
    """The width in points of the widest of names at a font size in points, 0 if there is none."""
    font = FontProperties(size=size, weight=weight)
    widths = [
        float(text_to_path.get_text_width_height_descent(name, font, False)[0]) for name in names
    ]
    return max(widths, default=0.0)


def _broken(text: str, size: float, room: float, weight: str = "normal") -> list[str]:
    """Text in lines of at most `room` points, by the mean width of the letters of each."""
    found = []
    for line in text.splitlines():
        # A part may hold more wide letters than the mean.
        per_letter = 1.06 * text_width([line], size, weight) / max(len(line), 1)
        most = max(20, int(room / max(per_letter, 1e-6)))
        found += wrap(line, most, break_on_hyphens=False)
    return found or [""]
