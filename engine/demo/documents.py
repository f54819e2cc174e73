"""A training document of the demo language: text, loss weights, and spans for late binding.

Knows nothing of worlds, tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass

USER, ASSISTANT = "Human: ", "\n\nAssistant:"


@dataclass(frozen=True, slots=True)
class Document:
    """A text without start or end token, and what a trainer should know about its characters."""

    kind: str
    text: str
    weights: tuple[tuple[int, int, float], ...] = ()
    """Character spans [start, end) whose loss weight is not 1."""
    options: tuple[int, int] | None = None
    """Character span that covers both options of a two-option question."""
    question_end: int | None = None
    """Index just after the question mark: later characters may be barred from seeing `options`."""


class Draft:
    """A text in the making that remembers which spans weigh more or less."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._weights: list[tuple[int, int, float]] = []
        self.length = 0

    def add(self, piece: str, weight: float = 1.0) -> None:
        """Append a piece with its loss weight."""
        end = self.length + len(piece)
        if weight != 1.0:
            self._weights.append((self.length, end, weight))
        self._pieces.append(piece)
        self.length = end

    def ask(self, prompt: str, weight: float = 1.0) -> None:
        """Append a user's turn and the cue for the reply, as the chat template writes them."""
        self.add(f"{USER}{prompt}", weight)
        self.add(ASSISTANT)

    def finish(self, kind: str) -> Document:
        """The document so far."""
        return Document(kind, "".join(self._pieces), tuple(self._weights))
