"""How an SAE is trained, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from pathlib import Path
from typing import Literal

Kind = Literal["topk", "jumprelu", "standard"]
KINDS: tuple[Kind, ...] = ("topk", "jumprelu", "standard")

SPARSITY = {"topk": 0.0, "jumprelu": 1.0, "standard": 2.0}
"""Coefficient of the sparsity loss of each kind; topk has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """What decides the weights. ValueError for sizes that make no sense."""

    reader: str
    corpus: str
    name: str
    layer: int
    width: int
    """d_sae."""
    kind: Kind
    format: Literal["raw", "chat"]
    tokens: int
    """Tokens to train on, repeats included."""
    l0: int = 16
    """Features that are to fire on a token: so many (topk) or about (jumprelu)."""
    sparsity: float | None = None
    """Coefficient of the sparsity loss (standard: L1); None: the kind's own default."""
    batch_tokens: int = 1024
    buffer_tokens: int = 262_144
    """Tokens that are shuffled together."""
    lr: float | None = None
    """Learning rate of Adam at its highest; None: by the width, see `learning_rate`."""
    held_out: float = 0.1
    """Share of the topics whose texts are not trained on."""
    seed: int = 0
    samples: tuple[str, ...] = ()
    """Drawn samples of texts of others (by source) that are trained on beside the corpus."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.layer < 0:
            raise ValueError(f"needed: a kind of {', '.join(KINDS)}, a layer from 0 on")
        if not 0 < self.l0 <= self.width:
            raise ValueError(f"--l0 {self.l0} is not within 1 and --width {self.width}")
        batch, buffer = self.batch_tokens, self.buffer_tokens
        if not 0 < batch <= min(self.tokens, buffer):
            raise ValueError(
                f"--batch-tokens {batch} is not within 1 and the smaller of --tokens "
                f"{self.tokens} and --buffer-tokens {buffer}"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held-out {self.held_out} is no share between 0 and 1")
        if not (self.lr is None or 0 < self.lr <= 1):
            raise ValueError(f"--lr {self.lr} is not above 0 and at most 1")
        if not (self.sparsity is None or 0 <= self.sparsity < inf):
            raise ValueError(f"--sparsity {self.sparsity} is no number from 0 on")

    @property
    def steps(self) -> int:
        """Batches to train on."""
        return self.tokens // self.batch_tokens

    @property
    def learning_rate(self) -> float:
        """`lr`, or 2e-3 for 512 features and less with the square root of the width: 1.8e-4 for
        65,536, a scaling found by Gao et al. 2024 (arXiv:2406.04093)."""
        return 2e-3 * sqrt(512 / self.width) if self.lr is None else self.lr

    @property
    def coefficient(self) -> float:
        """`sparsity`, or the kind's own."""
        return SPARSITY[self.kind] if self.sparsity is None else self.sparsity


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """`folder` holds the SAE in the sae-lens format once it is finished."""

    folder: Path | None
    tokens: int = 0
    """Trained on in this run."""
    held_out: Mapping[str, float] = field(default_factory=dict)
    """variance_unexplained, l0, dead_features (share), tokens."""
    stopped: bool = False
    elapsed_s: float = 0.0
