"""A conversation is the same text in whichever way it is written down."""

from typing import Any

import pytest

from engine.sources.transcripts import render_turns
from stores.errors import BadValue

RENDERED = "System: Be brief.\n\nHuman: Who are you?\n\nAssistant: A lamp.\n\nHuman: Oh."


@pytest.mark.parametrize(
    ("role", "content", "names"),
    [
        ("role", "content", ("system", "user", "assistant", "user")),
        ("from", "value", ("system", "human", "gpt", "human")),
        ("role", "content", ("SYSTEM", "User", "Assistant", "user")),
        ("from", "value", ("developer", "prompter", "chatgpt", "human")),
    ],
)
def test_each_way_to_write_turns_gives_the_same_text(
    role: str, content: str, names: tuple[str, ...]
) -> None:
    said = ("Be brief.", " Who are you?\n", "A lamp.", "Oh.")
    turns = [{role: name, content: text} for name, text in zip(names, said, strict=True)]
    assert render_turns(turns) == RENDERED


def test_columns_that_other_turns_of_a_table_have_do_not_hide_what_a_turn_says() -> None:
    turns = [
        {"role": None, "content": None, "from": "human", "value": "Hi."},
        {"role": "assistant", "content": "Hello.", "from": None, "value": None},
    ]
    assert render_turns(turns) == "Human: Hi.\n\nAssistant: Hello."


def test_a_content_in_parts_is_their_texts() -> None:
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    assert render_turns(turns) == "Human: One.\nTwo."


def test_turns_keep_their_order_and_their_inner_lines() -> None:
    turns = [{"role": "assistant", "content": "a\n\nb"}, {"role": "assistant", "content": "c"}]
    assert render_turns(turns) == "Assistant: a\n\nb\n\nAssistant: c"


def test_a_turn_without_words_keeps_its_place() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"},
    ]
    assert render_turns(turns) == "Human: Look it up.\n\nAssistant:\n\nTool: 42"


def test_a_conversation_in_which_nothing_is_said_is_empty() -> None:
    turns = [{"role": "user", "content": " "}, {"role": "assistant", "content": ""}]
    assert render_turns(turns) == ""


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "without turns"),
        (["hello"], "turn 1 is no object"),
        ([{"content": "hello"}], "turn 1 is by None"),
        ([{"role": 3, "content": "hello"}], "turn 1 is by 3"),
        ([{"role": "narrator", "content": "hello"}], "Human|human"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], "turn 2 has no content"),
        ([{"role": "user", "content": {"text": 3}}], "no text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "no text"),
    ],
)
def test_what_is_no_conversation_in_words_is_told(turns: Any, reason: str) -> None:
    with pytest.raises(BadValue, match=reason):
        render_turns(turns)
