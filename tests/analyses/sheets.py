"""What the tests of figures share: real words, a planted tree, and where text lies on a sheet."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from tests.analyses.planted import Floats, frozen

EMOTIONS = Path(__file__).parent.parent.parent / "data" / "protocol" / "emotions.tsv"
ODD_NAMES = ("cash $", "a_$b$_{c", r"\frac", "<b> & -- </b>", "_hidden")
"""Names that a careless figure reads as mathematics, markup, or as a wish not to be shown."""


def words(n: int = 171) -> list[str]:
    lines = EMOTIONS.read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines if not line.startswith("#")][1 : n + 1]


def planted_tree(n: int = 171, groups: int = 15) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Cosines (n, n), a linkage (n - 1, 4) and the group of every name."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(groups, 20))
    vectors = centres[rng.integers(groups, size=n)] + 0.5 * rng.normal(size=(n, 20))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tree = linkage(vectors, "average", metric="cosine")
    numbers = fcluster(tree, groups, "maxclust").astype(np.int64)
    return frozen(vectors @ vectors.T), frozen(tree), numbers


def shown_texts(figure: Figure) -> list[Text]:
    """Every text that is drawn, laid out as in a PNG."""
    # A canvas that keeps its renderer: without it every extent would build one anew.
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    beyond = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                beyond |= {id(tick.label1), id(tick.label2)}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    seen = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [text for text in seen if id(text) not in beyond]


def outside(figure: Figure) -> list[str]:
    """Texts that do not lie wholly on the sheet."""
    sheet = figure.bbox.padded(1.0)
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(figure)]
    return [name for name, b in boxes if not (sheet.contains(*b.min) and sheet.contains(*b.max))]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose letters cover each other (a tenth of a line may: letters have air)."""
    texts = shown_texts(figure)
    boxes = np.array([text.get_window_extent().shrunk(0.98, 0.8).extents for text in texts])
    upright = np.array([text.get_rotation() == 90.0 for text in texts])
    if upright.any():
        lying = [text.get_window_extent().shrunk(0.8, 0.98).extents for text in texts]
        boxes[upright] = np.array(lying)[upright]
    lower = (boxes[:, None, :2] < boxes[None, :, 2:]).all(axis=2)
    pairs = np.argwhere(np.triu(lower & lower.T, 1))
    return [(texts[i].get_text(), texts[j].get_text()) for i, j in pairs]
