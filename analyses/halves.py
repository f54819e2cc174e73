"""The stories of a layer in halves: which story is in which half, and the sums of one pass.

The first, second, ... story of an emotion on a topic has its like in every other emotion, and where
one goes they all go: what a topic shares over emotions is then the same in every emotion's mean,
and cancels, as it does in the vectors of all stories. Halved are these groups of alike stories at
random; or the topics, so that no topic is in both halves; or, for what chance alone reaches, the
groups once more with the emotions shuffled within each. Knows nothing of what the halves are for.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.methods.denoising import NeutralScatter
from analyses.methods.reliability import (
    Agreement,
    CellSums,
    Halving,
    agreements,
    emotion_vectors,
    even_out,
    halved_places,
    places_within,
    shuffle_within,
    side_sizes,
    uneven,
    whole_means,
)
from analyses.readiness import require_two_stories
from stores.errors import NotReady
from stores.layers import iter_layer_chunks
from stores.results import read_metrics
from stores.rows import read_rows
from stores.texts import Kind
from stores.vectors import VectorSet, read_vectors, vector_variant

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

SAME = 1e-6
"""Vectors that differ by less than this share of their length are the same but for rounding."""
SHA_DIGITS = 15
"""Of a text's digest, as many as an int64 holds: an order of texts that nobody chose."""


@dataclass(frozen=True, slots=True)
class Stories:
    """The n stories that the vectors of e emotions are made of; each array (n,)."""

    emotions: tuple[str, ...]
    n_topics: int
    rows: Integers
    """Their rows in the arrays, in order."""
    labels: Integers
    """Index of the emotion."""
    groups: Integers
    """The group of alike stories, counted in an order at random."""
    topic_halves: Integers
    """0 or 1: the half that the story's topic fell into, at random."""

    @property
    def counts(self) -> Integers:
        """(e,) stories of each emotion."""
        return np.bincount(self.labels)

    @property
    def one_sided(self) -> Flags:
        """(e,) whether all stories of an emotion are on topics of one half."""
        flags: Flags = side_sizes(self.labels, self.topic_halves).min(axis=1) == 0
        return flags

    def names(self, flags: Flags) -> tuple[str, ...]:
        """The emotions whose flag (e,) is set."""
        return tuple(self.emotions[i] for i in np.flatnonzero(flags))


@dataclass(frozen=True, slots=True)
class Halves:
    """What one pass over a layer's stories gave."""

    stories: Stories
    agreements: Mapping[str, Sequence[Agreement]]
    """By way of halving: the nested sets, the last of all stories."""
    alone: tuple[str, ...]
    """Emotions with hardly any story in one half of the groups: halved on their own."""
    unhalved: tuple[str, ...]
    """Emotions whose topics all fell into one half: topics are not halved where there are any."""
    k: int
    """Neutral components projected out of the vectors."""


def halve_stories(inputs: Inputs, wanted: Sequence[int]) -> Halves:
    """Pass once over the stories of the analysis layer, for nested sets of the sizes `wanted`.

    NotReady when an emotion has fewer than two stories, or when the vectors of the layer were built
    from other stories than are extracted now.
    """
    stored = _stored_vectors(inputs)
    rng = np.random.default_rng(inputs.seed)
    stories = open_stories(inputs, stored.emotions, rng)
    ways = halve(stories, wanted, rng)
    sums, components = _read_layer(inputs, stories, ways)
    built = emotion_vectors(whole_means(ways["random"], sums["random"]), components)
    _require_same(inputs, stored, built)
    found = {name: agreements(way, sums[name], components) for name, way in ways.items()}
    return Halves(
        stories,
        found,
        stories.names(uneven(stories.labels, stories.groups % 2)),
        stories.names(stories.one_sided),
        0 if components is None else len(components),
    )


def open_stories(inputs: Inputs, emotions: tuple[str, ...], rng: np.random.Generator) -> Stories:
    """The pooled stories of these emotions, grouped. NotReady when one has fewer than two."""
    require_two_stories(inputs.conn, inputs.reader, inputs.corpus)
    index = {name: i for i, name in enumerate(emotions)}
    found = read_rows(inputs.conn, inputs.reader, inputs.corpus, "stories")
    rows = [row for row in found if row.status == "done" and row.emotion in index]
    labels = _integers(index[str(row.emotion)] for row in rows)
    names, topics = np.unique([row.topic for row in rows], return_inverse=True)
    shas = _integers(int(row.text_sha[-SHA_DIGITS:], 16) for row in rows)
    nth = places_within(len(names) * labels + topics, shas)
    alike, groups = np.unique(topics * (nth.max() + 1) + nth, return_inverse=True)
    return Stories(
        emotions,
        len(names),
        _integers(row.row for row in rows),
        labels,
        rng.permutation(len(alike))[groups],
        rng.permutation(len(names))[topics] % 2,
    )


def _integers(values: Iterable[int]) -> Integers:
    return np.fromiter(values, np.int64)


def halve(stories: Stories, wanted: Sequence[int], rng: np.random.Generator) -> dict[str, Halving]:
    """Every way of halving by its name; without 'topics' where an emotion's are in one half."""
    groups, shuffled = stories.groups, shuffle_within(stories.groups, stories.labels, rng)
    ways = {
        "random": _halve_groups(stories.labels, groups, wanted),
        "shuffled": _halve_groups(shuffled, groups, ()),
    }
    if not stories.one_sided.any():
        places = halved_places(stories.labels, stories.topic_halves, groups)
        ways["topics"] = Halving(stories.labels, places, wanted)
    return ways


def _halve_groups(labels: Integers, groups: Integers, wanted: Sequence[int]) -> Halving:
    halves = even_out(labels, groups % 2, groups)
    return Halving(labels, halved_places(labels, halves, groups), wanted)


def _read_layer(
    inputs: Inputs, stories: Stories, ways: Mapping[str, Halving]
) -> tuple[dict[str, Floats], Floats | None]:
    """The sums of each way of halving, and the neutral components (k, d) or None.

    The components are computed by a thread of their own while the stories are read.
    """
    share = _neutral_share(inputs)
    if share is None:
        return _sum_stories(inputs, stories, ways), None
    scatter = _scatter_dialogues(inputs)
    with ThreadPoolExecutor(1, "components") as aside:
        underway = aside.submit(scatter.components, share)
        sums = _sum_stories(inputs, stories, ways)
        return sums, underway.result().components


def _neutral_share(inputs: Inputs) -> float | None:
    """The share of the neutral variance that the layer's vectors are without; None: all is kept."""
    place = (inputs.conn, inputs.reader, inputs.corpus, "vectors")
    found = read_metrics(*place, metric="neutral_variance", layer=inputs.layer)
    return found[0].value if found else None


def _scatter_dialogues(inputs: Inputs) -> NeutralScatter:
    scatter = NeutralScatter()
    found = read_rows(inputs.conn, inputs.reader, inputs.corpus, "dialogues")
    rows = _integers(row.row for row in found if row.status == "done")
    for _, block in _blocks(inputs, "dialogues", rows):
        scatter.add(block)
    return scatter


def _sum_stories(
    inputs: Inputs, stories: Stories, ways: Mapping[str, Halving]
) -> dict[str, Floats]:
    starts = [0, *accumulate(way.n_cells for way in ways.values())]
    pairs = zip(ways.values(), starts, strict=False)
    cells = np.stack([way.cells + start for way, start in pairs], axis=1)
    total = CellSums(starts[-1])
    for which, block in _blocks(inputs, "stories", stories.rows):
        total.add(block, cells[which])
    return dict(zip(ways, np.split(total.sums, starts[1:-1]), strict=True))


def _blocks(
    inputs: Inputs, kind: Kind, rows: Integers
) -> Generator[tuple[slice, NDArray[np.float32]], None, None]:
    """The given rows (n,) of the analysis layer chunk by chunk: which of the n, and their numbers.

    The chunks come in order, and so do the rows.
    """
    place = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus, kind, inputs.layer)
    with closing(iter_layer_chunks(*place)) as chunks:
        for first, block in chunks:
            start, end = np.searchsorted(rows, [first, first + len(block)])
            here = rows[start:end] - first
            whole = len(here) == len(block)  # hardly ever not: no copy
            yield slice(int(start), int(end)), block if whole else block[here]


def _stored_vectors(inputs: Inputs) -> VectorSet:
    variant = vector_variant(inputs.conn, inputs.reader, inputs.corpus)
    place = (inputs.conn, inputs.workspace, inputs.reader, inputs.corpus)
    return read_vectors(*place, inputs.layer, variant)


def _require_same(inputs: Inputs, stored: VectorSet, built: Floats) -> None:
    """The vectors of all stories must be those that are stored, or the halves are of others."""
    apart = np.linalg.norm(built - stored.vectors, axis=1).max()
    if not apart <= SAME * np.linalg.norm(stored.vectors, axis=1).mean():
        raise NotReady(
            f"the vectors of layer {inputs.layer} of corpus {inputs.corpus} by reader "
            f"{inputs.reader} were built from other stories than are extracted now; run "
            f"`cli.py vectors build --reader {inputs.reader} --corpus {inputs.corpus}`"
        )
