"""Steps through the buffers, keeps checkpoints and the curve, and finishes the SAE.

Knows nothing of which texts there are or of what identifies a training.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.features.library import sae_lens
from engine.features.training.checkpoints import Position, write_checkpoint
from engine.features.training.finished import Finished, keep_finished
from engine.features.training.measures import measure_sae
from engine.features.training.settings import TrainingSettings
from engine.features.training.stream import Tokens, TokenStream
from engine.features.training.trainer import describe_step, fold, start_from, train_step
from stores.errors import NotReady, Stopped
from stores.failpoints import reach

CHECKPOINT_SHARE = 0.1
"""Of the time, at most, that goes into writing checkpoints: after each buffer, or after some."""
POINTS = 200
"""Of the curve, about."""
TOLD_EVERY = 20
"""Steps."""

Progress = Callable[[int, int, str], None]
"""Told tokens trained on, of how many, and a note."""


@dataclass(slots=True, kw_only=True)
class Training:
    """A training under way."""

    settings: TrainingSettings
    identity: Mapping[str, Any]
    checkpoint: Path
    trainer: Any
    stream: TokenStream
    position: Position
    progress: Progress
    stop: threading.Event
    _saved_at: float = field(default=0.0, init=False)
    _saving_s: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Train to the end and keep a checkpoint of it. Raises Stopped, with a checkpoint, too."""
        try:
            while not self._is_over:
                self._train_buffer()
        except Stopped:
            if self.trainer.n_training_steps:
                self._save()
            raise

    @property
    def _is_over(self) -> bool:
        return bool(self.trainer.n_training_steps >= self.settings.steps)

    def _train_buffer(self) -> None:
        """What is left of the buffer at hand."""
        tokens, order = self.stream.read(self.position.buffer)
        if not len(tokens):
            raise NotReady("no token of these texts can be read; train on others")
        if not self.trainer.n_training_steps:
            start_from(self.trainer, tokens)
        for batch in self._batches(order):
            if self.stop.is_set():
                raise Stopped("stopped; the same command goes on")
            self._train_batch(tokens[batch])
        self.position.buffer, self.position.batch = self.position.buffer + 1, 0
        reach("buffer_trained")
        spent = time.monotonic() - self._saved_at
        if self._is_over or CHECKPOINT_SHARE * spent >= self._saving_s:
            self._save()
            reach("checkpoint_written")

    def _batches(self, order: "np.ndarray[Any, np.dtype[np.int64]]") -> Iterator[Any]:
        """Full ones, from the position on; what is left over comes again in a later buffer."""
        size = self.settings.batch_tokens
        batches = [order[i * size : (i + 1) * size] for i in range(max(1, len(order) // size))]
        left = self.settings.steps - self.trainer.n_training_steps
        yield from batches[self.position.batch :][:left]

    def _train_batch(self, tokens: Tokens) -> None:
        step = train_step(self.trainer, torch.from_numpy(tokens))
        self.position.batch += 1
        steps, total = self.trainer.n_training_steps, self.settings.steps
        if steps % max(1, total // POINTS) == 0 or steps == total:
            self.position.curve.append(describe_step(self.trainer, step))
        if (steps % TOLD_EVERY == 0 or steps == total) and self.position.curve:
            last = self.position.curve[-1]
            note = f"{last['variance_unexplained']:.3f} unexplained, l0 {last['l0']:.1f}"
            self.progress(self.trainer.n_training_samples, self.settings.tokens, note)

    def _save(self) -> None:
        began = time.monotonic()
        write_checkpoint(self.checkpoint, self.trainer, self.position, self.identity)
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - began

    def finish(self, folder: Path, held_out: TokenStream, metadata: Mapping[str, Any]) -> Finished:
        """Measure the trained SAE on tokens held out and put it at `folder`. Raises Stopped."""
        fold(self.trainer)
        sae, device = self.trainer.sae, str(self.trainer.sae.device)

        def measure(side: Path) -> Mapping[str, float]:
            loaded = sae_lens().SAE.load_from_disk(side, device=device)
            parts = (held_out.read(number)[0] for number in range(held_out.buffers))
            return measure_sae(loaded, parts)

        curve = self.position.curve
        return keep_finished(folder, sae, self.identity, curve, measure, metadata)
