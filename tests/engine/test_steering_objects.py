"""Directions as objects of steering-vectors: they steer the layers that we mean.

The package is optional; where it is missing, a stand-in shows what would be given to it.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from engine.models import Model
from engine.steering import Where, steered
from engine.steering_objects import read_steering_vector, steering_vector
from stores.errors import UsageError
from stores.exchange.writing import write_directions

TOKENS = torch.tensor([[5, 17, 9, 30]])


def directions(d: int, *layers: int) -> dict[int, NDArray[np.float64]]:
    return {layer: np.random.default_rng(layer).standard_normal(d) for layer in layers}


def logits(model: Model) -> Tensor:
    with torch.no_grad():
        network: Any = model.model
        found: Tensor = network(input_ids=TOKENS, use_cache=False).logits
    return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the package: an object that keeps what it was made of."""

    def keep(layer_activations: dict[int, Tensor], layer_type: str) -> SimpleNamespace:
        return SimpleNamespace(layer_activations=layer_activations, layer_type=layer_type)

    monkeypatch.setitem(sys.modules, "steering_vectors", SimpleNamespace(SteeringVector=keep))


@pytest.mark.parametrize("layers", [(0,), (1, 3), (0, 1, 2, 3)])
def test_the_object_steers_as_we_do(tiny_family: Model, layers: tuple[int, ...]) -> None:
    pytest.importorskip("steering_vectors")
    added = directions(tiny_family.d_model, *layers)
    with steering_vector(added).apply(tiny_family.model):
        theirs = logits(tiny_family)
    tensors = {layer: torch.from_numpy(row).float() for layer, row in added.items()}
    with torch.no_grad(), steered(tiny_family, tensors, Where()):
        ours = logits(tiny_family)
    assert torch.allclose(theirs, ours, atol=1e-4)
    assert not torch.allclose(ours, logits(tiny_family), atol=1e-2)


@pytest.mark.usefixtures("stand_in")
def test_the_object_holds_the_decoder_blocks_of_our_numbers_in_float32() -> None:
    added = directions(8, 3, 0)
    made = steering_vector(added)
    assert made.layer_type == "decoder_block"
    assert set(made.layer_activations) == {0, 3}
    for layer, row in added.items():
        found = made.layer_activations[layer]
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.from_numpy(row.astype(np.float32)))


@pytest.mark.usefixtures("stand_in")
def test_a_file_of_directions_makes_the_same_object(tmp_path: Path) -> None:
    added = directions(8, 0, 2, 11)
    path = tmp_path / "joy.safetensors"
    write_directions(path, added, model_hint="m", name="joy")
    found = read_steering_vector(path).layer_activations
    wanted = steering_vector(added).layer_activations
    assert list(found) == list(wanted) == [0, 2, 11]
    assert all(torch.equal(found[layer], wanted[layer]) for layer in wanted)


@pytest.mark.parametrize("names", [[], ["layer_1", "joy"], ["1"], ["layer_one"]])
def test_a_file_of_anything_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: np.ones(4, np.float32) for name in names}, path)
    with pytest.raises(UsageError, match=r"not all named layer_0, layer_1 .*; export one emotion"):
        read_steering_vector(path)


def test_without_the_package_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "steering_vectors", None)
    with pytest.raises(UsageError, match="pip install --no-deps steering-vectors"):
        steering_vector(directions(4, 0))
