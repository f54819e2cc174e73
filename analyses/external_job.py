"""The command `project` as one call: draw the sample, read it with the model, ask the judge.

Knows the order of these steps; each goes on where it stopped. What comes of them is the analysis
`external`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analyses.base import Inputs
from analyses.projecting import open_directions
from analyses.reading import require_model
from stores.errors import BadValue, NotReady
from stores.projections import Projection, known_projections
from stores.readers import is_imported, reader_settings
from stores.samples import Sample

if TYPE_CHECKING:
    from engine.judging import JudgingSettings, JudgingSummary
    from engine.projection.job import ProjectionSettings, ProjectionSummary
    from engine.sources.base import Source
    from engine.writers import Writer


@dataclass(frozen=True, slots=True)
class Read:
    """What was drawn and what the model made of it."""

    sample: Sample
    summary: "ProjectionSummary"
    projection: Projection


def read_source(
    inputs: Inputs,
    source: "Source",
    *,
    size: int,
    max_tokens: int,
    tokens_per_batch: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Read | None:
    """Draw `size` documents and project them at the layers of `inputs`; None after a stop.

    Texts are read as the reader read its stories: the same format, the same tokens skipped. Raises
    before anything is drawn when the model or the vectors are not the reader's.
    """
    from engine.projection.job import run_projection
    from engine.sources.sampling import draw_sample

    if is_imported(inputs.conn, inputs.reader):
        raise NotReady(
            f"the vectors of reader {inputs.reader} were imported, so that it is not known how its "
            "model read texts; `extract` with that model and build its vectors to project on them"
        )
    model = require_model(inputs)
    directions = open_directions(inputs, inputs.layers)
    settings = _settings(inputs, max_tokens, tokens_per_batch)
    stop = inputs.stop or threading.Event()
    drawing, reading = _watch(inputs, "documents"), _watch(inputs, "projections")
    sample = draw_sample(
        inputs.conn,
        source,
        size=size,
        seed=inputs.seed,
        progress=lambda seen, kept: drawing(kept, size, f"{seen} seen"),
        stop=stop,
    )
    summary = run_projection(
        inputs.conn,
        sample,
        model,
        settings,
        directions,
        progress=lambda now: reading(now.done, now.total, now.told),
        stop=stop,
        tell=tell,
    )
    if summary.stopped:
        return None
    newest = known_projections(inputs.conn, inputs.reader, inputs.corpus)
    projection = next(each for each in newest if each.id == summary.projection_id)
    return Read(sample, summary, projection)


def _settings(
    inputs: Inputs, max_tokens: int, tokens_per_batch: int | None
) -> "ProjectionSettings":
    """As the reader reads its own texts. BadValue when nothing would be left to pool."""
    from engine.projection.job import ProjectionSettings

    known = reader_settings(inputs.conn, inputs.reader)
    if max_tokens <= known["start_token"]:
        raise BadValue(
            f"--max-tokens {max_tokens}: reader {inputs.reader} pools a text from token "
            f"{known['start_token']} on, so that nothing would be left; read more"
        )
    return ProjectionSettings(
        reader=inputs.reader,
        corpus=inputs.corpus,
        layers=inputs.layers,
        format=known["format"],
        start_token=known["start_token"],
        max_tokens=max_tokens,
        tokens_per_batch=tokens_per_batch,
    )


def ask_judge(
    inputs: Inputs, projection: Projection, writer: "Writer", settings: "JudgingSettings"
) -> "JudgingSummary":
    """Let a model say how well emotions fit the snippets; what was answered is not asked again."""
    from engine.judging import judge_snippets

    asking = _watch(inputs, "judgements")
    return judge_snippets(
        inputs.conn,
        projection,
        writer,
        settings,
        progress=lambda done, total: asking(done, total, ""),
        stop=inputs.stop or threading.Event(),
    )


def _watch(inputs: Inputs, stage: str) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, note: str) -> None:
        if inputs.watch is not None:
            inputs.watch(stage, done, total, note)

    return tell


def at_layers(inputs: Inputs, layers: tuple[int, ...]) -> Inputs:
    """The same inputs at some of their layers."""
    return replace(inputs, layers=layers)
