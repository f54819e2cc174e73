"""The beginning of a text as a model reads it: so many tokens, in whole characters.

One encoding says what is read, where to cut, and which characters each token stands for. Knows
nothing of scores or the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from engine.models import Model
from engine.readings import Fault, Reading, TextReader
from engine.tokens import LocatedText, locate_chat, locate_raw

CHARACTERS_PER_TOKEN = 16
"""More of a text than this is not even looked at: ordinary text has three to five."""
TOO_LONG: Fault = ("failed", "too_long")


@dataclass(frozen=True, slots=True)
class Beginning:
    """As much of a text as is read; `cut` says whether that is less than there was."""

    text: str
    """What the content tokens stand for: in a chat without the space around it."""
    cut: bool
    reading: Reading
    edges: tuple[int, ...]
    """Of n content tokens n + 1, ascending: token i has the characters from edge i to i + 1."""

    def pieces(self) -> tuple[str, ...]:
        """The text of every content token, numbered as a reader numbers them.

        Joined they are a beginning of `text`. Characters between two tokens go to the latter, those
        that several tokens share to the first of them, and the others are "". Where a template
        rewrites the text there is none, as for the reader.
        """
        return tuple([self.text[left:right] for left, right in pairwise(self.edges)])


def read_beginning(reader: TextReader, text: str, max_tokens: int) -> Beginning:
    """What is read of `text`: `max_tokens` content tokens, or fewer if the context is shorter.

    It ends with a whole character, though a tokenizer may divide one, and has at most
    `CHARACTERS_PER_TOKEN * max_tokens` characters. Tokens are counted in plain text, which no
    template has touched, without a beginning-of-text token. Raises ModelError for a tokenizer that
    does not tell which characters a token stands for.
    """
    context, limit, kept = reader.model.context, max_tokens, text
    while True:
        located = _cut(reader.model, kept, limit)
        kept = located.text
        if reader.format == "chat":
            located = locate_chat(reader.model, kept)
        reading = reader.judge(located.text, located.tokenized)
        excess = len(reading.segment.ids) - (context or 0)
        if reading.fault != TOO_LONG or excess >= limit:
            edges = token_edges(located.spans, len(located.text))
            return Beginning(located.text, len(kept) < len(text), reading, edges)
        limit -= excess


def token_edges(spans: Sequence[tuple[int, int]], length: int) -> tuple[int, ...]:
    """Where the characters of one token end and those of the next begin, in so long a text."""
    ends = (min(max(end, 0), length) for _, end in spans)
    return tuple(accumulate(ends, max, initial=0))


def _cut(model: Model, text: str, max_tokens: int) -> LocatedText:
    """What the first `max_tokens` tokens of plain `text` stand for."""
    located = locate_raw(model, text[: CHARACTERS_PER_TOKEN * max_tokens])
    # Again where the last character is divided, or the tokens depend on what comes after them.
    while len(located.spans) > max_tokens:
        end = min(located.spans[max_tokens - 1][1], len(located.text) - 1)
        located = locate_raw(model, located.text[:end])
    return located
