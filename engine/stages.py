"""One stage of the main job: plan, load what is needed only if something is open, work, close.

A stage that is called twice repeats nothing, and one that finds nothing open never loads a model.
Knows the order of steps inside a stage, and nothing of experiments, printing or plotting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
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
from stores.rates import ANALYSIS, rate_metric
from stores.results import publish
from stores.runs import STOPPED, recorded_run
from stores.workspace import Workspace

if TYPE_CHECKING:  # they load torch, which an API writer has no use for
    from engine.extraction import ExtractionProgress, ExtractionSettings, ExtractionSummary
    from engine.forecasting.forecast import Forecast
    from engine.loading import LazyModel
    from engine.models import Model
    from engine.selfcheck import Choice


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


def forecast_extraction(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: ExtractionSettings,
    model: LazyModel,
) -> Forecast:
    """Plan the rows and work out what reading them still takes; no weight is loaded.

    Raises what `run_extraction` raises before it loads anything, but for the refusal itself.
    """
    from engine.forecasting.forecast import forecast

    settings = replace(settings, retry_memory=False)  # which withdraws what is there
    plan_reading(conn, workspace, protocol, settings, model)
    return forecast(conn, workspace, settings, model)


def plan_reading(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: ExtractionSettings,
    model: LazyModel,
) -> int:
    """Give every done text a row; returns how many wait to be read. No weight is loaded.

    Raises FingerprintMismatch when the corpus has another protocol, or the arrays other settings.
    """
    from engine.extraction import array_settings, plan_extraction

    open_corpus(conn, settings.corpus, protocol.digest, protocol.files)
    arrays = array_settings(model.checkpoint, model.compute_dtype, protocol, settings)
    return plan_extraction(conn, workspace, arrays, settings)


def run_extraction(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: ExtractionSettings,
    model: LazyModel,
    *,
    progress: Callable[[ExtractionProgress], None],
    stop: threading.Event,
    tell: Callable[[str], None] = lambda _line: None,
) -> ExtractionSummary:
    """Read every finished text that lacks a wanted layer; `tell` hears what the user should know.

    Before any weight is loaded it raises FingerprintMismatch when the arrays were made with other
    settings, NotReady when there is no text, NoRoom when disk or memory cannot suffice.
    """
    from engine.extraction import ExtractionSummary
    from engine.forecasting.fitting import cautions, require_fit
    from engine.forecasting.forecast import forecast
    from engine.selfcheck import choose_batching

    if plan_reading(conn, workspace, protocol, settings, model) == 0:
        return ExtractionSummary()
    expected = forecast(conn, workspace, settings, model)
    require_fit(expected)
    choice = choose_batching(model.loaded, settings.layers, settings.batching)
    for line in (*cautions(expected), *([choice.reason] if choice.reason else [])):
        tell(line)
    return _read(conn, workspace, protocol, settings, model, choice, progress=progress, stop=stop)


def _read(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: ExtractionSettings,
    model: LazyModel,
    choice: Choice,
    *,
    progress: Callable[[ExtractionProgress], None],
    stop: threading.Event,
) -> ExtractionSummary:
    """The run itself, recorded with what was chosen for it."""
    from engine.budget import open_budget
    from engine.extraction import extract

    loaded, device = model.loaded, str(model.loaded.device)
    which = f"{loaded.name} {loaded.dtype}"
    budget = open_budget(conn, settings.tokens_per_batch, model=which, device=device)
    how = {"tokens_per_batch": budget.tokens, **asdict(choice), "attention": loaded.attention}
    how |= {"dtype": loaded.dtype, "device": device}
    with recorded_run(
        conn,
        "extract",
        {**asdict(settings), **how, "source": model.source},
        protocol_digest=protocol.digest,
        reader=settings.reader,
        corpus=settings.corpus,
        model=loaded.name,
        model_revision=loaded.weights_sha,
    ) as run:
        summary = extract(
            conn,
            workspace,
            protocol,
            loaded,
            settings,
            batching=choice.batching,
            budget=budget,
            progress=progress,
            stop=stop,
        )
        if summary.tokens:
            _publish_rate(conn, run.id, settings, loaded, summary)
        if summary.stopped:
            run.outcome = STOPPED
    return summary


def _publish_rate(
    conn: Connection,
    run_id: int,
    settings: ExtractionSettings,
    model: Model,
    summary: ExtractionSummary,
) -> None:
    """The rate of this run as a metric, for the forecasts of later ones."""
    from engine.forecasting.forecast import reading_place

    rate = rate_metric(
        tokens=summary.tokens,
        seconds=summary.elapsed_s,
        layer=settings.layers[-1],
        where=reading_place(model.dtype, model.device),
    )
    publish(conn, run_id, settings.reader, settings.corpus, ANALYSIS, [rate])
