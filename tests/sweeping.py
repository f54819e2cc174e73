"""A small sweep of a real model: questions about eight activities, arms at one layer and at two."""

from contextlib import closing
from itertools import permutations
from pathlib import Path

import numpy as np

from engine.asking import answer_tokens, ask, choose_form
from engine.models import Model
from engine.sweep import Arm, Question, SweepSummary, run_sweep
from stores.database import open_database
from stores.results import open_run
from stores.workspace import Workspace

ACTIVITIES = (
    "read in the old kitchen",
    "walk along the river",
    "count coins",
    "open the letter",
    "sit at the table",
    "sing for an hour",
    "put the kettle on",
    "wait for rain",
)
STEERED = range(0, len(ACTIVITIES), 2)


def questions_of(model: Model, activities: int = len(ACTIVITIES)) -> list[Question]:
    """Every ordered pair of the first activities; the even-numbered ones are steered."""
    form, questions = choose_form(model), []
    for first, second in permutations(range(activities), 2):
        parts = (ACTIVITIES[first], ACTIVITIES[second])
        user = "Would you prefer to (A) {} or (B) {}?".format(*parts)
        prompt = ask(model, form, user, parts=parts, bracket=True)
        spans = zip((first, second), prompt.spans, strict=True)
        steered = tuple(span for option, span in spans if option in STEERED)
        questions.append(Question(first, second, prompt, steered))
    return questions


def arms_of(d_model: int, at_one: int = 6, at_two: int = 3) -> list[Arm]:
    """Random vectors, each large enough to move answers."""
    rng = np.random.default_rng(0)
    layers = [(2,)] * at_one + [(1, 2)] * at_two
    return [
        Arm(f"arm {number}", "random", 0.5, {at: added(rng, d_model) for at in own})
        for number, own in enumerate(layers)
    ]


def added(rng: np.random.Generator, d_model: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return rng.normal(0.0, 2.0, d_model).astype(np.float32)


def sweep_into(folder: Path, model: Model) -> SweepSummary:
    """Ask it all, and keep the answers in the ledger of the workspace in this folder."""
    tokens = answer_tokens(model, choose_form(model))
    with closing(open_database(Workspace(folder).database)) as conn:
        run_id = open_run(conn, "verify", {})
        return run_sweep(
            conn,
            model,
            "toy",
            questions_of(model),
            arms_of(model.d_model),
            tokens,
            run_id=run_id,
        )
