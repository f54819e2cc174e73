"""Sets of vectors for the tests of exchange, from seeds."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stores.exchange.layouts import LayerSet
from stores.vectors import Variant

EMOTIONS = ("joy", "at ease", "self-conscious", "Wut", "чувство")
D = 7


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def layer_sets(
    *layers: int,
    variants: Sequence[Variant] = ("raw",),
    emotions: Sequence[str] = EMOTIONS,
    means: bool = False,
) -> list[LayerSet]:
    return [
        LayerSet(
            layer,
            tuple(emotions),
            {
                variant: numbers(len(emotions), D, seed=10 * layer + at)
                for at, variant in enumerate(variants)
            },
            means,
            "arranged",
        )
        for layer in layers
    ]


def same(found: Sequence[LayerSet], wanted: Sequence[LayerSet]) -> bool:
    """Whether layers, emotions, kinds and every bit of the vectors agree."""
    return len(found) == len(wanted) and all(
        (one.layer, one.emotions, one.means, sorted(one.vectors))
        == (other.layer, other.emotions, other.means, sorted(other.vectors))
        and all(
            values.dtype == np.float64 and values.tobytes() == other.vectors[variant].tobytes()
            for variant, values in one.vectors.items()
        )
        for one, other in zip(found, wanted, strict=True)
    )


def save_members(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A zip with these members, whatever is in them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, payload in members:
            archive.writestr(name, payload)
    return path


def member(values: NDArray[np.generic]) -> bytes:
    """The bytes of a .npy file; object arrays are pickled, as np.savez does."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def raw_safetensors(path: Path, header: str, payload: bytes) -> Path:
    """A file with this header and these bytes after it."""
    text = header.encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


def savez(path: Path, arrays: Mapping[str, object]) -> Path:
    """np.savez itself, under any names."""
    np.savez(path, **{name: np.asarray(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    return path
