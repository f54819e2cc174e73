"""Text to token ids: raw, as a chat turn, or as a prompt to be answered.

The only place that decides about special tokens: at most one beginning-of-sequence token, never
counted as content. Knows nothing of weights, devices or batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from stores.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from engine.models import Model


BOS_COUNTED = False
"""Whether the beginning-of-text token is content; stored with every array."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids as the model sees them, and the slice of them that is the text itself."""

    ids: tuple[int, ...]
    content: slice


def encode_raw(model: Model, text: str) -> TokenizedText:
    """The bare text after one BOS (if the tokenizer has one). BOS is not content.

    Control tokens spelled out in the text ("<s>", "<eos>") are encoded as ordinary characters, so
    that a generated text cannot forge one.
    """
    tokenizer = model.tokenizer
    # verbose=False: a text longer than the context is the caller's to judge, not a warning.
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)[
        "input_ids"
    ]
    start = _bos(tokenizer)
    return TokenizedText((*start, *ids), slice(len(start), len(start) + len(ids)))


def encode_chat(model: Model, text: str) -> TokenizedText:
    """The text as one user turn of the model's chat template; content = the text's own tokens.

    A user turn, because every template accepts one without an invented prompt before it. The text
    is found in the rendering by character offsets; a token that covers any of its characters is
    content, and where the template rewrites the text nothing is. Raises ModelError when
    there is no template.
    """
    tokenizer = model.tokenizer
    if not tokenizer.chat_template:
        raise ModelError(f"model {model.name}: no chat template; extract with --raw")
    text = text.strip()
    rendered = _render(tokenizer, text, answer=False)
    start = rendered.rfind(text)
    encoding = tokenizer(
        rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    spans = cast("list[tuple[int, int]]", encoding["offset_mapping"])
    stop = start + len(text) if start >= 0 else 0
    inside = [i for i, (a, b) in enumerate(spans) if max(a, start) < min(b, stop)]
    content = slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)
    return TokenizedText(tuple(encoding["input_ids"]), content)


def render_prompt(tokenizer: PreTrainedTokenizerBase, user: str, *, prefill: str = "") -> str:
    """One user turn, rendered up to where the answer starts, then `prefill`.

    With a chat template, thinking is switched off where the template knows how; without one (a
    base model) the prompt is the plain text.
    """
    rendered = _render(tokenizer, user, answer=True) if tokenizer.chat_template else user
    return rendered + prefill


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, user: str, *, prefill: str = ""
) -> tuple[int, ...]:
    """Token ids of `render_prompt`, with one BOS: a template brings it, plain text gets it here."""
    rendered = render_prompt(tokenizer, user, prefill=prefill)
    ids = tuple(cast("list[int]", tokenizer(rendered, add_special_tokens=False)["input_ids"]))
    return ids if tokenizer.chat_template else (*_bos(tokenizer), *ids)


def _render(tokenizer: PreTrainedTokenizerBase, user: str, *, answer: bool) -> str:
    turn = [{"role": "user", "content": user}]
    return cast(
        "str",
        tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=answer, enable_thinking=False
        ),
    )


def _bos(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    bos = tokenizer.bos_token_id
    return () if bos is None else (cast("int", bos),)
