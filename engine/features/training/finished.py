"""A finished SAE: written whole in the sae-lens format, measured as whoever loads it finds it.

Beside its two files lies training.json: settings, curve, held-out metrics. Reading that needs
neither torch nor sae-lens.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stores.errors import EngineError, StoreCorrupt, UsageError
from stores.failpoints import reach
from stores.files import make_folder, sync, write_file_atomically

CONFIG, WEIGHTS, RECORD = "cfg.json", "sae_weights.safetensors", "training.json"

Curve = tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """What is told of an SAE that was trained here."""

    folder: Path
    settings: Mapping[str, Any]
    """All that decided its weights."""
    held_out: Mapping[str, float]
    curve: Curve
    """tokens, loss, variance_unexplained, l0, dead_features, lr of batches on the way."""


def read_finished(folder: Path) -> Finished | None:
    """The SAE in `folder`; None when there is no folder.

    Raises UsageError for a folder of something else, StoreCorrupt for one that cannot be read.
    """
    if not folder.exists():
        return None
    if not (folder / RECORD).is_file():
        raise UsageError(f"{folder} holds no SAE that was trained here; choose another --name")
    try:
        record = json.loads((folder / RECORD).read_text())
        return Finished(folder, record["settings"], record["held_out"], tuple(record["curve"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(
            f"{folder / RECORD} is damaged ({error}); remove {folder} to train that SAE again"
        ) from error


def keep_finished(
    folder: Path,
    sae: Any,
    settings: Mapping[str, Any],
    curve: list[dict[str, float]],
    measure: Callable[[Path], Mapping[str, float]],
    metadata: Mapping[str, Any],
) -> Finished:
    """Write `sae` (a training SAE of sae-lens), measure what can be loaded, and put it in place.

    What `measure` finds joins the `metadata` as held_out. EngineError when the disk refuses.
    """
    side = folder.with_name(f".{folder.name}.finished")
    try:
        shutil.rmtree(side, ignore_errors=True)
        make_folder(side)
        sae.save_inference_model(side)
        (side / WEIGHTS).chmod(0o644)  # safetensors keeps it to its owner
        sync(side / WEIGHTS)
        held_out = measure(side)
        config = json.loads((side / CONFIG).read_text())
        config["device"] = "cpu"  # where it was trained is nobody's concern
        config["metadata"] |= {**metadata, "held_out": held_out}
        record = {"settings": settings, "held_out": held_out, "curve": curve}
        write_file_atomically(side / CONFIG, _json(config))
        write_file_atomically(side / RECORD, _json(record))
        reach("weights_written")
        side.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise EngineError(
            f"{folder} could not be written ({error}): free space or check its folder's "
            "permissions, then run the same command again"
        ) from error
    reach("sae_kept")
    return Finished(folder, settings, held_out, tuple(curve))


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
