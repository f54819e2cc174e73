"""Every token of a reading has its characters, and together they are the text."""

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models import Model
from engine.projection.cutting import read_beginning
from engine.readings import TextReader
from engine.tokens import encode_chat, encode_raw
from tests.engine.projection.makes import MAKES, MIXED
from tests.engine.tiny import CHAT_TEMPLATE

Form = Literal["raw", "chat"]
FORMS: tuple[Form, ...] = ("raw", "chat")
BARE_TEMPLATE = "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
"""One that brings no beginning-of-text token."""


def with_make(model: Model, make: str, template: str = CHAT_TEMPLATE) -> Model:
    tokenizer: Any = MAKES[make]
    tokenizer.chat_template = template
    return replace(model, tokenizer=tokenizer)


def text_pieces(model: Model, form: Form, text: str) -> tuple[str, ...]:
    """Those of all tokens that are read of a short text."""
    return read_beginning(TextReader(model, form, 0), text, 1000).pieces()


def content_of(model: Model, form: Form, text: str) -> list[int]:
    read = (encode_raw if form == "raw" else encode_chat)(model, text)
    return list(read.ids[read.content])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, BARE_TEMPLATE])
def test_there_is_a_piece_for_each_token_that_is_read_and_joined_they_are_the_text(
    tiny: Model, make: str, form: Form, template: str
) -> None:
    model, text = with_make(tiny, make, template), f"{MIXED}."
    pieces = text_pieces(model, form, text)
    assert len(pieces) == TextReader(model, form, 0).read(text).length
    assert "".join(pieces) == (text if form == "raw" else text.strip())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", ["bytes", "tiny", "demo"])
def test_a_piece_is_what_its_token_decodes_to(tiny: Model, make: str, form: Form) -> None:
    """Of a byte-level tokenizer, where no character is divided."""
    model = with_make(tiny, make)
    text = "Read a  book,\n\nor take a walk?"
    ids, pieces = content_of(model, form, text), text_pieces(model, form, text)
    assert [model.tokenizer.decode([each]) for each in ids] == list(pieces)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", ["bytes", "byte_fallback"])
def test_a_character_of_several_tokens_stands_with_the_first(
    tiny: Model, make: str, form: Form
) -> None:
    pieces = text_pieces(with_make(tiny, make), form, "a 👍日b")
    assert [each for each in pieces if each.strip()] == ["a", "👍", "日", "b"]
    assert pieces[-8:] == ("👍", "", "", "", "日", "", "", "b")


def test_characters_in_no_token_stand_before_the_next_one(tiny: Model) -> None:
    pieces = text_pieces(with_make(tiny, "words"), "raw", "  read a\n book ")
    assert pieces == ("  read", " a", "\n book")


@pytest.mark.parametrize("form", FORMS)
def test_a_window_of_pieces_is_a_part_of_the_text(tiny: Model, form: Form) -> None:
    for make in MAKES:
        pieces = text_pieces(with_make(tiny, make), form, MIXED)
        assert all("".join(pieces[i : i + 7]) in MIXED for i in range(len(pieces)))


def test_a_template_that_rewrites_the_text_leaves_no_piece(tiny: Model) -> None:
    model = with_make(tiny, "demo", "{{ messages[0]['content'] | upper }}")
    assert text_pieces(model, "chat", "quiet") == ()


def test_the_template_repeating_the_text_does_not_shift_the_pieces(tiny: Model) -> None:
    template = (
        "{{ bos_token }}You said: {{ messages[0]['content'] }} / {{ messages[0]['content'] }}!"
    )
    model = with_make(tiny, "demo", template)
    pieces = text_pieces(model, "chat", "The letter lay there")
    assert "".join(pieces) == "The letter lay there"
    assert all(pieces)
    assert len(pieces) == len(content_of(model, "chat", "The letter lay there"))


class Lost:
    """A tokenizer that does not know where its third token stands."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: Any) -> Any:
        encoding = self._tokenizer(text, **options)
        if "offset_mapping" in encoding:
            encoding["offset_mapping"][2] = (0, 0)
        return encoding


def test_a_token_that_stands_nowhere_repeats_no_text(tiny: Model) -> None:
    tokenizer: Any = Lost(MAKES["demo"])
    pieces = text_pieces(replace(tiny, tokenizer=tokenizer), "raw", "The letter lay there")
    assert pieces[2] == ""
    assert "".join(pieces) == "The letter lay there"


@pytest.mark.parametrize("make", MAKES)
@given(text=st.text(alphabet="ab cd.\n\t 日👍🏽éﬁ㎏'B1▁", max_size=60), form=st.sampled_from(FORMS))
def test_no_text_has_a_token_too_many_or_a_piece_out_of_place(
    tiny: Model, make: str, text: str, form: Form
) -> None:
    model = with_make(tiny, make)
    pieces = text_pieces(model, form, text)
    assert len(pieces) == len(content_of(model, form, text))
    assert text.strip().startswith("".join(pieces).strip())
