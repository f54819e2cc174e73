"""A model on this machine, found and loaded only when it is needed, and as a writer of texts.

Knows nothing of rows, prompts or checks.
"""

import re
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from engine.backends.base import Backend
from engine.backends.local import LocalBackend
from engine.checkpoints import LOCAL, Checkpoint, describe_checkpoint
from engine.models import Model, load_model
from engine.placement import choose_device
from engine.weights import NF4, Quantize, compute_type
from engine.writers import Identity
from stores.budgets import remember_budget, remembered_budget
from stores.database import Connection
from stores.readers import reader_settings, reader_source

STAGE = "generate"


@dataclass(frozen=True, kw_only=True)
class LazyModel:
    """A model by hub id or path: found when first asked about, loaded when first needed."""

    name: str
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    quantize: Quantize | None = None
    offload: bool = False
    attention: str | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What it is, without its weights. Raises ModelError."""
        return describe_checkpoint(
            self.name, revision=self.revision, trust_remote_code=self.trust_remote_code
        )

    @cached_property
    def loaded(self) -> Model:
        """The model itself. Raises ModelError."""
        return load_model(self.name, **{k: v for k, v in asdict(self).items() if k != "name"})

    @property
    def slug(self) -> str:
        """Its name as the name of a reader: the last part of the path or hub id."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.name).name).strip("-._") or "reader"

    @property
    def source(self) -> str:
        """Where it can be found again: a hub id, or the whole path of a folder."""
        folder = Path(self.name)
        return str(folder.resolve()) if folder.is_dir() else self.name

    @property
    def compute_dtype(self) -> str:
        """The type it computes in, known before it is loaded."""
        return compute_type(self.checkpoint, self.dtype, self.device, self.quantize)


def reader_model(
    conn: Connection, reader: str, *, name: str | None, dtype: str, **options: Any
) -> LazyModel | None:
    """The model of a reader, in the type it read with unless another is asked for.

    Found where it was last read from, unless `name` says where; None when nobody knows.
    """
    settings = reader_settings(conn, reader)
    found = name or reader_source(conn, reader)
    if found is None:
        return None
    if name is None and settings["revision"] != LOCAL:
        options["revision"] = options["revision"] or settings["revision"]
    quantized = settings["dtype"].startswith(NF4)
    return LazyModel(
        name=found,
        dtype=settings["dtype"].removeprefix(NF4) if dtype == "auto" else dtype,
        quantize="4bit" if quantized else None,
        **options,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWriter:
    """A Hugging Face model on this machine."""

    model: LazyModel
    tokens_per_batch: int | None = None
    """Prompt and answer tokens in memory at once; None: what fitted before, or no limit."""

    def identify(self) -> Identity:
        checkpoint = self.model.checkpoint
        settings = {"dtype": self.model.compute_dtype, "tokens_per_batch": self.tokens_per_batch}
        return Identity("local", checkpoint.name, checkpoint.weights_sha, settings)

    def open(self, conn: Connection, workers: int) -> Backend:
        place = (STAGE, f"{self.model.checkpoint.name} {self.model.compute_dtype}")
        device = str(choose_device(self.model.device))
        known = remembered_budget(conn, *place, device)
        return LocalBackend(
            self.model.loaded,
            workers=workers,
            tokens_per_batch=self.tokens_per_batch or known,
            remember=partial(remember_budget, conn, *place, device),
        )
