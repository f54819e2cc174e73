"""Every plot: arrays in, a matplotlib Figure out. Knows nothing of rows, readers or files."""

from analyses.figures.canvas import render, stamp
from analyses.figures.curves import draw_curve
from analyses.figures.depths import DepthLine, draw_depths
from analyses.figures.layers import draw_variance
from analyses.figures.matrices import draw_layers_matrix
from analyses.figures.points import draw_scatter
from analyses.figures.trees import draw_clustermap, draw_dendrogram

__all__ = [
    "DepthLine",
    "draw_clustermap",
    "draw_curve",
    "draw_dendrogram",
    "draw_depths",
    "draw_layers_matrix",
    "draw_scatter",
    "draw_variance",
    "render",
    "stamp",
]
