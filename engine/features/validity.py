"""What a model's next-token loss suffers when an SAE's reconstruction takes the residual's place.

Knows nothing of emotions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.heads import Head, open_head
from engine.models import Model, hooked, residual
from engine.packing import Segment

AT_ONCE = 64
"""Tokens whose logits are held together: of a vocabulary of 262,144 they are 67 MB."""

Replace = Callable[[Tensor], Tensor]
"""From the residual stream at some tokens [t, d] to what takes its place."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Mean cross entropy in nats over the tokens of each text that are judged, [n] each."""

    clean: NDArray[np.float64]
    spliced: dict[str, NDArray[np.float64]]
    """By name of the SAE: its reconstruction at every content token, BOS and template as it is."""
    ablated: NDArray[np.float64]
    """The mean activation in its place."""
    zeroed: NDArray[np.float64]
    tokens: NDArray[np.int64]
    """How many were judged: the pooled ones that follow a pooled one."""


def measure_losses(
    model: Model,
    layer: int,
    saes: Mapping[str, Any],
    mean: NDArray[np.float64],
    segments: Sequence[Segment],
    *,
    start_token: int,
) -> Losses:
    """One text at a time. `mean` [d] is what an ablated token is replaced with.

    `start_token` is how much of a text's content lies before what is pooled; it is replaced too.
    Texts with a single pooled token are left out: no token of theirs is judged.
    """
    head, average = open_head(model), torch.from_numpy(mean)
    replaced: list[Replace] = [
        lambda states: states,
        lambda states: average.to(states).expand_as(states),
        torch.zeros_like,
        *(partial(_reconstruct, sae) for sae in saes.values()),
    ]
    judged = [each for each in segments if _count(each) > 0]
    losses = np.array(
        [_measure(model, head, layer, replaced, each, start_token) for each in judged]
    ).reshape(len(judged), len(replaced))
    return Losses(
        clean=losses[:, 0],
        ablated=losses[:, 1],
        zeroed=losses[:, 2],
        spliced=dict(zip(saes, losses[:, 3:].T, strict=True)),
        tokens=np.array([_count(each) for each in judged], dtype=np.int64),
    )


def _count(segment: Segment) -> int:
    return len(segment.ids[segment.pooled]) - 1


def _reconstruct(sae: Any, states: Tensor) -> Tensor:
    """In the SAE's own type, and back to the model's."""
    rebuilt: Tensor = sae.decode(sae.encode(states.to(sae.W_dec)))
    return rebuilt.to(states)


def _measure(
    model: Model,
    head: Head,
    layer: int,
    replaced: Sequence[Replace],
    segment: Segment,
    start_token: int,
) -> list[float]:
    """Mean losses of one text's judged tokens: the text once for each of `replaced`, together."""
    first, stop, _ = segment.pooled.indices(len(segment.ids))
    ids = torch.tensor([segment.ids], device=model.device)
    last: dict[int, Tensor] = {}
    splice = _spliced(model, layer, slice(first - start_token, stop), replaced)
    ends = hooked(model, (model.n_layers - 1,), last.__setitem__)
    # Entered in this order, so that what was put into the last block's place is what is read.
    with torch.inference_mode(), splice, ends:
        model.backbone(input_ids=ids.expand(len(replaced), -1), use_cache=False)
    states = last[model.n_layers - 1][:, first : stop - 1]
    return [_cross_entropy(head, each, ids[0, first + 1 : stop]) for each in states]


def _cross_entropy(head: Head, states: Tensor, wanted: Tensor) -> float:
    """Mean over tokens, summed in float64."""
    total = 0.0
    for start in range(0, len(wanted), AT_ONCE):
        logits = head.logits(states[start : start + AT_ONCE])
        own = wanted[start : start + AT_ONCE].to(logits.device)
        parts = nn.functional.cross_entropy(logits, own, reduction="none")
        total += float(parts.double().sum())
    return total / len(wanted)


@contextmanager
def _spliced(
    model: Model, layer: int, content: slice, replaced: Sequence[Replace]
) -> Iterator[None]:
    """In row i of a batch, put into the place of the residual stream after `layer`, at the content
    tokens, what `replaced[i]` makes of it."""

    def splice(_block: nn.Module, _given: tuple[Any, ...], output: Any) -> Any:
        states = residual(output).clone()
        for row, replace in zip(states, replaced, strict=True):
            row[content] = replace(row[content])
        return states if isinstance(output, Tensor) else (states, *output[1:])

    hook = model.blocks[layer].register_forward_hook(splice)
    try:
        yield
    finally:
        hook.remove()
