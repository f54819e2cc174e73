"""Proves a method on probes: what it answers must be what the whole model answers with plain hooks.

Knows nothing of the prompts to come; those are held to their plain pass at strength 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models import PROBE, Model, hooked
from engine.replaying.anatomy import FAULTS, describe_fault
from engine.replaying.plain import answer_plainly
from engine.replaying.prompts import Addition, Answers, Steered
from engine.selfcheck import BEYOND_WINDOW, LONGEST_PROBE, TOLERANCES
from engine.tokens import encode_raw

STRENGTH = 0.5
"""Length of what is added on trial, as a share of the mean residual norm there."""
STEM, SUFFIXES = 18, (5, 9, 5)
COMPARED = 64
"""Logits compared on trial: more than are asked for, so that chance agreement is out."""

Answering = Callable[[Sequence[Steered], Sequence[Addition]], Answers]


@dataclass(frozen=True, slots=True)
class Trial:
    """Probes, and what the whole model answers to them; `tokens` are whose logits."""

    tokens: tuple[int, ...]
    prompts: tuple[Steered, ...]
    additions: tuple[Addition, ...]
    expected: Answers


def open_trial(model: Model, tokens: Sequence[int], layers: Sequence[int]) -> Trial:
    """Probes with additions to the lowest layer, to the highest, and to all; answered plainly, one
    by one."""
    rows = model.model.config.get_text_config().vocab_size
    compared = (*tokens, *range(0, rows, max(rows // COMPARED, 1)))
    prompts = _probes(model)
    every = _additions(model, prompts, sorted(layers))
    return Trial(compared, prompts, every, answer_plainly(model, compared, prompts, every, 1))


def find_fault(trial: Trial, answer: Answering, dtype: str) -> str | None:
    """What is wrong with a way of answering, as half a sentence."""
    try:
        found = answer(trial.prompts, trial.additions)
    except FAULTS as error:
        return describe_fault(error)
    pairs = [(getattr(found, name), getattr(trial.expected, name)) for name in ("zero", "logits")]
    off = float(np.max([np.abs(one - other).max() for one, other in pairs]))
    allowed = tolerance(dtype, trial.expected.logits)
    if off <= allowed:
        return None
    return f"logits are off by {off:.1e}, and rounding explains {allowed:.0e}"


def tolerance(dtype: str, logits: NDArray[np.float32]) -> float:
    """How far logits of this size may be off: 1e-4 in float32, more where they are above 1."""
    size = max(1.0, float(np.abs(logits).max(initial=0)))
    return TOLERANCES[dtype.rsplit("+", maxsplit=1)[-1]] * size


def _probes(model: Model) -> tuple[Steered, ...]:
    """Prompts that share a steered stem, prompts that share nothing, one longer than a window."""
    encoded = encode_raw(model, PROBE)
    start, content = encoded.ids[: encoded.content.start], encoded.ids[encoded.content]

    def text(skipped: int, tokens: int) -> tuple[int, ...]:
        return (*start, *islice(cycle(content), skipped, skipped + tokens - len(start)))

    stem = text(0, STEM)
    sharing = [
        Steered((*stem, *text(i, tokens)[len(start) :], content[i]), (slice(4, 9), slice(19, 21)))
        for i, tokens in enumerate(SUFFIXES, start=1)
    ]
    return (
        *sharing,
        Steered(text(3, 7), (slice(3, 6),)),
        Steered(text(5, 7), (slice(0, 7),)),
        Steered(text(4, _long(model)), (slice(6, 12),)),
    )


def _long(model: Model) -> int:
    """Tokens of the longest probe: beyond a sliding window, if that can be borne."""
    window = getattr(model.model.config.get_text_config(), "sliding_window", None) or 0
    longest = min(model.context or LONGEST_PROBE["cuda"], LONGEST_PROBE.get(model.device.type, 600))
    return window + BEYOND_WINDOW if window + BEYOND_WINDOW <= longest else BEYOND_WINDOW


def _additions(
    model: Model, prompts: Sequence[Steered], layers: Sequence[int]
) -> tuple[Addition, ...]:
    rng = np.random.default_rng(0)
    states: dict[int, torch.Tensor] = {}
    ids = torch.tensor([prompts[0].ids], device=model.device)
    with torch.inference_mode(), hooked(model, tuple(layers), states.__setitem__):
        model.backbone(input_ids=ids, use_cache=False)
    norms = {layer: float(states[layer].float().norm(dim=-1).mean()) for layer in layers}

    def draw(chosen: Sequence[int]) -> Addition:
        drawn = {layer: rng.normal(size=model.d_model) for layer in chosen}
        sizes = {layer: STRENGTH * norms[layer] / np.linalg.norm(drawn[layer]) for layer in chosen}
        return Addition({i: (sizes[i] * drawn[i]).astype(np.float32) for i in chosen})

    return tuple(draw(chosen) for chosen in (layers[:1], layers[-1:], layers))
