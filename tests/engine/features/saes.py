"""SAEs with random weights in every kind that sae-lens loads, and folders in its format."""

from pathlib import Path
from typing import Any

import torch

from engine.features.library import sae_lens

CLASSES = {
    "standard": "StandardSAE",
    "topk": "TopKSAE",
    "jumprelu": "JumpReLUSAE",
    "gated": "GatedSAE",
    "abstopk": "AbsTopKSAE",
    "batchtopk": "BatchTopKTrainingSAE",
    "matryoshka_batchtopk": "MatryoshkaBatchTopKTrainingSAE",
    "jumprelu_transcoder": "JumpReLUTranscoder",
}
HOOK = "blocks.3.hook_resid_post"


def make_sae(
    kind: str,
    *,
    d_in: int,
    d_sae: int,
    normalize: str = "none",
    seed: int = 0,
    norm: float | None = None,
    settings: dict[str, Any] | None = None,
    dtype: str = "float32",
    **metadata: Any,
) -> Any:
    """A sae-lens SAE with decoder rows of length 1, and an encoder that is the same.

    Every eighth feature never fires: its encoder is 0. Of the others about half do on activations
    of norm `norm` (None: sqrt(d_in)), or k of them. `settings` goes to the SAE's configuration (k
    is 4 unless it says otherwise); `metadata` gets a hook point unless it has one.
    """
    package: Any = sae_lens()
    kinds = package.registry
    pair = kinds.get_sae_training_class if "batchtopk" in kind else kinds.get_sae_class
    given: dict[str, Any] = {"k": 4} if "topk" in kind else {}
    given |= {"matryoshka_widths": [d_sae // 2, d_sae]} if "matryoshka" in kind else {}
    given |= {"d_out": d_in, "apply_b_dec_to_input": False} if "transcoder" in kind else {}
    cfg = pair(kind)[1](
        d_in=d_in,
        d_sae=d_sae,
        dtype=dtype,
        normalize_activations=normalize,
        **(given | (settings or {})),
    )
    for key, value in ({"hook_name": HOOK} | metadata).items():
        setattr(cfg.metadata, key, value)
    sae = getattr(package, CLASSES[kind])(cfg)
    _fill(sae, seed, (norm or d_in**0.5) / d_in**0.5)
    return sae.eval()


def save_sae(sae: Any, folder: Path) -> Path:
    """In the sae-lens format: cfg.json and sae_weights.safetensors. Returns the folder."""
    save = getattr(sae, "save_inference_model", None) or sae.save_model
    save(folder)
    return folder


def load_plainly(folder: Path) -> Any:
    """What sae-lens itself makes of a folder."""
    package: Any = sae_lens()
    return package.SAE.load_from_disk(folder).eval()


def _fill(sae: Any, seed: int, unit: float) -> None:
    """`unit` is the size of one coordinate of an activation, and so of a code."""
    made = torch.Generator().manual_seed(seed)
    rows = torch.randn(sae.W_dec.shape, generator=made)
    rows /= rows.norm(dim=1, keepdim=True)
    bias = torch.randn(len(rows), generator=made) * 0.1 * unit
    reading = rows.T.clone()
    bias[::8], reading[:, ::8] = 0, 0
    values = {"W_dec": rows, "b_dec": torch.randn(sae.b_dec.shape, generator=made) * 0.1 * unit}
    values |= {"W_enc": reading, "b_enc": bias, "b_gate": bias, "b_mag": bias.clamp(max=0)}
    values |= {"r_mag": torch.randn(len(rows), generator=made) * 0.1}
    values |= {"threshold": torch.full((len(rows),), 0.1 * unit)}
    values |= {"topk_threshold": torch.tensor(0.5 * unit)}
    with torch.no_grad():
        for name, tensor in [*sae.named_parameters(), *sae.named_buffers()]:
            tensor.copy_(values[name])
