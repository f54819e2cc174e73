"""One stage of the main job: plan, load what is needed only if something is open, work, close.

A stage that is called twice repeats nothing, and one that finds nothing open never loads a model.
Knows the order of steps inside a stage, and nothing of experiments, printing or plotting.
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from engine.backends.local import LocalBackend
from engine.checkpoints import Checkpoint, describe_checkpoint
from engine.extraction import (
    ExtractionProgress,
    ExtractionSettings,
    ExtractionSummary,
    array_settings,
    extract,
    plan_extraction,
)
from engine.generation import (
    GenerationProgress,
    GenerationSettings,
    GenerationSummary,
    count_open,
    generate_texts,
)
from engine.models import Model, choose_device, choose_dtype, load_model
from stores.corpora import open_corpus
from stores.database import Connection
from stores.protocol import Protocol
from stores.runs import STOPPED, recorded_run
from stores.texts import plan, plan_dialogues, plan_stories
from stores.workspace import Workspace

NOTHING_READ = ExtractionSummary(0, 0, 0, {}, False, 0.0)


@dataclass(frozen=True, kw_only=True)
class LazyModel:
    """A model by hub id or path: found when first asked about, loaded when first needed."""

    name: str
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What it is, without its weights. Raises ModelError."""
        return describe_checkpoint(
            self.name, revision=self.revision, trust_remote_code=self.trust_remote_code
        )

    @cached_property
    def loaded(self) -> Model:
        """The model itself. Raises ModelError."""
        return load_model(self.name, **{k: v for k, v in asdict(self).items() if k != "name"})

    @property
    def slug(self) -> str:
        """Its name as the name of a reader: the last part of the path or hub id."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.name).name).strip("-._") or "reader"

    @property
    def compute_dtype(self) -> str:
        """The type it computes in, known before it is loaded."""
        return choose_dtype(self.checkpoint, self.dtype, choose_device(self.device))


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
    return plan(conn, settings.kind, settings.corpus, texts, now=time.time())


def run_generation(
    conn: Connection,
    protocol: Protocol,
    settings: GenerationSettings,
    model: LazyModel,
    *,
    progress: Callable[[GenerationProgress], None],
    stop: threading.Event,
) -> GenerationSummary:
    """Plan, then write every open text of one kind with a local model.

    Raises what planning raises, ModelError before anything is planned, and BackendError.
    """
    checkpoint = model.checkpoint
    plan_generation(conn, protocol, settings)
    if count_open(conn, settings.kind, settings.corpus) == 0:
        return GenerationSummary(0, {}, 0, 0, False, 0.0)
    backend = LocalBackend(model.loaded, batch_size=settings.batch)
    with recorded_run(
        conn,
        f"generate {settings.kind}",
        {**asdict(settings), "backend": backend.name, "dtype": model.compute_dtype},
        protocol_digest=protocol.digest,
        corpus=settings.corpus,
        model=checkpoint.name,
        model_revision=checkpoint.weights_sha,
    ) as run:
        summary = generate_texts(
            conn, protocol, backend, settings, run_id=run.id, progress=progress, stop=stop
        )
        if summary.stopped:
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
    checkpoint = model.checkpoint
    arrays = array_settings(checkpoint, model.compute_dtype, protocol, settings)
    if plan_extraction(conn, workspace, arrays, settings) == 0:
        return NOTHING_READ
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
