"""Conversations as plain text, the same whichever model reads them.

Knows the ways in which turns are commonly written down; knows no model and no chat template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stores.errors import BadValue

SPEAKERS = {
    "Human": ("human", "user", "prompter"),
    "Assistant": ("assistant", "gpt", "chatgpt", "model", "bot"),
    "System": ("system", "developer"),
    "Tool": ("tool", "function"),
}
_SPEAKER = {role: speaker for speaker, roles in SPEAKERS.items() for role in roles}


def render_turns(turns: Sequence[Mapping[str, Any]]) -> str:
    """Each turn as "Human: ...", "Assistant: ..." and so on, a blank line between two of them.

    Turns are {role, content} or {from, value}; content is text, nothing (a call of a tool), or a
    list of parts that are all text. A conversation in which nothing is said is "". Raises BadValue
    for what is no conversation or cannot be written as text alone.
    """
    spoken = [(_speaker(n, turn), _content(n, turn)) for n, turn in enumerate(turns, 1)]
    if not spoken:
        raise BadValue("a conversation without turns")
    if not any(content for _, content in spoken):
        return ""
    return "\n\n".join(f"{speaker}: {content}".rstrip() for speaker, content in spoken)


def _speaker(n: int, turn: object) -> str:
    if not isinstance(turn, Mapping):
        raise BadValue(f"turn {n} is no object with a role and a content")
    role = _either(turn, "role", "from")
    if not isinstance(role, str) or role.lower() not in _SPEAKER:
        raise BadValue(f"turn {n} is by {role!r}, which is none of {', '.join(_SPEAKER)}")
    return _SPEAKER[role.lower()]


def _content(n: int, turn: Mapping[str, Any]) -> str:
    if "content" not in turn and "value" not in turn:
        raise BadValue(f"turn {n} has no content")
    content = _either(turn, "content", "value")
    if content is None:
        return ""
    parts = content if isinstance(content, list) else [content]
    return "\n".join(_text(n, part) for part in parts).strip()


def _either(turn: Mapping[str, Any], name: str, other: str) -> Any:
    """What stands under one of two names; in a table a turn has all columns, the idle ones null."""
    found = turn.get(name)
    return turn.get(other) if found is None else found


def _text(n: int, part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        raise BadValue(f"turn {n} holds something that is no text")
    return text
