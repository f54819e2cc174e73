"""The server itself: connections in, answers and faults out, everything counted.

Knows nothing of threads and processes, and nothing of what the services' JSON looks like.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from engine.bench import gemini, openai
from engine.bench.dialects import Asked, Dialect, as_html, as_json
from engine.bench.script import SENT_BADLY, SPOILT, TRANSIENT, Script
from engine.bench.spoiling import say
from engine.bench.wire import Peer, Request, Response

BACKLOG = 1024
KEY_HEADERS = ("x-goog-api-key", "authorization")
_RIGHT = (None, "slow_drip", "duplicate_delivery")


@dataclass(slots=True)
class Tally:
    """What a server has received and sent so far."""

    calls: int = 0
    answered: int = 0
    good: int = 0
    peak: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    sightings: Counter[str] = field(default_factory=Counter)


class Loopback:
    """Answers connections as its script says. Lives in one event loop."""

    def __init__(self, script: Script) -> None:
        self.tally = Tally()
        self._script = script
        self._struck: Counter[str] = Counter()
        self._under_way = self._granted = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._name = secrets.token_hex(6)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[str]:
        """Answer on 127.0.0.1 inside the block; gives the URL. Every connection ends with it."""
        server = await asyncio.start_server(self._welcome, "127.0.0.1", port, backlog=BACKLOG)
        try:
            yield "http://{}:{}".format(*server.sockets[0].getsockname())
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Nothing may wait in a buffer: what was sent in full is counted.
        writer.transport.set_write_buffer_limits(high=0)
        task = asyncio.create_task(self._converse(Peer(reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, peer: Peer) -> None:
        try:
            while request := await peer.read_request():
                if not await self._respond(request, peer):
                    break
        except ConnectionError:
            pass
        finally:
            peer.writer.transport.abort()

    async def _respond(self, request: Request, peer: Peer) -> bool:
        """Answer one request; whether the connection goes on."""
        dialect = _dialect_at(request.path)
        if dialect is None:
            return await peer.send(self._page(request))
        try:
            asked = dialect.read(request)
        except (ValueError, LookupError, TypeError):
            return await peer.send(as_html(400, "This is no request of this service"))
        self._under_way += 1
        self._count(asked)
        try:
            return await self._answer(dialect, asked, request, peer)
        finally:
            self._under_way -= 1

    def _page(self, request: Request) -> Response:
        if request.path == "/_counts":
            return as_json({name: getattr(self.tally, name) for name in Tally.__slots__})
        if request.path == "/v1/models":
            return as_json(openai.models(self._script.model))
        return as_html(404, "Nothing is served here")

    def _count(self, asked: Asked) -> None:
        self.tally.calls += 1
        self.tally.peak = max(self.tally.peak, self._under_way)
        if self._script.remember:
            self.tally.sightings[asked.prompt] += 1

    def _fault(self, prompt: str) -> str | None:
        """What goes wrong with this request."""
        script = self._script
        if script.mode and self._granted >= script.after:
            return script.mode
        if script.room is not None and self._under_way > script.room:
            return "rate_limit"
        fault = script.fault(prompt)
        if fault in TRANSIENT:
            self._struck[prompt] += 1
            fault = fault if self._struck[prompt] <= script.times else None
        self._granted += fault in _RIGHT
        return fault

    async def _answer(self, dialect: Dialect, asked: Asked, request: Request, peer: Peer) -> bool:
        number = f"{self._name}-{self.tally.calls}"
        fault = self._fault(asked.prompt)
        if fault is not None:
            self.tally.counts[fault] += 1
        if fault == "hang":
            await peer.leaves()
        if fault in ("hang", "disconnect"):
            return False
        if fault is not None and fault not in SENT_BADLY + SPOILT:
            return await peer.send(self._refusal(fault, dialect, asked, number, request))
        await asyncio.sleep(self._script.latency_s)
        said = say(fault, asked, self._script)
        response = dialect.answer(asked, said, number, self._script.thinking_tokens)
        return await self._deliver(fault, response, peer)

    def _refusal(
        self, fault: str, dialect: Dialect, asked: Asked, number: str, request: Request
    ) -> Response:
        if fault == "bad_gateway":
            return as_html(502, "Bad Gateway")
        if fault == "echo_key":
            keys = (f"{name}: {request.headers.get(name)}" for name in KEY_HEADERS)
            return as_html(500, "Server Error", *keys)
        return dialect.refuse(fault, asked, number, self._script)

    async def _deliver(self, fault: str | None, response: Response, peer: Peer) -> bool:
        if fault == "broken_body":
            await peer.send_half(response)
            return False
        if fault == "truncated_json":
            return await peer.send(replace(response, body=response.body[: len(response.body) // 2]))
        if fault == "slow_drip":
            whole = await peer.drip(response, self._script.drip_s)
        else:
            whole = await peer.send(response, copies=2 if fault == "duplicate_delivery" else 1)
        self.tally.answered += whole
        self.tally.good += whole and fault in _RIGHT
        return whole


def _dialect_at(path: str) -> Dialect | None:
    if gemini.PATH.fullmatch(path):
        return gemini.Gemini()
    return openai.OpenAI() if path == openai.PATH else None
