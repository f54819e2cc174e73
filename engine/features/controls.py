"""Random SAEs that match a real one: what any dictionary of that shape would show on these tokens.

Decoder rows are drawn from a normal distribution with the covariance of the tokens' activations,
because real activations fill few of their dimensions: a dictionary of shuffled coordinates is far
too easy a rival. Knows nothing of texts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.features.codes import encode_in_parts
from engine.features.library import sae_lens

_ROWS_AT_ONCE = 4096
_TOKENS_DRAWN = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How tokens' activations vary: m of them."""

    mean: NDArray[np.float64]
    """[d]"""
    covariance: NDArray[np.float64]
    """[d, d]"""
    tokens: int


def measure_spread(tokens: NDArray[np.float32]) -> Spread:
    """Of activations [m, d]. Raises ValueError for those that are not finite or do not vary."""
    if not np.isfinite(tokens).all():
        raise ValueError(f"{len(tokens)} tokens: activations that are not finite have no spread")
    if (tokens == tokens[:1]).all():
        raise ValueError(f"{len(tokens)} tokens: activations that do not vary have no spread")
    mean = tokens.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((len(mean), len(mean)))
    for first in range(0, len(tokens), _ROWS_AT_ONCE):  # all at once in float64 would be gigabytes
        exact = tokens[first : first + _ROWS_AT_ONCE] - mean
        scatter += exact.T @ exact
    return Spread(mean, scatter / (len(tokens) - 1), len(tokens))


def measure_l0(sae: Any, tokens: NDArray[np.float32]) -> float:
    """Mean number of features that fire on activations [m, d]."""
    with torch.inference_mode():
        parts = encode_in_parts(sae, torch.tensor(tokens))
        fired = sum(int(torch.count_nonzero(codes)) for _, codes in parts)
    return fired / len(tokens)


def draw_control(
    spread: Spread, *, features: int, l0: float, seed: int, device: str, dtype: str
) -> Any:
    """A sae-lens TopK SAE of `features` random rows of length 1, around the tokens' mean.

    As many fire on each token as `l0` rounded, at least one. Its encoder is the same rows, scaled
    by the one factor with which it rebuilds normal activations of that spread best.
    """
    rng = np.random.default_rng(seed)
    root = _symmetric_root(spread.covariance)
    rows = torch.from_numpy(_draw_rows(rng, root, features))
    weights = {
        "W_dec": rows,
        "W_enc": rows.T.contiguous(),
        "b_dec": torch.tensor(spread.mean),
        "b_enc": torch.zeros(features),
    }
    k = min(max(round(l0), 1), features)
    package = sae_lens()
    shape = {"d_in": len(root), "d_sae": features, "k": k, "dtype": dtype}
    # Without memory at first: else sae-lens draws weights of its own from torch's generator.
    sae = package.TopKSAE(package.TopKSAEConfig(**shape, device="meta"))
    sae.load_state_dict(weights, assign=True)
    sae = sae.to(device=device, dtype=sae.dtype).eval()
    drawn = spread.mean + rng.standard_normal((_TOKENS_DRAWN, len(root))) @ root
    _scale(sae, torch.from_numpy(drawn.astype(np.float32)))
    return sae


def _draw_rows(
    rng: np.random.Generator, root: NDArray[np.float64], features: int
) -> NDArray[np.float32]:
    """[f, d], each of length 1."""
    rows = np.empty((features, len(root)), np.float32)
    narrow = root.astype(np.float32)
    for first in range(0, features, _ROWS_AT_ONCE):
        block = rows[first : first + _ROWS_AT_ONCE]
        drawn = rng.standard_normal(block.shape, np.float32) @ narrow
        block[:] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return rows


def _symmetric_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one root that does not hang on which eigenvectors a library chooses."""
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    return root


@torch.inference_mode()
def _scale(sae: Any, tokens: Tensor) -> None:
    """Scale the codes so that the squared error over `tokens` [m, d] is smallest.

    Rows that fire together point the same way and would overshoot: not to explain more than their
    mean is no fair rival.
    """
    along = size = 0.0
    for part, codes in encode_in_parts(sae, tokens):
        centred = part.double() - sae.b_dec
        made = sae.decode(codes).double() - sae.b_dec
        along += float((made * centred).sum())
        size += float(made.square().sum())
    sae.W_enc.mul_(along / size)
