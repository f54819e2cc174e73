"""Square matrices as heatmaps."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analyses.figures.canvas import DIVERGING, Floats, add_scale, new_figure


def draw_heatmap(
    matrix: Floats,
    names: Sequence[str],
    *,
    title: str,
    subtitle: str,
    values_name: str,
    limits: tuple[float, float] = (-1.0, 1.0),
    colours: str = DIVERGING,
) -> Figure:
    """A square matrix (n, n) in the order given, with a name at every row and column."""
    side = max(5.0, 2.4 + 0.085 * len(names))
    figure, axes = new_figure(side + 0.8, side, title, subtitle)
    image = axes.imshow(matrix, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="none")
    axes.spines[:].set_visible(False)
    size = 5.2 if len(names) > 60 else 8.0
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=2)
    add_scale(figure, axes, image, values_name)
    return figure
