"""An endpoint to ask, and a loopback server that sends it given bytes."""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Self

from engine.backends.base import Reply, Request
from engine.backends.faults import Endpoint, EndpointFault

OpenEndpoint = Callable[..., Endpoint]

KEY = "sk-loopback-0123456789abcdef"


def request(key: int = 1, prompt: str = "Tell me something.", seed: int = 2**62 + 5) -> Request:
    return Request(key=key, prompt=prompt, seed=seed, max_tokens=200, temperature=0.7, top_p=0.9)


def response(status: int, body: object, **headers: str) -> bytes:
    """An HTTP response; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-length: {len(content)}"]
    head += ["content-type: application/json", "connection: close", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


async def outcome(endpoint: Endpoint, asked: Request) -> Reply | EndpointFault:
    """The reply, or the fault that was raised in its place."""
    try:
        return await endpoint.ask(asked)
    except EndpointFault as fault:
        return fault


class Opened:
    """An endpoint at a URL, in an event loop of its own."""

    def __init__(self, open_endpoint: OpenEndpoint, url: str = "") -> None:
        self._open_endpoint = open_endpoint
        self._url = url
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stop())
        self._runner.close()

    def ask(self, asked: Request | None = None) -> Reply | EndpointFault:
        """What comes of one try."""
        return self._runner.run(outcome(self._endpoint, asked or request()))

    async def _start(self) -> None:
        self._endpoint = self._open_endpoint(self._url)

    async def _stop(self) -> None:
        await self._endpoint.close()


class Canned(Opened):
    """An endpoint at a server that sends it the given bytes."""

    _sent = heard = b""

    def reply_to(self, sent: bytes) -> Reply:
        """The reply that the endpoint makes of an answer."""
        self._sent = sent
        reply = self.ask()
        assert isinstance(reply, Reply), reply
        return reply

    def fault_of(self, sent: bytes) -> EndpointFault:
        """The fault that the endpoint raises at an answer."""
        self._sent = sent
        fault = self.ask()
        assert isinstance(fault, EndpointFault), fault
        return fault

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self._url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        await super()._start()

    async def _stop(self) -> None:
        await super()._stop()
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
        self.heard = head + await reader.readexactly(int(length))
        writer.write(self._sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
