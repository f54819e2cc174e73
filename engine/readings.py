"""A text as the tokens a model reads, or the reason why it is not read.

Knows nothing of batches, arrays or the ledger.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.models import Model
from engine.packing import Segment
from engine.tokens import TokenizedText, encode_chat, encode_raw
from stores.activations import RowOutcome
from stores.database import digest

Fault = tuple[Literal["rejected", "failed"], str]

OUT_OF_MEMORY: Fault = ("failed", "out_of_memory")
NOT_FINITE: Fault = ("failed", "not_finite")


@dataclass(frozen=True, slots=True)
class Reading:
    """One text: its tokens and which of them are pooled.

    `length` counts its content, BOS and template left out; `fault` says why it is not read.
    """

    segment: Segment
    length: int
    fault: Fault | None


@dataclass(slots=True)
class TextReader:
    """Turns texts into readings: plain (`raw`) or as a user's turn of a chat.

    Pooled are the content tokens from `start_token` (0-based) on; at least one must be left.
    """

    model: Model
    format: Literal["raw", "chat"]
    start_token: int
    control: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        tokenizer = self.model.tokenizer
        self.control = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def read(self, text: str) -> Reading:
        """Token ids of one text. None is cut to fit, none may forge control tokens in a chat."""
        encode = encode_raw if self.format == "raw" else encode_chat
        return self.judge(text, encode(self.model, text))

    def judge(self, text: str, tokenized: TokenizedText) -> Reading:
        """What is read of a text whose tokens are known."""
        ids, content = tokenized.ids, tokenized.content
        length = content.stop - content.start
        pooled = slice(min(content.start + self.start_token, content.stop), content.stop)
        return Reading(Segment(ids, pooled), length, self._fault(text, tokenized, length))

    def _fault(self, text: str, tokenized: TokenizedText, length: int) -> Fault | None:
        if not text.strip():
            return ("failed", "empty")
        if self.model.context is not None and len(tokenized.ids) > self.model.context:
            return ("failed", "too_long")
        if length == 0 or not self.control.isdisjoint(tokenized.ids[tokenized.content]):
            return ("failed", "unreadable")
        return ("rejected", "too_short") if length <= self.start_token else None


def outcome_of(row: int, reading: Reading, fault: Fault | None) -> RowOutcome:
    """What the ledger keeps of a row: `fault` if there is one, and whose tokens were read."""
    status, reason = fault or ("done", None)
    ids = np.asarray(reading.segment.ids, dtype="<i4")
    return RowOutcome(row, reading.length, digest(ids.tobytes()), status, reason)
