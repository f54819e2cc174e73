"""sae-lens' trainer, set up and stepped: which SAE, which schedules, one batch after the other.

Knows nothing of where tokens come from or where anything is kept.
"""

import math
from typing import Any

import torch
from torch import Tensor

from engine.features.library import sae_lens
from engine.features.training.settings import TrainingSettings
from engine.features.training.stream import Tokens
from stores.errors import EngineError

WARM_UP, DECAY = 0.05, 0.2
"""Shares of the steps in which the learning rate rises, from near 0, and falls to 0; in the first
the sparsity loss rises, too."""
LONGEST_WARM_UP = 1000
DEAD_AFTER = 1000
"""Steps without firing after which a feature counts as dead; in a short training a tenth of it."""


def open_trainer(settings: TrainingSettings, d_in: int, device: str) -> Any:
    """A `SAETrainer` at its beginning; the same settings give the same weights."""
    package = sae_lens()
    steps = settings.steps
    cards = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(settings.seed)
        sae = _build_sae(package, settings, d_in, device)
    config = package.config.SAETrainerConfig(
        total_training_samples=settings.tokens,
        train_batch_size_samples=settings.batch_tokens,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate,
        lr_warm_up_steps=_warm_up(steps),
        lr_decay_steps=math.floor(DECAY * steps),
        device=device,
        dead_feature_window=max(1, min(DEAD_AFTER, steps // 10)),
        logger=package.LoggingConfig(log_to_wandb=False),
    )
    return package.SAETrainer(cfg=config, sae=sae, data_provider=iter(()))


def _build_sae(package: Any, settings: TrainingSettings, d_in: int, device: str) -> Any:
    shape = {
        "d_in": d_in,
        "d_sae": settings.width,
        "dtype": "float32",
        "device": device,
        "apply_b_dec_to_input": True,
        "normalize_activations": "expected_average_only_in",
    }
    warm_up = _warm_up(settings.steps)
    if settings.kind == "topk":
        config = package.TopKTrainingSAEConfig(**shape, k=settings.l0)
        return package.TopKTrainingSAE(config)
    if settings.kind == "standard":
        config = package.StandardTrainingSAEConfig(
            **shape, l1_coefficient=settings.coefficient, l1_warm_up_steps=warm_up
        )
        return package.StandardTrainingSAE(config)
    config = package.JumpReLUTrainingSAEConfig(
        **shape,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=settings.l0,
        l0_coefficient=settings.coefficient,
        l0_warm_up_steps=warm_up,
    )
    return package.JumpReLUTrainingSAE(config)


def _warm_up(steps: int) -> int:
    """At least two: sae-lens' schedule divides by one less."""
    return max(2, min(LONGEST_WARM_UP, math.floor(WARM_UP * steps)))


@torch.no_grad()
def start_from(trainer: Any, tokens: Tokens) -> None:
    """Scale activations to a mean norm of sqrt(d), by these tokens, and start from their mean."""
    sample = torch.from_numpy(tokens)
    mean_norm = sample.norm(dim=1).double().mean().item()
    scale = trainer.sae.cfg.d_in**0.5 / mean_norm
    trainer.activation_scaler.scaling_factor = scale
    trainer.sae.b_dec.copy_(sample.double().mean(dim=0) * scale)


def train_step(trainer: Any, batch: Tensor) -> Any:
    """One step on activations [t, d]; what sae-lens' own loop does for each batch."""
    trainer.maybe_reset_sparsity()
    step = trainer.step(batch)
    trainer.n_training_steps += 1
    return step


@torch.no_grad()
def describe_step(trainer: Any, step: Any) -> dict[str, float]:
    """A point of the curve. EngineError when the loss is no number any more."""
    loss = step.loss.item()
    if not math.isfinite(loss):
        raise EngineError(
            f"the loss is {loss} after {trainer.n_training_samples} tokens: training diverged; "
            "train with a lower --lr or --sparsity, under another --name"
        )
    error = (step.sae_out - step.sae_in).square().sum()
    spread = (step.sae_in - step.sae_in.mean(dim=0)).square().sum()
    return {
        "tokens": trainer.n_training_samples,
        "loss": loss,
        "variance_unexplained": (error / spread).item(),
        "l0": (step.feature_acts > 0).sum(dim=1).float().mean().item(),
        "dead_features": trainer.dead_neurons.float().mean().item(),
        "lr": trainer.optimizer.param_groups[0]["lr"],
    }


@torch.no_grad()
def fold(trainer: Any) -> None:
    """Put scale and lengths into the weights: the SAE takes activations as they are, and a code is
    the length of what its feature adds."""
    sae = trainer.sae
    trainer.set_final_sae_metadata()
    sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    trainer.activation_scaler.scaling_factor = None
    sae.fold_W_dec_norm()
    if sae.cfg.architecture() == "topk":
        sae.cfg.rescale_acts_by_decoder_norm = False
