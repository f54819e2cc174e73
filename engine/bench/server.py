"""A loopback HTTP server that answers like Gemini and like OpenAI, and misbehaves on demand.

Gemini: POST /v1/models/{model}:generateContent (and /v1beta). OpenAI: POST /v1/chat/completions and
GET /v1/models. Counters: GET /_counts. Any key and any model will do. An answer longer than its
token limit (4 characters a token) is cut there, as a real model's is.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from engine.bench.hosts import Apart, Host, InThread
from engine.bench.loopback import Tally
from engine.bench.script import Script

__all__ = ["Script", "Server", "serve", "serve_apart"]


class Server:
    """A server under way. Its counters stay readable, as they last were, once it is stopped."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._last: Tally | None = None

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT"""
        return self._host.url

    @property
    def calls(self) -> int:
        """How many requests for an answer were received."""
        return self._tally().calls

    @property
    def answered(self) -> int:
        """How many whole answers, spoilt ones included, were sent to a client still there."""
        return self._tally().answered

    @property
    def good(self) -> int:
        """How many of those were just what the prompt asked for."""
        return self._tally().good

    @property
    def peak(self) -> int:
        """The most requests that were under way at once."""
        return self._tally().peak

    @property
    def counts(self) -> Counter[str]:
        """How often each fault or mode struck, by its name."""
        return self._tally().counts

    @property
    def sightings(self) -> Counter[str]:
        """How often each prompt was received; empty unless Script.remember."""
        return self._tally().sightings

    def stop(self) -> None:
        """Drop every connection and listen no more."""
        if self._last is None:
            self._last = self._host.stop()

    def kill(self) -> None:
        """The same as when an endpoint dies: a server apart has no time to close anything."""
        if self._last is None:
            self._last = self._host.kill()

    def _tally(self) -> Tally:
        return self._last or self._host.count()


@contextmanager
def serve(script: Script, *, port: int = 0) -> Iterator[Server]:
    """A server in a thread, at a free port of 127.0.0.1 unless one is given.

    Raises OSError when the port is taken.
    """
    yield from _running(InThread(script, port))


@contextmanager
def serve_apart(script: Script, *, port: int = 0) -> Iterator[Server]:
    """A server in a child process, which also ends when this process does; else like `serve`.

    What reaches it between the last reading of its counters and its end is counted nowhere.
    """
    yield from _running(Apart(script, port))


def _running(host: Host) -> Iterator[Server]:
    server = Server(host)
    try:
        yield server
    finally:
        server.stop()
