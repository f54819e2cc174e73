"""What the criteria of the verification suite share: their settings, and prompts read at the end.

Knows no criterion. The engine is imported when prompts are put to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.methods.scoring import Scored
from analyses.reading import open_model
from stores.results import Cell, Metric, Table

Floats = NDArray[np.float64]

ALPHA = 0.05
PROMPT_COLUMNS = ("key", "kind", "form", "rendered", "read_token", "span", "source")


@dataclass(frozen=True, slots=True)
class Question:
    """What is put to the model, under a key, and where its wording comes from."""

    key: str
    text: str
    source: str


def settings_table(inputs: Inputs, **further: Cell) -> Table:
    """What the figures must say, as a table: they are drawn from rows alone."""
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "concept": inputs.protocol.concept,
        "labels": inputs.protocol.labels,
        "layer": inputs.layer,
        "vectors": "denoised",
        "seed": inputs.seed,
        "permutations": inputs.permutations,
    }
    return Table("settings", ("setting", "value"), tuple((settings | further).items()))


def read_ends(inputs: Inputs, kind: str, questions: Sequence[Question]) -> tuple[Floats, Table]:
    """The analysis layer's states (n, d) at the last token of each prompt, where the answer starts.

    The table `prompts` shows every prompt as it was rendered and the token that was read.
    """
    from engine.asking import ask, choose_form, describe
    from engine.states import read_states

    model = open_model(inputs)
    form = choose_form(model, inputs.suite.form)
    prompts = [ask(model, form, question.text) for question in questions]
    states = read_states(
        model, prompts, (inputs.layer,), at="last", tokens_per_batch=inputs.suite.tokens_per_batch
    )
    shown = [describe(model, prompt) for prompt in prompts]
    rows = tuple(
        (each.key, kind, *(str(seen[name]) for name in PROMPT_COLUMNS[2:5]), None, each.source)
        for each, seen in zip(questions, shown, strict=True)
    )
    return states[:, 0], Table("prompts", PROMPT_COLUMNS, rows)


def judge(
    metric: str,
    scored: Scored,
    layer: int,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Metric:
    """A score with its chance, interval and p, against the report's bar where it has one.

    A reading whose name ends in `.controlled` passes only if its p is small as well.
    """
    bar = at_least if at_most is None else at_most
    passed = None
    if bar is not None:
        met = scored.value >= bar if at_most is None else scored.value <= bar
        passed = met and (scored.p <= ALPHA or not metric.endswith(".controlled"))
    judged = (scored.n, scored.chance, scored.low, scored.high, scored.p, passed, bar)
    return Metric(metric, scored.value, layer, None, *judged)
