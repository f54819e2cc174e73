"""Every number of the demo model's recipe, with the values that the shipped model was made with.

Knows nothing of how they are used. A recipe and a number of threads determine the weights on a CPU.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine.demo.batches import BatchSettings
from engine.models import default_layer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, on what, and how. Linear sizes are multiples of 64 (for 4-bit kernels)."""

    seed: int = 1
    layers: int = 6
    width: int = 128
    heads: int = 4
    ffn: int = 384
    context: int = 512
    init_std: float = 0.02
    analysis_layer: int = -1
    """0-based layer up to which options are bound late; -1: the block nearest 2/3 of the depth."""
    vocabulary: int = 2688
    word_repeats: int = 400
    """Times each listed word enters the tokenizer's corpus, so that it becomes one token."""
    tokenizer_documents: int = 4000
    steps: int = 2400
    rows: int = 16
    row_tokens: int = 192
    long_share: float = 0.5
    """Share of the tokens that comes from long documents (stories)."""
    late_share: float = 0.7
    """Share of the batches in which options are bound late."""
    lens_share: float = 0.25
    """Weight of the loss on words of feeling read at the analysis layer itself; 0: none."""
    muon_lr: float = 5e-3
    muon_weight_decay: float = 0.05
    adamw_lr: float = 3e-3
    """For the embedding and the norms."""
    warmup: int = 20
    """Steps of linear warm-up."""
    decay_from: float = 0.5
    """Share of the steps after which both rates fall linearly to zero."""
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        odd = [n for n in (self.width, self.ffn, self.vocabulary) if n % 64]
        if odd or self.width % self.heads:
            raise ValueError(f"width, ffn and vocabulary must be multiples of 64, got {odd}")
        if not -1 <= self.analysis_layer < self.layers:
            raise ValueError(f"analysis layer {self.analysis_layer}: not in {self.layers} layers")

    @property
    def late_layers(self) -> int:
        """How many of the lowest layers bind options late."""
        layer = self.analysis_layer
        return 1 + (default_layer(self.layers) if layer < 0 else layer)

    def batch_settings(self, *, seed: int, steps: int) -> BatchSettings:
        """How to make `steps` batches of this recipe's shape."""
        return BatchSettings(
            seed=seed,
            steps=steps,
            rows=self.rows,
            row_tokens=self.row_tokens,
            long_share=self.long_share,
            late_share=self.late_share,
        )

    def learning_rate(self, step: int) -> float:
        """Share of the full rates at `step`: warm-up, flat, then a line towards zero."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        left = (self.steps - step) / (self.steps * (1 - self.decay_from))
        return min(warm, left, 1.0)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per field of Recipe, and --settings for a JSON file (or text) of them."""
    parser.add_argument("--settings", metavar="JSON", help="a recipe as JSON: a file or the text")
    for field in fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        kind = float if isinstance(field.default, float) else int
        parser.add_argument(option, type=kind, help=f"default {field.default}")


def read_recipe(arguments: argparse.Namespace) -> Recipe:
    """Defaults, changed by --settings, changed by single options. Raises ValueError."""
    changes: dict[str, Any] = {}
    if arguments.settings:
        text: str = arguments.settings
        written = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())
        changes |= written.get("recipe", written)
    names = {field.name for field in fields(Recipe)}
    unknown = set(changes) - names
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    changes |= {name: v for name in names if (v := getattr(arguments, name)) is not None}
    return replace(Recipe(), **changes)
