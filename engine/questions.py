"""What a sweep asks and what it adds, and how both are known again.

A question is known by its tokens, an arm by the bytes that it adds: names and texts are only told.
Knows nothing of how a model is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from engine.asking import Prompt, describe
from engine.models import Model
from stores.database import canonical_json, digest
from stores.errors import ModelError
from stores.sweeps import ArmRow, QuestionRow

ArmKind = Literal[
    "baseline", "zero", "emotion", "feature", "random", "mean", "opposite", "dose", "band"
]


@dataclass(frozen=True, slots=True)
class Question:
    """Which of two options, by their indices, and the tokens that are steered: none for controls.

    `prompt.spans` are the tokens of the first and of the second option.
    """

    first: int
    second: int
    prompt: Prompt
    steered: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """Numbers of the questions that share their first option; of those with a steered option."""

    first: int
    all: list[int]
    steered: list[int]


@dataclass(frozen=True, slots=True)
class Arm:
    """What is added at `resid_post` of each layer, float32 [d], on steered tokens.

    `strength` is what was asked for, a fraction of the mean residual norm; the vectors hold it
    already. `BASELINE` adds nothing, and `zero_arm` adds zeros through the same machinery.
    """

    name: str
    kind: ArmKind
    strength: float
    vectors: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)


METHOD = 1
"""Counts the changes of how answers are computed: those of another method are asked anew."""
BASELINE = Arm("baseline", "baseline", 0.0)


def zero_arm(layers: Sequence[int], d_model: int) -> Arm:
    """The zero point of a replay from these layers: what adding nothing gives."""
    zeros = np.zeros(d_model, np.float32)
    return Arm("zero", "zero", 0.0, dict.fromkeys(sorted(layers), zeros))


def units_of(questions: Sequence[Question]) -> list[Unit]:
    """The units of a sweep, by first option, in the order of the questions."""
    units: dict[int, Unit] = {}
    for number, question in enumerate(questions):
        unit = units.setdefault(question.first, Unit(question.first, [], []))
        unit.all.append(number)
        if question.steered:
            unit.steered.append(number)
    return list(units.values())


def arm_row(arm: Arm) -> ArmRow:
    """An arm as a row. ModelError for a vector that is not finite."""
    if (arm.kind == "baseline") == bool(arm.vectors):
        raise ValueError(
            f"arm {arm.name}: the baseline adds nothing, every other arm adds a vector"
        )
    layers = sorted(arm.vectors)
    norms = [float(np.linalg.norm(arm.vectors[layer].astype(np.float64))) for layer in layers]
    if broken := [layer for layer, norm in zip(layers, norms, strict=True) if not isfinite(norm)]:
        raise ModelError(
            f"arm {arm.name}: what is added at layer {broken[0]} holds a NaN or an infinity; "
            "build the vectors again with `cli.py vectors build`"
        )
    return ArmRow(arm_digest(arm), arm.name, arm.kind, arm.strength, tuple(layers), tuple(norms))


def arm_digest(arm: Arm) -> str:
    """Of the strength, the layers and the bytes added there; a name may change."""
    added = [
        (layer, digest(np.ascontiguousarray(vector, "<f4").tobytes()))
        for layer, vector in sorted(arm.vectors.items())
    ]
    return digest(canonical_json([float(arm.strength), added]))


def sweep_digest(model: Model, questions: Sequence[Question], tokens: tuple[int, int]) -> str:
    """Of all that an answer hangs on but the arm."""
    asked = [
        (
            question.first,
            question.second,
            question.prompt.ids,
            [_place(span) for span in question.prompt.spans],
            [_place(span) for span in question.steered],
        )
        for question in questions
    ]
    form = questions[0].prompt.form
    return digest(canonical_json([METHOD, model.weights_sha, model.dtype, form, asked, tokens]))


def sweep_settings(
    model: Model, questions: Sequence[Question], tokens: tuple[int, int]
) -> dict[str, Any]:
    """What a sweep was asked with, to be read by people."""
    return {
        "model": model.name,
        "revision": model.revision,
        "weights_sha": model.weights_sha,
        "dtype": model.dtype,
        "attention": model.attention,
        "form": questions[0].prompt.form,
        "answers": dict(zip("AB", tokens, strict=True)),
    }


def question_row(model: Model, number: int, question: Question) -> QuestionRow:
    """A question as a row: the prompt, the token that is read, the options' tokens."""
    prompt, told = question.prompt, describe(model, question.prompt)
    first, second = prompt.spans
    words_first, words_second = cast("list[str]", told["spans"])
    return QuestionRow(
        question=number,
        first=question.first,
        second=question.second,
        text=prompt.text,
        read_token=str(told["read_token"]),
        read_at=prompt.last,
        words_first=words_first,
        span_first=_place(first),
        words_second=words_second,
        span_second=_place(second),
        steered=" ".join(map(_place, question.steered)),
    )


def _place(span: slice) -> str:
    return f"{span.start}:{span.stop}"
