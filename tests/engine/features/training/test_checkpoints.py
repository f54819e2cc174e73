"""A checkpoint brings a fresh trainer to the very same state, or says that it cannot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.features.training.checkpoints import (
    Position,
    read_checkpoint,
    read_settings,
    write_checkpoint,
)
from engine.features.training.settings import KINDS
from engine.features.training.trainer import open_trainer, start_from, train_step
from stores.errors import EngineError, StoreCorrupt
from tests.engine.features.training.made import settings_of

DIMS = 16


def tokens_of(step: int) -> torch.Tensor:
    """A batch off centre, of few dimensions."""
    rng = np.random.default_rng(step)
    spread = np.random.default_rng(99).normal(size=(5, DIMS))
    tokens = rng.normal(size=(60, 5)) @ spread + 3.0
    return torch.from_numpy(tokens.astype(np.float32))


def trainer_of(kind: str) -> Any:
    trainer = open_trainer(settings_of(kind=kind), DIMS, "cpu")
    start_from(trainer, tokens_of(0).numpy())
    return trainer


def run(trainer: Any, first: int, last: int) -> list[float]:
    return [train_step(trainer, tokens_of(step)).loss.item() for step in range(first, last)]


def state_of(trainer: Any) -> dict[str, Any]:
    moments = trainer.optimizer.state_dict()["state"]
    return {
        "weights": {k: v.tolist() for k, v in trainer.sae.state_dict().items()},
        "moments": {i: {k: v.tolist() for k, v in each.items()} for i, each in moments.items()},
        "rate": trainer.optimizer.param_groups[0]["lr"],
        "coefficients": trainer.get_coefficients(),
        "fired": trainer.act_freq_scores.tolist(),
        "since": trainer.n_forward_passes_since_fired.tolist(),
        "counts": (trainer.n_training_steps, trainer.n_training_samples),
        "scale": trainer.activation_scaler.scaling_factor,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 17, 36])  # in the warm-up, after it, in the decay
def test_a_resumed_trainer_goes_on_to_the_bit(kind: str, at: int, tmp_path: Path) -> None:
    calm = trainer_of(kind)
    losses = run(calm, 0, 40)
    broken, path = trainer_of(kind), tmp_path / "checkpoint.safetensors"
    run(broken, 0, at)
    write_checkpoint(path, broken, Position(2, 3, [{"loss": 0.1}]), {"name": "a"})
    fresh = open_trainer(settings_of(kind=kind), DIMS, "cpu")
    assert read_checkpoint(path, fresh) == Position(2, 3, [{"loss": 0.1}])
    assert state_of(fresh) == state_of(broken)
    assert run(fresh, at, 40) == losses[at:]
    assert state_of(fresh) == state_of(calm)
    assert read_settings(path) == {"name": "a"}


def test_the_rate_rises_stays_and_falls_to_nought() -> None:
    trainer, rates = trainer_of("topk"), []
    for step in range(40):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        train_step(trainer, tokens_of(step))
    highest = settings_of().learning_rate
    assert rates[0] == pytest.approx(highest / 2)
    assert rates[2:32] == pytest.approx([highest] * 30)
    assert sorted(rates[32:], reverse=True) == rates[32:]
    assert rates[-1] < 0.2 * highest


def test_activations_are_scaled_to_a_norm_of_sqrt_d_around_their_mean() -> None:
    trainer, tokens = trainer_of("topk"), tokens_of(0)
    scaled = trainer.activation_scaler(tokens)
    assert scaled.norm(dim=1).mean().item() == pytest.approx(DIMS**0.5, rel=1e-5)
    torch.testing.assert_close(trainer.sae.b_dec.data, scaled.mean(dim=0))


def test_the_seed_decides_the_first_weights_and_leaves_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    trainers = [open_trainer(settings_of(seed=seed), DIMS, "cpu") for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, same, other = [each.sae.W_dec for each in trainers]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("length", [0, 7, 300, 6000])
def test_a_damaged_checkpoint_is_told(length: int, tmp_path: Path) -> None:
    trainer, path = trainer_of("topk"), tmp_path / "checkpoint.safetensors"
    run(trainer, 0, 1)
    write_checkpoint(path, trainer, Position(), {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreCorrupt, match=r"checkpoint\.safetensors is damaged .* remove it"):
        read_settings(path)


def test_a_disk_that_refuses_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, path = trainer_of("topk"), tmp_path / "checkpoint.safetensors"
    run(trainer, 0, 1)
    write_checkpoint(path, trainer, Position(), {})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.features.training.checkpoints.sync", full)
    with pytest.raises(EngineError, match=r"No space left .* run the same command again"):
        write_checkpoint(path, trainer, Position(), {})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
