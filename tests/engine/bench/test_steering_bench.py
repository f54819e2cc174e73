"""The steering bench asks both ways the same questions, and counts what each must compute."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.bench import steering
from engine.bench.drawing import draw_model
from engine.bench.floor import needed_flops, passed_products
from engine.bench.pairs import AFTER, BETWEEN, Sweep, draw_sweep, steer_plainly
from engine.bench.savings import count_savings
from engine.bench.shapes import SHAPES
from engine.bench.steering import SteeringBench, measure_steering
from engine.replay import Addition, Answers, Steered, open_replay
from stores.errors import UsageError

ACTIVITIES, VECTORS, LAYER = 6, 3, 3
SMALL = {"shape": "toy", "activities": ACTIVITIES, "vectors": VECTORS, "repeats": 1}


def measure(**changed: Any) -> SteeringBench:
    return measure_steering(**{**SMALL, **changed})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    model = draw_model(SHAPES["toy"], tmp_path_factory.mktemp("toy"))
    return draw_sweep(model, LAYER, ACTIVITIES, VECTORS, 0)


class Spoiled:
    """A replay whose vectors are `share` of what they should be, and whose logits are off."""

    def __init__(self, share: float, off: float, *opened: Any) -> None:
        self._real, self._share, self._off = open_replay(*opened), share, off
        self.method, self.reason = self._real.method, self._real.reason

    def answer(self, prompts: Sequence[Steered], additions: Sequence[Addition]) -> Answers:
        smaller = [
            Addition({layer: self._share * vector for layer, vector in each.vectors.items()})
            for each in additions
        ]
        answers = self._real.answer(prompts, smaller)
        return replace(answers, logits=answers.logits + np.float32(self._off))


def test_both_ways_give_the_same_logits_and_steering_moves_them() -> None:
    bench = measure(firsts=4)
    assert [way.way for way in bench.ways][:2] == [f"ours ({bench.method})", "plain way"]
    assert all(way.times and way.sweep_s for way in bench.ways)
    assert all(way.difference is not None and way.difference <= 1e-4 for way in bench.ways)
    assert bench.moved > 100 * 1e-4
    assert bench.drift <= 1e-4
    assert (bench.questions, bench.sampled, bench.layer) == (30, 20, LAYER)


@pytest.mark.parametrize(
    ("share", "off"), [(0.0, 0.0), (0.9, 0.0), (-1.0, 0.0), (1.0, 1e-3), (1.0, float("nan"))]
)
def test_a_replay_that_answers_otherwise_gets_no_ratio(
    share: float, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "open_replay", lambda *opened: Spoiled(share, off, *opened))
    bench = measure()
    assert [way.times for way in bench.ways] == [None] * len(bench.ways)
    assert bench.ways[0].note.startswith("wrong logits")
    assert ("reached", "-") in bench.facts()


def test_the_whole_sweep_is_the_sample_times_questions_and_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"ours": 2.0, "plain": 3.0}

    def clocked(entries: Sequence[Any], rounds: int, device: torch.device) -> None:
        for entry in entries:
            entry.run(device)
            entry.seconds = [seconds[entry.way.split()[0]]] * rounds

    monkeypatch.setattr(steering, "take_turns", clocked)
    bench = measure(repeats=2)
    share = 30 / 10
    ours, plain = bench.ways[:2]
    assert ours.sweep_s == pytest.approx(bench.opening_s + share * 2.0)
    assert plain.sweep_s == pytest.approx(share * 3.0 * (VECTORS + 1) / 2)
    assert ours.sweep_s and plain.sweep_s
    assert plain.times == pytest.approx(plain.sweep_s / ours.sweep_s)


def test_a_sample_holds_as_many_steered_first_options_as_controls(sweep: Sweep) -> None:
    pairs = sweep.sample(4)
    firsts = {pair.first for pair in pairs}
    assert len(pairs) == 4 * (ACTIVITIES - 1)
    assert len(firsts & sweep.steered) == len(firsts - sweep.steered) == 2


def test_questions_with_the_same_first_option_begin_alike(sweep: Sweep) -> None:
    for pair in sweep.pairs:
        one, other = sweep.activities[pair.first], sweep.activities[pair.second]
        assert (pair.ids[pair.spans[0]], pair.ids[pair.spans[1]]) == (one, other)
        assert pair.shared == pair.spans[0].stop + BETWEEN
        assert len(pair.ids) == pair.shared + len(other) + AFTER
        alike = {each.ids[: each.shared] for each in sweep.pairs if each.first == pair.first}
        assert len(alike) == 1


def test_the_plain_way_answers_in_a_batch_as_alone_and_touches_steered_activities_only(
    sweep: Sweep,
) -> None:
    together = steer_plainly(sweep, sweep.pairs, sweep.vectors[:1])
    alone = [steer_plainly(sweep, [pair], sweep.vectors[:1])[0] for pair in sweep.pairs]
    assert np.abs(together[0] - np.concatenate(alone)).max() < 1e-5
    still = steer_plainly(sweep, sweep.pairs, 0 * sweep.vectors[:1])
    moved = (np.abs(together - still).max(axis=-1) > 0)[0].tolist()
    assert moved == [bool({pair.first, pair.second} & sweep.steered) for pair in sweep.pairs]


def test_vectors_have_half_the_length_of_a_residual(sweep: Sweep) -> None:
    seen: list[torch.Tensor] = []
    hook = sweep.model.blocks[LAYER].register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0, 1:].norm(dim=-1))
    )
    pairs = sweep.pairs[:: ACTIVITIES - 1]
    for pair in pairs:
        with torch.inference_mode():
            sweep.model.backbone(input_ids=torch.tensor([pair.ids]))
    hook.remove()
    length = np.mean([float(each.mean()) for each in seen])
    assert np.linalg.norm(sweep.vectors, axis=1) == pytest.approx([0.5 * length] * VECTORS, 1e-4)


def test_the_plain_ways_count_is_what_its_products_take(sweep: Sweep) -> None:
    pair = replace(sweep, pairs=sweep.pairs[:1])
    length = len(pair.pairs[0].ids)
    sweep.model.model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as ran:
            steer_plainly(pair, pair.pairs, sweep.vectors[:1])
    finally:
        sweep.model.model.set_attn_implementation("sdpa")
    every = passed_products(sweep.model, sweep.model.n_layers - 1)
    ahead = needed_flops(every, [length]) - sum(each.flops(1, length) for each in every)
    assert count_savings(pair)[0].flops == (VECTORS + 1) * (ran.get_total_flops() + ahead)


def test_every_saving_is_one_and_strength_zero_costs_what_a_vector_does(sweep: Sweep) -> None:
    savings = count_savings(sweep)
    flops = [each.flops for each in savings]
    assert flops[:-1] == sorted(flops[:-1], reverse=True)
    fewer = count_savings(replace(sweep, vectors=sweep.vectors[:-1]))
    assert fewer[-1].flops == flops[-2]


def test_what_two_questions_need_is_counted_by_hand(sweep: Sweep) -> None:
    """A steered activity and a control: q, o 64 x 64, k, v 64 x 32, three of 64 x 192; 4 heads."""
    two = [pair for pair in sweep.pairs if {pair.first, pair.second} == {0, 1}]
    weights, kept, answer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192, 2 * 64 * 32, 2 * 2 * 64

    def block(start: int, stop: int) -> int:
        return sum(2 * weights + 4 * 64 * (place + 1) for place in range(start, stop))

    clean = sum(6 * block(0, len(pair.ids)) + answer for pair in two)
    vector = still = 0
    for pair in two:
        beginning = block(0, pair.shared) + 2 * kept * pair.shared
        vector += block(pair.shared, len(pair.ids)) + block(len(pair.ids) - 1, len(pair.ids))
        vector += 2 * kept * (len(pair.ids) - 1 - pair.shared) + answer
        vector += beginning if pair.first == 0 else 0
        still += beginning if pair.first == 1 else 0
    counted = count_savings(replace(sweep, pairs=tuple(two)))[-1].flops
    assert counted == clean + (VECTORS + 1) * vector + still


def test_the_arithmetic_allows_what_the_savings_multiply_to() -> None:
    bench = measure()
    product = 1.0
    for early, late in zip(bench.savings, bench.savings[1:], strict=False):
        product *= early.flops / late.flops
    assert bench.allowed == pytest.approx(product)
    assert ("the arithmetic allows at equal speed", f"{product:.2f} x") in bench.facts()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": "huge"}, "shape 'huge': unknown"),
        ({"layer": 5}, "layer 5: there must be blocks above the steered one; choose from 0 to 4"),
        ({"firsts": 3}, "3 first options: one half is steered"),
        ({"firsts": 8}, "8 first options"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        measure(**options)
