"""What the verification suite can be asked for beyond the layers of an analysis.

All of it counts in the fingerprint of the analyses that read a model. Knows nothing of criteria.
"""

from dataclasses import dataclass
from typing import Literal

from stores.errors import BadValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """How prompts are put and what is steered. BadValue for a number that makes no sense."""

    form: Literal["auto", "chat", "plain"] = "auto"
    """Chat template, or plain 'Human: ... Assistant:'; auto: chat where there is a template."""
    strength: float = 0.5
    """Length of what is added, as a fraction of the mean residual norm of its layer."""
    steered: int = 35
    """Emotions in each selection that is steered."""
    randoms: int = 12
    """Random directions of the same length: the control that every effect is held against."""
    doses: tuple[float, ...] = (-0.5, -0.25, 0.25, 0.75)
    """Further strengths for the exemplars, for the dose curve and the opposite sign."""
    band: tuple[int, ...] | None = None
    """Layers steered together; None: the extracted ones from half depth to the analysis layer."""
    band_emotions: int = 12
    """Emotions steered over the band."""
    tokens_per_batch: int | None = None
    """Tokens of one pass; None: the device's own."""

    def __post_init__(self) -> None:
        if not 0.0 < self.strength <= 10.0:
            raise BadValue(f"strength {self.strength}: a fraction of the residual norm, such as .5")
        if self.steered < 3 or self.band_emotions < 3:
            raise BadValue("a correlation needs at least 3 steered emotions")
        if self.randoms < 5:
            raise BadValue(
                f"{self.randoms} random directions: at least 5 are needed to judge an effect"
            )
        if len(set(self.doses)) < len(self.doses) or 0.0 in self.doses:
            raise BadValue(f"doses {list(self.doses)}: each once, and 0 is always there")
