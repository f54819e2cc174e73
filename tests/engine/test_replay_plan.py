"""Which prompts share a stem and a batch, and how the arguments of blocks are cut."""

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch

from engine.models import Model
from engine.replaying.calls import Call, Cut, UnfitError, cut_call, find_axes, merge_masks
from engine.replaying.plan import Bundle, bundle_apart, bundle_stems
from engine.replaying.prompts import Steered, mark
from engine.replaying.proof import open_trial

SIZES = ((4, 9), (5, 12))


def draw_prompts(seed: int, n: int = 40) -> list[Steered]:
    """Short prompts of few different tokens, so that many share a beginning."""
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(n):
        tokens = int(rng.integers(1, 12))
        first = int(rng.integers(0, tokens))
        where = (slice(first, int(rng.integers(first, tokens)) + 1),) if rng.random() < 0.7 else ()
        prompts.append(Steered(tuple(int(x) for x in rng.integers(0, 2, tokens)), where))
    return prompts


def ask_pairs(options: int) -> list[Steered]:
    """Questions of two options of which one at least is steered: the even ones are."""
    names = [(100 + i,) * 3 + (200 + i,) * (1 + i % 3) for i in range(options)]
    prompts = []
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            places = ((i, 4, len(one)), (j, 4 + len(one) + 2, len(other)))
            where = tuple(slice(a, a + n) for option, a, n in places if option % 2 == 0)
            if where:
                prompts.append(Steered((1, 2, 3, 4, *one, 5, 6, *other, 7, 8), where))
    return prompts


def cost(bundles: list[Bundle], prompts: list[Steered], runs: int) -> int:
    stems = sum(b.stem * b.groups * (runs if b.steered else 1) for b in bundles)
    return stems + runs * sum(len(prompts[i].ids) - b.stem for b in bundles for i in b.members)


@pytest.mark.parametrize("runs", [1, 2, 40])
@pytest.mark.parametrize("seed", range(10))
def test_prompts_of_a_group_begin_alike_and_are_steered_alike(seed: int, runs: int) -> None:
    prompts = draw_prompts(seed)
    bundles = bundle_stems(prompts, runs, 60)
    assert sorted(i for b in bundles for i in b.members) == list(range(len(prompts)))
    for bundle in bundles:
        stems = [
            {
                (prompts[i].ids[: bundle.stem], mark(prompts[i])[: bundle.stem].tobytes())
                for i, own in zip(bundle.members, bundle.group, strict=True)
                if own == group
            }
            for group in range(bundle.groups)
        ]
        assert [len(each) for each in stems] == [1] * bundle.groups
        assert any(any(bits) for each in stems for _, bits in each) <= bundle.steered
        # A token is left to run after every stem: the one that is answered.
        assert all(len(prompts[i].ids) > bundle.stem for i in bundle.members)


@pytest.mark.parametrize("runs", [1, 2, 40])
@pytest.mark.parametrize("seed", range(10))
def test_shared_stems_never_cost_more_tokens_than_none(seed: int, runs: int) -> None:
    prompts = draw_prompts(seed)
    shared = bundle_stems(prompts, runs, 10_000)
    assert cost(shared, prompts, runs) <= runs * sum(len(prompt.ids) for prompt in prompts)


def test_questions_with_the_same_first_option_share_all_before_the_second() -> None:
    prompts = ask_pairs(12)
    bundles = bundle_stems(prompts, 44, 100_000)
    firsts = [
        {prompts[i].ids[4] for i, own in zip(b.members, b.group, strict=True) if own == group}
        for b in bundles
        for group in range(b.groups)
    ]
    assert sorted(map(min, firsts)) == sorted(map(max, firsts)) == [100 + i for i in range(12)]
    assert {b.steered for b in bundles} == {True, False}
    assert cost(bundles, prompts, 44) < 0.5 * 44 * sum(len(prompt.ids) for prompt in prompts)


def test_a_prompt_alone_runs_once_for_all_up_to_its_first_steered_token() -> None:
    [bundle] = bundle_stems([Steered(tuple(range(20)), (slice(12, 15),))], 10, 1000)
    assert (bundle.stem, bundle.steered) == (12, False)


@pytest.mark.parametrize("budget", [1, 12, 40, 1000])
def test_bundles_keep_within_the_budget_wherever_a_prompt_alone_does(budget: int) -> None:
    prompts = draw_prompts(3)
    for bundles in (bundle_apart(prompts, budget), bundle_stems(prompts, 5, budget)):
        for bundle in bundles:
            longest = max(len(prompts[i].ids) for i in bundle.members)
            assert len(bundle.members) == 1 or len(bundle.members) * longest <= budget


def test_no_prompts_make_no_bundles() -> None:
    assert bundle_stems([], 5, 100) == bundle_apart([], 100) == []


def test_probes_try_both_kinds_of_stem_and_more_than_one_length(tiny: Model) -> None:
    trial = open_trial(tiny, (5, 6), (1, 2))
    bundles = bundle_stems(trial.prompts, 1 + len(trial.additions), 2048)
    assert any(b.steered and len(b.members) > b.groups for b in bundles)
    assert any(b.stem and not b.steered for b in bundles)
    assert len({len(prompt.ids) for prompt in trial.prompts}) > 3
    assert [sorted(each.vectors) for each in trial.additions] == [[1], [2], [1, 2]]
    moved = np.abs(trial.expected.logits - trial.expected.clean).max(axis=(1, 2))
    assert (moved > 1e-2).all()


def call(shape: tuple[int, int], **named: Any) -> Call:
    """Arguments as blocks get them, of so many rows and tokens; the mask is causal."""
    rows, tokens = shape
    causal = torch.ones(tokens, tokens).tril().expand(rows, 1, tokens, tokens).clone()
    kept = torch.arange(rows * tokens * 2.0).reshape(rows, 1, tokens, 2)
    own = torch.arange(rows * tokens * 1.0).reshape(rows, tokens, 1)
    positions = (torch.arange(tokens)[None], torch.arange(tokens)[None] + 0.5)
    thrice = own[None, ..., 0].repeat(3, 1, 1)
    return Call(
        (own, thrice), {"mask": causal, "at": positions} | named, {"kv": UserDict(k=kept)}, False
    )


def test_rows_and_tokens_are_told_by_what_changes_with_them() -> None:
    axes = find_axes(call(SIZES[0]), call(SIZES[1]), SIZES)
    assert axes.given[0].roles == ("row", "token", "none")
    assert axes.given[1].roles == ("none", "row", "token")
    assert axes.named["mask"].roles == ("row", "none", "token", "key")
    assert axes.named["at"][1].roles == ("none", "token")
    assert axes.shared["kv"]["k"].roles == ("row", "none", "key", "none")


def test_a_cut_takes_rows_that_ask_and_all_tokens_that_are_asked() -> None:
    whole = call(SIZES[0])
    axes = find_axes(whole, call(SIZES[1]), SIZES)
    cut = Cut(torch.tensor([2, 0]), slice(3, 5), 6, runs=2)
    part = cut_call(whole, axes, cut, {})
    assert torch.equal(part.given[0], whole.given[0][[2, 0, 2, 0], 3:5])
    assert torch.equal(part.given[1], whole.given[1][:, [2, 0, 2, 0], 3:5])
    assert torch.equal(part.named["mask"], whole.named["mask"][[2, 0, 2, 0], :, 3:5, :6])
    assert torch.equal(part.named["at"][1], torch.tensor([[3.5, 4.5]]))


@pytest.mark.parametrize(
    "changing", [{"size": 9}, {"kernel": object()}, {"odd": torch.ones(5)}, {"own": None}]
)
def test_arguments_that_cannot_be_cut_make_a_block_unfit(changing: dict[str, Any]) -> None:
    other = {"size": 12, "kernel": object(), "odd": torch.ones(7)}
    second = {name: each for name, each in other.items() if name in changing}
    with pytest.raises(UnfitError, match="its blocks are given"):
        find_axes(call(SIZES[0], **changing), call(SIZES[1], **second), SIZES)


def test_masks_are_merged_only_where_prompts_differ_in_padding_alone() -> None:
    whole = call(SIZES[0])
    axes = find_axes(whole, call(SIZES[1]), SIZES)
    mask = whole.named["mask"]
    mask[1, :, :, 6:] = 0
    mask[3, :, :, 1:] = 0
    [merged] = merge_masks([whole], [axes], torch.tensor([9, 6, 9, 1]))
    assert torch.equal(merged.named["mask"], mask[:1])
    mask[2, :, 5, 7] = 1
    [kept] = merge_masks([whole], [axes], torch.tensor([9, 6, 9, 1]))
    assert torch.equal(kept.named["mask"], mask)
