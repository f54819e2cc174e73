"""What the configuration of an SAE says, in the sae-lens format of today or of before its 6.0.

Plain JSON: nothing of sae-lens is needed to read it, and no weight.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.features.identity import Identity
from stores.errors import UsageError

CONFIGURATION, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALED = "expected_average_only_in"
"""sae-lens' word for activations that are multiplied so that their mean norm is sqrt(d_in)."""
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale", SCALED)
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
DEFAULT_K = 100
"""What sae-lens takes where none is written."""
TRAINED_ONLY = ("batchtopk", "matryoshka_batchtopk")


def read(folder: Path) -> dict[str, Any]:
    """cfg.json of a folder. UsageError when there is none, or none that is a JSON object."""
    path = folder / CONFIGURATION
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder; give the one an SAE lies in")
    if not path.is_file():
        raise UsageError(
            f"{folder}: no {CONFIGURATION} in this folder; an SAE in the sae-lens format is a "
            f"folder of {CONFIGURATION} and {WEIGHTS}"
        )
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: cannot be read as JSON ({type(error).__name__}); copy it again"
        ) from error
    if not isinstance(written, dict):
        raise UsageError(f"{path}: a configuration is a JSON object; copy it again")
    return written


def identify(written: Mapping[str, Any], **given: Any) -> Identity:
    """An identity of what is written, and of what is `given` of its source.

    Raises UsageError for sizes that are missing, and for an SAE that cannot be held against single
    activations of the residual stream.
    """
    source = str(given["source"])
    metadata = written.get("metadata")
    said = {**written, **(metadata if isinstance(metadata, dict) else {})}
    hook_name = _text(said, "hook_name") or _text(said, "hook_point")
    architecture, normalize = _architecture(said), _normalize(said)
    _require_activations(source, said, architecture, normalize, hook_name)
    _require_k(source, said, architecture)
    claims = {"stated": _claims(said), "neuronpedia": _text(said, "neuronpedia_id")}
    return Identity(
        architecture=architecture,
        d_in=_size(source, said, "d_in"),
        d_sae=_size(source, said, "d_sae"),
        hook_name=hook_name,
        model=_text(said, "model_name"),
        weights_sha=_text(said, "weights_sha"),
        normalize_activations=normalize,
        **(claims | {name: value for name, value in given.items() if value is not None}),
    )


def _require_activations(
    source: str, said: Mapping[str, Any], architecture: str, normalize: str, hook_name: str | None
) -> None:
    if architecture in TRAINED_ONLY:
        raise UsageError(
            f"{source}: a {architecture} SAE as it is trained; save it with save_inference_model"
        )
    if architecture not in ARCHITECTURES or said.get("hook_name_out"):
        kind = f"{architecture}, from {hook_name} to {said.get('hook_name_out') or hook_name}"
        raise UsageError(
            f"{source}: architecture {kind} is no SAE of single activations; choose one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    reshape = said.get("reshape_activations") or (
        "hook_z" if "hook_z" in (hook_name or "") else "none"
    )
    if reshape != "none":
        raise UsageError(
            f"{source}: hook point {hook_name} is the heads of attention, which no residual stream "
            "has; choose an SAE of hook_resid_post"
        )
    if normalize not in NORMALIZATIONS:
        raise UsageError(
            f"{source}: it asks for activations by {normalize}, and by how much is not among its "
            "weights; fold it in with sae-lens and save it again"
        )


def _require_k(source: str, said: Mapping[str, Any], architecture: str) -> None:
    before = said.get("activation_fn_kwargs")
    k = said.get("k", (before if isinstance(before, dict) else {}).get("k", DEFAULT_K))
    fits = isinstance(k, int | float) and 1 <= k <= _size(source, said, "d_sae")
    if architecture == "topk" and not fits:
        raise UsageError(
            f"{source}: its configuration says k = {k} of {said['d_sae']} features; copy it again"
        )


def _architecture(said: Mapping[str, Any]) -> str:
    old = _text(said, "activation_fn_str") or _text(said, "activation_fn")
    named = _text(said, "architecture") or "standard"
    return "topk" if named == "standard" and old == "topk" else named


def _normalize(said: Mapping[str, Any]) -> str:
    """Before 4.0 it was yes or no."""
    asked = said.get("normalize_activations")
    if isinstance(asked, bool):
        return SCALED if asked else "none"
    return "none" if asked is None else str(asked)


def _claims(said: Mapping[str, Any]) -> dict[str, float]:
    """What was measured on texts that it was not trained on, of an SAE that was trained here."""
    found = said.get("held_out")
    claims = found if isinstance(found, dict) else {}
    return {str(k): float(v) for k, v in claims.items() if isinstance(v, int | float)}


def _size(source: str, said: Mapping[str, Any], name: str) -> int:
    size = said.get(name)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UsageError(f"{source}: its configuration says {name} = {size!r}; copy it again")
    return size


def _text(said: Mapping[str, Any], name: str) -> str | None:
    value = said.get(name)
    return value if isinstance(value, str) and value else None
