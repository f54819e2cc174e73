"""The plain way: hooks on the whole model, padded batches, all logits. What others are held to."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.models import Model
from engine.packing import pack, pad
from engine.replaying.prompts import Addition, Answers, Steered, heed
from engine.steering import Where, steered


def answer_plainly(
    model: Model,
    tokens: Sequence[int],
    prompts: Sequence[Steered],
    additions: Sequence[Addition],
    budget: int,
    stop: threading.Event | None = None,
) -> Answers:
    """Each prompt through the whole model once as it is, once with zeros added, once per addition.

    All in the same batches, of at most `budget` tokens where that can be, so that they are rounded
    alike.
    """
    layers = {layer for each in additions for layer in each.vectors}
    zeros = Addition({layer: np.zeros(model.d_model, np.float32) for layer in layers})
    shape = (2 + len(additions), len(prompts), len(tokens))
    logits = np.empty(shape, np.float32)
    for batch in pack([len(prompt.ids) for prompt in prompts], budget):
        chosen = [prompts[i] for i in batch]
        for i, each in enumerate((Addition({}), zeros, *additions)):
            heed(stop)
            logits[i, list(batch)] = _run(model, tokens, chosen, each)
    clean, zero = logits[:2]
    return Answers(clean, zero, logits[2:], float(np.abs(zero - clean).max(initial=0)))


def _run(
    model: Model, tokens: Sequence[int], prompts: Sequence[Steered], addition: Addition
) -> NDArray[np.float32]:
    """Logits [n, k] after each prompt's last token, in one pass."""
    ids, mask = map(torch.from_numpy, pad([p.ids for p in prompts], model.pad_token, "right"))
    added = {layer: torch.from_numpy(vector) for layer, vector in addition.vectors.items()}
    where = Where(spans=[prompt.where for prompt in prompts], mask=mask)
    network: Any = model.model
    with torch.inference_mode(), steered(model, added, where):
        every = network(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
    ends = every[torch.arange(len(ids)), (mask.sum(dim=1) - 1).to(every.device)]
    logits: NDArray[np.float32] = ends[:, list(tokens)].float().cpu().numpy()
    return logits
