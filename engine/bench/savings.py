"""What a steering sweep needs, counted: the plain way, and what each saving leaves of it.

Counted are the products of linear modules, attention's own two, and the unembedding; no padding,
and no token looks at a later one. Knows nothing of clocks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.bench.floor import Products, block_products
from engine.bench.pairs import Pair, Sweep

Tokens = tuple[int, int]
"""Of one row: from the first that is computed up to, not with, the last; all before are seen."""


@dataclass(frozen=True, slots=True)
class Saving:
    """One idea, and the operations that the sweep takes with it and all those before it."""

    name: str
    flops: int


def count_savings(sweep: Sweep) -> list[Saving]:
    """The plain way first, then each saving on top of those before it; the sweep's own last.

    Every question is asked once unsteered, through the whole model; each with a steered activity
    then under every vector, and at last once more at strength 0, which a replay does for control.
    """
    network: Any = sweep.model.model
    words, width = network.get_output_embeddings().weight.shape
    blocks = [block_products(block) for block in sweep.model.blocks]
    upper, kept = blocks[sweep.layer + 1 :], _remembered(sweep.model.blocks[-1])
    touched = [pair for pair in sweep.pairs if pair.where(sweep.steered)]
    tokens = sum(len(pair.ids) for pair in sweep.pairs)
    arms, answer = len(sweep.vectors), 2 * 2 * width
    whole = _flops(blocks, _rows(sweep.pairs))
    once = whole + answer * len(sweep.pairs)
    answers = answer * len(touched)
    rests = [(pair.shared, len(pair.ids)) for pair in touched]
    moved, still = _beginnings(sweep, touched)
    ends = [(stop - 1, stop) for _, stop in rests]
    shared = _flops(upper, rests + moved) + answers
    inner = [*upper[:-1], kept]
    least = _flops(inner, rests + moved) + _flops(upper[-1:], ends) - _flops([kept], ends) + answers
    return [
        Saving("plain way", (arms + 1) * (whole + 2 * width * words * tokens)),
        Saving("two logits of the last token", (arms + 1) * once),
        Saving("no vectors for pairs of controls", once + arms * _arm(blocks, touched, answers)),
        Saving("blocks above the layer alone", once + arms * _arm(upper, touched, answers)),
        Saving("first options once", once + arms * shared + _flops(upper, still)),
        Saving("last block for the last token", once + arms * least + _flops(inner, still)),
        Saving("strength 0 as well", once + (arms + 1) * least + _flops(inner, still)),
    ]


def _arm(blocks: Sequence[Products], pairs: Sequence[Pair], answers: int) -> int:
    return _flops(blocks, _rows(pairs)) + answers


def _rows(pairs: Iterable[Pair]) -> list[Tokens]:
    return [(0, len(pair.ids)) for pair in pairs]


def _beginnings(sweep: Sweep, pairs: Sequence[Pair]) -> tuple[list[Tokens], list[Tokens]]:
    """What questions with the same first option share: steered ones, and the same for all arms."""
    shared = {pair.first: pair.shared for pair in pairs}
    rows = [(first in sweep.steered, (0, stop)) for first, stop in shared.items()]
    return [row for moved, row in rows if moved], [row for moved, row in rows if not moved]


def _remembered(block: Any) -> Products:
    """Keys and values: all that later tokens need of one in the last block."""
    parts = [getattr(block.self_attn, name, None) for name in ("k_proj", "v_proj")]
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    return Products(tuple((m.in_features, m.out_features) for m in linear), heads=0, width=0)


def _flops(blocks: Sequence[Products], rows: Sequence[Tokens]) -> int:
    """Of these rows' tokens in all these blocks; 2 for a multiplication and an addition."""
    tokens = sum(stop - start for start, stop in rows)
    seen = sum(stop * (stop + 1) // 2 - start * (start + 1) // 2 for start, stop in rows)
    return sum(2 * p.weights * tokens + 4 * p.heads * p.width * seen for p in blocks)
