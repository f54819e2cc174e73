"""Calls a loopback server without any client library, and reads both services' JSON."""

import json
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Literal
from urllib.parse import urlsplit

Dialect = Literal["gemini", "openai"]
DIALECTS: tuple[Dialect, ...] = ("gemini", "openai")
KEY = "a-key-that-nobody-has"
MODEL = "some-model"
STORY_PROMPT = "Tell of a gate.\n\nHow many stories: 2\nPrompt number {}"


@dataclass(frozen=True)
class Got:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Words:
    """What an answer says, whichever service's it is."""

    text: str | None
    finish: str
    prompt_tokens: int
    output_tokens: int
    thinking_tokens: int | None
    response_id: str


def prompt(number: int) -> str:
    return STORY_PROMPT.format(number)


def request_of(
    dialect: Dialect, words: str, *, seed: int | None = None, max_tokens: int | None = None
) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers, as the services' own clients send them."""
    if dialect == "gemini":
        config = {"temperature": 1.0, "topP": 0.9, "seed": seed, "maxOutputTokens": max_tokens}
        given = {key: value for key, value in config.items() if value is not None}
        contents = [{"parts": [{"text": words}], "role": "user"}]
        body: dict[str, Any] = {"contents": contents, "generationConfig": given}
        return f"/v1/models/{MODEL}:generateContent", _bytes(body), {"x-goog-api-key": KEY}
    body = {"model": MODEL, "messages": [{"role": "user", "content": words}], "seed": seed}
    headers = {"Authorization": f"Bearer {KEY}"}
    return "/v1/chat/completions", _bytes(body | {"max_completion_tokens": max_tokens}), headers


def connect(url: str, timeout: float = 5) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc, timeout=timeout)


def send(connection: HTTPConnection, dialect: Dialect, words: str, **limits: int | None) -> Got:
    """Ask on a connection that stays open."""
    path, body, headers = request_of(dialect, words, **limits)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return Got(response.status, dict(response.getheaders()), response.read())


def ask(url: str, dialect: Dialect, words: str, **limits: int | None) -> Got:
    """Ask on a connection of its own."""
    with closing(connect(url)) as connection:
        return send(connection, dialect, words, **limits)


def pieces(url: str, dialect: Dialect, words: str, quiet_s: float = 0.4) -> list[bytes]:
    """All that comes back for one request, as it arrives, until nothing comes for so long."""
    path, body, headers = request_of(dialect, words)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    place = urlsplit(url)
    found = []
    with socket.create_connection((place.hostname, place.port), timeout=quiet_s) as connection:
        connection.sendall(head.encode() + body)
        with suppress(TimeoutError):
            while piece := connection.recv(1 << 20):
                found.append(piece)
    return found


def fetch(url: str, path: str) -> Got:
    with closing(connect(url)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return Got(response.status, dict(response.getheaders()), response.read())


def words_of(got: Got, dialect: Dialect) -> Words:
    """Read an answer that has a candidate."""
    body = got.json
    if dialect == "gemini":
        (candidate,) = body["candidates"]
        parts = candidate.get("content", {}).get("parts", [])
        usage = body["usageMetadata"]
        return Words(
            text=parts[0]["text"] if parts else None,
            finish=candidate["finishReason"],
            prompt_tokens=usage["promptTokenCount"],
            output_tokens=usage.get("candidatesTokenCount", 0),
            thinking_tokens=usage.get("thoughtsTokenCount"),
            response_id=body["responseId"],
        )
    (choice,) = body["choices"]
    usage = body["usage"]
    thinking = usage.get("completion_tokens_details", {}).get("reasoning_tokens")
    return Words(
        text=choice["message"]["content"],
        finish=choice["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"] - (thinking or 0),
        thinking_tokens=thinking,
        response_id=body["id"],
    )


def _bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()
