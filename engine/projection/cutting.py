"""The beginning of a text: as many whole characters as make so many tokens.

Knows nothing of models, chats or the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from stores.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHARACTERS_PER_TOKEN = 16
"""More of a text than this is not even looked at: ordinary text has three to five."""


def cut_text(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> tuple[str, bool]:
    """What the first `max_tokens` content tokens of `text` stand for, and whether that is less.

    It ends with a whole character, though a tokenizer may divide one, reads as `max_tokens` tokens
    or fewer by itself, and has at most `CHARACTERS_PER_TOKEN * max_tokens` characters. Tokens are
    those of plain text, which no template has touched, without a beginning-of-text token. Raises
    ModelError for a tokenizer that does not tell which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer ({type(tokenizer).__name__}) does not tell which characters a token "
            "stands for; add a tokenizer.json to the checkpoint"
        )
    kept = text[: CHARACTERS_PER_TOKEN * max_tokens]
    # Again where the last character is divided, or the tokens depend on what comes after them.
    while len(spans := _spans(tokenizer, kept)) > max_tokens:
        kept = kept[: min(spans[max_tokens - 1][1], len(kept) - 1)]
    return kept, len(kept) < len(text)


def _spans(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    encoding = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    return cast("list[tuple[int, int]]", encoding["offset_mapping"])
