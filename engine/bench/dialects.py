"""What two services have in common: what is asked, what is said, and how it is put in JSON.

Knows nothing of sockets, and nothing of when something goes wrong.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from engine.bench.script import Script
from engine.bench.wire import Request, Response

TOKEN_CHARACTERS = 4

Finish = Literal["stop", "length", "safety", "recitation", "unknown", "disabled"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whichever dialect it came in."""

    prompt: str
    seed: int | None
    max_tokens: int | None
    model: str


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its text, None if it has no such part, and why it ended."""

    text: str | None
    finish: Finish


class Dialect(Protocol):
    """One service's way to put things. `number` is what no other response is known by."""

    def read(self, request: Request) -> Asked:
        """Raises ValueError, LookupError or TypeError for what is no request of this service."""
        ...

    def answer(self, asked: Asked, said: Said | None, number: str, thinking: int) -> Response:
        """What was said, with `thinking` tokens; None: without candidates or choices."""
        ...

    def refuse(self, name: str, asked: Asked, number: str, script: Script) -> Response:
        """The fault or mode of that name, as this service puts it."""
        ...


def as_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as the body of a response."""
    return Response(status, json.dumps(value).encode(), headers or {})


def as_html(status: int, title: str, *lines: str) -> Response:
    """A page as proxies send it."""
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1>"
    body = page + "".join(f"<p>{line}</p>" for line in lines) + "</body></html>\n"
    return Response(status, body.encode(), content_type="text/html; charset=UTF-8")


def count_tokens(text: str | None) -> int:
    """Four characters each, the last one maybe shorter."""
    return -(-len(text or "") // TOKEN_CHARACTERS)
