"""Decides which prompts share what: a stem of tokens that is run once, and a batch.

A stem is what the prompts of a group begin with, steered alike. It costs one run per addition, or
one run for all additions where no token of it is steered. Knows nothing of models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from engine.replaying.prompts import Steered, mark

Tokens = tuple[int, ...]
"""A prompt's tokens, each as twice its id, plus one where it is steered."""


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts whose first `stem` tokens are the same; `steered` if additions reach those."""

    members: tuple[int, ...]
    stem: int
    steered: bool


@dataclass(frozen=True, slots=True)
class Bundle:
    """Groups with stems of one length that are read in one batch.

    `members` are positions of prompts, `group` says for each which of the `groups` stems is its.
    """

    members: tuple[int, ...]
    group: tuple[int, ...]
    groups: int
    stem: int
    steered: bool


def bundle_apart(prompts: Sequence[Steered], tokens_per_batch: int) -> list[Bundle]:
    """Prompts that share nothing but a batch; similar lengths together."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
    groups = [Group((i,), 0, False) for i in order]
    return list(_fill(groups, [len(prompt.ids) for prompt in prompts], tokens_per_batch))


def bundle_stems(prompts: Sequence[Steered], runs: int, tokens_per_batch: int) -> list[Bundle]:
    """Prompts grouped so that `runs` variants of all of them cost the fewest tokens."""
    every = [_tokens(prompt) for prompt in prompts]
    order = sorted(range(len(every)), key=lambda i: (every[i], i))
    groups = _divide(every, order, runs)[1]
    groups.sort(key=lambda group: (group.stem, group.steered))
    return list(_fill(groups, [len(each) for each in every], tokens_per_batch))


def _tokens(prompt: Steered) -> Tokens:
    marked = mark(prompt).tolist()
    return tuple(2 * token + here for token, here in zip(prompt.ids, marked, strict=True))


def _divide(every: Sequence[Tokens], order: Sequence[int], runs: int) -> tuple[int, list[Group]]:
    """The cheapest division of prompts in ascending order, and its cost in tokens."""
    if not order:
        return 0, []
    first, last = every[order[0]], every[order[-1]]
    shared = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    )
    cost, whole = _join(every, order, shared, runs)
    if first == last:
        return cost, [whole]
    parts = [
        _divide(every, list(part), runs)
        for _, part in groupby(order, key=lambda i: every[i][shared : shared + 1])
    ]
    if sum(part for part, _ in parts) < cost:
        return sum(part for part, _ in parts), [group for _, part in parts for group in part]
    return cost, [whole]


def _join(
    every: Sequence[Tokens], order: Sequence[int], shared: int, runs: int
) -> tuple[int, Group]:
    """All these prompts as one group, with the better of two stems: all that they share, or that
    up to the first steered token, which is the same for all additions."""
    lengths = [len(every[i]) for i in order]
    longest = min(shared, *lengths, min(lengths) - 1)
    clear = sum(1 for _ in takewhile(lambda t: t % 2 == 0, every[order[0]][:longest]))
    costs = {
        stem: stem * (runs if stem > clear else 1) + runs * (sum(lengths) - stem * len(order))
        for stem in (clear, longest)
    }
    stem = min(costs, key=lambda each: costs[each])
    return costs[stem], Group(tuple(order), stem, stem > clear)


def _fill(groups: Sequence[Group], lengths: Sequence[int], budget: int) -> Iterator[Bundle]:
    """Batches of groups of one kind; a group that fits into a batch is not cut."""
    for kind, alike in groupby(groups, key=lambda group: (group.stem, group.steered)):
        held: list[tuple[int, ...]] = []
        for group in alike:
            for part in _cut(group.members, lengths, budget):
                rows = [*(i for each in held for i in each), *part]
                if held and len(rows) * max(lengths[i] for i in rows) > budget:
                    yield _bundle(held, *kind)
                    held = []
                held.append(part)
        yield _bundle(held, *kind)


def _cut(
    members: tuple[int, ...], lengths: Sequence[int], budget: int
) -> Iterator[tuple[int, ...]]:
    rows = max(budget // max(lengths[i] for i in members), 1)
    for start in range(0, len(members), rows):
        yield members[start : start + rows]


def _bundle(held: Sequence[tuple[int, ...]], stem: int, steered: bool) -> Bundle:
    members = tuple(i for part in held for i in part)
    group = tuple(n for n, part in enumerate(held) for _ in part)
    return Bundle(members, group, len(held), stem, steered)
