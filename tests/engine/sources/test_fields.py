"""The field with the text is the one given, or the one that can only be meant."""

from typing import Any

import pytest

from engine.sources.fields import choose_field, look_up, part_in, text_in
from stores.errors import UsageError

TURNS = [{"role": "user", "content": "Hi."}]


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"content": "b", "text": "a", "messages": TURNS}, "text"),
        ({"messages": TURNS, "content": "b"}, "content"),
        ({"id": "x", "messages": TURNS, "note": "y"}, "messages"),
        ({"conversations": TURNS, "conversation": TURNS}, "conversation"),
        ({"id": 3, "story": "a", "tags": ["x"]}, "story"),
    ],
)
def test_text_comes_before_content_before_a_conversation_before_the_only_strings(
    record: dict[str, Any], field: str
) -> None:
    assert choose_field([record], None, "here") == field


def test_a_field_that_only_some_records_have_counts() -> None:
    records: list[dict[str, Any]] = [{"id": 1}, {"id": 2, "text": None}, {"id": 3, "text": "a"}]
    assert choose_field(records, None, "here") == "text"


@pytest.mark.parametrize("record", [{"title": "a", "body": "b"}, {"id": 3}, {}])
def test_a_choice_that_is_not_plain_is_left_to_the_user(record: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="here: .*--text-field: " + (", ".join(record) or "none")):
        choose_field([record], None, "here")


def test_a_field_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"here: no field 'txt'; .* text, id"):
        choose_field([{"text": "a"}, {"id": 3}], "txt", "here")


def test_the_fields_are_listed_on_one_line_however_many_and_odd() -> None:
    names = ["a\n<b>", *map(str, range(3000))]
    with pytest.raises(UsageError) as refused:
        choose_field([dict.fromkeys(names)], None, "here")
    told = str(refused.value)
    assert told.endswith(r": 'a\n<b>', " + ", ".join(names[1:20]) + ", and 2,981 more")


def test_a_dot_leads_into_a_field_unless_it_is_part_of_a_name() -> None:
    record = {"meta": {"text": "inner", "deep": {"er": "x"}}, "a.b": "dotted", "a": {"b": "no"}}
    assert choose_field([record], "meta.text", "here") == "meta.text"
    assert look_up(record, "meta.text") == "inner"
    assert look_up(record, "meta.deep.er") == "x"
    assert look_up(record, "a.b") == "dotted"
    for absent in ("meta.none", "a.b.c", "none.text", "meta."):
        with pytest.raises(KeyError):
            look_up(record, absent)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"text": "a"}, ("a", None)),
        ({"text": ""}, ("", None)),
        ({"text": TURNS}, ("Human: Hi.", None)),
        ({"text": None}, (None, "no_text")),
        ({"other": "a"}, (None, "no_field")),
        ({"text": 3}, (None, "not_text")),
        ({"text": b"a"}, (None, "not_text")),
        ({"text": ["a", "b"]}, (None, "not_text")),
        ({"text": []}, (None, "not_text")),
    ],
)
def test_a_record_gives_its_text_or_says_why_it_has_none(
    record: dict[str, Any], found: tuple[str | None, str | None]
) -> None:
    assert text_in(record, "text") == found


def test_a_part_is_told_where_the_record_tells_it() -> None:
    record = {"meta": {"set": "Books"}, "n": 3, "none": None}
    parts = [part_in(record, field) for field in ("meta.set", "n", "none", "absent", None)]
    assert parts == ["Books", "3", None, None, None]
