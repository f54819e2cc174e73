"""Runs a plain Llama's decoder layers one by one: a mask for each, or only some of them.

Knows nothing of documents or emotions. A layer's number is 0-based; its residual is its output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from engine.demo.batches import AFTER_QUESTION, OPTION


def causal_masks(
    document: Tensor, role: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Additive masks [n, 1, t, t] of packed rows: the usual one, and the one that binds late.

    Both keep a token within its own `document` [n, t] and its past; in the second, what follows a
    two-option question cannot see the options (`role` [n, t]).
    """
    t = document.shape[1]
    past = torch.ones(t, t, dtype=torch.bool, device=document.device).tril()
    usual = (document[:, :, None] == document[:, None, :]) & past
    barred = (role == AFTER_QUESTION)[:, :, None] & (role == OPTION)[:, None, :]
    return _additive(usual, dtype), _additive(usual & ~barred, dtype)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return zeros.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def run_layers(
    model: LlamaForCausalLM,
    hidden: Tensor,
    layers: range,
    *,
    masks: Sequence[Tensor] | None = None,
    position: Tensor | None = None,
) -> Tensor:
    """The residual [n, t, d] after `layers`, given the residual `hidden` before them.

    `masks` has one additive mask per layer of `layers`; without it, attention is causal over the
    row, so that rows may be padded on the right. `position` [n, t] counts along the row by default.
    """
    rotary = _rotary(model, hidden, position)
    masks = masks or [_causal(hidden)] * len(layers)
    for layer, mask in zip(layers, masks, strict=True):
        block = model.model.layers[layer]
        hidden = block(hidden, attention_mask=mask, position_embeddings=rotary)
    return hidden


def _causal(hidden: Tensor) -> Tensor:
    """The mask of one unpacked row [1, 1, t, t]. (Without any, eager attention sees the future.)"""
    t = hidden.shape[1]
    return _additive(torch.ones(1, t, t, device=hidden.device).tril() > 0, hidden.dtype)


def _rotary(
    model: LlamaForCausalLM, hidden: Tensor, position: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if position is None:
        position = torch.arange(hidden.shape[1], device=hidden.device)[None]
    rotary: tuple[Tensor, Tensor] = model.model.rotary_emb(hidden, position_ids=position)
    return rotary


def final_logits(model: LlamaForCausalLM, hidden: Tensor, first: int, last_token: Tensor) -> Tensor:
    """Logits [n, v] at `last_token` [n], given the residual [n, t, d] before layer `first`.

    Rows are padded on the right. In the topmost layer only the wanted token attends.
    """
    top = len(model.model.layers) - 1
    hidden = run_layers(model, hidden, range(first, top))
    block = model.model.layers[top]
    rows = torch.arange(len(hidden), device=hidden.device)
    states = block.input_layernorm(hidden)
    last = hidden[rows, last_token] + _attend(model, block.self_attn, states, last_token)
    last = last + block.mlp(block.post_attention_layernorm(last))
    logits: Tensor = model.lm_head(model.model.norm(last))
    return logits


def _attend(
    model: LlamaForCausalLM, attention: LlamaAttention, states: Tensor, last_token: Tensor
) -> Tensor:
    """What the attention of one layer adds [n, d] to the wanted tokens only."""
    rows = torch.arange(len(states), device=states.device)
    cos, sin = _rotary(model, states)

    def split(projected: Tensor) -> Tensor:
        n, t, _ = projected.shape
        return projected.view(n, t, -1, attention.head_dim).transpose(1, 2)

    query = split(attention.q_proj(states[rows, last_token][:, None]))
    query, _ = apply_rotary_pos_emb(
        query, query, cos[0, last_token, None], sin[0, last_token, None]
    )
    key = split(attention.k_proj(states))
    key, _ = apply_rotary_pos_emb(key, key, cos, sin)
    past = torch.arange(states.shape[1], device=states.device) <= last_token[:, None]
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, split(attention.v_proj(states)), attn_mask=past[:, None, None]
    )
    added: Tensor = attention.o_proj(attended.transpose(1, 2).flatten(1))
    return added


def weighted_loss(hidden: Tensor, unembedding: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross entropy: hidden [n, d], unembedding [v, d], target [n], weight [n]."""
    loss: Tensor = _WeightedLoss.apply(hidden, unembedding, target, weight)  # type: ignore[no-untyped-call]
    return loss


CPU_SLICE = 256
"""Tokens whose logits exist at once on a CPU: they stay in its cache."""


class _WeightedLoss(torch.autograd.Function):
    """Its gradient is made on the way forward, in bf16: all logits never exist at once."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, unembedding: Tensor, target: Tensor, weight: Tensor
    ) -> Tensor:
        states, matrix = hidden.bfloat16(), unembedding.bfloat16()
        weight = weight / weight.sum()
        d_hidden, d_matrix = torch.empty_like(states), torch.zeros_like(unembedding)
        loss = torch.zeros((), device=hidden.device)
        rows = CPU_SLICE if hidden.device.type == "cpu" else len(states)
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            log_p = torch.log_softmax((states[part] @ matrix.T).float(), dim=-1)
            correct, share = target[part, None], weight[part, None]
            loss -= (log_p.gather(1, correct) * share).sum()
            slope = log_p.exp_().mul_(share).scatter_add_(1, correct, -share).bfloat16()
            d_hidden[part] = slope @ matrix
            d_matrix += slope.T @ states[part]
        ctx.save_for_backward(d_hidden.to(hidden.dtype), d_matrix)
        return loss

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_matrix = ctx.saved_tensors  # type: ignore[attr-defined]
        return d_hidden * upstream, d_matrix * upstream, None, None
