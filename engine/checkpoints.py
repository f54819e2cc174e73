"""Finds the files of a model and tells what identifies them, before any weight is read.

A checkpoint is a local folder or a hub repository at one commit. Describing one is cheap enough to
check fingerprints before a model is loaded. Knows nothing of torch, devices or layers.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging

from stores.errors import ModelError

LOCAL = "local"
WHOLE_BYTES = 64 << 20
SAMPLES, SAMPLE_BYTES = 64, 1 << 20
# What the libraries below raise for files that are absent, unknown, torn or of another shape.
LOADING_ERRORS = (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model is made from. `revision` is a hub commit, or 'local' for a folder."""

    name: str
    source: str
    revision: str
    weights_sha: str
    config: PretrainedConfig
    n_layers: int
    d_model: int
    offline: bool

    @property
    def hub_revision(self) -> str | None:
        """The commit to ask the hub for; None for a folder."""
        return None if self.revision == LOCAL else self.revision


def describe_checkpoint(
    name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Find a checkpoint, resolve its commit and read its configuration; no weights are loaded.

    A folder is named by its last part, so that moving it does not make it another model: its
    `weights_sha` is what identifies it. Raises ModelError.
    """
    folder = Path(name_or_path)
    offline = False
    if folder.is_dir():
        name, commit, weights_sha = folder.resolve().name, LOCAL, weights_digest(folder)
    elif folder.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1:
        raise ModelError(f"model {name_or_path}: no such folder; give a hub id or an existing path")
    else:
        name = name_or_path
        commit, offline = _resolve_commit(name, revision)
        weights_sha = f"commit:{commit}"
    with model_errors(name_or_path):
        config = AutoConfig.from_pretrained(
            name_or_path,
            revision=None if commit == LOCAL else commit,
            trust_remote_code=trust_remote_code,
            local_files_only=offline,
        )
    text = config.get_text_config()
    return Checkpoint(
        name=name,
        source=name_or_path,
        revision=commit,
        weights_sha=weights_sha,
        config=config,
        n_layers=int(text.num_hidden_layers),
        d_model=int(text.hidden_size),
        offline=offline,
    )


def weights_digest(folder: Path) -> str:
    """SHA-256 over the safetensors files of a folder (names, sizes, bytes).

    Files above 64 MiB are sampled: 64 evenly spaced blocks of 1 MiB, the first of which holds the
    header. A change that only touches bytes between the blocks of such a file is not seen.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"model {folder}: no .safetensors file in this folder; "
            "convert the checkpoint with save_pretrained(..., safe_serialization=True)"
        )
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        for block in _blocks(path, size):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            yield file.read()
            return
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)


def _resolve_commit(name: str, revision: str | None) -> tuple[str, bool]:
    """(commit, offline). Without a network, a copy in the local hub cache is as good."""
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=10).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"model {name}: unknown on the hub (or private); check the id, the revision, "
            "and `hf auth login`"
        ) from error
    except ValueError as error:
        raise ModelError(f"model {name}: neither a folder nor a valid hub id") from error
    except (HTTPError, OSError) as error:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name, True
        raise ModelError(
            f"model {name}: the hub cannot be reached ({one_line(error)}) and nothing is cached; "
            "connect, or give the path of a downloaded folder"
        ) from error
    return str(commit), False


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Turn the loader's many failures into one line, and mute its progress bars and reports."""
    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    except LOADING_ERRORS as error:
        raise ModelError(f"model {name}: cannot be loaded: {one_line(error)}") from error
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its class when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
