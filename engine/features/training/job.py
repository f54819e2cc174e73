"""Trains an SAE with sae-lens' own trainer on what a reader makes of its texts, and goes on later.

Tokens come from the extraction's own passes, shuffled in buffers that depend on the seed and their
number alone; a checkpoint holds weights and optimiser in safetensors. Knows nothing of emotions.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.features.naming import require_name
from engine.features.training.finished import Finished, read_finished
from engine.features.training.settings import TrainingSettings, TrainingSummary
from engine.features.training.texts import Texts, choose_texts
from stores.database import Connection
from stores.errors import Stopped, UsageError
from stores.runs import STOPPED, recorded_run
from stores.workspace import Workspace

if TYPE_CHECKING:  # they load torch
    from engine.features.training.loop import Progress, Training
    from engine.features.training.stream import TokenReader
    from engine.loading import LazyModel

SHOWN = 24
"""Characters of a setting in a message."""


def run_training(
    conn: Connection,
    workspace: Workspace,
    model: "LazyModel",
    settings: TrainingSettings,
    *,
    progress: "Progress",
    stop: threading.Event,
    tell: Callable[[str], None] = lambda _line: None,
) -> TrainingSummary:
    """Train, or go on; a finished one with the same settings is not trained again.

    After `stop` a checkpoint is written. Raises UsageError when another SAE has that name or the
    model lacks that layer, NotReady when the reader has no texts, EngineError when model or disk
    refuses or the training diverges.
    """
    if settings.layer >= model.checkpoint.n_layers:
        raise UsageError(
            f"layer {settings.layer}: model {model.checkpoint.name} has "
            f"{model.checkpoint.n_layers} layers, numbered from 0"
        )
    texts = choose_texts(conn, settings)
    job = _Job(conn, model, settings, texts, progress, stop, tell, _folder(workspace, settings))
    finished = read_finished(job.folder)
    if finished is None:
        return job.run()
    job.require_same(finished.settings)
    job.forget()
    return TrainingSummary(finished.folder, held_out=finished.held_out)


def _folder(workspace: Workspace, settings: TrainingSettings) -> Path:
    return workspace.saes(settings.reader) / require_name(settings.name)


@dataclass(slots=True)
class _Job:
    """A training of one SAE: what it was given, and where it is kept."""

    conn: Connection
    model: "LazyModel"
    settings: TrainingSettings
    texts: Texts
    progress: "Progress"
    stop: threading.Event
    tell: Callable[[str], None]
    folder: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def side(self) -> Path:
        """The folder of the checkpoint."""
        return self.folder.with_name(f".{self.folder.name}.training")

    @property
    def checkpoint(self) -> Path:
        """Where the training stands."""
        return self.side / "checkpoint.safetensors"

    def forget(self) -> None:
        """Drop the checkpoint of a finished training."""
        shutil.rmtree(self.side, ignore_errors=True)

    def identity(self) -> dict[str, Any]:
        """All that decides the weights; known before any model is loaded."""
        settings, checkpoint = self.settings, self.model.checkpoint
        return {
            **asdict(settings),
            "samples": list(settings.samples),
            "lr": settings.learning_rate,
            "sparsity": settings.coefficient,
            "weights_sha": checkpoint.weights_sha,
            "dtype": self.model.compute_dtype,
            "texts": self.texts.digest,
            "topics": list(self.texts.topics),
        }

    def require_same(self, known: Mapping[str, Any]) -> None:
        """UsageError when what is there was begun with other settings."""
        asked = self.identity()
        differing = [name for name in asked if known.get(name) != asked[name]]
        told = [
            f"{name} {str(known.get(name))[:SHOWN]}, not {str(asked[name])[:SHOWN]}"
            for name in differing
        ]
        if differing:
            raise UsageError(
                f"SAE {self.folder.name} was begun with {'; '.join(told)}; choose another --name, "
                f"or remove {self.folder} and {self.side}"
            )

    def run(self) -> TrainingSummary:
        """Train, or go on, as a recorded run."""
        from engine.features.training.checkpoints import read_settings

        if self.checkpoint.is_file():
            self.require_same(read_settings(self.checkpoint))
        settings, checkpoint = self.settings, self.model.checkpoint
        with recorded_run(
            self.conn,
            f"sae train {settings.name}",
            self.identity() | {"source": self.model.source},
            reader=settings.reader,
            corpus=settings.corpus,
            model=checkpoint.name,
            model_revision=checkpoint.weights_sha,
        ) as run:
            reader = self._open_reader()
            training = self._open_training(reader)
            before = training.trainer.n_training_samples
            finished = self._train(training, reader)
            if finished is None:
                run.outcome = STOPPED
        if reader.unreadable:
            self.tell(f"left out, because they cannot be read: {len(reader.unreadable)} texts")
        return TrainingSummary(
            folder=None if finished is None else finished.folder,
            tokens=training.trainer.n_training_samples - before,
            held_out={} if finished is None else finished.held_out,
            stopped=finished is None,
            elapsed_s=time.monotonic() - self.began,
        )

    def _train(self, training: "Training", reader: "TokenReader") -> Finished | None:
        """The finished SAE; None after a stop."""
        from engine.features.training.stream import TokenStream

        settings = self.settings
        gather = partial(reader.gather, self.conn)
        held_out = TokenStream(gather, self.texts.held_out, settings.buffer_tokens, settings.seed)
        try:
            training.run()
            finished = training.finish(self.folder, held_out, self._metadata())
        except Stopped:
            return None
        self.forget()
        return finished

    def _metadata(self) -> dict[str, Any]:
        """What an SAE says of itself."""
        settings, checkpoint = self.settings, self.model.checkpoint
        return {
            "model_name": checkpoint.name,
            "weights_sha": checkpoint.weights_sha,
            "hook_name": f"blocks.{settings.layer}.hook_resid_post",
            "layer": settings.layer,
            "reader": settings.reader,
            "corpus": settings.corpus,
            "training_tokens": settings.steps * settings.batch_tokens,
            "held_out_topics": len(self.texts.topics),
        }

    def _open_reader(self) -> "TokenReader":
        """The loaded model, set up to read every content token."""
        from engine.budget import open_budget
        from engine.features.training.stream import TokenReader
        from engine.readings import TextReader
        from engine.selfcheck import choose_batching

        loaded, layer = self.model.loaded, self.settings.layer
        choice = choose_batching(loaded, [layer])
        if choice.reason:
            self.tell(choice.reason)
        which = f"{loaded.name} {loaded.dtype}"
        budget = open_budget(self.conn, None, model=which, device=str(loaded.device))
        texts = TextReader(loaded, self.settings.format, 0)
        return TokenReader(loaded, choice.batching, budget, self.stop, texts, layer)

    def _open_training(self, reader: "TokenReader") -> "Training":
        """At the beginning, or where the checkpoint left it."""
        from engine.features.training.checkpoints import Position, read_checkpoint
        from engine.features.training.loop import Training
        from engine.features.training.stream import TokenStream
        from engine.features.training.trainer import open_trainer

        settings = self.settings
        trainer = open_trainer(settings, reader.model.d_model, str(reader.model.device))
        gather = partial(reader.gather, self.conn)
        return Training(
            settings=settings,
            identity=self.identity(),
            checkpoint=self.checkpoint,
            trainer=trainer,
            stream=TokenStream(gather, self.texts.training, settings.buffer_tokens, settings.seed),
            position=(
                read_checkpoint(self.checkpoint, trainer)
                if self.checkpoint.is_file()
                else Position()
            ),
            progress=self.progress,
            stop=self.stop,
        )
