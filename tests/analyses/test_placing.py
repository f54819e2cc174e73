"""Laws of placing names: none covers a point or a name, the nearest free place, few crossings."""

import numpy as np
import pytest

from analyses.figures import placing
from analyses.figures.placing import (
    cut_boxes,
    cut_lines,
    find_places,
    inside,
    leader_ends,
    overlaps,
)
from tests.analyses.planted import Floats, frozen

SHEET = frozen(np.array([0.0, 0.0, 900.0, 650.0]))
DOT = 3.0


def crowd(n: int, seed: int = 0, spread: float = 70.0) -> tuple[Floats, Floats]:
    """Points around the middle of the sheet, and half sizes of names."""
    rng = np.random.default_rng(seed)
    halves = np.column_stack([rng.uniform(8.0, 35.0, n), np.full(n, 5.0)])
    return frozen(np.array([450.0, 325.0]) + spread * rng.normal(size=(n, 2))), frozen(halves)


def boxes_of(centres: Floats, halves: Floats) -> tuple[Floats, Floats]:
    """The places and the boxes of all names that found one."""
    places = find_places(centres, halves, DOT, SHEET)
    placed = ~np.isnan(places[:, 0])
    return places, np.hstack([places - halves, places + halves])[placed]


@pytest.mark.parametrize("seed", range(3))
def test_no_name_covers_a_point_or_a_name_or_leaves_the_sheet(seed: int) -> None:
    centres, halves = crowd(120, seed)
    _, boxes = boxes_of(centres, halves)
    dots = np.hstack([centres - DOT, centres + DOT])
    assert len(boxes) > 100
    assert not overlaps(boxes, dots).any()
    assert not np.triu(overlaps(boxes, boxes), 1).any()
    assert inside(boxes, SHEET).all()


def test_a_lonely_point_has_its_name_at_the_nearest_place() -> None:
    centres, halves = frozen(np.array([[450.0, 325.0]])), frozen(np.array([[20.0, 5.0]]))
    (place,), _ = boxes_of(centres, halves)
    np.testing.assert_allclose(place, [450.0 + 4.0 + 20.0, 325.0])


def test_names_without_room_are_left_out_and_not_piled_up() -> None:
    centres, halves = crowd(40, spread=0.1)
    tight = frozen(np.array([380.0, 300.0, 520.0, 350.0]))
    places = find_places(centres, halves, DOT, tight)
    placed = ~np.isnan(places[:, 0])
    assert 0 < placed.sum() < 40
    boxes = np.hstack([places - halves, places + halves])[placed]
    assert not np.triu(overlaps(boxes, boxes), 1).any()


def crossings(centres: Floats, halves: Floats) -> tuple[int, int]:
    """Names that are placed, and how often their leaders cut one another or a name."""
    places, boxes = boxes_of(centres, halves)
    tied = centres[~np.isnan(places[:, 0])]
    tips = leader_ends(tied, boxes)
    among = np.triu(cut_lines(tied, tips, tied, tips), 1).sum()
    through = cut_boxes(tied, tips, boxes)
    np.fill_diagonal(through, val=False)
    return len(boxes), int(among + through.sum())


def test_leaders_avoid_crossings(monkeypatch: pytest.MonkeyPatch) -> None:
    crowds = [crowd(120, seed, spread=110.0) for seed in (0, 2)]
    minded = [crossings(*each) for each in crowds]
    monkeypatch.setattr(placing, "CROSSING", 0.0)
    monkeypatch.setattr(placing, "STRIKING", 0.0)
    unminded = [crossings(*each) for each in crowds]
    assert min(placed for placed, _ in minded) > 115
    assert sum(crossed for _, crossed in minded) < 0.6 * sum(crossed for _, crossed in unminded)


def test_few_names_are_struck_through_where_all_are_placed() -> None:
    placed, struck = 0, 0
    for seed in range(4):
        centres, halves = crowd(120, seed, spread=110.0)
        places, boxes = boxes_of(centres, halves)
        tied = centres[~np.isnan(places[:, 0])]
        through = cut_boxes(tied, leader_ends(tied, boxes), boxes)
        np.fill_diagonal(through, val=False)
        placed, struck = placed + len(boxes), struck + int(through.sum())
    assert placed == 4 * 120
    assert struck <= 4 * 5


def test_the_same_points_have_the_same_places() -> None:
    centres, halves = crowd(60)
    first, second = (find_places(centres, halves, DOT, SHEET) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_places_grow_with_the_unit_of_length() -> None:
    centres, halves = crowd(30)
    once = find_places(centres, halves, DOT, SHEET)
    twice = find_places(centres * 2.0, halves * 2.0, DOT * 2.0, SHEET * 2.0, 2.0)
    np.testing.assert_allclose(twice, once * 2.0)


def test_lines_cut_boxes_where_some_point_of_them_lies_within() -> None:
    rng = np.random.default_rng(1)
    starts, ends = rng.uniform(0.0, 10.0, size=(2, 40, 2))
    ends[:10, 0] = starts[:10, 0]
    corners = rng.uniform(0.0, 9.0, size=(30, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0.5, 3.0, size=(30, 2))])
    steps = np.linspace(0.0, 1.0, 4001)[:, None, None]
    walk = (starts + steps * (ends - starts))[:, :, None]
    within = ((walk > boxes[:, :2]) & (walk < boxes[:, 2:])).all(axis=3).any(axis=0)
    found = cut_boxes(starts, ends, boxes)
    assert (found != within).sum() <= 2  # a corner cut between two steps of the walk
    assert not (within & ~found).any()


def test_lines_cross_where_each_parts_the_ends_of_the_other() -> None:
    rng = np.random.default_rng(2)
    a, b, c, d = rng.uniform(0.0, 10.0, size=(4, 50, 2))

    def side(p: Floats, q: Floats, r: Floats) -> Floats:
        return np.asarray(
            (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1])
            - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
        )

    A, B, C, D = a[:, None], b[:, None], c[None], d[None]
    expected = (side(A, B, C) * side(A, B, D) < 0.0) & (side(C, D, A) * side(C, D, B) < 0.0)
    assert np.array_equal(cut_lines(a, b, c, d), expected)
    assert not cut_lines(a, b, a, b).diagonal().any()
