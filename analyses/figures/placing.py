"""Where names may stand beside their points, so that none covers a point or another name.

Plane geometry of boxes (left, bottom, right, top) and of leaders, the lines that tie a name to its
point, all in one unit of length. Knows nothing of figures.
"""

import numpy as np
from numpy.typing import NDArray

from analyses.figures.canvas import Floats

Mask = NDArray[np.bool_]

_ANGLES = np.radians([0, 180, 90, 270, *range(45, 360, 90), *np.arange(22.5, 360.0, 45.0)])
_STEPS = np.array([4.0, 7.0, 11.0, 16.0, 22.0, 30.0, 40.0, 52.0, 68.0, 86.0, 106.0])
DIRECTIONS = np.tile(np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)]), (len(_STEPS), 1))
LENGTHS = np.repeat(_STEPS, len(_ANGLES))
OFFSETS = DIRECTIONS * LENGTHS[:, None]
"""Where a name may stand, as distances from its point in typographic points, the nearest first."""
SWEEPS = 6
"""Times that every name may move to a better place that others have left."""
CONSIDERED = 20
"""Free places that are compared, the nearest ones."""
CROSSING, STRIKING, CLOSE = 30.0, 90.0, 3.0
"""How much further off, in typographic points, a name would rather stand than have its leader cross
a point or a leader; than have a leader strike a name through; than stand as close to another point
as to its own."""


def find_places(
    centres: Floats, halves: Floats, radius: float, limits: Floats, point: float = 1.0
) -> Floats:
    """The middles (n, 2) of boxes of half sizes (n, 2) for points (n, 2), NaN where none is free.

    radius: of a point; limits (4,): the box all must lie within; point: a typographic point in the
    unit of all of these. From the inside, where room is scarce, outwards each takes the free place
    that is nearest, has the fewest crossings and is closest to no other point, and again until no
    one moves.
    """
    places = np.full(centres.shape, np.nan)
    dots = np.hstack([centres - radius, centres + radius])
    distance = np.linalg.norm(centres - centres.mean(axis=0), axis=1)
    order = np.argsort(distance, kind="stable")
    for _ in range(SWEEPS):
        before = places.copy()
        for i in order:
            places[i] = _best_place(int(i), centres, halves, places, dots, limits, point)
        if np.array_equal(before, places, equal_nan=True):
            break
    return places


def _best_place(
    i: int,
    centres: Floats,
    halves: Floats,
    places: Floats,
    dots: Floats,
    limits: Floats,
    point: float,
) -> Floats:
    middles = centres[i] + OFFSETS * point + DIRECTIONS * halves[i]
    boxes = np.hstack([middles - halves[i], middles + halves[i]])
    placed = ~np.isnan(places[:, 0])
    placed[i] = False
    taken = np.hstack([places - halves, places + halves])[placed]
    free = np.flatnonzero(
        inside(boxes, limits) & ~overlaps(boxes, np.vstack([dots, taken])).any(axis=1)
    )
    if not len(free):
        return np.full(2, np.nan)
    free = free[:CONSIDERED]
    boxes, other_dots = boxes[free], np.delete(dots, i, axis=0)
    crossed, struck = _crossings(centres[i], boxes, other_dots, centres[placed], taken)
    wide = np.array([-1.0, -1.0, 1.0, 1.0]) * 3.0 * point
    close = overlaps(boxes + wide, other_dots).sum(axis=1)
    cost = LENGTHS[free] + CROSSING * crossed + STRIKING * struck + CLOSE * close
    return np.asarray(middles[free[np.argmin(cost)]], np.float64)


def _crossings(
    centre: Floats, boxes: Floats, dots: Floats, tied: Floats, taken: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of a name in each of boxes (n, 4): dots and leaders that its own leader would cross, and
    names that a leader would strike through, this one among them.

    There are the dots, and the boxes `taken` with their leaders to the points `tied`.
    """
    starts = np.tile(centre, (len(boxes), 1))
    ends, tips = leader_ends(starts, boxes), leader_ends(tied, taken)
    crossed = cut_boxes(starts, ends, dots).sum(axis=1) + cut_lines(starts, ends, tied, tips).sum(1)
    struck = cut_boxes(starts, ends, taken).sum(axis=1) + cut_boxes(tied, tips, boxes).sum(axis=0)
    return np.asarray(crossed, np.int64), np.asarray(struck, np.int64)


def leader_ends(starts: Floats, boxes: Floats) -> Floats:
    """The place (n, 2) of each box (n, 4) that is nearest to its start (n, 2)."""
    return np.clip(starts, boxes[:, :2], boxes[:, 2:])


def inside(boxes: Floats, limits: Floats) -> Mask:
    """Which boxes (n, 4) lie within limits (4,)."""
    within = np.hstack([boxes[:, :2] >= limits[:2], boxes[:, 2:] <= limits[2:]])
    return np.asarray(within.all(axis=1))


def overlaps(boxes: Floats, others: Floats) -> Mask:
    """Which boxes (n, 4) overlap which others (m, 4), as (n, m)."""
    left, bottom, right, top = boxes.T[:, :, None]
    return np.asarray(
        (left < others[:, 2]) & (bottom < others[:, 3])
        & (right > others[:, 0]) & (top > others[:, 1])
    )  # fmt: skip


def cut_boxes(starts: Floats, ends: Floats, boxes: Floats) -> Mask:
    """Which lines from starts to ends (n, 2) pass through which boxes (m, 4), as (n, m).

    The stretch of a line, 0 to 1, within both pairs of sides is not empty (Liang and Barsky 1984).
    """
    enter, leave = np.zeros((len(starts), len(boxes))), np.ones((len(starts), len(boxes)))
    for axis in range(2):
        start = starts[:, axis, None]
        run = ends[:, axis, None] - start
        run = np.where(np.abs(run) < 1e-12, 1e-12, run)
        first, last = (boxes[:, axis] - start) / run, (boxes[:, axis + 2] - start) / run
        enter = np.maximum(enter, np.minimum(first, last))
        leave = np.minimum(leave, np.maximum(first, last))
    return np.asarray(enter < leave)


def cut_lines(starts: Floats, ends: Floats, others: Floats, tips: Floats) -> Mask:
    """Which lines from starts to ends (n, 2) cross which from others to tips (m, 2), as (n, m)."""
    run, other = ends - starts, tips - others
    gap = others[None] - starts[:, None]
    turn = _cross(run[:, None], other[None])
    safe = np.where(np.abs(turn) < 1e-12, np.inf, turn)
    here = _cross(gap, other[None]) / safe
    there = _cross(gap, run[:, None]) / safe
    within = (here > 0.0) & (here < 1.0) & (there > 0.0) & (there < 1.0)
    return np.asarray(within & np.isfinite(safe))


def _cross(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], np.float64)
