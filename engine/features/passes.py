"""The open chunks of a pass under an SAE and its control: read, encoded and kept one by one.

Knows nothing of which texts are open, nor of what is asked of codes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.budget import open_budget
from engine.extraction import ExtractionProgress
from engine.features.banks import Banks, open_banks
from engine.features.codes import CodePooler, TextCodes
from engine.features.identity import Identity
from engine.memory import is_out_of_memory
from engine.models import Model
from engine.readings import NOT_FINITE, OUT_OF_MEMORY, Fault, Reading, TextReader
from engine.selfcheck import choose_batching
from stores.database import Connection
from stores.encodings import BANKS, EncodedText, Encoding, commit_codes
from stores.errors import NoRoom
from stores.failpoints import reach
from stores.rows import read_texts

if TYPE_CHECKING:
    from engine.features.job import Chunk, EncodingSettings

Progress = Callable[[ExtractionProgress], None]


@dataclass(slots=True)
class Work:
    """A loaded model and both SAEs, set up to read chunks, and this run's tallies."""

    conn: Connection
    reader: TextReader
    pooler: CodePooler
    progress: Progress
    tell: Callable[[str], None]
    noted: Mapping[str, Any]
    """Kept with the pass beside what identifies it."""
    how: Mapping[str, Any]
    """Kept with the run: how texts share a pass of the model."""
    texts: int = 0
    tokens: int = 0
    too_large: int = 0
    total: int = 0
    began: float = field(default_factory=time.monotonic)

    def read(self, encoding: Encoding, chunks: Sequence["Chunk"]) -> bool:
        """Read them all; False when a stop came first."""
        self.total = sum(len(chunk.rows) for chunk in chunks)
        complete = all(self._read_chunk(encoding, chunk) for chunk in chunks)
        if self.too_large:
            self.tell(f"{self.too_large} texts do not fit the memory even alone: no codes of them")
        return complete

    def _read_chunk(self, encoding: Encoding, chunk: "Chunk") -> bool:
        """Read a chunk and keep it; False when a stop came first."""
        if self.pooler.stop.is_set():
            return False
        texts = read_texts(self.conn, chunk.kind, [row.text_id for row in chunk.rows])
        readings = [self.reader.read(texts[row.text_id]) for row in chunk.rows]
        sound = [i for i, reading in enumerate(readings) if reading.fault is None]
        self._advance(len(readings) - len(sound), 0)
        encoded = self.pooler.encode([each.segment for each in readings], sound, self._advance)
        if encoded is None:
            return False
        reach("codes_computed")
        rows: list[EncodedText] = []
        for row, reading, codes in zip(chunk.rows, readings, encoded.texts, strict=True):
            rows += spell_text(row.text_id, reading, codes)
        commit_codes(self.conn, encoding, chunk.kind, rows)
        reach("codes_kept")
        self.too_large += len(encoded.too_large)
        return True

    def _advance(self, texts: int, tokens: int) -> None:
        self.texts += texts
        self.tokens += tokens
        elapsed = time.monotonic() - self.began
        self.progress(ExtractionProgress(self.texts, self.total, self.tokens, elapsed))


def open_work(
    conn: Connection,
    model: Model,
    identity: Identity,
    settings: "EncodingSettings",
    kept: Mapping[str, Any],
    known: Encoding | None,
    progress: Progress,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> Work:
    """Load the SAE and draw its control; `kept` is what identifies the pass, `known` the pass as it
    was begun, whose control it keeps. Raises what `open_sae` and `choose_batching` raise."""
    device = str(model.device)
    choice = choose_batching(model, [settings.layer], settings.batching)
    if choice.reason:
        tell(choice.reason)
    which = f"{model.name} {model.dtype}"
    budget = open_budget(conn, settings.tokens_per_batch, model=which, device=device)
    l0 = None if known is None else known.settings["l0"]
    banks = _open_banks(conn, model, identity, settings, kept, l0)
    if banks.scaled is not None:
        tell(f"activations are multiplied by {banks.scaled:.4g} before encoding, as the SAE asks")
    noted = {
        "source": identity.source,
        "architecture": identity.architecture,
        "features": identity.d_sae,
        "model": model.name,
        "l0": banks.l0,
        "scaled": banks.scaled,
    }
    reader = TextReader(model, settings.format, settings.start_token)
    saes = (banks.sae, banks.control)
    pooler = CodePooler(model, choice.batching, budget, stop, settings.layer, saes)
    how = {"tokens_per_batch": budget.tokens, **asdict(choice), "attention": model.attention}
    return Work(conn, reader, pooler, progress, tell, noted, how | {"device": device})


def _open_banks(
    conn: Connection,
    model: Model,
    identity: Identity,
    settings: "EncodingSettings",
    kept: Mapping[str, Any],
    l0: float | None,
) -> Banks:
    """What `open_banks` gives. NoRoom when the memory does not hold both beside the model."""
    try:
        return open_banks(conn, model, identity, settings, kept, l0)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise NoRoom(
            f"{identity.source}: memory runs short of the SAE and its control beside the model; "
            "free some, or use --sae-dtype bfloat16 or --quantize 4bit"
        ) from error


def spell_text(
    text_id: int, reading: Reading, codes: tuple[TextCodes, ...] | None
) -> Iterator[EncodedText]:
    """A text under each bank: its codes, or the same fault under both."""
    fault = reading.fault or find_fault(codes)
    if fault is not None or codes is None:
        status, reason = fault or OUT_OF_MEMORY
        tokens = len(reading.segment.ids[reading.segment.pooled])
        yield from (EncodedText(text_id, bank, status, reason, tokens) for bank in BANKS)
        return
    for bank, each in zip(BANKS, codes, strict=True):
        yield EncodedText(
            *(text_id, bank, "done", None, each.tokens, each.l0, each.error, each.square),
            *(each.features, each.means),
        )


def find_fault(codes: tuple[TextCodes, ...] | None) -> Fault | None:
    """Why a text that was read has no codes to use, or None."""
    if codes is None:
        return OUT_OF_MEMORY
    sums = [(each.l0, each.error, each.square) for each in codes]
    finite = np.isfinite(sums).all() and all(np.isfinite(each.means).all() for each in codes)
    return None if finite else NOT_FINITE
