"""How well an SAE rebuilds tokens that it was not trained on. Knows nothing of where they lie."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from engine.features.training.stream import Tokens

AT_ONCE = 2**24
"""Codes held in memory at a time."""


@torch.inference_mode()
def measure_sae(sae: Any, parts: Iterable[Tokens]) -> dict[str, float]:
    """Over tokens [t, d] of all `parts`; ValueError when there are none.

    variance_unexplained: squared error over squared distance from the tokens' mean. l0: features
    that fire on a token. dead_features: share of the features that fire on none of these tokens.
    """
    tokens, error, square, fired = 0, 0.0, 0.0, 0.0
    total = np.zeros(sae.cfg.d_in)
    alive = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=sae.device)
    for part in parts:
        for own in torch.split(torch.from_numpy(part), max(1, AT_ONCE // sae.cfg.d_sae)):
            acts = own.to(sae.device)
            codes = sae.encode(acts)
            tokens += len(own)
            error += (acts - sae.decode(codes)).square().sum(dtype=torch.float64).item()
            square += own.double().square().sum().item()
            total += own.double().sum(dim=0).numpy()
            fired += (codes > 0).sum().item()
            alive |= (codes > 0).any(dim=0)
    if not tokens:
        raise ValueError("no tokens to measure an SAE on")
    variance = square - float(total @ total) / tokens
    return {
        "variance_unexplained": error / variance,
        "l0": fired / tokens,
        "dead_features": 1.0 - alive.double().mean().item(),
        "tokens": tokens,
    }
