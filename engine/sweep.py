"""Asks a model two-option questions, with and without steering, and keeps every answer as a row.

The questions of one model and form are a sweep; what is added to the residual stream while they are
asked is an arm. What is already there is not asked again, so a sweep that was killed goes on.
Knows nothing of emotions, ratings or scores.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.models import Model
from engine.questions import (
    BASELINE,
    Arm,
    ArmKind,
    Question,
    Unit,
    arm_digest,
    arm_row,
    question_row,
    sweep_digest,
    sweep_settings,
    units_of,
    zero_arm,
)
from engine.replay import Addition, Answers, Replay, Steered, open_replay
from engine.replaying.prompts import heed
from stores import sweeps
from stores.database import Connection, transaction
from stores.errors import ModelError, Stopped

__all__ = [
    "BASELINE",
    "Arm",
    "ArmKind",
    "Question",
    "SweepSummary",
    "read_answers",
    "run_sweep",
    "zero_arm",
]

Progress = Callable[[int, int, str], None]
Logits = NDArray[np.float32]
Rows = tuple[int, list[int], Logits]
"""Arm id, numbers of questions, logits [questions, 2]."""
Note = tuple[int, float, str, str]
"""Id of a zero arm; drift, method and reason of its replay."""


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """What a sweep holds: `asked` answers wanted, `computed` of them now, the others found.

    `drift`: largest difference of a logit replayed at strength 0 from the plain pass, of all that
    was ever replayed from these layers. `method`: how it was done last, blank where nothing is
    steered; `reason`: why not faster. `stopped`: by the user, before all was there.
    """

    sweep_id: int
    asked: int
    computed: int
    drift: float
    method: str
    reason: str
    stopped: bool


def run_sweep(
    conn: Connection,
    model: Model,
    reader: str,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    tokens: tuple[int, int],
    *,
    run_id: int,
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> SweepSummary:
    """Ask every question of the baseline, and every steered one of each arm; keep the answers.

    `tokens` are the ids of "A" and "B" after the bracket. The baseline, and a zero arm for each
    choice of layers, come by themselves. Questions that share their first option are one unit: all
    its missing arms are one transaction. `progress(done, asked, note)` counts answers after each.

    Raises ModelError for a vector or an answer that is not finite; nothing of its unit is kept.
    """
    sweep = _open_sweep(conn, model, reader, questions, arms, tokens, run_id)
    sweep.tokens_per_batch, sweep.stop = tokens_per_batch, stop
    units = units_of(questions)
    asked = sum(len(sweep.wanted(arm, unit)) for unit in units for arm in sweep.arms)
    found, computed, stopped = asked - sum(map(sweep.count_missing, units)), 0, False
    for unit in units:
        if not sweep.count_missing(unit):
            continue
        try:
            heed(stop)
            computed += sweep.ask(unit)
        except Stopped:
            stopped = True
            break
        if progress is not None:
            progress(found + computed, asked, f"{len(sweep.arms)} arms")
    return SweepSummary(sweep.id, asked, computed, *sweep.told(), stopped)


def read_answers(conn: Connection, sweep_id: int, arms: Sequence[Arm]) -> NDArray[np.float64]:
    """The logits [arms, questions, 2] of "A" and "B"; NaN where not asked.

    Questions without a steered option have the baseline's answer in every arm. Raises NotReady when
    the sweep was never asked in one of the arms.
    """
    digests = [arm_digest(arm) for arm in (BASELINE, *arms)]
    baseline, *ids = sweeps.find_arms(conn, sweep_id, digests)
    steered = sweeps.read_steered(conn, sweep_id)
    plain = sweeps.read_logits(conn, baseline, len(steered))
    answers = np.empty((len(ids), *plain.shape))
    for row, arm_id in zip(answers, ids, strict=True):
        own = plain if arm_id == baseline else sweeps.read_logits(conn, arm_id, len(steered))
        row[:] = np.where(steered[:, None], own, plain)
    return answers


@dataclass(frozen=True, slots=True)
class _Group:
    """Arms that add at the same layers, by id, and the id of their zero arm."""

    layers: tuple[int, ...]
    zero: int
    arms: dict[int, Arm]


@dataclass(slots=True)
class _Sweep:
    """A sweep at work. `found` counts the answers that are there, by arm id and first option."""

    id: int
    conn: Connection
    model: Model
    questions: Sequence[Question]
    tokens: tuple[int, int]
    baseline: int
    groups: list[_Group]
    found: dict[tuple[int, int], int]
    tokens_per_batch: int | None = None
    stop: threading.Event | None = None
    replays: dict[tuple[int, ...], Replay] = field(default_factory=dict)

    @property
    def arms(self) -> list[int]:
        """Every arm, the baseline first."""
        return [self.baseline, *(arm for group in self.groups for arm in (group.zero, *group.arms))]

    def wanted(self, arm: int, unit: Unit) -> list[int]:
        """The questions of a unit that an arm is asked."""
        return unit.all if arm == self.baseline else unit.steered

    def lacks(self, arm: int, unit: Unit) -> bool:
        """Whether an arm has fewer answers to a unit than are wanted."""
        return self.found.get((arm, unit.first), 0) < len(self.wanted(arm, unit))

    def count_missing(self, unit: Unit) -> int:
        """How many answers to a unit are not there."""
        return sum(len(self.wanted(arm, unit)) for arm in self.arms if self.lacks(arm, unit))

    def ask(self, unit: Unit) -> int:
        """Ask a unit of every arm that lacks it, keep all that came at once; how many answers."""
        rows: list[Rows] = []
        notes: list[Note] = []
        clean: Logits | None = None
        for group in self.groups:
            lacking = {key: arm for key, arm in group.arms.items() if self.lacks(key, unit)}
            if lacking or self.lacks(group.zero, unit):
                replay = self._open(group.layers)
                came = self._answer(replay, unit.steered, list(lacking.values()))
                clean = came.clean if clean is None else clean
                logits = zip((group.zero, *lacking), (came.zero, *came.logits), strict=True)
                rows += [(arm, unit.steered, own) for arm, own in logits]
                notes.append((group.zero, came.drift, replay.method, replay.reason or ""))
        rows += self._ask_baseline(unit, clean)
        return self._keep([each for each in rows if self.lacks(each[0], unit)], notes)

    def _ask_baseline(self, unit: Unit, clean: Logits | None) -> list[Rows]:
        """The baseline's rows; `clean` are its answers to the steered questions if they are known.

        Any replay reads prompts plainly; without arms, one of the last layer costs least.
        """
        if not self.lacks(self.baseline, unit):
            return []
        known = [] if clean is None else [(self.baseline, unit.steered, clean)]
        rest = sorted(set(unit.all) - set(unit.steered if known else []))
        if not rest:
            return known
        layers = self.groups[0].layers if self.groups else (self.model.n_layers - 1,)
        came = self._answer(self._open(layers), rest, [])
        return [*known, (self.baseline, rest, came.clean)]

    def _answer(self, replay: Replay, numbers: Sequence[int], arms: Sequence[Arm]) -> Answers:
        asked = [self.questions[number] for number in numbers]
        return replay.answer(
            [Steered(question.prompt.ids, question.steered) for question in asked],
            [Addition(arm.vectors) for arm in arms],
        )

    def _open(self, layers: tuple[int, ...]) -> Replay:
        if layers not in self.replays:
            self.replays[layers] = open_replay(
                self.model,
                self.tokens,
                layers,
                tokens_per_batch=self.tokens_per_batch,
                stop=self.stop,
            )
        return self.replays[layers]

    def _keep(self, rows: Sequence[Rows], notes: Sequence[Note]) -> int:
        for arm, numbers, logits in rows:
            self._refuse_infinite(arm, numbers, logits)
        with transaction(self.conn):
            for arm, numbers, logits in rows:
                sweeps.write_answers(self.conn, arm, numbers, logits)
            for note in notes:
                sweeps.note_replay(self.conn, *note)
        return sum(len(numbers) for _, numbers, _ in rows)

    def _refuse_infinite(self, arm: int, numbers: Sequence[int], logits: Logits) -> None:
        broken = ~np.isfinite(logits).all(axis=1)
        if broken.any():
            number = numbers[int(broken.argmax())]
            names = {key: own.name for group in self.groups for key, own in group.arms.items()}
            raise ModelError(
                f"model {self.model.name}: no finite answer to question {number} "
                f"({names.get(arm, 'not steered')}) in {self.model.dtype}; use --dtype float32, "
                "or steer less"
            )

    def told(self) -> tuple[float, str, str]:
        """Drift, method and reason of all replays that these arms ever saw, from their rows."""
        seen = [sweeps.read_replay(self.conn, group.zero) for group in self.groups]
        return (
            max((each.drift or 0.0 for each in seen), default=0.0),
            ", ".join(dict.fromkeys(each.method for each in seen if each.method)),
            "; ".join(dict.fromkeys(each.reason for each in seen if each.reason)),
        )


def _open_sweep(
    conn: Connection,
    model: Model,
    reader: str,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    tokens: tuple[int, int],
    run_id: int,
) -> _Sweep:
    """The sweep of these questions with these arms, planned where they are new."""
    if not questions:
        raise ValueError("a sweep needs a question")
    sweep_id = sweeps.open_sweep(
        conn,
        reader,
        sweep_digest(model, questions, tokens),
        sweep_settings(model, questions, tokens),
        (question_row(model, number, question) for number, question in enumerate(questions)),
        run_id,
    )
    return _Sweep(
        id=sweep_id,
        conn=conn,
        model=model,
        questions=questions,
        tokens=tokens,
        baseline=sweeps.plan_arms(conn, sweep_id, [arm_row(BASELINE)], run_id)[0],
        groups=_plan_groups(conn, sweep_id, arms, model.d_model, run_id),
        found=sweeps.count_answers(conn, sweep_id),
    )


def _plan_groups(
    conn: Connection, sweep_id: int, arms: Sequence[Arm], d_model: int, run_id: int
) -> list[_Group]:
    """The arms by their layers, each with an id; an arm that is there twice is asked once."""
    layers = dict.fromkeys(tuple(sorted(arm.vectors)) for arm in arms if arm != BASELINE)
    groups = []
    for chosen in layers:
        own = [arm for arm in arms if tuple(sorted(arm.vectors)) == chosen]
        rows = [arm_row(arm) for arm in own]
        rows.insert(0, arm_row(zero_arm(chosen, d_model)))
        zero, *ids = sweeps.plan_arms(conn, sweep_id, rows, run_id)
        steered = {key: arm for key, arm in zip(ids, own, strict=True) if key != zero}
        groups.append(_Group(chosen, zero, steered))
    return groups
