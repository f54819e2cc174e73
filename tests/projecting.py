"""A small pass of a real model: documents of several lengths, made-up emotions at two layers."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.extraction import ExtractionProgress
from engine.loading import LazyModel
from engine.models import Model
from engine.projection.job import (
    Directions,
    ProjectionSettings,
    ProjectionSummary,
    run_projection,
)
from stores.database import Connection
from stores.results import open_run
from stores.samples import Drawn, Sample, finish_sample, keep_documents, known_samples, open_sample
from tests.engine.tiny import text_of

EMOTIONS = ("joy", "awe", "dread", "calm", "spite", "hope", "grief", "envy")
LAYERS = (1, 3)
START = 10
TABLES = {
    "projected": "document_id",
    "document_scores": "layer, document_id",
    "token_summaries": "layer, chunk",
    "snippets": "layer, emotion, document_id",
}


def directions_of(d_model: int, layers: Sequence[int] = LAYERS, seed: int = 0) -> Directions:
    """Random ones, of length 1."""
    rng = np.random.default_rng(seed)
    drawn = {layer: rng.normal(size=(len(EMOTIONS), d_model)) for layer in layers}
    rows = {at: each / np.linalg.norm(each, axis=1, keepdims=True) for at, each in drawn.items()}
    return Directions(EMOTIONS, rows, {layer: f"sha256:{seed}.{layer}" for layer in layers})


def texts_of(n: int) -> list[str]:
    """Distinct texts, every tenth too short for anything to be pooled."""
    return [f"{i:x} " + text_of(1 if i % 10 == 3 else 12 + 7 * i % 45, i) for i in range(n)]


def draw_texts(
    conn: Connection, texts: Sequence[str], source: str = "notes", *, finished: bool = True
) -> Sample:
    """A sample of just these, in this order."""
    sample = open_sample(conn, source, {"n": len(texts)}, open_run(conn, "sample", {}))
    drawn = [Drawn(i, f"f:{i}", text, len(text), f"sha:{i}") for i, text in enumerate(texts)]
    keep_documents(conn, sample.id, drawn, len(texts))
    if not finished:
        return sample
    return finish_sample(conn, sample.id, seen=len(texts), skipped={})


def settings_of(**changes: Any) -> ProjectionSettings:
    given: dict[str, Any] = {
        "reader": "toy",
        "corpus": "toy",
        "layers": LAYERS,
        "format": "raw",
        "start_token": START,
        "max_tokens": 80,
    }
    return ProjectionSettings(**given | changes)


def project(
    conn: Connection,
    model: LazyModel,
    *,
    sample: Sample | None = None,
    directions: Directions | None = None,
    progress: Callable[[ExtractionProgress], None] = lambda _progress: None,
    stop: threading.Event | None = None,
    tell: Callable[[str], None] = lambda _line: None,
    **changes: Any,
) -> ProjectionSummary:
    """A pass over the only sample, unless another is given."""
    settings = settings_of(**changes)
    return run_projection(
        conn,
        sample or known_samples(conn)[0],
        model,
        settings,
        directions or directions_of(model.checkpoint.d_model, settings.layers),
        progress=progress,
        stop=stop or threading.Event(),
        tell=tell,
    )


def rows_of(conn: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All that passes left, in the order of its keys."""
    return {
        table: [
            tuple(row)
            for row in conn.execute(f"SELECT * FROM {table} ORDER BY projection_id, {keys}")
        ]
        for table, keys in TABLES.items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Residual streams of one text's pooled tokens at each layer [t, d], read alone."""

    streams: Mapping[int, NDArray[np.float64]]

    def heat(self, layer: int, directions: Directions) -> NDArray[np.float64]:
        """Projections [e, t]."""
        return directions.directions[layer] @ self.streams[layer].T


def read_plain(model: Model, ids: Sequence[int], first: int, layers: Sequence[int]) -> Plain:
    """What a hook on each block sees, from token `first` on, in a pass of one text."""
    seen: dict[int, NDArray[np.float64]] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            seen[layer] = stream.reshape(-1, model.d_model)[first:].double().numpy()

        return hook

    hooks = [model.blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
    with torch.inference_mode():
        model.model(input_ids=torch.tensor([list(ids)]))
    for hook in hooks:
        hook.remove()
    return Plain(seen)
