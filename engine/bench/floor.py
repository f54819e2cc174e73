"""What the matrix products alone take: the floor under any way to read texts with a model.

Counted, and run, are for every block up to the last one wanted: the product of each of its linear
modules, in their order (in a Llama q, k, v, o, gate, up, down), and attention's own two, queries
with keys and weights with values. Those two run in torch's fused causal kernel, with the softmax
between them: it takes less time than the bare products, which cannot leave out what lies ahead of
a token. Nothing else: no norm, rotation, activation, residual sum, embedding or pooling. Knows
nothing of texts or clocks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models import Model
from engine.products import has_onednn, multiply
from engine.weights import DTYPES, NF4

DISTINCT_BYTES = 2**29
"""Weights are distinct up to this much, then they are used again in turn: no cache holds them."""
PEAK_SIDE = {"cpu": 2048}
PEAK_SIDE_ELSEWHERE = 8192


Library = Literal["torch", "oneDNN"]
"""What computes the linear products: torch's own choice (MKL, cuBLAS, ...), or oneDNN."""


@dataclass(frozen=True, slots=True)
class Products:
    """The products of one block: its linear modules as (in, out), and its attention's sizes."""

    linear: tuple[tuple[int, int], ...]
    heads: int
    width: int
    """Of a head."""

    @property
    def weights(self) -> int:
        """Parameters that a token is multiplied with."""
        return sum(into * out for into, out in self.linear)

    @property
    def widest(self) -> int:
        """Columns of the widest matrix that goes into a product or comes out of one."""
        return max(self.heads * self.width, *(side for pair in self.linear for side in pair))

    def flops(self, rows: int, length: int) -> int:
        """Floating-point operations over `rows` texts of `length`, every token with every other."""
        linear = 2 * self.weights * rows * length
        return linear + 4 * rows * self.heads * length**2 * self.width


def block_products(block: Any) -> Products:
    """The products of a decoder block, read off its modules (4-bit ones are linear too)."""
    attention = block.self_attn
    return Products(
        tuple((m.in_features, m.out_features) for m in block.modules() if isinstance(m, nn.Linear)),
        heads=attention.q_proj.out_features // attention.head_dim,
        width=attention.head_dim,
    )


def passed_products(model: Model, last: int) -> list[Products]:
    """Those of every block that a pass to layer `last` runs through."""
    return [block_products(block) for block in model.blocks[: last + 1]]


def libraries(model: Model) -> tuple[Library, ...]:
    """Those that can compute the model's linear products."""
    plain = model.device.type == "cpu" and model.dtype == "float32"
    return ("torch", "oneDNN") if plain and has_onednn() else ("torch",)


def needed_flops(products: Sequence[Products], lengths: Sequence[int]) -> int:
    """What texts of these lengths need at least: no padding, and no token looks at a later one.

    Per token 2 x the weights of the passed blocks' linear modules, and for each pair of a token
    with itself or an earlier one 4 x heads x head width.
    """
    tokens = sum(lengths)
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return sum(2 * p.weights * tokens + 4 * p.heads * p.width * pairs for p in products)


class Floor:
    """The products of the passed blocks, ready to run over batches of at most `tokens`.

    Weights, and rooms for factors and results, are made once and beforehand.
    """

    def __init__(self, model: Model, last: int, tokens: int) -> None:
        self._products = passed_products(model, last)
        self._device = model.device
        self._dtype = DTYPES[model.dtype.removeprefix(NF4)]
        self._weights = self._draw_weights()
        room = tokens * max(products.widest for products in self._products)
        self._given, self._keys = self._random(room), self._random(room)
        self._came = torch.empty_like(self._given)

    def run(self, library: Library, batches: Sequence[tuple[int, int]]) -> None:
        """Compute every product of batches of (rows, longest row); the results are dropped."""
        with torch.inference_mode():
            for rows, length in batches:
                for products, weights in zip(self._products, self._weights, strict=True):
                    for weight in weights:
                        self._multiply(library, weight, rows * length)
                    self._attend(products, rows, length)

    def _multiply(self, library: Library, weight: Tensor, tokens: int) -> None:
        out, into = weight.shape
        given = _view(self._given, tokens, into)
        _compute(library, given, weight, _view(self._came, tokens, out))

    def _attend(self, products: Products, rows: int, length: int) -> None:
        shape = (rows, products.heads, length, products.width)
        queries, keys = _view(self._given, *shape), _view(self._keys, *shape)
        functional.scaled_dot_product_attention(queries, keys, keys, is_causal=True)

    def _draw_weights(self) -> list[list[Tensor]]:
        drawn: dict[Products, list[list[Tensor]]] = {}
        found: list[list[Tensor]] = []
        held = 0
        for products in self._products:
            alike = drawn.setdefault(products, [])
            if held < DISTINCT_BYTES or not alike:
                alike.append([self._random(out, into) for into, out in products.linear])
                held += products.weights * self._dtype.itemsize
                found.append(alike[-1])
            else:
                found.append(alike[len(found) % len(alike)])
        return found

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self._dtype, device=self._device)


def _compute(library: Library, given: Tensor, weight: Tensor, came: Tensor) -> None:
    """`came` is where torch writes; oneDNN makes its own room."""
    if library == "oneDNN":
        multiply(given, weight)
    else:
        torch.mm(given, weight.t(), out=came)


def _view(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


def peak_side(device: torch.device) -> int:
    """How large a square matrix must be here for its product to be as fast as any."""
    return PEAK_SIDE.get(device.type, PEAK_SIDE_ELSEWHERE)


def peak_work(device: torch.device, dtype: str, library: Library) -> Callable[[], None]:
    """Computes one large square product, in the type that a model of `dtype` computes in."""
    side, held = peak_side(device), DTYPES[dtype.removeprefix(NF4)]
    one, other = (torch.randn(side, side, dtype=held, device=device) for _ in range(2))
    came = torch.empty_like(one)

    def work() -> None:
        with torch.inference_mode():
            _compute(library, one, other, came)

    return work
