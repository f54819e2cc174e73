"""Every plot: arrays in, a matplotlib Figure out. Knows nothing of rows, readers or files."""

from analyses.figures.canvas import render, stamp
from analyses.figures.layers import draw_lines, draw_variance
from analyses.figures.matrices import draw_heatmap
from analyses.figures.points import draw_scatter

__all__ = ["draw_heatmap", "draw_lines", "draw_scatter", "draw_variance", "render", "stamp"]
