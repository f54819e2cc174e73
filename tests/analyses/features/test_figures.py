"""Laws of the figures of an SAE: they show what the rows say, and all of it can be read."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analyses.base import Rows
from analyses.features.figures import figures
from analyses.figures.canvas import SERIES, UNKNOWN, render, stamp
from analyses.figures.dots import Dots, draw_dots
from analyses.figures.heat import draw_heat
from stores.results import Table
from tests.analyses.features.sheets import KS, LAYER, feature_rows
from tests.analyses.planted import Floats
from tests.analyses.sheets import ODD_NAMES, outside, overlapping, words

LONG = "a name that is far longer than anyone would think of giving to one"
FORCED: Any = {"differences": "hook point blocks.3.mlp.hook_out is no residual stream"}
ALL, TWELVE = feature_rows(words()), feature_rows(words(12))
NAMES = ("aucs", "components", "cosines", "features", "rebuild")


@cache
def drawn_all() -> dict[str, Figure]:
    """Of all emotions; not to be changed."""
    return figures(ALL)


@cache
def drawn_twelve() -> dict[str, Figure]:
    """Of twelve emotions; not to be changed."""
    return figures(TWELVE)


def column(rows: Rows, table: str, name: str) -> Floats:
    return np.array([row[name] for row in rows.records(table, LAYER)], np.float64)


def texts(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def scattered(axes: Axes) -> list[PathCollection]:
    return [each for each in axes.collections if isinstance(each, PathCollection)]


def columns(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_ylim()[0] > axes.get_ylim()[1]]


@pytest.mark.parametrize(
    ("names", "forced"),
    [(words(), False), (words(3), False), ([*ODD_NAMES, LONG, *words(7)], True)],
    ids=["all", "few", "odd"],
)
def test_every_text_can_be_read(names: Sequence[str], forced: bool) -> None:
    rows = feature_rows(names, cards=1, settings=FORCED if forced else {}, valence=not forced)
    drawn = figures(rows)
    assert sorted(drawn) == sorted(NAMES)
    for name, figure in drawn.items():
        stamp(figure, "toy model, planted geometry")
        render(figure, "svg")
        assert outside(figure) == [], name
        assert overlapping(figure) == [], name
        shown = [label for axes in figure.axes for label in axes.get_yticklabels()]
        named = [text for axes in figure.axes for text in axes.texts]
        assert not any(each.get_parse_math() for each in (*named, *figure.texts))
        if name in ("cosines", "aucs", "features"):
            assert not any(each.get_parse_math() for each in shown if each.get_text())


def test_every_figure_says_whose_features_these_are_and_that_they_were_forced() -> None:
    forced = figures(feature_rows(words(12), settings=FORCED))
    for name in NAMES:
        told = texts(drawn_twelve()[name])
        assert "SAE llama-scope-lxr-8x-l20r-8x (32,768 features), reader llama-3.1-8b" in told
        assert "FORCED" not in told
        assert f"FORCED: {FORCED['differences']}" in texts(forced[name])


@pytest.mark.parametrize(
    ("figure", "value", "control", "low", "high", "q"),
    [
        ("cosines", "cosine", "control_cosine", "null_half", "null_high", "q"),
        ("aucs", "auc", "control_auc", "auc_low", "auc_high", "auc_q"),
    ],
)
def test_each_emotion_has_its_value_its_control_and_its_bar(
    figure: str, value: str, control: str, low: str, high: str, q: str
) -> None:
    rows = ALL
    order = np.argsort(-column(rows, "emotions", value), kind="stable")
    panels = columns(drawn_all()[figure])
    assert [len(axes.get_yticks()) for axes in panels] == [57, 57, 57]
    names = [label.get_text() for axes in panels for label in axes.get_yticklabels()]
    assert names == [words()[i] for i in order]
    for which, name in ((0, control), (1, value)):
        drawn = [np.asarray(scattered(axes)[which].get_offsets())[:, 0] for axes in panels]
        np.testing.assert_allclose(np.concatenate(drawn), column(rows, "emotions", name)[order])
    bars = [
        segment[:, 0]
        for axes in panels
        for segment in [each for each in axes.collections if isinstance(each, LineCollection)][
            1
        ].get_segments()
    ]
    ends = np.column_stack([column(rows, "emotions", name)[order] for name in (low, high)])
    np.testing.assert_allclose(np.array(bars), ends)
    faces = [
        to_hex(face) for axes in panels for face in np.asarray(scattered(axes)[1].get_facecolor())
    ]
    solid = column(rows, "emotions", q)[order] < 0.05
    assert faces == [SERIES[0] if each else "#ffffff" for each in solid]
    assert f"{int(solid.sum())} of 171 above" in texts(drawn_all()[figure])


def test_a_name_without_a_value_stands_last_and_has_no_dot() -> None:
    values = np.array([np.nan, 0.2, 0.9])
    dots = Dots(["lost", "low", "high"], values, values, values, values, values > 0.5)
    (axes,) = columns(
        draw_dots(dots, title="t", subtitle="s", value_name="v", key=("a", "b", "c", "d"))
    )
    assert [label.get_text() for label in axes.get_yticklabels()] == ["high", "low", "lost"]
    drawn = np.asarray(np.ma.filled(scattered(axes)[1].get_offsets(), np.nan))[:, 0]
    assert np.isnan(drawn).tolist() == [False, False, True]


def test_columns_of_names_share_their_scale() -> None:
    assert len({axes.get_xlim() for axes in columns(drawn_all()["aucs"])}) == 1


def test_the_curves_are_the_shares_that_the_rows_say() -> None:
    rows = TWELVE
    axes = drawn_twelve()["rebuild"].axes[0]
    drawn = {tuple(np.asarray(line.get_ydata()).tolist()) for line in axes.lines}
    wanted: dict[tuple[Any, Any], list[Any]] = {}
    for row in rows.records("rebuild", LAYER):
        if row["k"] in KS:
            wanted.setdefault((row["target"], row["bank"]), []).append(row["explained"])
    assert drawn == {tuple(shares) for shares in wanted.values()}
    assert [int(label.get_text()) for label in axes.get_xticklabels()] == list(KS)


def test_the_cells_are_the_aucs_and_the_best_of_each_emotion_is_marked() -> None:
    rows = TWELVE
    axes = next(axes for axes in drawn_twelve()["features"].axes if axes.images)
    table = next(table for table in rows.tables if table.name == "aucs")
    matrix = np.array([row[1:] for row in table.rows], np.float64).T
    shown = np.asarray(axes.images[0].get_array())[..., :3].astype(float)
    redder = shown[..., 0] - shown[..., 2]
    assert (np.sign(redder[matrix > 0.55]) == 1.0).all()
    assert (np.sign(redder[matrix < 0.45]) == -1.0).all()
    assert [label.get_text() for label in axes.get_yticklabels()] == words(12)
    features = [label.get_text() for label in axes.get_xticklabels()]
    assert features == [str(row[0]) for row in table.rows]
    marks = np.asarray(scattered(axes)[0].get_offsets()).astype(int)
    best = {str(row["emotion"]): str(row["auc_feature"]) for row in rows.records("emotions", LAYER)}
    assert {words(12)[y]: features[x] for x, y in marks} == best


def test_a_cell_without_a_value_is_grey() -> None:
    matrix = np.array([[0.9, np.nan]])
    figure = draw_heat(
        *(matrix, ["a"], ["1", "2"]),
        title="t", subtitle="s", axis_names=("e", "f"), values_name="v", middle=0.5,
    )  # fmt: skip
    image = next(axes for axes in figure.axes if axes.images).images[0].get_array()
    assert to_hex(np.asarray(image)[0, 1] / 255.0) == UNKNOWN


def test_planes_show_the_components_with_the_signs_of_the_vectors() -> None:
    rows = ALL
    linear, coded, control = (
        np.column_stack([column(rows, "components", f"{name}_{i}") for i in (1, 2)])
        for name in ("linear", "coded", "control")
    )
    drawn = [
        np.asarray(scattered(axes)[0].get_offsets())
        for axes in drawn_all()["components"].axes
        if scattered(axes)
    ]
    np.testing.assert_allclose(drawn[0], linear)
    np.testing.assert_allclose(drawn[1], -coded)
    np.testing.assert_allclose(drawn[2], control)


def test_planes_are_coloured_by_valence_or_else_by_family() -> None:
    by_valence = drawn_twelve()["components"]
    by_family = figures(feature_rows(words(20), valence=False))["components"]
    assert by_valence.legends == []
    assert "grey: 1 without valence label (editorial)" in texts(by_valence)
    named = {text.get_text() for text in by_family.legends[0].get_texts()}
    assert named == {f"family {i}" for i in range(10)}
    faces = np.asarray(scattered(by_family.axes[0])[0].get_facecolor())
    assert len({to_hex(face) for face in faces}) == 10


def test_the_planes_say_how_alike_codes_and_vectors_are() -> None:
    told = texts(drawn_twelve()["components"])
    assert "RSA with the vectors: codes 0.41 (0.10 to 0.90), control 0.33" in told


def test_two_emotions_have_one_component_and_no_plane() -> None:
    rows = feature_rows(words(2))
    table = rows.table("components", LAYER)
    flat = tuple(
        tuple(
            None if name.endswith("_2") else cell
            for name, cell in zip(table.columns, row, strict=True)
        )
        for row in table.rows
    )
    others = tuple(each for each in rows.tables if each.name != "components")
    kept = Rows(rows.metrics, (*others, Table("components", table.columns, flat, LAYER)))
    assert "components" not in figures(kept)


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = (figures(feature_rows(words(3), cards=1)) for _ in range(2))
    for name in NAMES:
        assert render(first[name], "svg") == render(second[name], "svg")
