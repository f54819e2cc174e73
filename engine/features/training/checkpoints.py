"""Where a training stands, in one safetensors file that is whole or not there.

Weights, Adam's moments and firing counts are tensors; counters, schedules and the curve are JSON in
the file's header: no pickle. Knows nothing of tokens.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stores.errors import EngineError, StoreCorrupt
from stores.files import PARTIAL_SUFFIX, make_folder, sync

HEADER = "training"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
COUNTS = ("act_freq_scores", "n_forward_passes_since_fired")
COUNTERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")


@dataclass(slots=True)
class Position:
    """The next batch: number `batch` of buffer `buffer`; and what the batches before it gave."""

    buffer: int = 0
    batch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def write_checkpoint(path: Path, trainer: Any, position: Position, settings: Any) -> None:
    """Replace the file at `path`. EngineError when the disk refuses; the old one stays then."""
    state = {
        "settings": settings,
        "position": asdict(position),
        "scaling_factor": trainer.activation_scaler.scaling_factor,
        "counters": {name: getattr(trainer, name) for name in COUNTERS},
        "rates": trainer.lr_scheduler.state_dict(),
        "groups": trainer.optimizer.state_dict()["param_groups"],
        "coefficients": {k: v.state_dict() for k, v in trainer.coefficient_schedulers.items()},
    }
    write_tensors(path, dict(_tensors(trainer)), {HEADER: json.dumps(state)})


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file, on the disk when this returns. EngineError when the disk refuses."""
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        make_folder(path.parent)
        try:
            save_file(tensors, partial, header)
            sync(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise EngineError(
            f"{path} could not be written ({error}): free space or check its folder's "
            "permissions, then run the same command again"
        ) from error


def read_settings(path: Path) -> Any:
    """The settings of the training that `path` belongs to. StoreCorrupt when it is damaged."""
    return _read_state(path)["settings"]


def read_checkpoint(path: Path, trainer: Any) -> Position:
    """Bring a fresh trainer to where `path` left it. StoreCorrupt when the file is damaged."""
    state = _read_state(path)
    with safe_open(path, "pt", device=str(trainer.sae.device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    trainer.sae.load_state_dict(_named(tensors, "sae."))
    for name in COUNTS:
        setattr(trainer, name, tensors[name])
    for name, value in state["counters"].items():
        setattr(trainer, name, value)
    trainer.activation_scaler.scaling_factor = state["scaling_factor"]
    trainer.lr_scheduler.load_state_dict(state["rates"])
    for name, value in state["coefficients"].items():
        trainer.coefficient_schedulers[name].load_state_dict(value)
    parameters = range(len(list(trainer.sae.parameters())))
    moments = {i: {name: tensors[f"adam.{i}.{name}"] for name in MOMENTS} for i in parameters}
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
    return Position(**state["position"])


def _tensors(trainer: Any) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in trainer.sae.state_dict().items():
        yield f"sae.{name}", tensor.contiguous()
    for i, moments in trainer.optimizer.state_dict()["state"].items():
        for name in MOMENTS:
            yield f"adam.{i}.{name}", torch.as_tensor(moments[name]).contiguous()
    for name in COUNTS:
        yield name, getattr(trainer, name)


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _read_state(path: Path) -> Any:
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()[HEADER])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(
            f"{path} is damaged ({error}); remove it to train that SAE from its beginning"
        ) from error
