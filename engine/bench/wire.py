"""Just enough HTTP/1.1 to be called by real clients and to break its rules on purpose.

Knows nothing of what is asked and answered.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

DRIPS = 40


@dataclass(frozen=True, slots=True)
class Request:
    """One request; the names of its headers are in lower case, its path is without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """One response, not yet sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=UTF-8"

    def head(self) -> bytes:
        """Status line and headers, with the length of the whole body."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass(frozen=True, slots=True)
class Peer:
    """The client at the other end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_request(self) -> Request | None:
        """The next request; None when the client has left or makes no sense."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            method, target, _ = first.split(" ")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except (EOFError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            return None
        return Request(method, unquote(urlsplit(target).path), headers, body)

    async def send(self, response: Response, *, copies: int = 1) -> bool:
        """Send it whole; whether the client was there to take all of it."""
        if self.has_left():
            return False
        self.writer.write((response.head() + response.body) * copies)
        return await self._flush()

    async def send_half(self, response: Response) -> None:
        """Send the head, which promises the whole body, and only half of the body."""
        self.writer.write(response.head() + response.body[: len(response.body) // 2])
        await self._flush()

    async def drip(self, response: Response, seconds: float) -> bool:
        """Send it whole, but a little at a time over so many seconds."""
        self.writer.write(response.head())
        step = -(-len(response.body) // DRIPS)
        for start in range(0, len(response.body), step):
            await asyncio.sleep(seconds / DRIPS)
            if self.has_left():
                return False
            self.writer.write(response.body[start : start + step])
        return await self._flush()

    async def leaves(self) -> None:
        """Return when the client has closed its side."""
        while await self.reader.read(1 << 16):
            pass

    def has_left(self) -> bool:
        """Whether the client closed its side, or the connection broke."""
        return self.reader.at_eof() or self.writer.transport.is_closing()

    async def _flush(self) -> bool:
        try:
            await self.writer.drain()
        except ConnectionError:
            return False
        return not self.writer.transport.is_closing()
