"""A small laboratory with the embedded model: 16 activities, 24 emotions, vectors at two layers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from analyses.base import Inputs
from analyses.suite import Suite
from engine.demo.world import DEMO_FOLDER
from engine.loading import LazyModel
from stores.corpora import open_corpus
from stores.database import Connection, canonical_json
from stores.planning import plan_stories
from stores.protocol import Protocol, load_protocol
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, Lab, store_vectors, write_activations, write_texts
from tests.analyses.planted import Floats

torch.set_num_threads(1)
LAYERS, LAYER, D_MODEL = (2, 3), 3, 128
PER_CATEGORY, EVERY = 2, 7
NORMS = {2: 55.0, 3: 60.0}
SUITE = Suite(steered=6, randoms=5, band_emotions=3, doses=(-0.5, 0.25))


def small_protocol() -> Protocol:
    """The demo world's, with the first activities of each category and every seventh emotion."""
    full = load_protocol(DEMO_FOLDER / "protocol")
    seen: dict[str, int] = {}
    activities = []
    for activity in full.activities:
        seen[activity.category] = seen.get(activity.category, 0) + 1
        if seen[activity.category] <= PER_CATEGORY:
            activities.append(activity)
    return replace(full, activities=tuple(activities), emotions=full.emotions[::EVERY])


def open_choosing_lab(conn: Connection, workspace: Workspace, model: LazyModel) -> Lab:
    """Vectors that were made up, and a reader that is this model."""
    protocol = small_protocol()
    open_corpus(conn, CORPUS, protocol.digest, protocol.files)
    lab = Lab(conn, workspace, protocol)
    plan = plan_stories(
        emotions=protocol.names, topics=("a picnic",), per_topic=1, corpus=CORPUS, seed=1
    )
    write_texts(lab, "stories", plan)
    rng = np.random.default_rng(3)
    layers = {layer: lambda _: rng.normal(size=D_MODEL) for layer in LAYERS}
    write_activations(lab, "stories", layers, d_model=D_MODEL)
    _be_read_by(conn, model)
    store_vectors(lab, made_up_vectors(len(protocol.emotions)))
    return lab


def made_up_vectors(e: int) -> Mapping[int, Floats]:
    """Vectors (e, d) of each layer."""
    rng = np.random.default_rng(4)
    return {layer: rng.normal(size=(e, D_MODEL)) for layer in LAYERS}


def _be_read_by(conn: Connection, model: LazyModel) -> None:
    settings = {"weights_sha": model.checkpoint.weights_sha, "dtype": model.compute_dtype}
    patch = canonical_json(settings | {"n_layers": 6})
    conn.execute("UPDATE arrays SET settings = json_patch(settings, ?)", (patch,))


def ask_inputs(lab: Lab, model: LazyModel, suite: Suite = SUITE, **changes: Any) -> Inputs:
    """What an analysis is given: seed 0 is the order that the demo's own Elo plays."""
    settings = {"model": model, "suite": suite, "layer": LAYER, "seed": 0, "reader": READER}
    return lab.inputs(*LAYERS, **(settings | changes))
