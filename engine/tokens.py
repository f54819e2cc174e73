"""Text to token ids: raw, as a chat turn, or as a prompt to be answered.

The only place that decides about special tokens: at most one beginning-of-sequence token, never
counted as content. Knows nothing of weights, devices or batches, or of what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from stores.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from engine.models import Model


BOS_COUNTED = False
"""Whether the beginning-of-text token is content; stored with every array."""
TODAY = "26 Jul 2024"
"""What Llama's chat templates are told of the date: what they say where they cannot ask for it."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids as the model sees them, and the slice of them that is the text itself."""

    ids: tuple[int, ...]
    content: slice


@dataclass(frozen=True, slots=True)
class LocatedText:
    """A text's tokens, and which characters each content token covers.

    `spans` count through `text`, which is stripped in a chat; they may lie partly outside of it.
    """

    tokenized: TokenizedText
    text: str
    spans: tuple[tuple[int, int], ...]


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
    return _begun(tokenizer, ids)


def locate_raw(model: Model, text: str) -> LocatedText:
    """`encode_raw`, and where its tokens stand.

    Raises ModelError for a tokenizer that does not tell which characters a token stands for.
    """
    tokenizer = model.tokenizer
    _require_offsets(model)
    encoding = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    spans = cast("list[tuple[int, int]]", encoding["offset_mapping"])
    return LocatedText(_begun(tokenizer, encoding["input_ids"]), text, tuple(spans))


def _begun(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> TokenizedText:
    start = beginning(tokenizer)
    return TokenizedText((*start, *ids), slice(len(start), len(start) + len(ids)))


def _require_offsets(model: Model) -> None:
    if not model.tokenizer.is_fast:
        raise ModelError(
            f"model {model.name}: its tokenizer ({type(model.tokenizer).__name__}) does not tell "
            "which characters a token stands for; add a tokenizer.json to the checkpoint"
        )


def encode_chat(model: Model, text: str) -> TokenizedText:
    """The text as one user turn of the model's chat template; content = the text's own tokens.

    A user turn, because every template accepts one without an invented prompt before it. The text
    is found in the rendering by character offsets; a token that covers any of its characters is
    content, and where the template rewrites the text nothing is. Raises ModelError when
    there is no template.
    """
    return locate_chat(model, text).tokenized


def locate_chat(model: Model, text: str) -> LocatedText:
    """`encode_chat`, and where its content tokens stand in the stripped text."""
    tokenizer = model.tokenizer
    if not tokenizer.chat_template:
        raise ModelError(f"model {model.name}: no chat template; extract with --raw")
    text = text.strip()
    rendered = render_turn(tokenizer, text, answer=False)
    start = rendered.rfind(text)
    encoding = tokenizer(
        rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    spans = cast("list[tuple[int, int]]", encoding["offset_mapping"])
    stop = start + len(text) if start >= 0 else 0
    inside = [i for i, (a, b) in enumerate(spans) if max(a, start) < min(b, stop)]
    content = slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)
    own = tuple((a - start, b - start) for a, b in spans[content])
    return LocatedText(TokenizedText(tuple(encoding["input_ids"]), content), text, own)


def render_prompt(tokenizer: PreTrainedTokenizerBase, user: str, *, prefill: str = "") -> str:
    """One user turn, rendered up to where the answer starts, then `prefill`.

    With a chat template, thinking is switched off where the template knows how; without one (a
    base model) the prompt is the plain text.
    """
    rendered = render_turn(tokenizer, user, answer=True) if tokenizer.chat_template else user
    return rendered + prefill


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, user: str, *, prefill: str = ""
) -> tuple[int, ...]:
    """Token ids of `render_prompt`, with one BOS: a template brings it, plain text gets it here."""
    rendered = render_prompt(tokenizer, user, prefill=prefill)
    ids = tuple(cast("list[int]", tokenizer(rendered, add_special_tokens=False)["input_ids"]))
    return ids if tokenizer.chat_template else (*beginning(tokenizer), *ids)


def render_turn(tokenizer: PreTrainedTokenizerBase, user: str, *, answer: bool) -> str:
    """One user turn by the chat template, with `answer` up to where the answer starts.

    Thinking is switched off by either name that templates have for it. The date stands still where
    a template takes it from its caller, so that a text has the same tokens tomorrow.
    """
    turn = [{"role": "user", "content": user}]
    return cast(
        "str",
        tokenizer.apply_chat_template(
            turn,
            tokenize=False,
            add_generation_prompt=answer,
            enable_thinking=False,
            thinking=False,
            date_string=TODAY,
        ),
    )


def beginning(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token every text begins with: BOS, or nothing where the tokenizer has none."""
    bos = tokenizer.bos_token_id
    return () if bos is None else (cast("int", bos),)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendered text, its tokens, and which characters of it each of them stands for."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


def encode_rendered(model: Model, rendered: str, *, template: bool) -> Encoded:
    """What a `template` rendered, or plain text, with one BOS (if the tokenizer has one) in front.

    A template brings it or leaves it to be spelled out here; control tokens in plain text are
    ordinary characters. Raises ModelError for a second BOS, and for a tokenizer without offsets.
    """
    tokenizer = model.tokenizer
    _require_offsets(model)
    encoding = tokenizer(
        rendered,
        add_special_tokens=False,
        split_special_tokens=not template,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids = tuple(cast("list[int]", encoding["input_ids"]))
    offsets = tuple(cast("list[tuple[int, int]]", encoding["offset_mapping"]))
    start = beginning(tokenizer)
    brought = ids[: len(start)] == start
    if start and _repeats(tokenizer, ids, brought):
        raise ModelError(
            f"model {model.name}: the beginning-of-text token {tokenizer.bos_token!r} is not the "
            f"first alone in {rendered[:40]!r}; mend the chat template or use --form plain"
        )
    if brought:
        return Encoded(rendered, ids, offsets)
    lead = len(cast("str", tokenizer.bos_token))
    moved = ((a + lead, b + lead) for a, b in offsets)
    return Encoded(f"{tokenizer.bos_token}{rendered}", (*start, *ids), ((0, lead), *moved))


def _repeats(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], brought: bool) -> bool:
    """Whether there would be a second BOS. The same token may end or begin the turns of a chat."""
    bos = tokenizer.bos_token_id
    if brought:
        return ids[1:2] == (bos,)
    return bos in ids and bos != tokenizer.eos_token_id


@dataclass(frozen=True, slots=True)
class Controls:
    """What a tokenizer adds to its vocabulary of text.

    `ids` are control tokens, which no text may hold; `markers` are the texts of these and of other
    tokens that are cut out whole before anything else is.
    """

    ids: frozenset[int]
    markers: tuple[str, ...]


@lru_cache(maxsize=2)
def find_controls(tokenizer: PreTrainedTokenizerBase) -> Controls:
    """The control tokens of a tokenizer; the one for unknown characters is not among them."""
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    special = {token for token, each in added.items() if each.special}
    ids = special | set(tokenizer.all_special_ids)
    texts = (each.content for each in added.values())
    return Controls(
        ids=frozenset(ids) - {tokenizer.unk_token_id},
        markers=tuple(text for text in texts if text.strip()),
    )
