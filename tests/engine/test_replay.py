"""The central law: a replay answers what the whole network answers with plain hooks on it.

The reference is written here with torch alone: a hook a layer, a padded batch, all logits.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import engine.replay as replay_module
from engine.models import Model, load_model
from engine.replay import Addition, Answers, Method, Replay, Steered, open_replay
from engine.replaying.launching import Launch
from engine.replaying.upper import Sweeper
from stores.errors import ModelError, NoRoom, Stopped
from tests.engine.replays import LAYERS, TOKENS, WIDTH, draw_additions, draw_prompts
from tests.engine.tiny import FAMILIES, RECURRENT, UNPACKABLE, save_checkpoint

TOLERANCE = 1e-4
METHODS: tuple[Method, ...] = ("prefix", "last", "upper", "full")

Logits = NDArray[np.float32]
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A family's model through the real loading code, once per setting."""

    @cache
    def read(family: str, **settings: Any) -> Model:
        folder = save_checkpoint(tmp_path_factory.mktemp(family), family)
        return load_model(str(folder), device="cpu", **settings)

    return read


def answer_by_hooks(
    model: Model, prompts: Sequence[Steered], addition: Addition | None, side: str
) -> Logits:
    """Logits [n, k] in one padded batch of the whole network."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask, where = torch.zeros_like(ids), torch.zeros(len(prompts), width, 1)
    last = []
    for row, prompt in enumerate(prompts):
        start = width - len(prompt.ids) if side == "left" else 0
        ids[row, start : start + len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, start : start + len(prompt.ids)] = 1
        for span in prompt.where:
            where[row, start + span.start : start + span.stop] = 1
        last.append(start + len(prompt.ids) - 1)

    def add(vector: torch.Tensor, _block: Any, _given: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return output + where * vector
        return (output[0] + where * vector, *output[1:])

    hooks = [
        model.blocks[layer].register_forward_hook(partial(add, torch.from_numpy(vector)))
        for layer, vector in (addition.vectors if addition else {}).items()
    ]
    network: Any = model.model
    given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if side == "left":
        given["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    try:
        with torch.inference_mode():
            logits = network(**given).logits
    finally:
        for hook in hooks:
            hook.remove()
    chosen: Logits = logits[range(len(prompts)), last][:, list(TOKENS)].numpy()
    return chosen


def expect(model: Model, how: str) -> tuple[Logits, Logits]:
    """Clean [n, k] and steered [m, n, k] logits of all prompts with all additions, by hooks."""
    prompts = draw_prompts()
    batches = [[prompt] for prompt in prompts] if how == "alone" else [prompts]
    every = [
        np.concatenate([answer_by_hooks(model, batch, addition, how) for batch in batches])
        for addition in (None, *draw_additions())
    ]
    return every[0], np.stack(every[1:])


def agree(answers: Answers, expected: tuple[Logits, Logits]) -> bool:
    clean, steered = expected
    pairs = ((answers.clean, clean), (answers.zero, clean), (answers.logits, steered))
    return all(float(np.abs(one - other).max()) <= TOLERANCE for one, other in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fastest_method_equals_plain_hooks_in_every_architecture(
    load: Load, family: str
) -> None:
    model = load(family)
    replay = open_replay(model, TOKENS, LAYERS)
    answers = replay.answer(draw_prompts(), draw_additions())
    assert (replay.method, replay.reason) == ("prefix", None)
    assert agree(answers, expect(model, "right"))
    assert agree(answers, expect(model, "alone"))
    # The library counts columns in some, so that padding on the left changes them.
    assert family in UNPACKABLE or agree(answers, expect(model, "left"))
    assert float(np.abs(answers.logits - answers.clean).max()) > 1000 * TOLERANCE


@pytest.mark.parametrize("family", RECURRENT)
def test_blocks_that_carry_a_state_are_replayed_whole_and_the_reason_is_said(
    load: Load, family: str
) -> None:
    model = load(family)
    replay = open_replay(model, TOKENS, LAYERS)
    assert replay.method == "upper"
    assert replay.reason is not None and replay.reason.startswith("prefix: ")
    assert agree(replay.answer(draw_prompts(), draw_additions()), expect(model, "alone"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma4_shared"])
def test_every_method_gives_the_same(load: Load, family: str, method: Method) -> None:
    model = load(family)
    replay = open_replay(model, TOKENS, LAYERS, method=method)
    assert replay.method == method
    assert agree(replay.answer(draw_prompts(), draw_additions()), expect(model, "alone"))


def test_blocks_that_count_positions_themselves_are_told_where_they_are(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("llama4")
    attention: Any = model.blocks[2].self_attn
    monkeypatch.setattr(attention, "use_rope", False)
    monkeypatch.setattr(attention, "floor_scale", 2)
    replay = open_replay(model, TOKENS, LAYERS)
    assert replay.method == "prefix"
    assert agree(replay.answer(draw_prompts(), draw_additions()), expect(model, "alone"))


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_written_out_attention_is_replayed_as_well(load: Load, family: str) -> None:
    model = load(family, attention="eager")
    replay = open_replay(model, TOKENS, LAYERS)
    assert replay.method == "prefix"
    assert agree(replay.answer(draw_prompts(), draw_additions()), expect(model, "right"))


def test_in_bfloat16_every_launch_is_near_its_own_zero_point(load: Load) -> None:
    model = load("llama", dtype="bfloat16")
    replay = open_replay(model, TOKENS, LAYERS)
    answers = replay.answer(draw_prompts(), draw_additions())
    exact = expect(load("llama"), "alone")[1]
    assert replay.method == "prefix"
    assert 0 < answers.drift < 0.1
    assert 0 < np.abs(answers.zero - answers.clean).max() <= answers.drift
    assert float(np.abs(answers.logits - exact).mean()) < 0.05


@pytest.mark.parametrize("budget", [1, 60, 250])
def test_the_size_of_a_batch_changes_nothing_but_rounding(load: Load, budget: int) -> None:
    model = load("gemma3")
    replay = open_replay(model, TOKENS, LAYERS, tokens_per_batch=budget)
    assert agree(replay.answer(draw_prompts(), draw_additions()), expect(model, "alone"))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("family", ["llama", "gemma4_shared", "lfm2"])
def test_a_replay_from_any_one_layer_equals_plain_hooks(
    load: Load, family: str, layer: int
) -> None:
    model = load(family)
    addition = Addition({layer: draw_additions()[2].vectors[layer]})
    found = open_replay(model, TOKENS, [layer]).answer(draw_prompts(), [addition])
    alone = [answer_by_hooks(model, [each], addition, "alone") for each in draw_prompts()]
    assert np.abs(found.logits[0] - np.concatenate(alone)).max() <= TOLERANCE


def test_a_prompt_alone_gets_what_it_gets_among_others(tiny: Model) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS)
    together = replay.answer(draw_prompts(), draw_additions())
    for i, prompt in enumerate(draw_prompts()):
        for j, addition in enumerate(draw_additions()):
            alone = replay.answer([prompt], [addition]).logits[0, 0]
            assert np.abs(alone - together.logits[j, i]).max() <= 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_whoever_wants_to_stop_waits_for_one_launch_at_most(tiny: Model, method: Method) -> None:
    stop = threading.Event()
    replay = open_replay(tiny, TOKENS, LAYERS, method=method, stop=stop)
    replay.answer(draw_prompts(), draw_additions())
    stop.set()
    with pytest.raises(Stopped):
        replay.answer(draw_prompts(), draw_additions())


def test_the_same_call_gives_the_same_bits(tiny: Model) -> None:
    one, other = (
        open_replay(tiny, TOKENS, LAYERS).answer(draw_prompts(), draw_additions()) for _ in range(2)
    )
    assert np.array_equal(one.logits, other.logits)
    assert np.array_equal(one.zero, other.zero)
    assert one.drift == other.drift


def test_strength_0_and_prompts_without_steered_tokens_change_nothing(tiny: Model) -> None:
    nothing = Addition({1: np.zeros(WIDTH, np.float32)})
    replay = open_replay(tiny, TOKENS, LAYERS)
    answers = replay.answer(draw_prompts(), [nothing, *draw_additions()])
    unsteered = [i for i, prompt in enumerate(draw_prompts()) if not prompt.where]
    assert answers.drift < 1e-5
    assert np.abs(answers.logits[0] - answers.clean).max() < 1e-5
    assert np.abs(answers.logits[:, unsteered] - answers.clean[unsteered]).max() < 1e-5


def test_the_opposite_vector_added_as_well_takes_the_effect_back(tiny: Model) -> None:
    forth = draw_additions()[0].vectors[1]
    replay = open_replay(tiny, TOKENS, LAYERS)
    both = Addition({1: forth + -forth})
    assert (
        np.abs(replay.answer(draw_prompts(), [both]).logits[0] - expect(tiny, "alone")[0]).max()
        < 1e-5
    )


def test_without_prompts_or_additions_there_is_less_to_answer(tiny: Model) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS)
    assert replay.answer([], draw_additions()).logits.shape == (6, 0, 3)
    answers = replay.answer(draw_prompts(), [])
    assert answers.logits.shape == (0, 15, 3)
    assert np.abs(answers.zero - expect(tiny, "alone")[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("prompt", "addition", "message"),
    [
        (Steered((), ()), None, "without tokens"),
        (Steered((5, 6), (slice(1, 3),)), None, "not a span"),
        (Steered((5, 6), (slice(-1, 2),)), None, "not a span"),
        (Steered((5, 6), (slice(None, 2),)), None, "not a span"),
        (None, Addition({}), "opened for"),
        (None, Addition({0: np.ones(WIDTH, np.float32)}), "opened for"),
        (None, Addition({1: np.ones(WIDTH + 1, np.float32)}), "layer 1"),
        (None, Addition({1: np.full(WIDTH, np.nan, np.float32)}), "layer 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny: Model, prompt: Steered | None, addition: Addition | None, message: str
) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS, method="full")
    with pytest.raises(ValueError, match=message):
        replay.answer(
            [prompt or Steered((5, 6), (slice(0, 1),))], [addition or draw_additions()[0]]
        )


@pytest.mark.parametrize(("layers", "budget"), [((), 10), ((4,), 10), ((-1,), 10), ((1,), 0)])
def test_a_replay_without_layers_or_budget_is_refused(
    tiny: Model, layers: tuple[int, ...], budget: int
) -> None:
    with pytest.raises(ValueError, match="tokens a batch"):
        open_replay(tiny, TOKENS, layers, tokens_per_batch=budget)


def spoil(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Launch], bool], by: float) -> None:
    """Make launches for which `wrong` is true answer what is not so."""
    finish = Launch.finish

    def spoiled(launch: Launch, stems: Any) -> torch.Tensor:
        states = finish(launch, stems)
        return states + by * torch.arange(WIDTH) if wrong(launch) else states

    monkeypatch.setattr(Launch, "finish", spoiled)


@pytest.mark.parametrize("method", METHODS[:3])
def test_a_method_that_is_wrong_on_probes_is_replaced_by_the_next(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    answer = Sweeper.answer

    def lie(sweeper: Sweeper, *asked: Any, **named: Any) -> Answers:
        answers = answer(sweeper, *asked, **named)
        answers.logits[-1, 0, 0] += 1e-3 if sweeper.method == method else 0
        return answers

    monkeypatch.setattr(Sweeper, "answer", lie)
    replay = open_replay(tiny, TOKENS, LAYERS, method=method)
    assert replay.method == METHODS[METHODS.index(method) + 1]
    assert replay.reason is not None
    assert replay.reason.startswith(f"{method}: logits are off by 1.0e-03")


@pytest.mark.parametrize("by", [0.01, float("nan")])
def test_launches_that_drift_are_answered_in_full_and_the_reason_is_said(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS)
    # Longer than any probe: nothing that was proved speaks of them.
    spoil(monkeypatch, lambda launch: launch._cut.keys == 40, by=by)
    answers = replay.answer(draw_prompts(), draw_additions())
    assert agree(answers, expect(tiny, "alone"))
    assert replay.method == "full"
    assert replay.reason is not None and "prefix: strength 0 was off by" in replay.reason


def test_a_head_that_is_not_known_means_the_whole_model(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_model: Model) -> None:
        raise ModelError("model x: no final norm; this architecture is not supported")

    monkeypatch.setattr(replay_module, "open_head", refuse)
    replay = open_replay(tiny, TOKENS, LAYERS)
    assert (replay.method, replay.reason) == (
        "full",
        "model x: no final norm; this architecture is not supported",
    )
    assert agree(replay.answer(draw_prompts(), draw_additions()), expect(tiny, "alone"))


def test_a_connection_around_the_blocks_means_the_whole_model(load: Load) -> None:
    model = load("qwen3")
    early: list[torch.Tensor] = []

    def keep(_block: Any, _given: Any, output: torch.Tensor) -> None:
        early[:] = [output.mean(dim=(1, 2))]

    def use(_block: Any, _given: Any, output: torch.Tensor) -> torch.Tensor:
        return output + early[0][: len(output), None, None]

    hooks = [model.blocks[0].register_forward_hook(keep)]
    hooks.append(model.blocks[3].register_forward_hook(use))
    try:
        replay = open_replay(model, TOKENS, LAYERS)
        answers = replay.answer(draw_prompts(), draw_additions())
        assert replay.method == "full"
        assert replay.reason is not None and replay.reason.count("; ") == 2
        assert agree(answers, expect(model, "right"))
    finally:
        for hook in hooks:
            hook.remove()


def run_short(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Let memory suffice for batches below a limit alone; the budgets tried."""
    tried: list[int] = []
    answer = Sweeper.answer

    def allocate(
        sweeper: Sweeper, prompts: Any, additions: Any, budget: int, stop: Any = None
    ) -> Answers:
        tried.append(budget)
        if budget > limit:
            raise torch.OutOfMemoryError("out of memory")
        return answer(sweeper, prompts, additions, budget, stop)

    monkeypatch.setattr(Sweeper, "answer", allocate)
    return tried


def test_memory_that_runs_short_halves_the_batch(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS, tokens_per_batch=800)
    tried = run_short(monkeypatch, limit=150)
    for _ in range(2):
        assert agree(replay.answer(draw_prompts(), draw_additions()), expect(tiny, "alone"))
    assert tried == [800, 400, 200, 100, 100]


def test_no_memory_for_a_single_prompt_is_said_in_one_line(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS)
    run_short(monkeypatch, limit=0)
    with pytest.raises(NoRoom, match="a prompt of 40 tokens"):
        replay.answer(draw_prompts(), draw_additions())
    with pytest.raises(NoRoom, match="memory runs short"):
        open_replay(tiny, TOKENS, LAYERS)


def test_logits_that_overflow_are_refused_by_name(tiny: Model) -> None:
    replay = open_replay(tiny, TOKENS, LAYERS)
    huge = Addition(dict.fromkeys((1, 2), np.full(WIDTH, 3e38, np.float32)))
    with pytest.raises(ModelError, match="logits with addition 2 overflow in float32"):
        replay.answer(draw_prompts(), [draw_additions()[0], huge])


def test_memory_that_runs_short_at_opening_is_no_reason_for_a_slower_method(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_asked: Any, **_named: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    for name in ("run_plain", "_find_keyed"):
        with monkeypatch.context() as patch:
            patch.setattr(f"engine.replaying.anatomy.{name}", allocate)
            with pytest.raises(NoRoom, match="memory runs short on probe prompts"):
                open_replay(tiny, TOKENS, LAYERS)


def count_hooks(model: Model) -> int:
    modules = list(model.model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) + sum(
        "forward" in vars(module) for module in modules
    )


def test_nothing_is_left_on_the_model_whatever_happens(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_hooks(tiny)
    replay: Replay = open_replay(tiny, TOKENS, LAYERS)
    replay.answer(draw_prompts(), draw_additions())
    assert count_hooks(tiny) == before

    def fail(*_asked: Any) -> None:
        raise KeyError("in the middle")

    monkeypatch.setattr(Launch, "_run", fail)
    with pytest.raises(KeyError, match="in the middle"):
        replay.answer(draw_prompts(), draw_additions())
    assert count_hooks(tiny) == before


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["gemma2", "gemma4_shared"])
def test_prompts_that_repeat_and_begin_each_other_get_what_they_get_alone(
    load: Load, family: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(25):
        tokens = int(rng.integers(1, 24))
        first = int(rng.integers(0, tokens))
        span = slice(first, int(rng.integers(first, tokens)) + 1)
        ids = (2, *(int(x) for x in rng.integers(5, 7, tokens - 1)))
        prompts.append(Steered(ids, (span,) if rng.random() < 0.8 else ()))
    model, budget = load(family), int(rng.integers(20, 400))
    fast = open_replay(model, TOKENS, LAYERS, tokens_per_batch=budget)
    full = open_replay(model, TOKENS, LAYERS, method="full", tokens_per_batch=1)
    found, expected = (each.answer(prompts, draw_additions()) for each in (fast, full))
    assert fast.method == "prefix"
    assert np.abs(found.logits - expected.logits).max() <= TOLERANCE
