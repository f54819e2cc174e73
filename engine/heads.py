"""What a model makes of a residual stream after its last block: final norm, unembedding, logits.

Both are the model's own modules, found and called, never written again here. Knows nothing of
prompts or of which tokens matter.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from engine.models import PROBE, Model, hooked
from engine.selfcheck import TOLERANCES
from engine.tokens import encode_raw
from stores.errors import ModelError

Finish = Callable[[Tensor], Tensor]

CAPS = ("final_logit_softcapping",)
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
# Rows of the unembedding turned into float32 at once: 16,384 x 5,376 are 350 MB.
ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a network; made by `open_head`. `weight` is W_U, [v, d], as the model holds it."""

    norm: nn.Module
    weight: Tensor
    bias: Tensor | None
    finish: Finish

    def logits(self, states: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        """Logits [n, k] of these tokens (None: of all) for resid_post of the last block, [n, d].

        float32, on the unembedding's device. The norm runs in the model's own type, as in a pass;
        the products are float32 whatever the weights are, so that no ties arise from rounding.
        """
        with torch.inference_mode():
            normed = self.norm(states.to(self.weight)).to(self.weight.device).float()
            return self.finish(self._multiply(normed, tokens))

    def _multiply(self, normed: Tensor, tokens: Sequence[int] | None) -> Tensor:
        weight, bias = self.weight, self.bias
        if tokens is not None:
            wanted = torch.tensor(tokens, device=weight.device)
            weight, bias = weight[wanted], None if bias is None else bias[wanted]
        products = unembed(normed, weight)
        return products if bias is None else products + bias.float()


def unembed(given: Tensor, weight: Tensor) -> Tensor:
    """Products [n, v] of float32 [n, d] with the rows of W_U [v, d], whatever type it is held in.

    In slices of the vocabulary, so that no second W_U has to fit in memory.
    """
    slices = (weight[i : i + ROWS] for i in range(0, len(weight), ROWS))
    return torch.cat([given @ rows.float().T for rows in slices], dim=-1)


def open_head(model: Model) -> Head:
    """The head of a model, compared with the model's own logits on a probe text.

    Softcaps and scales are those of the configuration; which of them apply, and how, is what the
    probe says. Raises ModelError when nothing known gives the model's own logits.
    """
    network: Any = model.model
    outer = network.get_output_embeddings()
    weight = getattr(outer, "weight", None)
    if weight is None or weight.is_meta or weight.shape[-1] != model.d_model:
        raise ModelError(
            f"model {model.name}: no unembedding [vocabulary, {model.d_model}] in memory; "
            "this architecture is not supported"
        )
    norm, bias = find_final_norm(model), getattr(outer, "bias", None)
    states, expected = _probe(model)
    heads = [Head(norm, weight.detach(), bias, finish) for finish in _finishes(model)]
    errors = [_error(head.logits(states), expected) for head in heads]
    best = min(range(len(heads)), key=errors.__getitem__)
    if not errors[best] <= TOLERANCES[model.dtype.split("+")[-1]]:
        raise ModelError(
            f"model {model.name}: final norm and unembedding miss its own logits by "
            f"{errors[best]:.1%}; this architecture is not supported"
        )
    return heads[best]


def find_final_norm(model: Model) -> nn.Module:
    """The module that makes the decoder's last state out of the last block's output.

    Raises ModelError when there is none, or more than one.
    """
    outputs: dict[int, Tensor] = {}
    last = model.n_layers - 1
    with torch.inference_mode(), hooked(model, (last,), outputs.__setitem__), _steps(model) as seen:
        run = model.backbone(input_ids=_probe_ids(model), use_cache=False)
    ends = (outputs[last], run.last_hidden_state)
    found = {module for module, *step in seen if all(map(_equal, step, ends))}
    if len(found) != 1:
        raise ModelError(
            f"model {model.name}: {len(found)} final norms found after block {last}, expected 1; "
            "this architecture is not supported"
        )
    return found.pop()


def norm_weight(model: Model) -> Tensor:
    """What the final norm multiplies each dimension by: float32 [d].

    Asked of the module itself, in float32, by a state whose mean is 0 and whose size is far above
    the norm's epsilon, and by the opposite state: half their difference has no bias. So it does not
    matter whether a norm multiplies by w or by 1 + w.
    """
    norm = deepcopy(find_final_norm(model)).float()
    device = next((each.device for each in norm.parameters()), model.device)
    signs = torch.ones(model.d_model, device=device)
    signs[1::2] = -1
    with torch.inference_mode():
        above, below = norm(1024 * signs), norm(-1024 * signs)
    return cast("Tensor", (above - below) / 2 * signs)


def _probe_ids(model: Model) -> Tensor:
    return torch.tensor([encode_raw(model, PROBE).ids], device=model.device)


def _probe(model: Model) -> tuple[Tensor, Tensor]:
    """The last block's output [t, d] on a probe text, and the model's own logits there [t, v]."""
    outputs: dict[int, Tensor] = {}
    last = model.n_layers - 1
    with torch.inference_mode(), hooked(model, (last,), outputs.__setitem__):
        run: Any = model.model(input_ids=_probe_ids(model), use_cache=False)
    return outputs[last][0], run.logits[0]


def _finishes(model: Model) -> Iterator[Finish]:
    """What may come after the unembedding, by the configuration: nothing, a softcap, a scale."""
    yield _keep
    config = model.model.config.get_text_config()
    for name in CAPS:
        if cap := getattr(config, name, None):
            yield partial(_cap, float(cap))
    for name in SCALES:
        if scale := getattr(config, name, None):
            # One family divides by what another of the same name multiplies with.
            yield partial(torch.mul, other=float(scale))
            yield partial(torch.div, other=float(scale))


def _keep(logits: Tensor) -> Tensor:
    return logits


def _cap(cap: float, logits: Tensor) -> Tensor:
    return torch.tanh(logits / cap) * cap


def _error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest logit."""
    expected = expected.to(found)
    return float((found - expected).abs().max() / expected.abs().max())


@contextmanager
def _steps(model: Model) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """(module, given, came) of the simple modules outside the blocks."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Any, ...], came: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(came, Tensor):
            seen.append((module, given[0], came))

    inside = {module for block in model.blocks for module in block.modules()}
    outside = (module for module in model.backbone.modules() if module not in inside)
    simple = [module for module in outside if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(note) for module in simple]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one.device))
