"""Reads the residual stream of prompts: at the last token, or averaged over a span.

Knows nothing of what is asked, or of what the numbers are compared with.
"""

import threading
from collections.abc import Sequence
from textwrap import shorten
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from engine.asking import Prompt
from engine.budget import DEFAULT_ELSEWHERE, DEFAULT_TOKENS, ExtractionBudget
from engine.models import Model
from engine.packing import Segment
from engine.pooling import ChunkPooler, Pools
from engine.selfcheck import choose_batching
from stores.errors import ModelError, NoRoom


def read_states(
    model: Model,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    *,
    at: Literal["last", "spans"],
    tokens_per_batch: int | None = None,
) -> NDArray[np.float64]:
    """resid_post [n, l, d] of `layers` (ascending) at each prompt's last token.

    With 'spans' it is the mean over all tokens of the prompt's first span instead. A batch that
    the memory does not hold is halved. Raises ModelError that names prompt and layer where a state
    is not finite, NoRoom for a prompt that does not fit alone.
    """
    asked = tokens_per_batch or DEFAULT_TOKENS.get(model.device.type, DEFAULT_ELSEWHERE)
    batching = choose_batching(model, layers).batching
    pooler = ChunkPooler(model, batching, ExtractionBudget(asked), threading.Event())
    segments = [
        Segment(prompt.ids, slice(prompt.last, None) if at == "last" else prompt.spans[0])
        for prompt in prompts
    ]
    every, nothing = range(len(segments)), lambda _texts, _tokens: None
    # None comes after a stop alone, and nobody can ask for one here.
    pools = cast("Pools", pooler.pool(segments, every, tuple(layers), nothing))
    for i in sorted(pools.too_large):
        raise NoRoom(
            f"model {model.name}: memory runs short on the {len(prompts[i].ids)} tokens of "
            f"{_short(prompts[i])}; free some, or use --quantize 4bit"
        )
    _check_finite(model, prompts, layers, pools.means)
    return pools.means.astype(np.float64)


def _check_finite(
    model: Model, prompts: Sequence[Prompt], layers: Sequence[int], states: NDArray[np.float32]
) -> None:
    """Refuse NaN and infinity: which prompt, and the first layer that gave one."""
    spoilt = np.argwhere(~np.isfinite(states).all(axis=-1))
    if len(spoilt):
        prompt, layer = spoilt[0]
        raise ModelError(
            f"model {model.name}: layer {layers[layer]} gives numbers that are not finite for "
            f"{_short(prompts[prompt])} in {model.dtype}; use --dtype float32"
        )


def _short(prompt: Prompt) -> str:
    return repr(shorten(prompt.text, 80, placeholder="..."))
