"""Reads prompts as they are, and keeps what running the upper blocks again needs.

Knows nothing of additions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.heads import Head
from engine.models import Model, hooked
from engine.packing import pad
from engine.replaying.calls import Call, UnfitError, merge_masks, recorded
from engine.replaying.prompts import Steered, mark


@dataclass(frozen=True, slots=True)
class Pass:
    """A plain pass: resid_post [b, t, d] of the layers asked for, and the calls of upper blocks."""

    states: dict[int, Tensor]
    calls: list[Call]


@dataclass(frozen=True, slots=True)
class Reading:
    """n prompts read clean: their `states` and `calls` as in a pass, their `logits` [n, k] and
    `lengths`, and `where` [n, t], 1 for steered tokens."""

    states: dict[int, Tensor]
    calls: list[Call]
    logits: Tensor
    lengths: tuple[int, ...]
    where: Tensor


def run_plain(
    model: Model,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int],
    first: int,
    *,
    cache: bool = False,
) -> Pass:
    """One pass through the text decoder: the states of `layers`, and the calls from block `first`.

    Rows are the prompts, padded on the right, and one more of another length: padding makes the
    library write out the masks that it leaves to the kernel for rows of one length. Flash kernels
    take no such masks and are right without. Raises UnfitError.
    """
    ids, mask = pad([*prompts, _odd_one(prompts)], model.pad_token, "right")
    given: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(model.device)}
    if "flash" not in model.attention:
        given["attention_mask"] = torch.from_numpy(mask).to(model.device)
    states: dict[int, Tensor] = {}
    wanted = tuple(dict.fromkeys(layers))
    with recorded(model.blocks[first:]) as calls, hooked(model, wanted, states.__setitem__):
        model.backbone(**given, use_cache=cache)
    if len(calls) != model.n_layers - first:
        raise UnfitError("its blocks do not run once a pass")
    return Pass(states, calls)


def read(
    model: Model,
    head: Head,
    tokens: Sequence[int],
    prompts: Sequence[Steered],
    layers: Sequence[int],
    axes: Sequence[Call],
) -> Reading:
    """Prompts read clean and kept at `layers`; `axes` are those of the upper blocks' calls."""
    ids = [prompt.ids for prompt in prompts]
    lengths = [len(each) for each in ids]
    padded = torch.tensor([*lengths, len(_odd_one(ids))])
    last = model.n_layers - 1
    run = run_plain(model, ids, (*layers, last), model.n_layers - len(axes))
    ends = run.states[last]
    rows, columns = torch.arange(len(ids)), torch.tensor(lengths) - 1
    where = np.zeros((len(ids), max(lengths)), dtype=np.float32)
    for row, prompt in zip(where, prompts, strict=True):
        row[: len(prompt.ids)] = mark(prompt)
    return Reading(
        states={layer: run.states[layer] for layer in layers},
        calls=merge_masks(run.calls, axes, padded),
        logits=head.logits(ends[rows.to(ends.device), columns.to(ends.device)], tokens),
        lengths=tuple(lengths),
        where=torch.from_numpy(where),
    )


def _odd_one(prompts: Sequence[Sequence[int]]) -> Sequence[int]:
    """One token, or two where no prompt has more than one."""
    return [prompts[0][0]] * (1 if max(map(len, prompts)) > 1 else 2)
