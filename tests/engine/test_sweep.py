import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.asking import Prompt, answer_tokens, choose_form
from engine.models import Model, residual
from engine.replay import Addition, Answers, Steered
from engine.sweep import (
    BASELINE,
    Arm,
    Question,
    SweepSummary,
    read_answers,
    run_sweep,
    zero_arm,
)
from stores.database import Connection
from stores.errors import ModelError, NotReady
from stores.results import open_run
from tests.sweeping import ACTIVITIES, questions_of

N, D = 4, 6
STEERED = {0, 2}
TOKENS = (7, 8)


@dataclass
class Fake:
    """A replay whose answers follow from the ids, the steered tokens and what is added there."""

    layers: tuple[int, ...]
    asked: list[tuple[Steered, ...]]
    method: str = "prefix"
    reason: str | None = None
    drift: float = 0.0
    broken: int | None = None

    def answer(self, prompts: Sequence[Steered], additions: Sequence[Addition]) -> Answers:
        self.asked += [tuple(prompts)] * (1 + len(additions))
        clean = np.array([plain(prompt) for prompt in prompts], np.float32).reshape(-1, 2)
        logits = np.array(
            [[clean[i] + moved(p, a) for i, p in enumerate(prompts)] for a in additions],
            np.float32,
        ).reshape(len(additions), len(prompts), 2)
        if self.broken is not None and len(self.asked) > self.broken:
            logits[-1, -1, 1] = np.nan
        return Answers(clean, clean + np.float32(self.drift), logits, self.drift)


def plain(prompt: Steered) -> NDArray[np.float64]:
    return np.sin([sum(prompt.ids), prompt.ids[-1] + 0.1])


def moved(prompt: Steered, addition: Addition) -> NDArray[np.float64]:
    tokens = sum(span.stop - span.start for span in prompt.where)
    moves = [(layer + 1) * tokens * v[:2] for layer, v in addition.vectors.items()]
    total: NDArray[np.float64] = np.array(moves, np.float64).sum(axis=0)
    return total


@dataclass
class Bench:
    """Stands in for `open_replay`; remembers what it opened and what was asked of it."""

    settings: dict[str, Any] = field(default_factory=dict)
    opened: list[tuple[int, ...]] = field(default_factory=list)
    asked: list[tuple[Steered, ...]] = field(default_factory=list)

    def open(
        self, _model: Model, tokens: Sequence[int], layers: Sequence[int], **_settings: object
    ) -> Fake:
        assert tuple(tokens) == TOKENS
        self.opened.append(tuple(layers))
        return Fake(tuple(layers), self.asked, **self.settings)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr("engine.sweep.open_replay", bench.open)
    return bench


def model(**changed: str) -> Model:
    told = {"name": "m", "revision": "r", "weights_sha": "w", "dtype": "float32"}
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    return cast(
        "Model",
        SimpleNamespace(
            tokenizer=tokenizer, attention="eager", d_model=D, n_layers=3, **(told | changed)
        ),
    )


def question(first: int, second: int) -> Question:
    ids = (1, 10 + first, 10 + first, 5, 20 + second, 6)
    prompt = Prompt(f"{first} or {second}", ids, (slice(1, 3), slice(4, 5)), "plain")
    spans = zip((first, second), prompt.spans, strict=True)
    return Question(first, second, prompt, tuple(s for n, s in spans if n in STEERED))


QUESTIONS = [question(a, b) for a in range(N) for b in range(N) if a != b]
STEERABLE = [bool(each.steered) for each in QUESTIONS]


def arm(name: str, seed: int, layers: tuple[int, ...] = (1,), strength: float = 0.5) -> Arm:
    rng = np.random.default_rng(seed)
    vectors = {layer: rng.normal(size=D).astype("f4") for layer in layers}
    return Arm(name, "emotion", strength, vectors)


HAPPY, SAD, BAND = arm("happy", 1), arm("sad", 2), arm("happy", 3, (0, 1))
ARMS = [HAPPY, SAD, BAND]


def run(
    conn: Connection,
    arms: Sequence[Arm] = ARMS,
    questions: Sequence[Question] = QUESTIONS,
    *,
    using: Model | None = None,
    reader: str = "toy",
    **settings: Any,
) -> SweepSummary:
    run_id = open_run(conn, "verify", {})
    chosen = using or model()
    return run_sweep(conn, chosen, reader, questions, arms, TOKENS, run_id=run_id, **settings)


def rows(conn: Connection) -> dict[tuple[str, int], tuple[float, float]]:
    query = """
        SELECT m.digest, a.question, a.logit_a, a.logit_b FROM answers a
        JOIN arms m ON m.id = a.arm_id"""
    return {(arm, number): (a, b) for arm, number, a, b in conn.execute(query)}


def stop_after(units: int) -> Mapping[str, Any]:
    stop, seen = threading.Event(), []

    def progress(*step: object) -> None:
        seen.append(step)
        if len(seen) == units:
            stop.set()

    return {"stop": stop, "progress": progress}


def test_every_arm_is_asked_the_steered_questions_and_the_baseline_all(
    conn: Connection, bench: Bench
) -> None:
    summary = run(conn)
    steerable = sum(STEERABLE)
    assert steerable < len(QUESTIONS)
    assert summary.asked == summary.computed == len(QUESTIONS) + (3 + 2) * steerable
    assert len(rows(conn)) == summary.asked
    found = read_answers(conn, summary.sweep_id, [BASELINE, *ARMS, zero_arm((1,), D)])
    for number, each in enumerate(QUESTIONS):
        asked = Steered(each.prompt.ids, each.steered)
        clean = plain(asked).astype("f4")
        assert (found[0, number] == clean).all()
        for own, added in zip(found[1:4, number], ARMS, strict=True):
            moves = moved(asked, Addition(added.vectors)) if each.steered else 0.0
            assert (own == (clean + moves).astype("f4")).all()


def test_pairs_of_controls_are_never_asked_of_an_arm(conn: Connection, bench: Bench) -> None:
    run(conn)
    controls = [q.prompt.ids for q in QUESTIONS if not q.steered]
    asked = [prompt.ids for call in bench.asked for prompt in call]
    assert [asked.count(ids) for ids in controls] == [1] * len(controls)


def test_each_choice_of_layers_is_replayed_from_its_own_layers(
    conn: Connection, bench: Bench
) -> None:
    summary = run(conn)
    assert bench.opened == [(1,), (0, 1)]
    zeros = conn.execute("SELECT layers, norms FROM arms WHERE kind = 'zero' ORDER BY id")
    assert [tuple(row) for row in zeros] == [("[1]", "[0.0]"), ("[0,1]", "[0.0,0.0]")]
    assert summary.method == "prefix"


def test_the_baseline_alone_can_be_asked_and_is_not_asked_again_with_arms(
    conn: Connection, bench: Bench
) -> None:
    first = run(conn, [])
    assert (first.asked, first.computed) == (len(QUESTIONS), len(QUESTIONS))
    before = rows(conn)
    second = run(conn, [HAPPY])
    assert second.sweep_id == first.sweep_id
    assert second.computed == 2 * sum(STEERABLE)
    assert before.items() <= rows(conn).items()


@pytest.mark.parametrize("units", [0, 1, 3])
def test_a_stopped_sweep_goes_on_at_the_first_unit_that_lacks_rows(
    conn: Connection, bench: Bench, units: int
) -> None:
    settings = {"stop": threading.Event()} if units == 0 else stop_after(units)
    if units == 0:
        settings["stop"].set()
    halfway = run(conn, **settings)
    assert halfway.stopped
    assert halfway.computed == sum(1 + 5 * bool(q.steered) for q in QUESTIONS if q.first < units)
    kept = rows(conn)
    finished = run(conn)
    assert not finished.stopped
    assert halfway.computed + finished.computed == finished.asked
    assert kept.items() <= rows(conn).items()
    uninterrupted = rows(conn)
    conn.execute("DELETE FROM answers")
    assert run(conn).computed == finished.asked
    assert rows(conn) == uninterrupted


def test_a_finished_sweep_is_not_asked_again_and_tells_the_same(
    conn: Connection, bench: Bench
) -> None:
    bench.settings = {"drift": 0.25, "method": "upper", "reason": "heads differ"}
    first = run(conn)
    asked, opened = len(bench.asked), len(bench.opened)
    second = run(conn)
    assert (len(bench.asked), len(bench.opened)) == (asked, opened)
    assert second == replace(first, computed=0)
    assert (second.drift, second.method, second.reason) == (0.25, "upper", "heads differ")


def test_a_stop_when_nothing_is_missing_is_no_stop(conn: Connection, bench: Bench) -> None:
    settings = stop_after(N)
    assert not run(conn, **settings).stopped
    assert settings["stop"].is_set()
    assert not run(conn, **settings).stopped


def test_the_baseline_is_the_plain_pass_and_the_zero_arm_what_the_replay_gives(
    conn: Connection, bench: Bench
) -> None:
    bench.settings = {"drift": 0.5}
    summary = run(conn, [HAPPY])
    found = read_answers(conn, summary.sweep_id, [BASELINE, zero_arm((1,), D)])
    for number, each in enumerate(QUESTIONS):
        clean = plain(Steered(each.prompt.ids, each.steered)).astype("f4")
        assert (found[0, number] == clean).all()
        assert (found[1, number] == clean + np.float32(0.5 * bool(each.steered))).all()


def test_drift_is_the_largest_that_was_ever_seen(conn: Connection, bench: Bench) -> None:
    bench.settings = {"drift": 0.25}
    run(conn, [HAPPY], **stop_after(2))
    bench.settings = {"drift": 0.125}
    assert run(conn, [HAPPY]).drift == 0.25


def test_a_new_arm_is_asked_alone(conn: Connection, bench: Bench) -> None:
    run(conn, [HAPPY])
    before = rows(conn)
    assert run(conn, [HAPPY, SAD]).computed == sum(STEERABLE)
    assert before.items() <= rows(conn).items()


def test_arms_that_add_the_same_are_asked_once_whatever_their_names(
    conn: Connection, bench: Bench
) -> None:
    twin = replace(HAPPY, name="glad", kind="dose")
    summary = run(conn, [HAPPY, twin])
    assert summary.asked == len(QUESTIONS) + 2 * sum(STEERABLE)
    one, other = read_answers(conn, summary.sweep_id, [HAPPY, twin])
    assert (one == other).all()


CHANGED_VECTOR = {1: np.nextafter(HAPPY.vectors[1], np.float32(9))}


@pytest.mark.parametrize(
    "changed",
    [
        replace(HAPPY, vectors=CHANGED_VECTOR),
        replace(HAPPY, vectors={2: HAPPY.vectors[1]}),
        replace(HAPPY, strength=-0.5),
    ],
    ids=["vector", "layer", "strength"],
)
def test_another_vector_layer_or_strength_is_another_arm(
    conn: Connection, bench: Bench, changed: Arm
) -> None:
    summary = run(conn, [HAPPY])
    with pytest.raises(NotReady, match="1 of 2 arms"):
        read_answers(conn, summary.sweep_id, [changed])
    before = rows(conn)
    later = run(conn, [changed])
    assert later.sweep_id == summary.sweep_id
    assert later.computed >= sum(STEERABLE)
    assert before.items() <= rows(conn).items()


def with_prompt(**changed: Any) -> list[Question]:
    last = QUESTIONS[-1]
    return [*QUESTIONS[:-1], replace(last, prompt=replace(last.prompt, **changed))]


@pytest.mark.parametrize(
    "changed",
    [
        {"using": model(weights_sha="other")},
        {"using": model(dtype="bfloat16")},
        {"reader": "another"},
        {"questions": with_prompt(ids=(1, 13, 13, 5, 22, 9))},
        {"questions": with_prompt(spans=(slice(1, 2), slice(4, 5)))},
        {"questions": [*QUESTIONS[:-1], replace(QUESTIONS[-1], steered=())]},
        {"questions": QUESTIONS[:-1]},
        {"questions": QUESTIONS[::-1]},
        {"questions": [replace(q, prompt=replace(q.prompt, form="chat")) for q in QUESTIONS]},
    ],
    ids=["weights", "dtype", "reader", "ids", "span", "steered", "fewer", "order", "form"],
)
def test_whatever_an_answer_hangs_on_makes_another_sweep(
    conn: Connection, bench: Bench, changed: dict[str, Any]
) -> None:
    first = run(conn, [HAPPY])
    second = run(conn, [HAPPY], **changed)
    assert second.sweep_id != first.sweep_id
    assert second.computed == second.asked


def test_other_answer_tokens_make_another_sweep(
    conn: Connection, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(conn, [HAPPY])
    monkeypatch.setattr("tests.engine.test_sweep.TOKENS", (7, 9))
    second = run(conn, [HAPPY])
    assert second.sweep_id != first.sweep_id


def test_a_row_that_is_gone_is_asked_again(conn: Connection, bench: Bench) -> None:
    run(conn)
    before = rows(conn)
    gone = "arm_id = (SELECT max(id) FROM arms) AND question = 4"
    conn.execute(f"DELETE FROM answers WHERE {gone}")
    run(conn)
    assert rows(conn) == before


def test_an_answer_that_is_not_finite_is_refused_by_name_with_its_whole_unit(
    conn: Connection, bench: Bench
) -> None:
    bench.settings = {"broken": 8}
    with pytest.raises(ModelError, match=r"model m: no finite answer to question \d+ \(sad\)"):
        run(conn, [HAPPY, SAD])
    kept = {q.first for q in QUESTIONS for _, n in rows(conn) if QUESTIONS[n] is q}
    assert kept == {0, 1}
    bench.settings = {}
    assert run(conn, [HAPPY, SAD]).computed == sum(
        1 + 3 * bool(q.steered) for q in QUESTIONS if q.first > 1
    )


def test_a_vector_with_a_nan_is_refused_with_its_arm_and_layer(
    conn: Connection, bench: Bench
) -> None:
    broken = arm("proud", 5, (0, 2))
    broken.vectors[2][3] = np.nan
    with pytest.raises(ModelError, match=r"arm proud: .* layer 2 .*vectors build"):
        run(conn, [HAPPY, broken])
    assert bench.asked == []


def test_an_arm_that_adds_nothing_is_a_bug(conn: Connection, bench: Bench) -> None:
    with pytest.raises(ValueError, match="calm"):
        run(conn, [Arm("calm", "emotion", 0.5)])
    with pytest.raises(ValueError, match="needs a question"):
        run(conn, questions=[])


def test_progress_counts_answers_from_those_that_were_found(conn: Connection, bench: Bench) -> None:
    asked = run(conn, **stop_after(2)).asked
    told: list[tuple[int, int, str]] = []
    run(conn, progress=lambda *step: told.append(step))
    done = [step[0] for step in told]
    assert len(done) == N - 2
    assert done == sorted(done)
    assert done[0] > 0
    assert [step[1:] for step in told] == [(asked, "6 arms")] * (N - 2)
    assert done[-1] == asked


def test_the_ledger_shows_what_was_read_and_steered(conn: Connection, bench: Bench) -> None:
    run(conn, [HAPPY])
    shown = conn.execute("SELECT * FROM questions WHERE question = 1").fetchone()
    assert tuple(shown)[1:] == (
        1, 0, 2, "0 or 2", "6", 5, "10 10", "1:3", "22", "4:5", "1:3 4:5",
    )  # fmt: skip
    controls = conn.execute("SELECT count(*) FROM questions WHERE steered = ''").fetchone()[0]
    assert controls == len(QUESTIONS) - sum(STEERABLE)
    kept = conn.execute("SELECT name, kind, strength, layers, norms FROM arms WHERE id = 3")
    name, kind, strength, layers, norms = kept.fetchone()
    assert (name, kind, strength, layers) == ("happy", "emotion", 0.5, "[1]")
    assert float(norms.strip("[]")) == pytest.approx(float(np.linalg.norm(HAPPY.vectors[1])))


# ---- with a model ------------------------------------------------------------------------------


def read_plainly(tiny: Model, question: Question, vectors: Mapping[int, Any]) -> Any:
    """All logits after the last token of a prompt alone, vectors added by hooks of our own."""

    def adding(vector: Any) -> Any:
        def hook(_block: Any, _given: Any, came: Any) -> Any:
            stream = residual(came).clone()
            for span in question.steered:
                stream[:, span] += torch.from_numpy(vector)
            return stream if isinstance(came, torch.Tensor) else (stream, *came[1:])

        return hook

    hooks = [tiny.blocks[at].register_forward_hook(adding(v)) for at, v in vectors.items()]
    with torch.inference_mode():
        network: Any = tiny.model
        logits = network(torch.tensor([question.prompt.ids]), use_cache=False).logits[0, -1]
    for each in hooks:
        each.remove()
    return logits.double().numpy()


def test_what_is_kept_is_what_the_model_answers_with_and_without_vectors(
    conn: Connection, tiny: Model
) -> None:
    questions, tokens = questions_of(tiny, N), answer_tokens(tiny, choose_form(tiny))
    rng = np.random.default_rng(0)
    arms = [
        Arm(
            name,
            "emotion",
            0.5,
            {at: rng.normal(0.0, 2.0, tiny.d_model).astype("f4") for at in layers},
        )
        for name, layers in (("happy", (2,)), ("sad", (2,)), ("happy", (1, 2)))
    ]
    run_id = open_run(conn, "verify", {})
    summary = run_sweep(conn, tiny, "toy", questions, arms, tokens, run_id=run_id)
    assert summary.computed == summary.asked
    assert summary.drift < 1e-4
    found = read_answers(conn, summary.sweep_id, [BASELINE, *arms])
    for number, each in enumerate(questions):
        for own, added in zip(found[:, number], [BASELINE, *arms], strict=True):
            vectors = added.vectors if each.steered else {}
            expected = read_plainly(tiny, each, vectors)[list(tokens)]
            assert np.abs(own - expected).max() < 1e-4
    moved = np.abs(found[1:] - found[0]).max(axis=2)
    assert (moved[:, STEERABLE] > 1e-3).all()
    assert (moved[:, ~np.array(STEERABLE)] == 0).all()


def test_the_ledger_shows_the_rendered_prompt_the_token_read_and_the_options(
    conn: Connection, tiny: Model
) -> None:
    questions, tokens = questions_of(tiny, N), answer_tokens(tiny, choose_form(tiny))
    run_id = open_run(conn, "verify", {})
    run_sweep(conn, tiny, "toy", questions[:2], [], tokens, run_id=run_id)
    shown = conn.execute("SELECT * FROM questions WHERE question = 1").fetchone()
    assert shown["text"].endswith("count coins?\nAssistant: (")
    assert shown["read_token"].strip() == "("
    assert shown["words_first"].strip() == ACTIVITIES[0]
    assert shown["words_second"].strip() == ACTIVITIES[2]
