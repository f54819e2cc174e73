"""What an SAE looks like that has learnt nothing: the shape of another one, with random rows.

Knows nothing of models or activations.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from stores.files import write_file_atomically

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
READS = ("model_name", "hook_name", "weights_sha")
"""Of the other's metadata: what it reads, and nothing of how well."""
KEPT = ("b_dec", "threshold")
"""Of its weights: where activations lie, and how large a code must be."""


def write_random(like: Path, folder: Path, seed: int) -> None:
    """Write into `folder` an SAE of the kind, size and k of that in `like`, in the sae-lens format.

    Decoder rows are isotropic and of length 1, the encoder is their transpose, biases are 0; the
    centre and the thresholds are those of `like`. Raises EngineError when the disk refuses.
    """
    config = json.loads((like / CONFIG).read_text(encoding="utf-8"))
    reads = config.get("metadata", {})
    config["metadata"] = {key: reads[key] for key in READS if key in reads}
    weights = load_file(like / WEIGHTS)
    made = torch.Generator().manual_seed(seed)
    rows = torch.randn(weights["W_dec"].shape, generator=made)
    rows = (rows / rows.norm(dim=1, keepdim=True)).to(weights["W_dec"].dtype)
    drawn = {"W_dec": rows, "W_enc": rows.T.contiguous()}
    kept = {name: weights[name] for name in KEPT if name in weights}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    write_file_atomically(folder / WEIGHTS, save(zeros | kept | drawn))
    write_file_atomically(folder / CONFIG, json.dumps(config, indent=1).encode())
