"""The characters that each token of a text stands for.

Knows what a reader calls content, and nothing of scores or the ledger.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from engine.tokens import encode_chat, encode_raw, encode_rendered, render_turn
from stores.errors import ModelError

if TYPE_CHECKING:
    from engine.models import Model


def text_pieces(model: Model, form: Literal["raw", "chat"], text: str) -> tuple[str, ...]:
    """The text of each content token, numbered as a reader numbers them, `start_token` unheeded.

    Joined they are a beginning of `text` (in a chat: of its stripped form). Characters between two
    tokens go to the latter, those that several tokens share to the first of them, and the others
    are "". Where a template rewrites the text there is none, as for the reader.

    Raises ModelError for a tokenizer that does not tell which characters a token stands for, or
    whose tokens are then others than those that are read.
    """
    raw = form == "raw"
    read = encode_raw(model, text) if raw else encode_chat(model, text)
    text = text if raw else text.strip()
    rendered = text if raw else render_turn(model.tokenizer, text, answer=False)
    seen = encode_rendered(model, rendered, template=not raw)
    lead = len(seen.ids) - len(read.ids)  # a BOS that was spelled out, or none
    if lead < 0 or seen.ids[lead:] != read.ids:
        raise ModelError(
            f"model {model.name}: reads {text[:40]!r} as other tokens when asked where"
        )
    start = len(seen.text) - len(rendered) + rendered.rfind(text)
    spans = seen.offsets[lead + read.content.start : lead + read.content.stop]
    ends = (min(max(end, start), start + len(text)) for _, end in spans)
    edges = accumulate(ends, max, initial=start)
    return tuple(seen.text[left:right] for left, right in pairwise(edges))
