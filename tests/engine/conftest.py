"""Tiny models, built once a session and loaded from their folders."""

from pathlib import Path

import pytest
import torch

from engine.models import Model, load_model
from tests.engine.tiny import save_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products are slower on two threads, and on a busy machine much slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama checkpoint of four blocks with a chat template."""
    return save_checkpoint(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Model:
    """The tiny Llama in float32 on the CPU."""
    return load_model(str(tiny_path), device="cpu")


@pytest.fixture(scope="session", params=["llama", "gpt2", "qwen3", "gemma3"])
def tiny_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One tiny model of each architecture."""
    family: str = request.param
    folder = save_checkpoint(tmp_path_factory.mktemp(f"tiny_{family}"), family)
    return load_model(str(folder), device="cpu")
