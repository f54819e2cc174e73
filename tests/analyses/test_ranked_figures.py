"""Laws of the ranked bars: who is drawn, in what order and colour; and all of it can be read."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.external_figures import figures
from analyses.figures.canvas import UNKNOWN, render, stamp
from analyses.figures.ranked import ENDS, Band, Ranked, draw_ranked
from tests.analyses.external_sheets import LAYER, external_rows, judged
from tests.analyses.planted import Floats
from tests.analyses.sheets import ODD_NAMES, outside, overlapping, words

RNG = np.random.default_rng(0)
LONG = "a name that is far longer than anyone would think of giving to one"


def ranked(
    values: Floats, names: Sequence[str], name: str = "pile", shades: Floats | None = None
) -> Ranked:
    known = values if shades is None else shades
    return Ranked(name, names, values, values - 0.1, values + 0.1, known)


def draw(*columns: Ranked, bands: int = 1, chance: float | None = None) -> Figure:
    return draw_ranked(
        [Band(f"Band {i}", "projection", columns, chance) for i in range(bands)],
        title="The highest and the lowest",
        subtitle="reader toy, corpus main, layer 3",
        shades_name="valence label (planted)",
    )


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_ylim()[0] > axes.get_ylim()[1]]


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def written(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_both_ends_are_drawn_in_order_and_what_is_between_is_counted() -> None:
    values, names = RNG.normal(size=171), words()
    (axes,) = panels(draw(ranked(values, names)))
    order = np.argsort(-values)
    shown = [*order[:ENDS], *order[-ENDS:]]
    assert written(axes) == [names[i] for i in shown]
    assert [bar.get_width() for bar in bars(axes)] == values[shown].tolist()
    assert [text.get_text() for text in axes.texts] == ["… 141 between …"]
    (ends,) = axes.collections
    drawn = np.array([segment[:, 0] for segment in ends.get_segments()])  # type: ignore[attr-defined]
    np.testing.assert_allclose(drawn, values[shown][:, None] + [-0.1, 0.1])


@pytest.mark.parametrize("n", [1, 3, 2 * ENDS])
def test_few_names_are_all_drawn(n: int) -> None:
    (axes,) = panels(draw(ranked(np.arange(float(n)), words(n))))
    assert written(axes) == words(n)[::-1]
    assert not axes.texts


def test_where_many_are_equal_none_is_called_the_lowest() -> None:
    column = replace(ranked(np.repeat([1.0, 0.0], [9, 91]), words(100)), lowest=0)
    axes, _ = panels(draw(column, column))
    assert written(axes) == words(ENDS)
    assert [text.get_text() for text in axes.texts] == ["… 85 more …"]


def test_names_without_a_value_are_counted_and_not_drawn() -> None:
    figure = draw(ranked(np.array([0.5, np.nan, -0.5]), ["up", "lost", "down"]))
    (axes,) = panels(figure)
    assert written(axes) == ["up", "down"]
    assert "pile; 1 without a value" in {text.get_text() for text in figure.texts}
    render(draw(ranked(np.full(3, np.nan), words(3))), "png")


def test_bars_are_coloured_by_their_shade_and_grey_without_one() -> None:
    values, shades = np.array([3.0, 2.0, 1.0]), np.array([-1.0, 1.0, np.nan])
    figure = draw(ranked(values, words(3), shades=shades))
    low, high, none = (to_hex(bar.get_facecolor()) for bar in bars(panels(figure)[0]))
    assert int(low[5:7], 16) > int(low[1:3], 16)
    assert int(high[1:3], 16) > int(high[5:7], 16)
    assert none == UNKNOWN
    assert "grey: without valence label (planted)" in {text.get_text() for text in figure.texts}


def test_without_any_label_no_scale_is_shown() -> None:
    values = np.array([3.0, 2.0, 1.0])
    bare, known = (
        draw(ranked(values, words(3), shades=shades)) for shades in (np.full(3, np.nan), values)
    )
    assert (len(bare.axes), len(known.axes)) == (1, 2)
    assert "grey" not in "".join(text.get_text() for text in bare.texts)


def test_columns_of_a_band_share_their_scale_and_hold_all_that_is_drawn() -> None:
    columns = [ranked(size * RNG.normal(size=171), words()) for size in (0.1, 1.0, 5.0)]
    limits = {axes.get_xlim() for axes in panels(draw(*columns))}
    ((low, high),) = limits
    assert low < min(column.low.min() for column in columns)
    assert high > max(column.high.max() for column in columns)


def test_bold_are_the_names_at_the_same_end_in_every_column() -> None:
    names, values = words(), np.linspace(1.0, -1.0, 171)
    other = values.copy()
    other[[0, 170]] = other[[170, 0]]
    for axes in panels(draw(ranked(values, names), ranked(other, names))):
        bold = {
            each.get_text() for each in axes.get_yticklabels() if each.get_fontweight() == "bold"
        }
        assert bold == {*names[1:ENDS], *names[-ENDS:-1]}
    for figure in (draw(ranked(values, names)), draw(*[ranked(values[:9], names[:9])] * 2)):
        labels = [each for axes in panels(figure) for each in axes.get_yticklabels()]
        assert {each.get_fontweight() for each in labels} == {"normal"}


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize(
    "names", [words(), words(3), [*ODD_NAMES, LONG, *words(40)]], ids=["all", "few", "odd"]
)
def test_every_text_can_be_read(columns: int, names: Sequence[str]) -> None:
    sizes = [np.random.default_rng(i).normal(size=len(names)) for i in range(columns)]
    shades = np.resize([1.0, np.nan, -1.0], len(names))
    drawn = [ranked(values, names, f"source {LONG}", shades) for values in sizes]
    figure = draw(*drawn, bands=2, chance=0.1)
    stamp(figure, "toy model, planted geometry")
    assert outside(figure) == []
    assert overlapping(figure) == []
    named = [text for axes in panels(figure) for text in axes.get_yticklabels()]
    assert not any(text.get_parse_math() for text in (*named, *figure.texts))


def test_each_name_stands_beside_its_bar() -> None:
    (axes,) = panels(draw(ranked(RNG.normal(size=171), words())))
    middles = [bar.get_y() + bar.get_height() / 2.0 for bar in bars(axes)]
    np.testing.assert_allclose(middles, axes.get_yticks())
    gap = axes.texts[0].get_position()[1]
    assert middles[ENDS - 1] < gap < middles[ENDS]


def test_the_same_rows_give_the_same_bytes() -> None:
    column = ranked(np.linspace(1.0, -1.0, 50), words(50))
    for file_format in ("png", "svg"):
        first, second = (render(draw(column, column), file_format) for _ in range(2))
        assert first == second


def test_figures_of_sources_show_what_their_rows_say() -> None:
    rows = external_rows(("pile", "lmsys"), words())
    drawn = figures(rows)
    assert sorted(drawn) == ["first", "ranking"]
    wanted = {
        (source, key): sorted(
            (
                float(str(row[key]))
                for row in rows.records("ranking", LAYER)
                if row["source"] == source
            ),
            reverse=True,
        )
        for source in ("pile", "lmsys")
        for key in ("raw", "neutral", "first")
    }
    shown = [[bar.get_width() for bar in bars(axes)] for axes in panels(drawn["ranking"])]
    # Drawn from the lower band up.
    places = [(source, key) for key in ("neutral", "raw") for source in ("pile", "lmsys")]
    assert shown == [[*wanted[at][:ENDS], *wanted[at][-ENDS:]] for at in places]
    firsts = panels(drawn["first"])
    assert bars(firsts[0])[0].get_width() == wanted["pile", "first"][0]
    chance = [line for line in firsts[0].lines if line.get_linestyle() == "--"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in chance] == [1.0 / 171.0]
    texts = {text.get_text() for text in drawn["ranking"].texts}
    assert {"pile, 4,990 documents", "lmsys, 4,990 documents"} <= texts
    assert any("reader toy, corpus main, layer 3; denoised vectors" in text for text in texts)


def test_without_neutral_texts_only_raw_is_drawn() -> None:
    assert len(panels(figures(external_rows(("pile",), neutral=False))["ranking"])) == 1
    assert len(panels(figures(external_rows(("pile",)))["ranking"])) == 2


def test_judges_are_drawn_where_they_were_asked() -> None:
    rows = judged(external_rows(), "lmsys")
    (axes,) = panels(figures(rows)["judge"])
    assert written(axes) == ["scripted judge (40 windows)"]
    assert bars(axes)[0].get_width() == 5.5
