"""The two SAEs of a pass: the one that is looked at, and a random one that matches it.

Knows nothing of chunks, nor of what is asked of codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.features.controls import draw_control, measure_l0, measure_spread
from engine.features.identity import Identity
from engine.features.opening import open_sae
from engine.features.sampling import sample_segments, sample_tokens
from engine.models import Model
from stores.database import Connection

if TYPE_CHECKING:
    from engine.features.job import EncodingSettings


@dataclass(frozen=True, slots=True, eq=False)
class Banks:
    """Both SAEs, on the model's device and in the same type, and what was measured for them."""

    sae: Any
    control: Any
    l0: float
    """Features of the SAE that fire on a token; of the control as many, rounded."""
    scaled: float | None
    """What activations are multiplied by before encoding, where the SAE asks for it."""


def open_banks(
    conn: Connection,
    model: Model,
    identity: Identity,
    settings: "EncodingSettings",
    kept: Mapping[str, Any],
    l0: float | None = None,
) -> Banks:
    """Load the SAE and draw its control from tokens of the reader's stories.

    `kept` is what identifies the pass, `l0` what was measured when it was begun; the same of both
    give the same control. Raises what `open_sae` raises.
    """
    device, dtype = str(model.device), kept["sae_dtype"]
    opened = open_sae(identity, device=device, dtype=dtype, mean_norm=kept["mean_norm"])
    segments = sample_segments(
        conn,
        model,
        settings.reader,
        settings.corpus,
        format=settings.format,
        start_token=settings.start_token,
        tokens=settings.spread_tokens,
        seed=settings.seed,
    )
    tokens = sample_tokens(model, settings.layer, segments)
    known = measure_l0(opened.sae, tokens) if l0 is None else l0
    control = draw_control(
        measure_spread(tokens),
        features=identity.d_sae,
        l0=known,
        seed=settings.seed,
        device=device,
        dtype=dtype,
    )
    return Banks(opened.sae, control, known, opened.scaled)
