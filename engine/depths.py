"""Which layers are meant by what a user writes. Knows no model: its number of blocks is given."""

import re
from fractions import Fraction

from stores.errors import UsageError


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """0-based layers, ascending, from a comma-separated list of terms.

    'all'; 'every:5' = 0, 5, 10, ...; 'a:b' = the block nearest to a/b of the depth ('2:3' is two
    thirds); '7' = block 7; '7-9' = blocks 7, 8, 9. Raises UsageError.
    """
    layers: set[int] = set()
    for term in text.split(","):
        layers.update(_parse_term(term.strip(), n_layers))
    outside = [layer for layer in layers if not 0 <= layer < n_layers]
    if outside:
        raise UsageError(
            f"layers {text!r}: no layer {min(outside)} in a model of {n_layers} blocks "
            f"(0 to {n_layers - 1})"
        )
    return tuple(sorted(layers))


def _parse_term(term: str, n_layers: int) -> range:
    if term == "all":
        return range(n_layers)
    if match := re.fullmatch(r"every:([1-9]\d*)", term):
        return range(0, n_layers, int(match[1]))
    if match := re.fullmatch(r"([1-9]):([1-9])", term):
        share = Fraction(int(match[1]), int(match[2]))
        if share <= 1:
            nearest = max(round(share * n_layers), 1) - 1
            return range(nearest, nearest + 1)
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", term):
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last:
            return range(first, last + 1)
    raise UsageError(
        f"layers {term!r}: not understood; use all, every:5, 2:3 (a fraction of the depth), "
        "5,10,15 or 5-10"
    )
