"""What a model of the hub still has to bring down, and the disk that its cache is on.

Knows nothing of what the weights are for.
"""

import json
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import constants, try_to_load_from_cache

from engine.checkpoints import LOCAL, Checkpoint
from engine.forecasting.machine import free_disk
from engine.forecasting.rooms import Part, Room

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def download_room(checkpoint: Checkpoint, parameters: int) -> Room | None:
    """The room for weights that are not in the hub's cache; None when all are, or for a folder.

    Where the repository's list of files is not there either, `parameters` in the checkpoint's own
    type are what is expected.
    """
    if checkpoint.revision == LOCAL or _cached(checkpoint, WEIGHTS):
        return None
    index = _cached(checkpoint, INDEX)
    if index:
        total, source = _listed(index), "the list of its files, less those in the cache"
        there = sum(path.stat().st_size for path in index.parent.glob("*.safetensors"))
    else:
        total, there = parameters * _own_type(checkpoint).itemsize, 0
        source = "the configuration, in the checkpoint's own type"
    if total <= there:
        return None
    folder = Path(constants.HF_HUB_CACHE)
    missing = Part(f"weights of {checkpoint.name}", total - there, source)
    return Room("download", free_disk(folder), f"free at {folder}", (missing,))


def _cached(checkpoint: Checkpoint, name: str) -> Path | None:
    found = try_to_load_from_cache(checkpoint.source, name, revision=checkpoint.hub_revision)
    return Path(found) if isinstance(found, str) else None


def _listed(index: Path) -> int:
    return int(json.loads(index.read_bytes())["metadata"]["total_size"])


def _own_type(checkpoint: Checkpoint) -> torch.dtype:
    named = str(checkpoint.config.get_text_config().dtype or "float32").removeprefix("torch.")
    return cast("torch.dtype", getattr(torch, named))
