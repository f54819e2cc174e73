"""Finds and loads an SAE: its configuration first, which costs nothing, its weights when needed.

Weights come from safetensors (or arrays of numpy, which hold no code); a release that is stored as
a pickle is refused. The only place that asks sae-lens to load anything.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from engine.features import configuration
from engine.features.catalogue import Entry, find_entry, require_readable
from engine.features.configuration import CONFIGURATION, SCALED, WEIGHTS
from engine.features.downloads import asking, pinned, read_shapes, resolve_commit
from engine.features.identity import Identity
from engine.features.library import loaders, quiet, sae_lens
from engine.features.naming import LONGEST
from stores.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class OpenSAE:
    """A loaded SAE: on the reader's device, in its type, for inference."""

    identity: Identity
    sae: Any
    """A `sae_lens.SAE`: encode, decode, W_dec, cfg."""
    scaled: float | None = None
    """What activations were to be multiplied by before encoding, folded into the weights here
    because the SAE asks for scaled activations and does not say by how much; None: nothing."""


def describe_folder(folder: Path) -> Identity:
    """From a folder in the sae-lens format: cfg.json and sae_weights.safetensors.

    UsageError when there is none or its configuration cannot be read.
    """
    source = str(folder)
    written = configuration.read(folder)
    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"{source}: no {WEIGHTS} beside its {CONFIGURATION}; copy both files")
    name = _slug(folder.resolve().name)
    return configuration.identify(written, source=source, name=name, folder=source)


def describe_release(release: str, sae_id: str | None) -> Identity:
    """From the catalogue and the release's configuration, which may have to be downloaded.

    Raises UsageError for what is not in the catalogue or is stored as a pickle, ModelError without
    a network when it is not in the cache: one line each, within seconds.
    """
    entry = find_entry(release, sae_id)
    require_readable(entry)
    source = f"{release}/{entry.sae_id}"
    with _reading(source), asking(source, entry.repo):
        commit = resolve_commit(entry.repo, entry.path)
        with pinned(commit):
            written = loaders().load_sae_config_from_huggingface(release, entry.sae_id)
    return configuration.identify(
        _corrected(written, entry),
        source=source,
        name=_slug(f"{release}-{entry.sae_id}"),
        release=release,
        sae_id=entry.sae_id,
        commit=commit,
        stated=_stated(entry),
        neuronpedia=entry.neuronpedia,
    )


def fingerprint(identity: Identity) -> str:
    """sha256 over what decides its codes: a folder's two files; of a release, its repository's
    commit and its name.

    Raises UsageError when a file cannot be read.
    """
    if identity.folder is None:
        said = "\n".join([str(identity.commit), str(identity.release), str(identity.sae_id)])
        return hashlib.sha256(said.encode()).hexdigest()
    files = hashlib.sha256()
    with _reading(identity.source):
        for name in (CONFIGURATION, WEIGHTS):
            with Path(identity.folder, name).open("rb") as file:
                files.update(hashlib.file_digest(file, "sha256").digest())
    return files.hexdigest()


def open_sae(identity: Identity, *, device: str, dtype: str, mean_norm: float | None) -> OpenSAE:
    """Load it. `dtype` is torch's name; `mean_norm` of the reader's residual stream at its layer,
    for an SAE that asks for activations of mean norm sqrt(d_in) and was not folded.

    Raises what `describe_release` raises, UsageError for weights that do not fit the configuration
    or are not finite; ValueError without a `mean_norm` that is needed.
    """
    if identity.folder is None:
        sae = _load_release(identity, device, dtype)
    else:
        sae = _load_folder(Path(identity.folder), identity, device, dtype)
    sae.eval().requires_grad_(False)
    if not all(bool(each.isfinite().all()) for each in sae.parameters()):
        raise UsageError(f"{identity.source}: some of its weights are not finite; choose another")
    return OpenSAE(identity, sae, _scale(sae, mean_norm))


def _load_release(identity: Identity, device: str, dtype: str) -> Any:
    entry = find_entry(str(identity.release), identity.sae_id)
    require_readable(entry)
    package, commit = sae_lens(), str(identity.commit)
    with _reading(identity.source), asking(identity.source, entry.repo), pinned(commit):
        return package.SAE.from_pretrained(entry.release, entry.sae_id, device=device, dtype=dtype)


def _load_folder(folder: Path, identity: Identity, device: str, dtype: str) -> Any:
    with _reading(identity.source):
        shape = read_shapes(folder / WEIGHTS).get("W_dec")
        if shape != [identity.d_sae, identity.d_in]:
            raise UsageError(
                f"{identity.source}: W_dec in {WEIGHTS} is {shape}, but {CONFIGURATION} says "
                f"[{identity.d_sae}, {identity.d_in}]; copy both files from the same place"
            )
        package = sae_lens()
        with quiet():
            return package.SAE.load_from_disk(folder, device=device, dtype=dtype)


def _scale(sae: Any, mean_norm: float | None) -> float | None:
    """Fold what makes activations of `mean_norm` ones of norm sqrt(d_in), where it is asked for."""
    if sae.cfg.normalize_activations != SCALED:
        return None
    if mean_norm is None or not mean_norm > 0:
        raise ValueError("this SAE asks for scaled activations, and their mean norm is not given")
    factor = float(sae.cfg.d_in**0.5 / mean_norm)
    sae.fold_activation_norm_scaling_factor(factor)
    return factor


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """What sae-lens and safetensors raise for files that do not fit is one line."""
    from safetensors import SafetensorError

    kinds = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
    try:
        yield
    except (*kinds, BadZipFile, SafetensorError) as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> UsageError:
    return UsageError(
        f"{source}: its weights or configuration cannot be read as those of an SAE "
        f"({type(error).__name__}); download or save it again"
    )


def _corrected(written: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """What sae-lens' configuration of a release leaves out or gets wrong."""
    metadata = dict(written.get("metadata") or {})
    # it calls the model of this format Llama-3.1-8B whichever it was; elsewhere what it says is
    # nearer to the files than the catalogue
    if entry.loader == "llama_scope_r1_distill" or not metadata.get("model_name"):
        metadata["model_name"] = entry.model
    folded = entry.scaled is not None and written.get("normalize_activations") == SCALED
    normalize = {"normalize_activations": "none"} if folded else {}
    return {**written, **normalize, "metadata": metadata}


def _stated(entry: Entry) -> dict[str, float]:
    explained = entry.variance_explained
    claims = {"l0": entry.l0, "variance_unexplained": None if explained is None else 1 - explained}
    return {name: value for name, value in claims.items() if value is not None}


def _slug(name: str) -> str:
    """Without dots, by which the files of one analysis are told from those of another."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:LONGEST] or "sae"
