"""How much of a vector is the emotion and how much the stories: reliability against their number.

The stories of every emotion are halved, vectors are made from each half, and the cosine of the two
is stepped up to all stories (Spearman-Brown). Halved twice over: stories at random, and topics at
random, so that no topic is in both halves; the second is stricter. Smaller sets are nested in
larger ones. Knows nothing of how stories are read or halved.

Metrics, all at the analysis layer; n is the number of emotions, the interval is over emotions:
    reliability                  mean over emotions, all stories, halved at random; and per emotion
                                 (subject), where n is its number of stories
    reliability.topics           the same, halved by topics; left out where topics cannot be halved
    reliability.shuffled         the same as the first with emotions shuffled over stories: chance
    split_half                   mean cosine of the halves, before it is stepped up
    split_half.topics            likewise
    reliability[8]               of 8 stories an emotion; likewise of every other number of stories
    reliability.topics[8]        in the curve: powers of two, and all
    self_cosine[8]               mean cosine of the vectors of 8 stories with those of all stories
    self_cosine.9_stories        the same of 9 stories, named as in the published rows
    doubling_gain                what the last doubling of the stories added; subject '512 to 1024'
    doubling_gain.topics         likewise
    stories_for[0.9]             stories an emotion for a mean of 0.9, by the Spearman-Brown line
                                 through the mean of all stories; passed: no more than there are
    stories_for[0.95]            likewise, and both with .topics before the bracket
Tables: settings (setting, value); curve (halving, stories, split_half, reliability, ci_low,
ci_high, self_cosine, self_low, self_high); emotions (emotion, stories, random, topics);
published (metric, ours, source, model, value, note).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.figures.curves import draw_curve
from analyses.halves import Halves, halve_stories
from analyses.methods.reliability import Agreement, mean_interval, stories_for
from stores.published import load_published, read_published
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]

POWERS = tuple(2**i for i in range(1, 40))
PUBLISHED_SIZE, PUBLISHED_NAME = 9, "self_cosine.9_stories"
TARGETS = (0.9, 0.95)
RANDOM, TOPICS, SHUFFLED = "random", "topics", "shuffled"
SUFFIXES = {RANDOM: "", TOPICS: ".topics"}
"""Ways of halving, and what the names of their metrics end in."""
NAMES = {RANDOM: "halved at random", TOPICS: "halved by topics"}
COLUMNS = (
    *("halving", "stories", "split_half", "reliability", "ci_low", "ci_high"),
    *("self_cosine", "self_low", "self_high"),
)
EMOTION_COLUMNS = ("emotion", "stories", RANDOM, TOPICS)
PUBLISHED_COLUMNS = ("metric", "ours", "source", "model", "value", "note")


@dataclass(frozen=True, slots=True)
class Point:
    """One nested set of stories: its agreement, and its means over emotions (mean, low, high)."""

    found: Agreement
    reliability: Floats
    self_cosine: Floats

    @property
    def stories(self) -> float:
        """Stories an emotion, on average, to two decimals."""
        return round(self.found.stories, 2)


def run(inputs: Inputs) -> Result:
    """The curve of the analysis layer. NotReady when an emotion has fewer than two stories."""
    halves = halve_stories(inputs, (*POWERS, PUBLISHED_SIZE))
    rng = np.random.default_rng(inputs.seed)
    curves = {way: _points(sets, rng) for way, sets in halves.agreements.items()}
    chance = _metric("reliability.shuffled", curves.pop(SHUFFLED)[-1].reliability, halves)
    tables = (_settings(inputs, halves), _curve_table(curves), _emotion_table(curves, halves))
    result = Result((chance,), tables)
    for way, points in curves.items():
        result += Result(
            (
                *_describe_whole(way, points[-1], halves),
                *_describe_curve(way, points, halves),
                *_describe_gain(way, points, halves, rng),
                *_describe_needs(way, points[-1], halves),
            )
        )
    result += _compare_published(inputs, halves, curves[RANDOM])
    return Result(tuple(replace(row, layer=inputs.layer) for row in result.metrics), result.tables)


def _points(sets: Sequence[Agreement], rng: np.random.Generator) -> list[Point]:
    return [
        Point(found, mean_interval(found.reliability, rng), mean_interval(found.self_cosine, rng))
        for found in sets
    ]


def _metric(name: str, interval: Floats, halves: Halves, subject: str | None = None) -> Metric:
    mean, low, high = interval.tolist()
    n = len(halves.stories.emotions)
    return Metric(name, mean, subject=subject, n=n, chance=0.0, ci_low=low, ci_high=high)


def _describe_whole(way: str, last: Point, halves: Halves) -> list[Metric]:
    """The mean over emotions and every emotion's own, of all stories."""
    end = SUFFIXES[way]
    split = float(last.found.split_half.mean())
    return [
        _metric(f"reliability{end}", last.reliability, halves),
        Metric(f"split_half{end}", split, n=len(halves.stories.emotions), chance=0.0),
        *(
            Metric(f"reliability{end}", value, subject=name, n=n, chance=0.0)
            for name, value, n in zip(
                halves.stories.emotions,
                last.found.reliability.tolist(),
                last.found.counts.tolist(),
                strict=True,
            )
        ),
    ]


def _describe_curve(way: str, points: Sequence[Point], halves: Halves) -> list[Metric]:
    end = SUFFIXES[way]
    rows = [
        _metric(f"reliability{end}[{point.stories:g}]", point.reliability, halves)
        for point in _curve(points)
    ]
    if way == RANDOM:
        rows += [
            _metric(f"self_cosine[{point.stories:g}]", point.self_cosine, halves)
            for point in _curve(points)[:-1]
        ]
    return rows


def _curve(points: Sequence[Point]) -> list[Point]:
    """The points of the curve: without the size that is there for the published row alone."""
    return [*(p for p in points[:-1] if p.stories != PUBLISHED_SIZE), points[-1]]


def _describe_gain(
    way: str, points: Sequence[Point], halves: Halves, rng: np.random.Generator
) -> list[Metric]:
    """What the last doubling that the stories allow added; nothing when they allow none."""
    curve = _curve(points)
    doublings = [(a, b) for a in curve for b in curve if b.stories == 2 * a.stories]
    return [
        _metric(
            f"doubling_gain{SUFFIXES[way]}",
            mean_interval(more.found.reliability - fewer.found.reliability, rng),
            halves,
            f"{fewer.stories:g} to {more.stories:g}",
        )
        for fewer, more in doublings[-1:]
    ]


def _describe_needs(way: str, last: Point, halves: Halves) -> list[Metric]:
    rows = []
    for target in TARGETS:
        value, high, low = (_needed(target, r, last.stories) for r in last.reliability.tolist())
        rows.append(
            Metric(
                f"stories_for{SUFFIXES[way]}[{target:g}]",
                value,
                n=len(halves.stories.emotions),
                ci_low=low,
                ci_high=high,
                passed=value is not None and value <= last.stories,
                threshold=last.stories,
            )
        )
    return rows


def _needed(target: float, reliability: float, stories: float) -> int | None:
    """Whole stories; None where no number of them is enough."""
    needed = stories_for(target, reliability, stories)
    return max(2, ceil(needed - 1e-9)) if isfinite(needed) else None


def _settings(inputs: Inputs, halves: Halves) -> Table:
    """What the figure must say, as a table: it is drawn from rows alone."""
    stories = halves.stories
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "concept": inputs.protocol.concept,
        "layer": inputs.layer,
        "vectors": "denoised" if halves.k else "raw",
        "components": halves.k,
        "seed": inputs.seed,
        "stories": len(stories.labels),
        "fewest_stories": int(stories.counts.min()),
        "most_stories": int(stories.counts.max()),
        "topics": stories.n_topics,
        "topics_halved": "no" if halves.unhalved else "yes",
        "emotions_with_one_half_of_the_topics": len(halves.unhalved),
        "emotions_halved_on_their_own": len(halves.alone),
    }
    return Table("settings", ("setting", "value"), tuple(settings.items()))


def _curve_table(curves: Mapping[str, Sequence[Point]]) -> Table:
    rows = tuple(
        (
            *(way, point.stories, float(point.found.split_half.mean())),
            *(*point.reliability.tolist(), *point.self_cosine.tolist()),
        )
        for way, points in curves.items()
        for point in _curve(points)
    )
    return Table("curve", COLUMNS, rows)


def _emotion_table(curves: Mapping[str, Sequence[Point]], halves: Halves) -> Table:
    emotions = halves.stories.emotions
    nothing = np.full(len(emotions), np.nan)
    columns = [curves[way][-1].found.reliability if way in curves else nothing for way in SUFFIXES]
    rows = zip(emotions, halves.stories.counts.tolist(), *columns, strict=True)
    return Table("emotions", EMOTION_COLUMNS, tuple(rows))


def _compare_published(inputs: Inputs, halves: Halves, points: Sequence[Point]) -> Result:
    """The vectors of nine stories with those of all, beside what others published."""
    ours = [
        _metric(PUBLISHED_NAME, point.self_cosine, halves)
        for point in points[:-1]
        if point.stories == PUBLISHED_SIZE
    ]
    load_published(inputs.conn)
    value = ours[0].value if ours else None
    rows = tuple(
        (row.metric, value, row.source, row.model, row.value, row.note)
        for row in read_published(inputs.conn, PUBLISHED_NAME)
    )
    return Result(tuple(ours), (Table("published", PUBLISHED_COLUMNS, rows),))


def draw(rows: Rows) -> dict[str, Figure]:
    """The curve with its bands, both ways of halving, and every emotion's last value."""
    settings, emotions = rows.settings, rows.records("emotions")
    sizes = sorted({float(str(row["stories"])) for row in rows.records("curve")})
    ways = [way for way in SUFFIXES if settings["topics_halved"] == "yes" or way == RANDOM]
    figure = draw_curve(
        sizes,
        {NAMES[way]: _line(rows, way, sizes) for way in ways},
        title=f"How many stories make {settings['concept']} vectors reliable?",
        subtitle=_subtitle(rows),
        size_name=f"stories per {settings['concept']}",
        value_name="split-half reliability",
        dots={NAMES[way]: np.array([row[way] for row in emotions], np.float64) for way in ways},
        marks={f"{target:g}": target for target in TARGETS},
    )
    return {"curve": figure}


def _line(rows: Rows, way: str, sizes: Sequence[float]) -> Floats:
    """(3, m) of means and the ends of their intervals, NaN at sizes this way does not have."""
    line = np.full((3, len(sizes)), np.nan)
    for row in rows.records("curve"):
        if row["halving"] == way:
            at = sizes.index(float(str(row["stories"])))
            line[:, at] = np.array([row["reliability"], row["ci_low"], row["ci_high"]], np.float64)
    return line


def _subtitle(rows: Rows) -> str:
    settings = rows.settings
    chance = round(rows.select("reliability.shuffled")[0].value or 0.0, 2) + 0.0  # no -0.00
    needs = [
        f"{row.value:,.0f}{'' if row.passed else ', extrapolated'} ({NAMES[way]})"
        for way, end in SUFFIXES.items()
        for row in rows.select(f"stories_for{end}[{TARGETS[0]:g}]")
        if row.value is not None
    ]
    lines = [
        f"reader {settings['reader']}, corpus {settings['corpus']}, layer {settings['layer']}, "
        f"{settings['vectors']} vectors; bands: 95% bootstrap interval; "
        f"chance (shuffled {settings['concept']}s): {chance:.2f}",
        f"stories for a mean of {TARGETS[0]:g}: {'; '.join(needs) or 'no number is enough'}",
    ]
    if settings["topics_halved"] == "no":
        lines[1] += "; topics cannot be halved"
    return "\n".join(lines)


ANALYSIS = Analysis(
    name="reliability",
    question="How many stories does an emotion need before its vector stands still?",
    needs=("activations", "vectors", "halves"),
    run=run,
    draw=draw,
)
