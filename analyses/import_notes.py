"""What a user must know of vectors that were imported, one line each. Stores nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyses.vector_files import TOLERANCE, Opened
from stores.protocol import Protocol

NAMED = 10
"""Names that a line spells out."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many layers the model has, and whether nobody said so."""

    n_layers: int
    assumed: bool


def tell_import(opened: Opened, protocol: Protocol, depth: Depth) -> Iterator[str]:
    """What was taken from the files otherwise than they say it, and what they leave open."""
    yield from _tell_names(opened, protocol)
    yield from _tell_layers(opened, depth)
    yield from _tell_centre(opened)


def _tell_names(opened: Opened, protocol: Protocol) -> Iterator[str]:
    unknown = [name for name in opened.emotions if name not in protocol.names]
    n, concept = len(opened.emotions), protocol.concept
    if unknown:
        yield (
            f"{len(unknown)} of {n} {concept}s are not in the protocol ({protocol.root}) and have "
            f"no label: {_named(unknown)}"
        )
    if opened.respelled:
        pairs = [f"{theirs!r} is {ours!r}" for ours, theirs in opened.respelled.items()]
        yield f"{len(pairs)} of {n} {concept}s are spelled as in the protocol: {_named(pairs)}"


def _tell_layers(opened: Opened, depth: Depth) -> Iterator[str]:
    if depth.assumed:
        yield (
            f"nobody said how many layers the model has: {depth.n_layers} are assumed, up to the "
            "highest that was imported; depths follow from it, so give --n-layers"
        )
    if opened.layers[0] == 1 and not opened.one_based and len(opened.layers) > 1:
        yield (
            "the layers begin at 1 and are taken as counted from 0; where the files count from 1, "
            "import them with --one-based"
        )


def _tell_centre(opened: Opened) -> Iterator[str]:
    if len(opened.emotions) == 1:
        yield "one emotion alone has no centre: what compares emotions needs more of them"
        return
    off = f"the mean over {len(opened.emotions)} emotions was up to {opened.off_before:.1%} of"
    if opened.centred:
        yield f"{off} a vector's length, and was taken off"
    elif opened.off_before >= TOLERANCE:
        yield (
            f"{off} a vector's length, and was left: cosines are those of vectors off their "
            "centre; --centre takes it off"
        )
    elif opened.means:
        yield "the files call them means, and they are centred already: not a bit was changed"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
