"""Directions as objects of the package steering-vectors, which adds them to a model as it runs.

Knows nothing of emotions, and nothing of how strong a direction should be.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from stores.errors import UsageError
from stores.exchange.naming import refusal
from stores.exchange.tensors import read_tensors
from stores.exchange.writing import LAYER_TENSOR

if TYPE_CHECKING:
    from steering_vectors import SteeringVector


LAYER = re.compile(rf"{LAYER_TENSOR}(\d+)")


def steering_vector(directions: Mapping[int, ArrayLike]) -> "SteeringVector":
    """{layer: [d]} as a SteeringVector in float32: what is added to the output of these blocks.

    Both count decoder blocks from 0. Raises UsageError when the package is missing.
    """
    try:
        from steering_vectors import SteeringVector
    except ImportError as error:
        raise UsageError(
            "the package steering-vectors is missing; pip install --no-deps steering-vectors"
        ) from error
    added = {
        layer: torch.from_numpy(np.array(directions[layer], np.float32))
        for layer in sorted(directions)
    }
    return SteeringVector(added, "decoder_block")


def read_steering_vector(path: Path) -> "SteeringVector":
    """The SteeringVector of a file that stores.exchange.writing.write_directions wrote.

    Raises UsageError when the file holds anything but one tensor per layer.
    """
    arrays, _ = read_tensors(path)
    found = {LAYER.fullmatch(name): values for name, values in arrays.items()}
    layers = {int(name[1]): values for name, values in found.items() if name}
    if len(layers) < max(len(arrays), 1):
        problem = f"its tensors are not all named {LAYER_TENSOR}0, {LAYER_TENSOR}1 and so on"
        raise refusal(path, problem, "export one emotion as .safetensors")
    return steering_vector(layers)
