"""One stage of the main job: plan, load what is needed only if something is open, work, close.

A stage that is called twice repeats nothing, and one that finds nothing open never loads a model.
Knows the order of steps inside a stage, and nothing of experiments, printing or plotting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from engine.generation import count_open, generate_texts
from engine.settings import GenerationSettings
from engine.tally import GenerationProgress, GenerationSummary
from engine.writers import Writer
from stores.corpora import open_corpus, require_generator
from stores.database import Connection
from stores.failpoints import reach
from stores.planning import plan, plan_dialogues, plan_stories
from stores.protocol import Protocol
from stores.runs import STOPPED, recorded_run
from stores.workspace import Workspace

if TYPE_CHECKING:  # they load torch, which an API writer has no use for
    from engine.extraction import ExtractionProgress, ExtractionSettings, ExtractionSummary
    from engine.loading import LazyModel


def plan_generation(conn: Connection, protocol: Protocol, settings: GenerationSettings) -> int:
    """Plan the rows of one kind; returns how many were added. Planning twice adds none.

    Raises FingerprintMismatch when the corpus was made with another protocol or seed.
    """
    corpus, seed = settings.corpus, settings.seed
    topics, per_topic = settings.topics, settings.per_topic
    if settings.kind == "stories":
        texts = plan_stories(
            emotions=settings.emotions,
            topics=topics,
            per_topic=per_topic,
            corpus=corpus,
            seed=seed,
        )
    else:
        texts = plan_dialogues(topics=topics, per_topic=per_topic, corpus=corpus, seed=seed)
    open_corpus(conn, settings.corpus, protocol.digest, protocol.files, protocol.root)
    added = plan(conn, settings.kind, settings.corpus, texts, now=time.time())
    reach("planned")
    return added


def run_generation(
    conn: Connection,
    protocol: Protocol,
    settings: GenerationSettings,
    writer: Writer,
    *,
    progress: Callable[[GenerationProgress], None],
    stop: threading.Event,
    mixed: bool = False,
) -> GenerationSummary:
    """Plan, then write every open text of one kind.

    `mixed` allows a corpus to hold texts of several generators.

    Raises what planning raises; ModelError or BackendError before anything is planned when the
    writer cannot write; FingerprintMismatch when another generator wrote the corpus so far.
    """
    who = writer.identify()
    if not mixed:
        require_generator(conn, settings.kind, settings.corpus, who.model)
    plan_generation(conn, protocol, settings)
    if count_open(conn, settings.kind, settings.corpus) == 0:
        return GenerationSummary()
    backend = writer.open(conn, settings.workers)
    with recorded_run(
        conn,
        f"generate {settings.kind}",
        {**asdict(settings), "backend": who.backend, "mode": backend.mode, **who.settings},
        protocol_digest=protocol.digest,
        corpus=settings.corpus,
        model=who.model,
        model_revision=who.revision,
    ) as run:
        summary = generate_texts(
            conn, protocol, backend, settings, run_id=run.id, progress=progress, stop=stop
        )
        if summary.stopped or summary.over_budget:
            run.outcome = STOPPED
    return summary


def run_extraction(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: ExtractionSettings,
    model: LazyModel,
    *,
    progress: Callable[[ExtractionProgress], None],
    stop: threading.Event,
) -> ExtractionSummary:
    """Read every finished text that lacks a wanted layer.

    Raises FingerprintMismatch before any weight is loaded, NotReady when there is no text.
    """
    from engine.extraction import ExtractionSummary, array_settings, extract, plan_extraction

    checkpoint = model.checkpoint
    arrays = array_settings(checkpoint, model.compute_dtype, protocol, settings)
    if plan_extraction(conn, workspace, arrays, settings) == 0:
        return ExtractionSummary(0, 0, 0, {}, stopped=False, elapsed_s=0.0)
    with recorded_run(
        conn,
        "extract",
        asdict(settings),
        protocol_digest=protocol.digest,
        reader=settings.reader,
        corpus=settings.corpus,
        model=checkpoint.name,
        model_revision=checkpoint.weights_sha,
    ) as run:
        summary = extract(
            conn, workspace, protocol, model.loaded, settings, progress=progress, stop=stop
        )
        if summary.stopped:
            run.outcome = STOPPED
    return summary
