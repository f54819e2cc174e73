"""Samples of external text and passes over them, whose numbers follow from document and layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from stores.database import Connection, digest
from stores.projections import (
    DocumentOutcome,
    LayerChunk,
    Projection,
    Snippet,
    TokenSummary,
    commit_chunk,
    done_chunks,
    finish_projection,
    open_projection,
)
from stores.results import open_run
from stores.samples import (
    Document,
    Drawn,
    Sample,
    finish_sample,
    keep_documents,
    open_sample,
    read_documents,
)

EMOTIONS = ("joyful", "afraid", "calm")
LAYERS = (1, 2)
CHUNK = 4
MOST = 30
"""Characters that are kept of a document."""


def add_sample(conn: Connection, n: int = 10, source: str = "notes", seed: int = 0) -> Sample:
    """A finished sample; every third document is longer than what is kept of it."""
    settings = {"seed": seed, "size": n, "rule": "lowest", "characters": MOST}
    sample = open_sample(conn, source, settings, open_run(conn, "sample", {}))
    keep_documents(conn, sample.id, [drawn(rank, source) for rank in range(n)], n)
    return finish_sample(conn, sample.id, seen=2 * n, skipped={"empty": n})


def drawn(rank: int, source: str) -> Drawn:
    text = f"{source} {rank} \0é" + "!" * (0 if rank % 3 else 40)
    part = "even" if rank % 2 == 0 else None
    return Drawn(rank, f"a.txt:{rank}", text[:MOST], len(text), digest(text), part)


def begin_pass(
    conn: Connection, sample: Sample, reader: str = "toy", corpus: str = "main", **settings: Any
) -> Projection:
    settings = {"emotions": EMOTIONS, "layers": LAYERS, "chunk_documents": CHUNK, **settings}
    settings |= {"start_token": 3, "snippet": 2}
    run_id = open_run(conn, f"project {sample.source}", {})
    return open_projection(conn, sample, reader, corpus, settings, run_id)


def project(conn: Connection, projection: Projection, chunks: int = 99) -> list[int]:
    """Do what a pass does, without a model, as far as so many chunks; those that were open."""
    documents = read_documents(conn, projection.sample.id, 0, 999)
    written: list[int] = []
    for chunk, first in enumerate(range(0, len(documents), CHUNK)):
        if chunk >= chunks:
            return written
        if chunk not in done_chunks(conn, projection.id):
            commit(conn, projection, chunk, documents[first : first + CHUNK])
            written.append(chunk)
    finish_projection(conn, projection.id)
    return written


def commit(conn: Connection, projection: Projection, chunk: int, documents: list[Document]) -> None:
    done = [each for each in documents if each.position % 5 != 4]
    outcomes = [
        DocumentOutcome(each.id, "done", None, 40, cut=each.position == 0)
        if each in done
        else DocumentOutcome(each.id, "rejected", "too_short", 7, cut=False)
        for each in documents
    ]
    commit_chunk(conn, projection, chunk, outcomes, layers_of(done))


def layers_of(done: list[Document]) -> Mapping[int, LayerChunk]:
    return {layer: _layer(layer, done) for layer in LAYERS}


def _layer(layer: int, done: list[Document]) -> LayerChunk:
    scores = np.array([[layer + each.position, -each.position, layer] for each in done], np.float32)
    snippets = [
        Snippet(name, each.id, 3, float(row[place]), ("Oh", " dear"), (0.5, 1.5))
        for each, row in zip(done, scores, strict=True)
        for place, name in enumerate(EMOTIONS)
    ]
    summary = TokenSummary(40 * len(done), np.ones(3), np.ones(3), np.ones((3, 7), np.float32))
    return LayerChunk(scores, np.ones(len(done), np.float32), summary, tuple(snippets))
