"""Two-option questions about all activities, put to the model, and what it feels about each.

What V7 to V11 start from: who is steered, every ordered pair as a question, the chance that the
first option is chosen, the states on an activity's own tokens. Answers are kept in the ledger, so
that analyses share them. Knows nothing of ratings or criteria.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from analyses.base import Inputs
from analyses.criteria import PROMPT_COLUMNS, settings_table
from analyses.methods import rating
from analyses.reading import open_model, step
from stores.errors import NotReady, Stopped
from stores.protocol import Activity, Protocol
from stores.results import Cell, Table
from stores.runs import recorded_run

if TYPE_CHECKING:
    from engine.asking import Form, Prompt
    from engine.models import Model
    from engine.sweep import Arm, Question, SweepSummary

Floats = NDArray[np.float64]

FEWEST = 6
"""Emotions: three at each end."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The questions about a activities, as this model is asked them."""

    model: "Model"
    form: "Form"
    activities: tuple[Activity, ...]
    steered: NDArray[np.bool_]
    """(a,) the others are the controls."""
    questions: tuple["Question", ...]
    tokens: tuple[int, int]
    """The answers A and B."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The category of each activity."""
        return tuple(activity.category for activity in self.activities)


def steered_activities(activities: Sequence[Activity]) -> NDArray[np.bool_]:
    """(a,) True for the first, third, ... activity of each category; the others are controls."""
    seen: dict[str, int] = {}
    steered = []
    for activity in activities:
        place = seen.get(activity.category, 0)
        seen[activity.category] = place + 1
        steered.append(place % 2 == 0)
    return np.array(steered, dtype=np.bool_)


def check_protocol(protocol: Protocol) -> None:
    """NotReady unless it has activities, two or more of each category, and labelled emotions."""
    sizes = Counter(activity.category for activity in protocol.activities)
    if not sizes:
        raise NotReady(
            f"{protocol.root}: no activities.tsv, which preferences are about; add the file"
        )
    if alone := [category for category, n in sizes.items() if n < 2]:
        raise NotReady(
            f"{protocol.root}: activities.tsv has one activity of category {alone[0]}; one is "
            "steered and one is its control, so add another"
        )
    if len(protocol.emotions) < FEWEST:
        raise NotReady(
            f"{protocol.root}: {len(protocol.emotions)} {protocol.concept}s; preferences compare "
            f"both ends of a ranking, so at least {FEWEST} are needed"
        )
    protocol.label("valence")


def open_choices(inputs: Inputs) -> Choices:
    """Render every ordered pair. NotReady says what the protocol lacks."""
    from engine.asking import answer_tokens, choose_form

    check_protocol(inputs.protocol)
    activities = inputs.protocol.activities
    model = open_model(inputs)
    form = choose_form(model, inputs.suite.form)
    steered = steered_activities(activities)
    template = inputs.protocol.prompts["preference"]
    questions = tuple(
        _question(model, form, template, activities, steered, pair)
        for pair in permutations(range(len(activities)), 2)
    )
    return Choices(model, form, activities, steered, questions, answer_tokens(model, form))


def _question(
    model: "Model",
    form: "Form",
    template: str,
    activities: Sequence[Activity],
    steered: NDArray[np.bool_],
    pair: tuple[int, int],
) -> "Question":
    from engine.asking import ask
    from engine.sweep import Question

    names = [activities[i].name for i in pair]
    user = template.format(a=names[0], b=names[1])
    prompt = ask(model, form, user, parts=names, bracket=True)
    where = tuple(span for i, span in zip(pair, prompt.spans, strict=True) if steered[i])
    return Question(*pair, prompt, where)


def ask_all(
    inputs: Inputs, choices: Choices, arms: Sequence["Arm"]
) -> tuple[Floats, "SweepSummary"]:
    """P(A) (arms, a, a) of every ordered pair, row shown first; the diagonal is NaN.

    Pairs of controls are the baseline's in every arm. What was asked before is read from the
    ledger. Raises Stopped when the user ends it: the answers are kept.
    """
    from engine.sweep import read_answers, run_sweep

    settings = {"form": choices.form, "arms": len(arms), "questions": len(choices.questions)}
    place = {"reader": inputs.reader, "corpus": inputs.corpus}
    digest = inputs.protocol.digest
    with recorded_run(
        inputs.conn, "ask preferences", settings, protocol_digest=digest, **place
    ) as run:
        found = run_sweep(
            inputs.conn,
            choices.model,
            inputs.reader,
            choices.questions,
            arms,
            choices.tokens,
            run_id=run.id,
            tokens_per_batch=inputs.suite.tokens_per_batch,
            progress=step(inputs, "questions"),
            stop=inputs.stop,
        )
        if found.stopped:
            raise Stopped(
                f"stopped with {found.computed} more of {found.asked} answers kept; "
                "the same command goes on from there"
            )
    logits = read_answers(inputs.conn, found.sweep_id, arms)
    first, second = zip(*((q.first, q.second) for q in choices.questions), strict=True)
    chosen = rating.choose_first(logits)
    return rating.arrange(chosen, first, second, len(choices.activities)), found


def ask_feelings(inputs: Inputs, choices: Choices) -> tuple["Prompt", ...]:
    """'How would you feel about ...?' for each activity, with the activity's own tokens."""
    from engine.asking import ask

    template = inputs.protocol.prompts["feeling"]
    return tuple(
        ask(
            choices.model,
            choices.form,
            template.format(activity=activity.gerund),
            parts=[activity.gerund],
        )
        for activity in choices.activities
    )


def read_feelings(
    inputs: Inputs, choices: Choices, prompts: Sequence["Prompt"], layer: int
) -> Floats:
    """Mean state (a, d) of each activity's own tokens at a layer."""
    from engine.states import read_states

    batch = inputs.suite.tokens_per_batch
    states = read_states(choices.model, prompts, [layer], at="spans", tokens_per_batch=batch)
    return states[:, 0]


def show_prompts(choices: Choices, feelings: Sequence["Prompt"]) -> Table:
    """The prompts as the model saw them: all feelings, and one pair of options in both orders.

    The ledger's table `questions` holds every pair.
    """
    pair = [question for question in choices.questions if question.first + question.second == 1]
    rows = [
        _row(choices, activity.name, "feeling", prompt, activity.source)
        for activity, prompt in zip(choices.activities, feelings, strict=True)
    ]
    for question in pair:
        options = [choices.activities[i] for i in (question.first, question.second)]
        key = " | ".join(option.name for option in options)
        rows.append(_row(choices, key, "preference", question.prompt, options[0].source))
    return Table("prompts", PROMPT_COLUMNS, tuple(rows))


def _row(choices: Choices, key: str, kind: str, prompt: "Prompt", source: str) -> tuple[Cell, ...]:
    from engine.asking import describe

    seen = describe(choices.model, prompt)
    spans = cast("list[str]", seen["spans"])
    shown = (str(seen[name]) for name in PROMPT_COLUMNS[2:5])
    return (key, kind, *shown, " | ".join(spans), source)


def describe_sweep(inputs: Inputs, choices: Choices, sweep: "SweepSummary") -> Table:
    """What was asked and how, for the figures and for whoever looks the answers up."""
    return settings_table(
        inputs,
        form=choices.form,
        activities=len(choices.activities),
        steered_activities=int(choices.steered.sum()),
        questions=len(choices.questions),
        sweep=sweep.sweep_id,
        replay=sweep.method,
        replay_reason=sweep.reason,
        replay_drift=sweep.drift,
    )


def valence_labels(inputs: Inputs, emotions: Sequence[str]) -> Floats:
    """(e,) the protocol's valence of these emotions. NotReady when it does not give it."""
    label = inputs.protocol.label("valence")
    return np.array([label[name] for name in emotions], dtype=np.float64)
