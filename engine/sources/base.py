"""What a source of texts is: something with a name, an identity and documents to be had in order.

Knows nothing of samples, models or the ledger.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Found:
    """A document as a source gives it, or why a place holds none (`text` None, `fault` told)."""

    place: str
    text: str | None
    part: str | None = None
    fault: str | None = None
    """empty, no_text, not_json, not_utf8, ...: counted, never silent."""


class Source(Protocol):
    """Documents in an order that is the same each time."""

    name: str
    """A slug: pile, lmsys, or what the user called it."""
    settings: Mapping[str, Any]
    """What identifies it: data set and revision, or files with sizes and digests; the field."""
    whole: bool
    """Every document can be seen in reasonable time: a sample is drawn from all of them. Else the
    source shuffles by its own seed and the first distinct ones are taken."""

    def read(self) -> Iterator[Found]:
        """Every document, or the faults in their places. Raises EngineError: one line."""
        ...
