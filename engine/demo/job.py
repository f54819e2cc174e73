"""The demo's texts and activations: the embedded model writes, and reads what it wrote.

The stages are those the commands call; only the settings are the demo's own. Knows nothing of
vectors, analyses or terminals.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.extraction import ExtractionProgress, ExtractionSettings
from engine.loading import LazyModel, LocalWriter
from engine.models import default_layer
from engine.settings import GenerationSettings
from engine.stages import run_extraction, run_generation
from engine.tally import GenerationProgress
from stores.database import Connection
from stores.protocol import Protocol, load_protocol
from stores.texts import KINDS, Kind
from stores.workspace import Workspace

DEMO_MODEL = Path(__file__).parent.parent.parent / "data" / "demo_model"
DEMO_SAE = DEMO_MODEL / "sae"
NAME = "demo"
"""Of the reader and of the corpus."""
SEED = 0

Watch = Callable[[str, GenerationProgress | ExtractionProgress], None]
"""Told the stage and how far it is."""


@dataclass(frozen=True, slots=True)
class DemoReading:
    """What an analysis needs to know of the finished texts and arrays."""

    protocol: Protocol
    layers: tuple[int, ...]
    layer: int
    """The analysis layer: the block nearest two thirds of the depth."""
    model: LazyModel


def write_and_read(
    conn: Connection, workspace: Workspace, topics: int, *, watch: Watch, stop: threading.Event
) -> DemoReading | None:
    """Write the stories and dialogues that are open, read those not read; None after a stop.

    `topics` is the number of stories of each emotion, one a topic.
    """
    protocol = load_protocol(DEMO_MODEL / "protocol")
    model = LazyModel(name=str(DEMO_MODEL), device="cpu", dtype="float32")
    writer = LocalWriter(model=model)
    for kind in KINDS:
        settings = generation_settings(protocol, kind, topics)
        report = partial(watch, kind)
        run_generation(conn, protocol, settings, writer, progress=report, stop=stop)
        if stop.is_set():
            return None
    n_layers = model.checkpoint.n_layers
    extraction = ExtractionSettings(reader=NAME, corpus=NAME, layers=tuple(range(n_layers)))
    run_extraction(
        conn,
        workspace,
        protocol,
        extraction,
        model,
        progress=partial(watch, "activations"),
        stop=stop,
    )
    if stop.is_set():
        return None
    return DemoReading(protocol, extraction.layers, default_layer(n_layers), model)


def generation_settings(protocol: Protocol, kind: Kind, topics: int) -> GenerationSettings:
    """What the demo asks its model to write."""
    stories = kind == "stories"
    return GenerationSettings(
        corpus=NAME,
        kind=kind,
        emotions=protocol.names if stories else (),
        topics=protocol.topics[:topics] if stories else protocol.neutral_topics,
        per_topic=1,
        seed=SEED,
        max_attempts=5,
        workers=32,
        top_p=0.95,
        max_tokens=220,
    )
