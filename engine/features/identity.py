"""What an SAE says of itself, and how that differs from a reader. Reads no weight.

A layer is found by the SAE's hook point: what block l leaves in the residual stream. Knows nothing
of files, hubs or sae-lens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.features.naming import kind_of, same_model
from stores.errors import FingerprintMismatch, UsageError

POST = re.compile(r"blocks\.(\d+)\.hook_resid_post|(?:\w+\.)*(?:layers|h)\.(\d+)(?:\.output)?")
PRE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")
BLOCK = re.compile(r"(?:blocks|layers|h)\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An SAE before its weights are read. None: it does not say."""

    source: str
    """`release/sae_id` of the catalogue, or the folder it lies in."""
    name: str
    """A slug for tables and files: made of release and id, or the folder's name."""
    architecture: str
    d_in: int
    d_sae: int
    hook_name: str | None
    model: str | None
    """The model it was trained on, as it names it: a hub id, or a shorter name."""
    weights_sha: str | None = None
    """Digest of that model's weights, of an SAE that was trained here."""
    normalize_activations: str = "none"
    """What is done to activations before they are encoded, as far as its weights do not do it."""
    stated: Mapping[str, float] = field(default_factory=dict)
    """What is claimed of it: l0, variance_unexplained, ... as far as anything is."""
    neuronpedia: str | None = None
    """Its name there, such as `gemma-2-2b/20-gemmascope-res-16k`."""
    release: str | None = None
    sae_id: str | None = None
    folder: str | None = None
    """Exactly one of (release and sae_id) and folder is given."""
    commit: str | None = None
    """Of the release's repository, which all its files are read at; None: a folder."""

    @property
    def layer(self) -> int | None:
        """`residual_layer` of its hook point."""
        return None if self.hook_name is None else residual_layer(self.hook_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a reader reads, as far as an SAE can differ from it."""

    model: str
    weights_sha: str
    n_layers: int
    d_model: int
    layers: tuple[int, ...]
    """That were extracted and have vectors."""


def residual_layer(hook_name: str) -> int | None:
    """The layer l whose output is read at this hook point; None where it is no residual stream.

    `blocks.5.hook_resid_post`, `model.layers.5` and `model.layers.5.output` are 5, and so is
    `blocks.6.hook_resid_pre`: what a block is given is what the one before it left. The first
    block is given what no block left.
    """
    if found := POST.fullmatch(hook_name):
        return int(found[1] or found[2])
    before = PRE.fullmatch(hook_name)
    return int(before[1]) - 1 if before and int(before[1]) else None


def choose_layer(identity: Identity, read: Read, asked: int | None, *, force: bool) -> int:
    """The layer at which SAE and vectors are compared: `asked`, or the SAE's own.

    With `force`, the output of the block that it reads a part of. Raises UsageError for a layer
    that was not extracted (naming the commands that make it), and for an SAE that does not read
    what a block leaves when none is asked for.
    """
    layer = identity.layer if asked is None else asked
    inside = BLOCK.match(identity.hook_name or "")
    if layer is None and force and inside:
        layer = int(inside[1])
    if layer is None:
        raise UsageError(f"{identity.source}: {_no_layer(identity.hook_name)}")
    if layer not in range(read.n_layers):
        raise UsageError(
            f"{identity.source}: layer {layer}, but {read.model} has the layers 0 to "
            f"{read.n_layers - 1}; choose an SAE or a --layer among them"
        )
    if layer not in read.layers:
        there = ", ".join(map(str, read.layers)) or "none"
        raise UsageError(
            f"{identity.source}: layer {layer} of {read.model} was not extracted or has no "
            f"vectors (there: {there}); run `extract --layers {layer}` and `vectors build`, or "
            "choose an SAE of another layer"
        )
    return layer


def find_differences(identity: Identity, read: Read, layer: int) -> tuple[str, ...]:
    """Each a short phrase, `hook point blocks.3.mlp.hook_out is no residual stream`; () for none.

    Compared: hook point, layer, width, model, and base against instruct, by weights where it says
    which, else by name.
    """
    found = [_hook_difference(identity, layer), _model_difference(identity, read)]
    if identity.d_in != read.d_model:
        found.append(f"it reads {identity.d_in} numbers per token, {read.model} has {read.d_model}")
    return tuple(each for each in found if each)


def require_match(identity: Identity, read: Read, layer: int, *, force: bool) -> tuple[str, ...]:
    """The differences, which `force` allows; () for none.

    Raises FingerprintMismatch naming every difference; another width even with `force`, because
    nothing can be computed then.
    """
    found = find_differences(identity, read, layer)
    fits = identity.d_in == read.d_model
    if found and not (force and fits):
        step = "choose an SAE of this model and layer"
        step += ", or insist with --force: all results will say so" if fits else ""
        raise FingerprintMismatch(f"{identity.source}: {'; '.join(found)}; {step}")
    return found


def _no_layer(hook_name: str | None) -> str:
    if hook_name is None:
        return "it does not say where it reads; give its --layer"
    return (
        f"hook point {hook_name} is no residual stream that a block leaves; choose an SAE of "
        "hook_resid_post, or a --layer with --force"
    )


def _hook_difference(identity: Identity, layer: int) -> str | None:
    if identity.hook_name is None:
        return "it does not say where it reads"
    if identity.layer is None:
        return f"hook point {identity.hook_name} is no residual stream that a block leaves"
    if identity.layer != layer:
        return f"it reads layer {identity.layer} ({identity.hook_name}), not layer {layer}"
    return None


def _model_difference(identity: Identity, read: Read) -> str | None:
    if identity.weights_sha is not None:
        same = identity.weights_sha == read.weights_sha
        return None if same else f"it was trained on other weights than those of {read.model}"
    if identity.model is None:
        return "it does not say which model it was trained on"
    if same_model(identity.model, read.model):
        return None
    kinds = (kind_of(identity.model), kind_of(read.model))
    theirs, ours = (f" ({kind})" if kinds[0] != kinds[1] else "" for kind in kinds)
    return f"it was trained on {identity.model}{theirs}, not on {read.model}{ours}"
