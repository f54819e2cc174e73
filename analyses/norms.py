"""Do the components of the vectors follow human ratings of valence and arousal?

The ratings come from a file that the user supplies; none of them becomes a row or part of a figure,
only what was computed with them. Correlations of different subsets of words cannot be compared, so
each has its n, and the words are listed. Knows nothing of how such files are read.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.figures import DepthLine, draw_depths
from analyses.labels import LABELS, Labels, correlate_labels, usable
from analyses.methods import statistics
from analyses.spaces import Spaces, open_spaces
from stores.errors import UsageError
from stores.norms import Matched, Norms, match_norms
from stores.readers import count_layers
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]

DRAWN = (("PC1", "valence"), ("PC2", "arousal"))


def run(inputs: Inputs) -> Result:
    """Every layer's first components against the ratings; single answers at the analysis layer.

    r_<label> and what it is judged by are those of `correlate_labels`; r_pc<i>_<label> is the same
    at the analysis layer, under the name of the published numbers. UsageError when fewer than 3
    emotions are in the norms.
    """
    norms = _given(inputs)
    spaces, labels = open_spaces(inputs)
    matched = match_norms(norms, spaces.emotions)
    ratings = rate_emotions(inputs, matched)
    # Where the protocol has labels their signs hold: a component is the same in every analysis.
    oriented = replace(labels, values={**ratings.values, **labels.values})
    scores = {space.layer: space.found.scores for space in replace(spaces, labels=oriented)}
    rng, other_rng = np.random.default_rng(inputs.seed).spawn(2)
    found = correlate_labels(scores, ratings, inputs.permutations, rng)
    return (
        describe_settings(inputs, norms, spaces, oriented_by(labels, ratings))
        + describe_words(matched)
        + found
        + Result(tuple(_single_answers(found, inputs.layer)))
        + compare_ratings(ratings, labels, inputs.permutations, other_rng)
    )


def match_here(inputs: Inputs) -> Matched:
    """Which of the emotions that have vectors here are in the norms, and as which words."""
    return match_norms(_given(inputs), open_spaces(inputs)[0].emotions)


def _given(inputs: Inputs) -> Norms:
    if inputs.norms is None:
        raise UsageError("norms needs a file of human ratings: give one with --norms")
    return inputs.norms


def rate_emotions(inputs: Inputs, matched: Matched) -> Labels:
    """The ratings as labels. UsageError when too few emotions have one or they are all the same."""
    n, total = len(matched.emotions) - len(matched.misses), len(matched.emotions)
    place = f"{inputs.reader}/{inputs.corpus}"
    if n < 3:
        raise UsageError(
            f"{n} of the {total} emotions of {place} are in {matched.source}, and 3 are the "
            "fewest to correlate; give other norms with --norms"
        )
    values = usable({"valence": matched.valence, "arousal": matched.arousal})
    if not values:
        raise UsageError(
            f"{matched.source} rates the {n} emotions of {place} all the same; "
            "give other norms with --norms"
        )
    return Labels(matched.source, values, None)


def oriented_by(*given: Labels) -> dict[str, Cell]:
    """What the first components rise with: the label of the first of `given` that has it."""
    signs: dict[str, Cell] = {}
    for i, label in enumerate(LABELS, 1):
        sources = [labels.source for labels in given if label in labels.values]
        signs[f"sign of PC{i}"] = f"{label}, {sources[0]}" if sources else "arbitrary"
    return signs


def describe_settings(
    inputs: Inputs, norms: Norms, spaces: Spaces, signs: dict[str, Cell]
) -> Result:
    """What the figures must say, and which file the ratings came from."""
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "concept": inputs.protocol.concept,
        "norms": norms.source,
        "licence": norms.licence,
        "file": norms.path.name,
        "sha256": norms.sha256,
        "layer": inputs.layer,
        "n_layers": count_layers(inputs.conn, inputs.reader),
        "vectors": spaces.variant,
        **signs,
        "seed": inputs.seed,
        "permutations": inputs.permutations,
    }
    return Result(tables=(Table("settings", ("setting", "value"), tuple(settings.items())),))


def describe_words(matched: Matched) -> Result:
    """matched: how many of the n emotions have ratings; which word of the norms each was, and by
    which rule; and those that have none."""
    n, misses = len(matched.emotions), matched.misses
    words = tuple(zip(matched.emotions, matched.words, matched.rules, strict=True))
    return Result(
        (Metric("matched", n - len(misses), n=n),),
        (
            Table("words", ("emotion", "word", "rule"), words),
            Table("misses", ("emotion",), tuple((emotion,) for emotion in misses)),
        ),
    )


def _single_answers(found: Result, layer: int) -> Iterator[Metric]:
    for row in found.metrics:
        if row.layer == layer and row.metric in (f"r_{label}" for label in LABELS):
            component, label = str(row.subject).lower(), row.metric.removeprefix("r_")
            yield replace(row, metric=f"r_{component}_{label}", subject=None)


def compare_ratings(
    ratings: Labels, labels: Labels, permutations: int, rng: np.random.Generator
) -> Result:
    """How far the two ratings go together, and how far the protocol's labels go with them.

    norms_valence_arousal  r of the two ratings, over the emotions that have both
    norms_labels           r of a label of the protocol with the rating of the same name

    Without a value where fewer than 3 emotions have both, or one does not vary.
    """
    nothing = np.full_like(next(iter(ratings.values.values())), np.nan)
    rated = [ratings.values.get(label, nothing) for label in LABELS]
    given = [labels.values.get(label, nothing) for label in LABELS]
    agree = partial(_agree, permutations=permutations, rng=rng)
    metrics = [agree("norms_valence_arousal", None, *rated)]
    for label, own, other in zip(LABELS, given, rated, strict=True):
        metrics.append(agree("norms_labels", label, own, other))
    return Result(tuple(metrics))


def _agree(
    metric: str,
    subject: str | None,
    a: Floats,
    b: Floats,
    *,
    permutations: int,
    rng: np.random.Generator,
) -> Metric:
    both = np.isfinite(a) & np.isfinite(b)
    n, x, y = int(both.sum()), a[both], b[both]
    if n < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return Metric(metric, None, subject=subject, n=n)
    judged = statistics.correlate(x[:, None], y, rng, permutations=permutations)
    about = (None, subject, n, judged.test.chance[0], judged.low[0], judged.high[0])
    return Metric(metric, judged.r[0], *about, p_value=judged.test.p[0])


def draw(rows: Rows) -> dict[str, Figure]:
    """PC1 with valence and PC2 with arousal, by depth."""
    settings, (matched,) = rows.settings, rows.select("matched")
    lines = [line for pair in DRAWN if (line := _line(rows, *pair))]
    if not lines:
        return {}
    place = f"reader {settings['reader']}, corpus {settings['corpus']}"
    words = f"{matched.value:.0f} of {matched.n} {settings['concept']}s"
    return {
        "depth": draw_depths(
            lines,
            title="Do the first components follow human ratings?",
            subtitle=f"{place}; {settings['norms']}, {words}; bands: 95% interval; "
            f"large dots: layer {settings['layer']}",
            value_name="Pearson r",
        )
    }


def _line(rows: Rows, component: str, label: str) -> DepthLine | None:
    found = [row for row in rows.select(f"r_{label}") if row.subject == component]
    if not found:
        return None
    layers = [row.layer for row in found]
    table = np.array([(row.value, row.ci_low, row.ci_high) for row in found], np.float64)
    values, low, high = table.T
    depths = (np.array(layers, np.float64) + 1.0) / rows.settings["n_layers"]
    chance = rows.select(f"r_{label}_max")[0].threshold or 0.0
    home = layers.index(rows.settings["layer"])
    return DepthLine(f"{component} with {label}", depths, values, low, high, chance, home)


ANALYSIS = Analysis(
    name="norms",
    question="Do the first components follow human ratings of valence and arousal?",
    needs=("vectors", "norms"),
    run=run,
    draw=draw,
)
