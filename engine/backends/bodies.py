"""Reads JSON that others wrote, of any shape. Knows no dialect."""

import json

from engine.backends.faults import Broken


def item(body: object, *path: str | int) -> object:
    """What lies at a path of names and positions in a JSON body; None where nothing does."""
    for step in path:
        if isinstance(body, list) and isinstance(step, int) and step < len(body):
            body = body[step]
        elif isinstance(body, dict):
            body = body.get(step)
        else:
            return None
    return body


def items(body: object, *path: str | int) -> list[object]:
    """The list at a path of a JSON body; empty where there is none."""
    found = item(body, *path)
    return found if isinstance(found, list) else []


def text_at(body: object, *path: str | int) -> str | None:
    """The text at a path of a JSON body; None where there is none."""
    found = item(body, *path)
    return found if isinstance(found, str) else None


def count_at(body: object, *path: str | int) -> int | None:
    """The whole number at a path of a JSON body; None where there is none."""
    found = item(body, *path)
    return found if isinstance(found, int) else None


def read_answer(text: str | None) -> object:
    """The JSON body of a successful answer. Raises Broken if it is torn or no JSON at all."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        raise Broken("unreadable answer") from None


def read_refusal(text: str) -> object:
    """The JSON body of an error; None if it is something else, such as the page of a proxy."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
