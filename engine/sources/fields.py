"""Where in a record the text is: in a plain field or a conversation; and the text found there.

Knows nothing of files or hubs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.sources.transcripts import render_turns
from stores.errors import BadValue, UsageError

TEXTS = ("text", "content")
CONVERSATIONS = ("conversation", "conversations", "messages")

Record = Mapping[str, Any]
_LISTED = 20


def choose_field(records: Sequence[Record], asked: str | None, where: str) -> str:
    """The field with the text: `asked`, or "text", "content", a conversation, the only strings.

    `records` are some of the first; a field counts when one of them has it. `a.b` is field b of
    field a. Raises UsageError that lists the fields seen at `where`.
    """
    seen = list(dict.fromkeys(name for record in records for name in record))
    if asked is not None:
        if any(_holds(record, asked) for record in records):
            return asked
        raise UsageError(f"{where}: no field {asked!r}; --text-field is one of {_listed(seen)}")
    named = [name for name in (*TEXTS, *CONVERSATIONS) if name in seen]
    found = named[:1] or [name for name in seen if _all_strings(records, name)]
    if len(found) != 1:
        raise UsageError(
            f"{where}: which field holds the text? Name one with --text-field: {_listed(seen)}"
        )
    return found[0]


def text_in(record: Record, field: str) -> tuple[str | None, str | None]:
    """The text at a field and None; or None and why there is none: no_field, no_text, not_text.

    A list is read as the turns of a conversation.
    """
    try:
        found = look_up(record, field)
    except KeyError:
        return None, "no_field"
    if isinstance(found, str):
        return found, None
    if not isinstance(found, list):
        return None, "no_text" if found is None else "not_text"
    try:
        return render_turns(found), None
    except BadValue:
        return None, "not_text"


def part_in(record: Record, field: str | None) -> str | None:
    """What the record calls the part of its source that it is from, where it says so."""
    if field is None or not _holds(record, field):
        return None
    found = look_up(record, field)
    return None if found is None else str(found)


def look_up(record: Record, field: str) -> Any:
    """What a record holds at a field. A name with a dot in it comes before a field of a field.

    Raises KeyError when there is no such field.
    """
    if field in record:
        return record[field]
    outer, dot, inner = field.partition(".")
    if not dot or not isinstance(record.get(outer), Mapping):
        raise KeyError(field)
    return look_up(record[outer], inner)


def _holds(record: Record, field: str) -> bool:
    try:
        look_up(record, field)
    except KeyError:
        return False
    return True


def _all_strings(records: Sequence[Record], name: str) -> bool:
    values = [record[name] for record in records if record.get(name) is not None]
    return bool(values) and all(isinstance(value, str) for value in values)


def _listed(names: Sequence[str]) -> str:
    """The first of them on one line, whatever they hold."""
    shown = [name if name.isprintable() else repr(name) for name in names[:_LISTED]]
    more = [f"and {len(names) - _LISTED:,} more"] if len(names) > _LISTED else []
    return ", ".join((*shown, *more)) or "none: there are no fields"
