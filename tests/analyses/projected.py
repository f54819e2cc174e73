"""Passes over texts of others, planted: scores are numbers of the test's own, read by no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.projection.summaries import KEPT, summarise_tokens
from stores.database import digest
from stores.projections import (
    KEPT_SNIPPETS,
    DocumentOutcome,
    LayerChunk,
    Projection,
    Snippet,
    commit_chunk,
    finish_projection,
    open_projection,
)
from stores.results import open_run
from stores.samples import Drawn, finish_sample, keep_documents, open_sample, read_documents
from stores.vectors import read_vectors
from tests.analyses.lab import CORPUS, READER, Lab
from tests.analyses.planted import Floats

CHUNK = 64
AROUND = np.array([-0.3, -0.1, 0.1, 0.3])
"""Where the tokens of a document lie about its score."""
WINDOW = 30


@dataclass(frozen=True)
class Texts:
    """A source's documents: scores (n, e) by layer, or of `short` ones none."""

    scores: Mapping[int, Floats]
    source: str = "pile"
    short: int = 0
    """How many documents after the scored ones are too short."""
    seed: int = 0
    finished: bool = True
    form: int = KEPT
    """Of the token summaries, as the pass says."""
    length: int = 40
    """Characters of a document beyond its number."""


def plant_pass(lab: Lab, texts: Texts) -> Projection:
    """A finished pass with these scores over documents 'pile 0 ...', of 4 tokens each."""
    n = len(next(iter(texts.scores.values())))
    run = open_run(lab.conn, "project", {})
    settings = {"source": {"kind": "hub", "dataset": f"someone/{texts.source}"}}
    drawn = [_drawn(texts, i) for i in range(n + texts.short)]
    settings |= {"seed": texts.seed, "size": len(drawn), "rule": "planted"}  # type: ignore[dict-item]
    sample = open_sample(lab.conn, texts.source, settings, run)
    keep_documents(lab.conn, sample.id, drawn, len(drawn))
    sample = finish_sample(lab.conn, sample.id, seen=len(drawn) + 3, skipped={"empty": 3})
    layers = sorted(texts.scores)
    sets = [read_vectors(lab.conn, lab.workspace, READER, CORPUS, layer) for layer in layers]
    projection = open_projection(
        lab.conn,
        sample,
        READER,
        CORPUS,
        {
            "layers": layers,
            "emotions": list(sets[0].emotions),
            "vectors": {str(found.layer): found.sha256 for found in sets},
            "max_tokens": 512,
            "format": "raw",
            "start_token": 50,
            "summaries": texts.form,
        },
        run,
    )
    ids = [document.id for document in read_documents(lab.conn, sample.id, 0, len(drawn))]
    for first in range(0, len(drawn), CHUNK):
        _plant_chunk(lab, projection, texts, n, ids, first)
    if texts.finished:
        finish_projection(lab.conn, projection.id)
    return projection


def _drawn(texts: Texts, i: int) -> Drawn:
    text = f"{texts.source} {i} <b>&'" + "x" * texts.length
    part = "even" if i % 2 == 0 else None
    return Drawn(i, f"row {i}", text, len(text), digest(text), part)


def _plant_chunk(
    lab: Lab, projection: Projection, texts: Texts, n: int, ids: Sequence[int], first: int
) -> None:
    rows = range(first, min(first + CHUNK, len(ids)))
    done = [row for row in rows if row < n]
    outcomes = [
        DocumentOutcome(ids[row], "done", None, 4, cut=row % 10 == 0)
        if row < n
        else DocumentOutcome(ids[row], "rejected", "too_short", 1, cut=False)
        for row in rows
    ]
    layers = {
        layer: _layer_chunk(projection, scores[done], [ids[row] for row in done])
        for layer, scores in texts.scores.items()
    }
    commit_chunk(lab.conn, projection, first // CHUNK, outcomes, layers)


def _layer_chunk(projection: Projection, scores: Floats, ids: Sequence[int]) -> LayerChunk:
    exact = scores.astype(np.float32)
    if not ids:
        return LayerChunk(exact, np.zeros(0, np.float32), None, ())
    tokens = np.repeat(exact.T, 4, axis=1) + np.tile(AROUND, len(ids))
    snippets = tuple(
        Snippet(
            emotion,
            ids[row],
            0,
            float(exact[row, probe]),
            tuple(f" t{i}" for i in range(WINDOW)),
            (float(exact[row, probe]),) * WINDOW,
        )
        for probe, emotion in enumerate(projection.emotions)
        for row in np.argsort(-exact[:, probe])[:KEPT_SNIPPETS]
    )
    summary = summarise_tokens(tokens.astype(np.float32))
    return LayerChunk(exact, np.ones(len(ids), np.float32), summary, snippets)
