"""Runs many steered variants of the same prompts, with as little work as the model allows.

A prompt is read once as it is; what an addition costs after that depends on the method. Methods are
proved on probes when a replay is opened, never assumed, and every launch holds strength 0, which
must be what the plain pass is. Knows nothing of what the prompts ask.
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from engine.heads import open_head
from engine.memory import is_out_of_memory, keep_freed_memory
from engine.models import Model
from engine.replaying.anatomy import study
from engine.replaying.calls import UnfitError
from engine.replaying.plain import answer_plainly
from engine.replaying.prompts import (
    Addition,
    Answers,
    Method,
    Steered,
    check_addition,
    check_prompt,
)
from engine.replaying.proof import find_fault, open_trial, tolerance
from engine.replaying.upper import Sweeper
from stores.errors import ModelError, NoRoom

__all__ = ["Addition", "Answers", "Method", "Replay", "Steered", "open_replay"]

ORDER: tuple[Method, ...] = ("prefix", "last", "upper", "full")
# Measured on a CPU with 80 M parameters: a tenth faster than half as many. On cards nothing was.
DEFAULT_TOKENS = {"cpu": 4096}
DEFAULT_ELSEWHERE = 16_384
PLAIN_TOKENS = 1024
"""At most so many where the logits of all tokens are kept: 1 GB for a vocabulary of 262,144."""


class Replay:
    """Answers prompts with vectors added; made by `open_replay`.

    `method` is what is used; `reason` says why it is not the first one, None when it is.
    """

    def __init__(
        self,
        model: Model,
        tokens: Sequence[int],
        layers: Sequence[int],
        tokens_per_batch: int,
        sweeper: Sweeper | None,
        reason: str | None,
        stop: threading.Event | None = None,
    ) -> None:
        self._model, self._tokens = model, tuple(tokens)
        self._layers = frozenset(layers)
        self._budget = tokens_per_batch
        self._sweeper = sweeper
        self.reason = reason
        self._stop = stop

    @property
    def method(self) -> Method:
        """Prefix, last, upper or full; full once a launch has drifted from its plain pass."""
        return "full" if self._sweeper is None else self._sweeper.method

    def answer(self, prompts: Sequence[Steered], additions: Sequence[Addition]) -> Answers:
        """Read each prompt clean, at strength 0, and with each addition.

        The same call gives the same bits, as long as memory suffices. Where strength 0 is not what
        the plain pass is, all is answered again by method full, from then on. Raises ValueError for
        prompts or additions that do not fit, ModelError for logits that are not finite, NoRoom when
        there is no memory for a single prompt, Stopped between launches once that is asked for.
        """
        for prompt in prompts:
            check_prompt(prompt)
        for addition in additions:
            check_addition(addition, self._layers, self._model.d_model)
        answers = self._answer(prompts, additions)
        allowed = tolerance(self._model.dtype, answers.clean)
        if self._sweeper is not None and not answers.drift <= allowed:
            fault = f"{self.method}: strength 0 was off by {answers.drift:.1e}"
            reasons = (self.reason, f"{fault}, and rounding explains {allowed:.0e}")
            self.reason = "; ".join(each for each in reasons if each)
            self._sweeper = None
            answers = self._answer(prompts, additions)
        self._check_finite(answers)
        return answers

    def _check_finite(self, answers: Answers) -> None:
        finite = [np.isfinite(each).all() for each in (answers.clean, *answers.logits)]
        if not all(finite):
            which = f"addition {finite.index(False)}" if finite[0] else "no addition"
            raise ModelError(
                f"model {self._model.name}: logits with {which} overflow in {self._model.dtype}; "
                "use --dtype float32, or add less"
            )

    def _answer(self, prompts: Sequence[Steered], additions: Sequence[Addition]) -> Answers:
        """Answer with batches that fit: half of what does not."""
        while True:
            budget = self._budget if self._sweeper else min(self._budget, PLAIN_TOKENS)
            try:
                if self._sweeper is not None:
                    return self._sweeper.answer(prompts, additions, budget, self._stop)
                model, tokens = self._model, self._tokens
                return answer_plainly(model, tokens, prompts, additions, budget, self._stop)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                longest = max(len(prompt.ids) for prompt in prompts)
                if budget <= longest:
                    raise _no_room(self._model, f"a prompt of {longest} tokens") from error
            self._budget = budget // 2


def open_replay(
    model: Model,
    tokens: Sequence[int],
    layers: Sequence[int],
    *,
    tokens_per_batch: int | None = None,
    method: Method | Literal["auto"] = "auto",
    stop: threading.Event | None = None,
) -> Replay:
    """A replay by the first method that holds, from the one asked: prefix, last, upper, full.

    `tokens` are those whose logits are wanted, `layers` those that additions may use. A method that
    does not hold is replaced by the next, also if it was asked for by name, and `reason` says why.
    Raises ValueError for layers or a budget that make no sense, NoRoom.
    """
    default = DEFAULT_TOKENS.get(model.device.type, DEFAULT_ELSEWHERE)
    budget = default if tokens_per_batch is None else tokens_per_batch
    wrong = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if not layers or wrong or budget < 1:
        raise ValueError(f"layers {tuple(layers)} of {model.n_layers}, {budget} tokens a batch")
    order = ORDER if method == "auto" else ORDER[ORDER.index(method) :]
    if model.device.type == "cpu":
        keep_freed_memory()
    sweeper, reason = _choose(model, tokens, layers, order[:-1], budget)
    return Replay(model, tokens, layers, budget, sweeper, reason, stop)


def _choose(
    model: Model,
    tokens: Sequence[int],
    layers: Sequence[int],
    methods: Sequence[Method],
    budget: int,
) -> tuple[Sweeper | None, str | None]:
    """The first of these methods that holds on probes, and why others before it did not."""
    if not methods:
        return None, None
    try:
        head = open_head(model)
        anatomy = study(model, min(layers) + 1)
        trial = open_trial(model, tokens, layers)
        reasons: list[str] = []
        for method in methods:
            make = partial(Sweeper, model, head, anatomy=anatomy, method=method)
            probing = make(tokens=trial.tokens)
            unknown = None if method == "upper" else anatomy.reason
            answer = partial(probing.answer, budget=budget)
            fault = unknown or find_fault(trial, answer, model.dtype)
            if fault is None:
                return make(tokens=tokens), "; ".join(reasons) or None
            reasons.append(f"{method}: {fault}")
    except (ModelError, UnfitError) as error:
        return None, str(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _no_room(model, "probe prompts") from error
    return None, "; ".join(reasons)


def _no_room(model: Model, what: str) -> NoRoom:
    return NoRoom(
        f"model {model.name}: memory runs short on {what}; free some, or use --quantize 4bit"
    )
