"""Laws of trees and clustermaps: what stands where is what the linkage says, and all is legible."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage

from analyses.figures import draw_clustermap, draw_dendrogram, render
from analyses.figures.canvas import DIVERGING, GREY, UNKNOWN, scale_of
from analyses.figures.trees import GROUPS, leaves
from tests.analyses.planted import Floats, frozen
from tests.analyses.sheets import (
    ODD_NAMES,
    outside,
    overlapping,
    planted_tree,
    shown_texts,
    words,
)

COSINES, TREE, NUMBERS = planted_tree()
VALENCE = frozen(np.where(np.arange(171) % 7, np.linspace(-1.0, 0.5, 171), np.nan))


def clustermap(values: Floats | None = VALENCE) -> Figure:
    return draw_clustermap(
        COSINES, words(), TREE, NUMBERS, title="T", subtitle="S", values=values,
        values_name="valence",
    )  # fmt: skip


def tree(numbers: NDArray[np.int64] = NUMBERS) -> Figure:
    return draw_dendrogram(
        TREE, words(), numbers, title="T", subtitle="S", values=VALENCE, values_name="valence"
    )


def painted(axes: Axes) -> NDArray[np.uint8]:
    return np.asarray(axes.images[0].get_array(), np.uint8)


def as_bytes(colours: object) -> NDArray[np.uint8]:
    return (np.asarray(colours) * 255.0).round().astype(np.uint8)


def branches(figure: Figure) -> LineCollection:
    (found,) = [line for line in figure.findobj(LineCollection) if len(line.get_segments()) > 1]
    assert isinstance(found, LineCollection)
    return found


def test_leaves_stand_in_the_order_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 30):
        for optimal in (False, True):
            made = linkage(rng.normal(size=(n, 4)), "average", optimal_ordering=optimal)
            assert leaves(made) == leaves_list(made).tolist()


def test_cells_are_the_cosines_in_the_order_of_the_leaves() -> None:
    figure = clustermap()
    order = leaves(TREE)
    expected = colormaps[DIVERGING]((COSINES[np.ix_(order, order)] + 1.0) / 2.0)
    (cells,) = [
        axes for axes in figure.axes if axes.images and painted(axes).shape[:2] == (171,) * 2
    ]
    assert np.abs(painted(cells).astype(int) - as_bytes(expected)).max() <= 1


def test_every_name_stands_at_its_row_and_its_column() -> None:
    figure = clustermap()
    figure.draw_without_rendering()
    (cells,) = [axes for axes in figure.axes if len(axes.texts) == 2 * 171]
    ordered = [words()[i] for i in leaves(TREE)]
    beside, below = cells.texts[::2], cells.texts[1::2]
    assert [text.get_text() for text in beside] == ordered
    assert [text.get_text() for text in below] == ordered
    for place in (0, 85, 170):
        x, y = cells.transData.transform((place, place))
        row, column = beside[place].get_window_extent(), below[place].get_window_extent()
        assert row.y0 < y < row.y1
        assert row.x0 > cells.bbox.x1
        assert column.x0 < x < column.x1
        assert column.y1 < cells.bbox.y0


@pytest.mark.parametrize("draw", [clustermap, tree])
def test_strips_show_groups_and_values_and_grey_where_there_is_none(
    draw: Callable[[], Figure],
) -> None:
    order = leaves(TREE)
    strips = [painted(axes) for axes in draw().axes if axes.images]
    strips = [strip[:, 0] for strip in strips if strip.shape[:2] == (171, 1)]
    numbers = NUMBERS[order].tolist()
    kinds = list(dict.fromkeys(numbers))
    expected = [to_rgba(GROUPS[kinds.index(number)]) for number in numbers]
    np.testing.assert_array_equal(strips[0], as_bytes(expected))
    np.testing.assert_array_equal(strips[1], as_bytes(scale_of(VALENCE).to_rgba(VALENCE[order])))
    unknown = np.isnan(VALENCE[order])
    assert (strips[1][unknown] == as_bytes(to_rgba(UNKNOWN))).all()
    assert not (strips[1][~unknown] == as_bytes(to_rgba(UNKNOWN))).all(axis=1).any()


def test_branches_are_those_of_scipy() -> None:
    drawn = np.array(branches(tree()).get_segments())
    theirs = dendrogram(TREE, no_plot=True)
    places, heights = (np.array(theirs["icoord"]) - 5.0) / 10.0, np.array(theirs["dcoord"])
    expected = np.stack([heights, places], axis=2)

    def in_order(bends: Floats) -> Floats:
        return bends[np.lexsort((bends[:, 1, 1], bends[:, 1, 0]))]

    np.testing.assert_allclose(in_order(drawn), in_order(expected))


@pytest.mark.parametrize("numbers", [NUMBERS, np.arange(171) // 60, np.arange(171) % 3])
def test_branches_within_a_group_have_its_colour_and_others_are_grey(
    numbers: NDArray[np.int64],
) -> None:
    drawn = branches(tree(numbers))
    kinds = list(dict.fromkeys(numbers[leaves(TREE)].tolist()))
    members = [{i} for i in range(171)]
    for (a, b), colour in zip(TREE[:, :2].astype(int), np.asarray(drawn.get_colors()), strict=True):
        members.append(members[a] | members[b])
        within = {int(numbers[i]) for i in members[-1]}
        expected = GREY if len(within) > 1 else GROUPS[kinds.index(within.pop())]
        np.testing.assert_allclose(colour, to_rgba(expected))


@pytest.mark.parametrize("draw", [clustermap, tree])
def test_171_names_and_all_else_are_apart_and_on_the_sheet(draw: Callable[[], Figure]) -> None:
    figure = draw()
    assert outside(figure) == []
    assert overlapping(figure) == []


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_and_odd_names_fit_too(n: int) -> None:
    names = [ODD_NAMES[0], "a very long name of more than thirty-two letters", *ODD_NAMES[1:]][:n]
    cosines, joins, numbers = planted_tree(n, 2)
    title, subtitle = "T" * 90, "S " * 200
    values, about = frozen(np.linspace(-1.0, 1.0, n)), "valence in a source with a long name " * 2
    for figure in (
        draw_clustermap(
            cosines, names, joins, numbers, title=title, subtitle=subtitle, values=values,
            values_name=about,
        ),
        draw_dendrogram(
            joins, names, numbers, title=title, subtitle=subtitle, values=values, values_name=about
        ),
    ):  # fmt: skip
        assert outside(figure) == []
        assert overlapping(figure) == []
        assert b"a very long name" in render(figure, "svg")
        assert render(figure, "png").startswith(b"\x89PNG")


def test_no_scale_of_values_where_none_is_known() -> None:
    nothing = frozen(np.full(171, np.nan))
    assert "valence" in [axes.get_title(loc="left") for axes in clustermap().axes]
    assert "valence" not in [axes.get_title(loc="left") for axes in clustermap(nothing).axes]
    without = draw_dendrogram(TREE, words(), NUMBERS, title="T", subtitle="S", values=nothing)
    assert len(without.axes) == 2


def test_a_thousand_names_are_thinned_and_not_piled_up() -> None:
    _, joins, numbers = planted_tree(700, 15)
    names = [f"concept {i}" for i in range(700)]
    figure = draw_dendrogram(joins, names, numbers, title="T", subtitle="S")
    assert figure.get_figheight() < 50.0
    shown = [text for text in shown_texts(figure) if "concept" in text.get_text()]
    assert 200 < len(shown) < 700
    boxes = [text.get_window_extent() for text in shown]
    assert all(a.y0 > b.y0 + 0.7 * b.height for a, b in pairwise(boxes))


def test_names_that_are_all_alike_have_a_tree_without_height() -> None:
    flat = TREE.copy()
    flat[:, 2] = 0.0
    figure = draw_dendrogram(frozen(flat), words(), NUMBERS, title="T", subtitle="S")
    assert render(figure, "png").startswith(b"\x89PNG")
