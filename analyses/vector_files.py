"""Vectors from files made ready for the ledger: layers from 0, known names, means centred.

Knows nothing of how files are laid out, nor of the ledger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analyses.methods.directions import difference_of_means
from stores.database import canonical_json, digest
from stores.errors import UsageError
from stores.exchange.layouts import LayerSet, read_vector_files
from stores.exchange.naming import fold_name

Floats = NDArray[np.float64]

LARGEST, SMALLEST = 1e150, 1e-150
"""A number and a length whose squares are still finite and not zero."""
TOLERANCE = 1e-3
"""Of the mean over emotions, as a share of a vector's length: what rounding to 16 bits leaves."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """What the files hold."""

    sets: tuple[LayerSet, ...]
    """As it is to be stored, in the order of layers."""
    respelled: Mapping[str, str]
    """The file's own spelling of an emotion, by the protocol's, where the two differ."""
    off_before: float
    """Largest mean over emotions in the files, as a share of a vector's length."""
    centred: bool
    """Whether it was taken off."""
    one_based: bool
    """Whether the files count layers from 1."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, 0-based."""
        return tuple(found.layer for found in self.sets)

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions, the same at every layer."""
        return self.sets[0].emotions

    @property
    def d_model(self) -> int:
        """Numbers per vector."""
        return int(next(iter(self.sets[0].vectors.values())).shape[1])

    @property
    def sha256(self) -> str:
        """Digest of every number, in the order of layers and variants."""
        seen = [digest(v.astype("<f8").tobytes()) for s in self.sets for v in s.vectors.values()]
        return digest(canonical_json(seen))

    @property
    def means(self) -> bool:
        """Whether the files call their vectors means."""
        return any(found.means for found in self.sets)

    @property
    def off_centre(self) -> float:
        """What is left of the mean over emotions, at the layer where most is."""
        return max(map(_off_centre_set, self.sets))


def open_files(
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    layer: int | None,
    one_based: bool,
    centre: bool,
) -> Opened:
    """Read the files; `names` are the emotions of the protocol.

    Means are centred over all emotions of the file, vectors only with `centre`; what is centred up
    to rounding stays bit for bit. Raises UsageError naming the file and what is wrong with it.
    """
    found = [_renumber(each, one_based) for each in read_vector_files(paths, layer=layer)]
    for each in found:
        _refuse_vast(each)
    spelled = _spell(found[0].emotions, names)
    sets = tuple(_centre(replace(each, emotions=spelled), means_only=not centre) for each in found)
    for each in sets:
        _refuse_zero(each)
    pairs = zip(spelled, found[0].emotions, strict=True)
    return Opened(
        sets,
        {ours: theirs for ours, theirs in pairs if ours != theirs},
        max(map(_off_centre_set, found)),
        any(_differ(before, after) for before, after in zip(found, sets, strict=True)),
        one_based,
    )


def off_centre(vectors: Floats) -> float:
    """Length of the mean of vectors (e, d) as a share of their mean length; 0 where all are 0."""
    size = float(np.linalg.norm(vectors, axis=1).mean())
    return float(np.linalg.norm(vectors.mean(axis=0))) / size if size else 0.0


def _renumber(found: LayerSet, one_based: bool) -> LayerSet:
    layer = found.layer - one_based
    if layer < 0:
        raise UsageError(
            f"{found.source} has a layer {found.layer}, and files that count from 1 have none; "
            "import it without --one-based, or leave out what comes before the first block"
        )
    return replace(found, layer=layer)


def _spell(emotions: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Each emotion as the protocol spells it, where the protocol has it."""
    folded = {fold_name(name): name for name in names}
    known = set(names)
    return tuple(e if e in known else folded.get(fold_name(e), e) for e in emotions)


def _centre(found: LayerSet, *, means_only: bool) -> LayerSet:
    if means_only and not found.means:
        return found
    if len(found.emotions) < 2:
        raise UsageError(
            f"{found.source} holds one emotion alone, {found.emotions[0]!r}: its mean cannot be "
            "centred over others; import it together with them"
        )
    vectors = {
        variant: values if off_centre(values) < TOLERANCE else difference_of_means(values)
        for variant, values in found.vectors.items()
    }
    return replace(found, vectors=vectors)


def _refuse_vast(found: LayerSet) -> None:
    for values in found.vectors.values():
        if (vast := np.flatnonzero(np.abs(values).max(axis=1) > LARGEST)).size:
            raise UsageError(
                f"{found.source}: the numbers of {found.emotions[vast[0]]!r} at layer "
                f"{found.layer} go beyond {LARGEST:g}; compute them again"
            )


def _refuse_zero(found: LayerSet) -> None:
    for variant, values in found.vectors.items():
        if (empty := np.flatnonzero(np.linalg.norm(values, axis=1) < SMALLEST)).size:
            raise UsageError(
                f"{found.source}: the {variant} vector of {found.emotions[empty[0]]!r} at layer "
                f"{found.layer} is zero and has no direction; leave that emotion out of the file"
            )


def _differ(before: LayerSet, after: LayerSet) -> bool:
    return any(after.vectors[variant] is not before.vectors[variant] for variant in before.vectors)


def _off_centre_set(found: LayerSet) -> float:
    return max(map(off_centre, found.vectors.values()))
