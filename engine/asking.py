"""Puts a prompt to a model and says which tokens are read: the answer's place, and named parts.

A prompt is rendered once, as a chat turn or as plain text, and tokenized whole; where a part of it
lies comes from character offsets. Knows nothing of layers, activations or criteria.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from textwrap import shorten
from typing import Literal

from jinja2 import TemplateError

from engine.checkpoints import one_line
from engine.models import Model
from engine.tokens import Encoded, encode_rendered, find_controls, render_turn
from stores.errors import ModelError, ProtocolError

Form = Literal["chat", "plain"]

PLAIN = "Human: {user}\n\nAssistant:"
QUESTION = "Would you prefer to (A) read a book or (B) take a walk?"
"""The whole prompt in which the letters of an answer are looked for."""
THOUGHT = re.compile(r"[<\[][^<>\[\]]*think[^<>\[\]]*[>\]]", re.IGNORECASE)
THOUGHT_ENDS = re.compile(r"/|end", re.IGNORECASE)
# Such a template leaves it to the model to say whether it thinks or answers.
CHANNELS = {"<|start|>assistant": "<|channel|>final<|message|>"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt up to where the answer starts.

    `text` is all that the model is given, its beginning-of-text token spelled out; `spans` are the
    tokens of the parts asked for, in their order.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[slice, ...]
    form: Form

    @property
    def last(self) -> int:
        """The token that is read for the answer."""
        return len(self.ids) - 1


def choose_form(model: Model, asked: Literal["auto", "chat", "plain"] = "auto") -> Form:
    """How prompts are put: 'auto' is a chat turn where the tokenizer has a template.

    Raises ModelError when a chat is asked of a model without a template.
    """
    if asked == "plain":
        return "plain"
    if model.tokenizer.chat_template:
        return "chat"
    if asked == "auto":
        return "plain"
    raise ModelError(f"model {model.name}: no chat template; use --form plain")


def ask(
    model: Model, form: Form, user: str, *, parts: Sequence[str] = (), bracket: bool = False
) -> Prompt:
    """`user` as a prompt, with the tokens of each of `parts`, which stand in it in this order.

    A chat turn has thinking switched off; the plain form is 'Human: ...', an empty line,
    'Assistant:'. A span holds the tokens that lie wholly within the part, a leading space allowed:
    none that shares a character with a neighbour. `bracket` opens the answer with '(', after a
    space where a word or a sign comes before it. Raises ModelError for a template that rewrites
    the text or lets the model think, for a part without a token of its own, for more or less than
    one beginning-of-text token, and for more tokens than the model's context; ProtocolError for a
    part whose place cannot be told.
    """
    user = user.strip()
    encoded = _encode(model, form, _put(model, form, user, bracket))
    start = encoded.text.index(user)
    _check_user(model, encoded, start, start + len(user))
    places = [(start + first, start + stop) for first, stop in _places(user, parts)]
    spans = tuple(_span(model, encoded, *place) for place in places)
    return Prompt(encoded.text, encoded.ids, spans, form)


def answer_tokens(model: Model, form: Form) -> tuple[int, int]:
    """The tokens of 'A' and 'B' after the bracket of a whole prompt.

    Each must leave the tokens before it as they are and add one of its own, and they must differ.
    Raises ModelError that says how the tokenizer splits them otherwise.
    """
    opened = _put(model, form, QUESTION, bracket=True)
    before = _encode(model, form, opened).ids
    a, b = (_letter(model, before, _encode(model, form, opened + x).ids, x) for x in "AB")
    if a == b or model.tokenizer.unk_token_id in (a, b):
        raise ModelError(
            f"model {model.name}: its tokenizer writes A and B as {_pieces(model, (a, b))}; "
            "preferences are read from a token for each"
        )
    return a, b


def describe(model: Model, prompt: Prompt) -> dict[str, object]:
    """What is read, in words: form, rendered, read_token, spans (a list of texts)."""
    read = prompt.ids[prompt.last :]
    return {
        "form": prompt.form,
        "rendered": prompt.text,
        # A space alone may decode to nothing.
        "read_token": _decode(model, read) or _pieces(model, read)[0],
        "spans": [_decode(model, prompt.ids[span]) for span in prompt.spans],
    }


def _put(model: Model, form: Form, user: str, bracket: bool) -> str:
    """The rendered prompt; a template may leave out its beginning-of-text token."""
    rendered = PLAIN.format(user=user) if form == "plain" else _render_chat(model, user)
    if not bracket:
        return rendered
    apart = rendered[-1].isspace() or rendered.endswith(find_controls(model.tokenizer).markers)
    return rendered + ("(" if apart else " (")


def _render_chat(model: Model, user: str) -> str:
    try:
        rendered = render_turn(model.tokenizer, user, answer=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise _refusal(model, f"cannot render {_short(user)}: {one_line(error)}") from error
    if (times := rendered.count(user)) != 1:
        raise _refusal(model, f"rewrites the prompt: {_short(user)} stands in it {times} times")
    behind = rendered.partition(user)[2]
    if not behind.strip():
        raise _refusal(model, f"begins no answer: it ends with {_short(user)}")
    tags = THOUGHT.findall(behind)
    if tags and not THOUGHT_ENDS.search(tags[-1]):
        raise _refusal(model, f"cannot switch thinking off: the answer begins with {behind!r}")
    return rendered + next((CHANNELS[end] for end in CHANNELS if rendered.endswith(end)), "")


def _refusal(model: Model, fault: str) -> ModelError:
    return ModelError(f"model {model.name}: its chat template {fault}; use --form plain")


def _encode(model: Model, form: Form, rendered: str) -> Encoded:
    encoded = encode_rendered(model, rendered, template=form == "chat")
    if model.context is not None and len(encoded.ids) > model.context:
        raise ModelError(
            f"model {model.name}: {_short(rendered)} has {len(encoded.ids)} tokens and the model "
            f"reads {model.context} at most; shorten the prompt"
        )
    return encoded


def _check_user(model: Model, encoded: Encoded, start: int, stop: int) -> None:
    """Refuse a text that forges control tokens; only a template may write them."""
    found = _overlapping(encoded, start, stop)
    if forged := [t for t in found if t in find_controls(model.tokenizer).ids]:
        raise ModelError(
            f"model {model.name}: {_short(encoded.text[start:stop])} spells the control token "
            f"{_pieces(model, forged)[0]!r}; word the prompt otherwise"
        )


def _places(user: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    """First and one-past-last character of each part: the only places that keep their order."""
    first, last = 0, len(user)
    earliest, latest = [], []
    for part in parts:
        first = user.find(part, max(first, 0))
        earliest.append((first, first + len(part)))
        first += len(part)
    for part in reversed(parts):
        last = user.rfind(part, 0, max(last, 0))
        latest.append((last, last + len(part)))
    for part, place, other in zip(parts, earliest, reversed(latest), strict=True):
        if place != other or place[0] < 0:
            raise ProtocolError(
                f"prompt {_short(user)}: the place of {part!r} in it cannot be told; "
                "word the prompt so that it stands there once, and in the order of the options"
            )
    return earliest


def _span(model: Model, encoded: Encoded, start: int, stop: int) -> slice:
    """The tokens of the characters [start, stop) and of no others but space before them."""
    inside = [
        i
        for i, (a, b) in enumerate(encoded.offsets)
        if max(a, start) < b <= stop and not encoded.text[a:start].strip()
    ]
    if inside:
        return slice(inside[0], inside[-1] + 1)
    pieces = _pieces(model, _overlapping(encoded, start, stop))
    raise ModelError(
        f"model {model.name}: {encoded.text[start:stop]!r} has no token of its own in "
        f"{_short(encoded.text)}, whose tokens there are {pieces}; word the prompt otherwise"
    )


def _overlapping(encoded: Encoded, start: int, stop: int) -> tuple[int, ...]:
    """The tokens that share a character with [start, stop)."""
    pairs = zip(encoded.ids, encoded.offsets, strict=True)
    return tuple(token for token, (a, b) in pairs if max(a, start) < min(b, stop))


def _letter(model: Model, before: tuple[int, ...], after: tuple[int, ...], letter: str) -> int:
    """The token that `letter` adds to a prompt."""
    if after[:-1] == before:
        return after[-1]
    pairs = zip(before, after, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    raise ModelError(
        f"model {model.name}: {letter} is no token of its own after the bracket: its tokenizer "
        f"makes {_pieces(model, before[same:])} into {_pieces(model, after[same:])}; "
        "preferences cannot be read from this model"
    )


def _decode(model: Model, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids)))


def _pieces(model: Model, ids: Sequence[int]) -> list[str]:
    """Tokens as the tokenizer spells them, with its own signs for space."""
    return [str(model.tokenizer.convert_ids_to_tokens(token)) for token in ids]


def _short(text: str) -> str:
    """A text for a message of one line."""
    return repr(shorten(text, 60, placeholder="..."))
