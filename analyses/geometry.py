"""The geometry of emotion vectors: components, their labels, groups, pairs, likeness of layers.

Groups and cosines are those of directions: the length of a vector plays no part in them. Needs
vectors alone, wherever they came from. Knows nothing of models.
"""

from collections.abc import Iterator

import numpy as np

from analyses.base import Analysis, Inputs, Result
from analyses.geometry_figures import draw
from analyses.geometry_rows import (
    describe_components,
    find_pairs,
    joined,
    list_pairs,
    show_layer,
)
from analyses.groups import find_groups
from analyses.labels import LABELS, correlate_labels
from analyses.likeness import compare_layers, compare_raw, keep_shape
from analyses.spaces import Space, Spaces, open_spaces
from stores.errors import Stopped
from stores.readers import count_layers
from stores.results import Cell, Metric, Table

NAME = "geometry"


def run(inputs: Inputs) -> Result:
    """Everything for every layer; single answers are about the analysis layer."""
    spaces, labels = open_spaces(inputs)
    label_rng, group_rng = np.random.default_rng(inputs.seed).spawn(2)
    parts, shapes = [describe_settings(inputs, spaces)], []
    for space in _watched(inputs, spaces):
        shapes.append(keep_shape(space))
        parts += [
            describe_components(space, labels),
            find_pairs(space),
            find_groups(space, labels.families, inputs.permutations, group_rng),
            compare_raw(space),
        ]
        if space.layer == inputs.layer:
            parts.append(show_layer(space))
    scores = {shape.layer: shape.scores for shape in shapes}
    triangles = {shape.layer: shape.triangle for shape in shapes}
    parts += [
        correlate_labels(scores, labels, inputs.permutations, label_rng),
        compare_layers(shapes, inputs.layer),
        Result(tables=(list_pairs(spaces.emotions, triangles),)),
    ]
    return joined(parts)


def _watched(inputs: Inputs, spaces: Spaces) -> Iterator[Space]:
    """The layers, one after the other, telling of each. Stopped when the user ends it."""
    for done, space in enumerate(spaces):
        if inputs.stop and inputs.stop.is_set():
            raise Stopped("geometry was stopped and nothing of it is kept; run it again")
        if inputs.watch:
            inputs.watch(NAME, done, len(spaces), f"layer {space.layer}")
        yield space
    if inputs.watch:
        inputs.watch(NAME, len(spaces), len(spaces), "layers compared")


def describe_settings(inputs: Inputs, spaces: Spaces) -> Result:
    """What the figures must say, as tables: they are drawn from rows alone.

    emotions: how many; unlabelled: how many of them the protocol has no valence or no arousal of,
    which stand in the table of that name. Table `layers_read`: every layer and its depth.
    """
    n, n_layers = len(spaces.emotions), count_layers(inputs.conn, inputs.reader)
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "concept": inputs.protocol.concept,
        "labels": inputs.protocol.labels,
        "layer": inputs.layer,
        "n_layers": n_layers,
        "vectors": spaces.variant,
        "beside": "raw" if spaces.both else None,
        "seed": inputs.seed,
        "permutations": inputs.permutations,
    }
    known = {
        emotion.name
        for emotion in inputs.protocol.emotions
        if all(getattr(emotion, label) is not None for label in LABELS)
    }
    missing = tuple((name,) for name in spaces.emotions if name not in known)
    tables = (
        Table("settings", ("setting", "value"), tuple(settings.items())),
        Table(
            "layers_read",
            ("layer", "depth"),
            tuple((layer, (layer + 1) / n_layers) for layer in spaces.layers),
        ),
        Table("unlabelled", ("emotion",), missing),
    )
    return Result((Metric("emotions", n, n=n), Metric("unlabelled", len(missing), n=n)), tables)


ANALYSIS = Analysis(
    name=NAME,
    question="Which directions do the vectors spread along, and do they follow the labels?",
    needs=("vectors",),
    run=run,
    draw=draw,
)
