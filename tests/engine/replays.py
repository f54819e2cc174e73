"""Prompts and additions to replay on the tiny checkpoints."""

import numpy as np

from engine.replay import Addition, Steered

TOKENS = (5, 6, 7)
LAYERS = (1, 2, 3)
WIDTH, WORDS = 32, 380


def draw_ids(rng: np.random.Generator, tokens: int) -> tuple[int, ...]:
    return tuple(int(each) for each in rng.integers(3, WORDS, tokens))


def draw_prompts() -> list[Steered]:
    """Some that share a steered beginning or one that is not; some alone; spans, all and none."""
    rng = np.random.default_rng(1)
    first, second = draw_ids(rng, 20), draw_ids(rng, 17)
    spans = (slice(8, 14), slice(21, 23))
    return [
        *(Steered(first + draw_ids(rng, n), spans) for n in (4, 9, 4, 6, 13)),
        *(Steered(second + draw_ids(rng, n), (slice(17, 19),)) for n in (4, 8, 4)),
        *(Steered(draw_ids(rng, n), (slice(2, 4),)) for n in (5, 11, 40)),
        Steered(draw_ids(rng, 7), (slice(0, 7),)),
        Steered(draw_ids(rng, 6), (slice(5, 6),)),
        Steered(draw_ids(rng, 7), ()),
        Steered(draw_ids(rng, 1), (slice(0, 1),)),
    ]


def draw_additions() -> list[Addition]:
    """One layer, another, a band, a band with a gap, the last layer."""
    rng = np.random.default_rng(2)
    return [
        Addition({layer: (3 * rng.normal(size=WIDTH)).astype(np.float32) for layer in layers})
        for layers in ((1,), (2,), (1, 2, 3), (1, 3), (3,), (1,))
    ]
