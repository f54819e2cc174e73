"""Adds vectors to the residual stream of a running model, at chosen layers and tokens.

Acts in plain passes and in `generate`, with and without a cache of keys and values. Knows nothing
of emotions or strengths: what it adds is absolute.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.models import Model, residual
from stores.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which tokens get an addition, counted in each row's own tokens, padding left out.

    Either `spans`, for each row of the batch its slices (these act on the prompt only), or every
    token from `start` on, decoded ones included (0: all). `mask` [b, t] is 1 for a token of the
    prompt and 0 for padding, on either side; None: no padding. Raises ValueError for a slice
    without both ends, or that reaches beyond its row's own tokens.
    """

    spans: Sequence[Sequence[slice]] | None = None
    start: int = 0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.spans is not None and self.start):
            raise ValueError(f"start {self.start}: 0 or more, and not together with spans")
        for span in (span for row in self.spans or () for span in row):
            if span.step is not None or None in (span.start, span.stop):
                raise ValueError(f"{span}: a span has two ends and no step")
            if not 0 <= span.start < span.stop:
                raise ValueError(f"{span}: not a span of a row's own tokens")
        if self.mask is not None:
            self.check_ends(self.mask.sum(dim=1).tolist())

    def check_ends(self, lengths: Sequence[int]) -> None:
        """Raise ValueError unless every row's spans end within this many tokens of its own."""
        if self.spans is None:
            return
        if len(self.spans) != len(lengths):
            raise ValueError(f"spans of {len(self.spans)} rows for a batch of {len(lengths)}")
        for row, length in zip(self.spans, lengths, strict=True):
            if beyond := [span for span in row if span.stop > length]:
                raise ValueError(f"{beyond[0]} reaches beyond the row's {length} tokens")


@contextmanager
def steered(model: Model, added: Mapping[int, Tensor], where: Where) -> Iterator[None]:
    """Add `added[layer]` to resid_post of that layer while the block runs.

    A vector is [d], for every row, or [b, d], one a row. Adds in float32 and casts back; other
    tokens keep their bits. Prompt and decoded tokens are told apart by the length of the cache.
    Nothing is left behind, whatever happens. Raises ValueError for layers, vectors, spans or a mask
    that do not fit, ModelError for a cache that keeps no count of its tokens.
    """
    for layer, vector in added.items():
        _check(model, layer, vector)
    tokens = _Tokens(model.name, where)
    with ExitStack() as hooks:
        begin = model.backbone.register_forward_pre_hook(tokens.begin, with_kwargs=True)
        hooks.callback(begin.remove)
        for layer, vector in added.items():
            add = model.blocks[layer].register_forward_hook(partial(_add, tokens, vector))
            hooks.callback(add.remove)
        yield


def last_reaching_layer(model: Model) -> int:
    """The last layer at which an addition to one token can change what later tokens become.

    Tokens meet in keys and values: what a block adds is heard where a later block makes its own.
    The upper blocks of some models (`num_kv_shared_layers`) use those of earlier ones.
    """
    config = model.model.config.get_text_config()
    return model.n_layers - (getattr(config, "num_kv_shared_layers", None) or 0) - 2


def _check(model: Model, layer: int, vector: Tensor) -> None:
    if not 0 <= layer < model.n_layers:
        raise ValueError(f"layer {layer}: not one of {model.n_layers} blocks")
    if vector.dim() not in (1, 2) or vector.shape[-1] != model.d_model:
        raise ValueError(
            f"layer {layer}: a vector {tuple(vector.shape)}, expected [{model.d_model}] "
            f"or [b, {model.d_model}]"
        )
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"layer {layer}: a vector that is not finite")


class _Tokens:
    """Which columns of the pass under way get an addition: `on` [b, t], in host memory."""

    def __init__(self, name: str, where: Where) -> None:
        self._name = name
        self._where = where
        self._mask = None if where.mask is None else where.mask.bool().cpu()
        self.on = torch.empty(0, 0, dtype=torch.bool)

    def begin(self, _decoder: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Called with what the text decoder is called with."""
        ids, embedded = named.get("input_ids"), named.get("inputs_embeds")
        first: Tensor = ids if ids is not None else embedded if embedded is not None else given[0]
        rows, tokens = first.shape[:2]
        seen = self._count(named)
        mask = self._mask
        if mask is None:
            mask = torch.ones(rows, seen + tokens, dtype=torch.bool)
            self._where.check_ends([seen + tokens] * rows)
        elif len(mask) != rows or (seen == 0 and mask.shape[1] > tokens):
            raise ValueError(f"a mask {tuple(mask.shape)} for a pass {(rows, tokens)}")
        self.on = self._choose(mask, seen + tokens)[:, seen:]

    def _count(self, named: dict[str, Any]) -> int:
        """The tokens that were read before this pass."""
        caches = [named.get(name) for name in ("past_key_values", "cache_params")]
        cache = next((each for each in caches if each is not None), None)
        try:
            return 0 if cache is None else int(cache.get_seq_length())
        except ValueError as error:
            raise ModelError(
                f"model {self._name}: its cache keeps no count of tokens, so no place in a text "
                "can be steered; generate with use_cache=False"
            ) from error

    def _choose(self, mask: Tensor, columns: int) -> Tensor:
        """Steered columns [b, columns]; those beyond the mask were decoded, in every row."""
        prompt = mask.shape[1]
        decoded = torch.ones(len(mask), max(columns - prompt, 0), dtype=torch.bool)
        real = torch.cat([mask, decoded], dim=1)[:, :columns]
        own = real.cumsum(dim=1) - 1
        if self._where.spans is None:
            return real & (own >= self._where.start)
        inside = torch.zeros_like(real)
        for row, spans in enumerate(self._where.spans):
            for span in spans:
                inside[row] |= (own[row] >= span.start) & (own[row] < span.stop)
        return real & inside


def _add(
    tokens: _Tokens, vector: Tensor, _block: nn.Module, _given: tuple[Any, ...], output: Any
) -> Any:
    """The block's output with the vector added where it is wanted."""
    states = residual(output)
    # Blocks that use the keys of others may run for the last tokens alone.
    on = tokens.on[:, -states.shape[1] :]
    if vector.dim() == 2 and len(vector) != len(states):
        raise ValueError(f"{len(vector)} vectors for a batch of {len(states)} rows")
    if not bool(on.any()):
        return output
    vector = vector.to(states.device, torch.float32).unsqueeze(-2)
    moved = (states.float() + vector).to(states.dtype)
    changed = torch.where(on.unsqueeze(-1).to(states.device), moved, states)
    return changed if isinstance(output, Tensor) else (changed, *output[1:])
