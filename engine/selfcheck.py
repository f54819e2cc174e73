"""Chooses how texts share a pass, and proves on probe texts that sharing changes nothing.

A batch is right when every text in it gets what it gets alone, but for rounding. Knows nothing of
files or corpora.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.capture import Pooled, capture
from engine.memory import is_out_of_memory
from engine.models import PROBE, Model
from engine.packing import Batching, Segment
from engine.tokens import encode_raw
from stores.errors import NoRoom

ORDER: tuple[Batching, ...] = ("packed", "padded", "alone")
INSTEAD = {"padded": "texts are padded instead", "alone": "texts are read one by one"}
PROBE_LENGTHS = (64, 16, 36)
BEYOND_WINDOW, SHORT = 32, 16
# Tokens worth spending on a text that is longer than a sliding window.
LONGEST_PROBE = {"cpu": 600, "cuda": 1100}
# How far the mean over half a probe may be from what it is alone, as a share of its norm. Another
# batch shape is another order of sums: wild random weights moved it by 2e-6
# in float32, 3e-3 in float16 and 2e-2 in bfloat16; the embedded model, which is trained, by 1e-2 at
# most. A neighbour that is seen moved it by .4 and more, in every type.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True, slots=True)
class Choice:
    """The batching to use; `reason` says why it is not the one first tried, None when it is."""

    batching: Batching
    reason: str | None


def choose_batching(
    model: Model, layers: Sequence[int], asked: Batching | Literal["auto"] = "auto"
) -> Choice:
    """The first batching that holds, from the one asked: packed, then padded, then alone.

    'auto' is packed where the attention kernel takes packed texts by their lengths (flash on CUDA),
    padded elsewhere. Raises NoRoom when memory does not suffice for the probes.
    """
    if asked == "auto":
        flash = model.device.type == "cuda" and "flash" in model.attention
        asked = "packed" if flash else "padded"
    if asked == "alone":
        return Choice("alone", None)
    batches = _probes(model)
    expected = [_run(model, layers, "alone", batch) for batch in batches]
    reasons: list[str] = []
    for i in range(ORDER.index(asked), ORDER.index("alone")):
        fault = _find_fault(model, layers, ORDER[i], batches, expected)
        if fault is None:
            return Choice(ORDER[i], "; ".join(reasons) or None)
        reasons.append(f"{fault}, so {INSTEAD[ORDER[i + 1]]}")
    return Choice("alone", "; ".join(reasons))


def _probes(model: Model) -> list[tuple[Segment, ...]]:
    """Batches of texts of clearly different lengths, one longer than a sliding window if any."""
    config = model.model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    longest = min(model.context or LONGEST_PROBE["cuda"], LONGEST_PROBE.get(model.device.type, 600))
    lengths: list[tuple[int, ...]] = [PROBE_LENGTHS]
    if window >= max(PROBE_LENGTHS) and window + BEYOND_WINDOW <= longest:
        lengths.append((window + BEYOND_WINDOW, SHORT))
    encoded = encode_raw(model, PROBE)
    start, content = encoded.ids[: encoded.content.start], encoded.ids[encoded.content]
    return [
        tuple(
            # The second half is averaged: what every text begins with is the same for all.
            Segment((*start, *islice(cycle(content), i, i + n - len(start))), slice(n // 2, None))
            for i, n in enumerate(min(length, longest) for length in batch)
        )
        for batch in lengths
    ]


def _known_fault(model: Model, batching: Batching) -> str | None:
    """What probes of a bearable length cannot show."""
    if batching != "packed":
        return None
    # Under a mask, what is not seen counts 0 times, and 0 times infinity is not a number. Only
    # float16 overflows in earnest, and kernels that know the edges never touch a neighbour.
    if model.dtype == "float16" and "flash" not in model.attention:
        return "in float16 packed texts that overflow spoil their neighbours"
    # Llama 4 scales attention by thousands of columns, more than a probe has.
    if getattr(model.model.config.get_text_config(), "attention_chunk_size", None):
        return "the model scales attention by column, and packed texts begin in any"
    return None


def _run(
    model: Model, layers: Sequence[int], batching: Batching, batch: Sequence[Segment]
) -> Pooled:
    try:
        with capture(model, layers, batching) as pooling:
            return pooling.start(batch).wait()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        longest = max(len(segment.ids) for segment in batch)
        raise NoRoom(
            f"model {model.name}: memory runs short on probe texts of {longest} tokens; free some, "
            "use --quantize 4bit, or leave the probes out with --batching alone"
        ) from error


def _find_fault(
    model: Model,
    layers: Sequence[int],
    batching: Batching,
    batches: Sequence[Sequence[Segment]],
    expected: Sequence[Pooled],
) -> str | None:
    """What is wrong with texts that share a pass, as half a sentence."""
    if fault := _known_fault(model, batching):
        return fault
    tolerance = TOLERANCES[model.dtype.split("+")[-1]]
    for batch, alone in zip(batches, expected, strict=True):
        try:
            found = _run(model, layers, batching, batch)
        except (TypeError, ValueError, RuntimeError) as error:
            first_line = str(error).partition("\n")[0]
            return f"the model takes no {batching} texts ({type(error).__name__}: {first_line})"
        errors = _compare(found, alone).max(axis=0)
        if not errors.max() <= tolerance:
            worst = int(errors.argmax())
            return (
                f"{batching} texts change each other (layer {layers[worst]} is off by "
                f"{errors[worst]:.1%}, and rounding explains {tolerance:.2%})"
            )
    return None


def _compare(found: Pooled, alone: Pooled) -> NDArray[np.float64]:
    """Distances [n, l] as shares of the norm; a text that overflows alone proves nothing."""
    with np.errstate(invalid="ignore", over="ignore"):
        distances = np.linalg.norm(found.means - alone.means, axis=-1)
        sizes = np.linalg.norm(alone.means, axis=-1)
        shares = np.nan_to_num(distances / sizes, nan=np.inf)
    return np.where(np.isfinite(sizes), shares, 0.0)
