"""The shipped world, read once, and one thread: the demo's matrices are too small to share."""

from collections.abc import Iterator

import pytest
import torch

from engine.demo.world import World, load_world


@pytest.fixture(scope="session")
def world() -> World:
    """The world in data/demo_model."""
    return load_world()


@pytest.fixture(autouse=True, scope="package")
def single_thread() -> Iterator[None]:
    """Also what makes sums of floats repeat exactly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
