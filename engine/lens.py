"""The logit lens: which tokens a direction of the residual stream speaks for.

A direction is not a state, so no norm is applied to it: its dot products with the rows of W_U, or
with those rows times the final norm's own weight. Knows nothing of emotions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engine.heads import norm_weight, open_head, unembed
from engine.models import Model
from stores.errors import ModelError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lens:
    """What m directions say over a vocabulary of v tokens; j counts the words asked about.

    top, bottom: token ids [m, k], the largest and the smallest logits, the extreme one first, with
    their values. ranks [m, j]: the best rank (1 = largest of v) among a word's own tokens, 0 for a
    word that has none. products [m, m]: dots of the logit vectors; centred: each of them less its
    mean over the vocabulary first.
    """

    top: NDArray[np.int64]
    top_values: Floats
    bottom: NDArray[np.int64]
    bottom_values: Floats
    hits: NDArray[np.bool_]
    ranks: NDArray[np.int64]
    products: Floats
    centred: Floats


def word_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> tuple[int, ...]:
    """The tokens that are this word: of word, Word, " word" and " Word" those that are one token.

    Ascending, each once; empty where the tokenizer splits every form. A token that stands for what
    is unknown does not count.
    """
    forms = [lead + first + word[1:] for lead in ("", " ") for first in (word[0], word[0].upper())]
    encoded = [
        cast("list[int]", tokenizer.encode(form, add_special_tokens=False)) for form in forms
    ]
    single = {ids[0] for ids in encoded if len(ids) == 1}
    return tuple(sorted(token for token in single if _spells(tokenizer, token, word)))


def _spells(tokenizer: PreTrainedTokenizerBase, token: int, word: str) -> bool:
    decoded = cast("str", tokenizer.decode([token]))
    return decoded.strip().casefold() == word.casefold()


def read_lens(
    model: Model,
    directions: Floats,
    own: Sequence[Sequence[int]],
    *,
    through_norm: bool,
    top: int = 20,
) -> Lens:
    """Read directions [m, d] off the unembedding; `own[j]` are the tokens of word j.

    `through_norm` multiplies by the final norm's weight first. Biases, softcaps and scales, which
    belong to states, are left out. `hits[i, j]`: a token of word j is among the `top` of vector i;
    tokens of the same logit share the better rank. float32 logits in slices of the vocabulary,
    products in float64. Raises ModelError for logits that are not finite, ValueError for directions
    that are not [m, d].
    """
    if directions.ndim != 2 or directions.shape[1] != model.d_model:
        raise ValueError(f"directions {directions.shape}: expected [m, {model.d_model}]")
    logits = _read(model, torch.from_numpy(directions), through_norm)
    if not bool(torch.isfinite(logits).all()):
        broken = int(logits.isfinite().all(dim=1).logical_not().nonzero()[0])
        raise ModelError(
            f"model {model.name}: direction {broken} of {len(directions)} has logits that are not "
            "finite; check its vectors, or use --dtype float32"
        )
    values, ids = logits.sort(dim=1, descending=True, stable=True)
    ranks = _rank(logits, values, own)
    products, centred = _multiply(logits)
    return Lens(
        top=ids[:, :top].numpy(),
        top_values=values[:, :top].double().numpy(),
        bottom=ids.flip(1)[:, :top].numpy(),
        bottom_values=values.flip(1)[:, :top].double().numpy(),
        hits=(ranks > 0) & (ranks <= top),
        ranks=ranks,
        products=products,
        centred=centred,
    )


def _read(model: Model, directions: Tensor, through_norm: bool) -> Tensor:
    """Logits [m, v] in float32, in host memory: 171 directions over 262,144 tokens are 180 MB."""
    weight = open_head(model).weight
    given = directions.to(weight.device, torch.float64)
    if through_norm:
        given = given * norm_weight(model).to(given)
    with torch.inference_mode():
        return unembed(given.float(), weight).cpu()


def _rank(logits: Tensor, descending: Tensor, own: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Best rank [m, j] among each word's tokens; 0 for a word without any."""
    ascending = descending.flip(1)
    ranks = np.zeros((len(logits), len(own)), dtype=np.int64)
    for j, tokens in enumerate(own):
        if tokens:
            best = logits[:, list(tokens)].amax(dim=1, keepdim=True)
            below = torch.searchsorted(ascending, best, right=True)[:, 0]
            ranks[:, j] = 1 + ascending.shape[1] - below.numpy()
    return ranks


def _multiply(logits: Tensor) -> tuple[Floats, Floats]:
    """Dots [m, m] of the logit vectors in float64, as they are and each less its mean."""
    exact = logits.double().numpy()
    apart = exact - exact.mean(axis=1, keepdims=True)
    return exact @ exact.T, apart @ apart.T
