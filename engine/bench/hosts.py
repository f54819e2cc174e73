"""Where a loopback server lives: in a thread of this process, or in a process of its own.

Knows nothing of what it serves.
"""

import asyncio
import json
import multiprocessing
import signal
import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import closing
from copy import deepcopy
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from typing import Any, Protocol
from urllib.parse import urlsplit

from engine.bench.loopback import Loopback, Tally
from engine.bench.script import Script

PATIENCE_S = 30.0


class Host(Protocol):
    """A place where a server runs. `stop` and `kill` give the last tally."""

    @property
    def url(self) -> str: ...

    def count(self) -> Tally: ...

    def stop(self) -> Tally: ...

    def kill(self) -> Tally: ...


class InThread:
    """An event loop in a thread."""

    def __init__(self, script: Script, port: int) -> None:
        self._loopback = Loopback(script)
        self._started: Future[tuple[str, asyncio.AbstractEventLoop]] = Future()
        self._gone = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(port,), daemon=True)
        self._thread.start()
        self.url, self._loop = self._started.result(PATIENCE_S)

    def count(self) -> Tally:
        # Counted inside the loop, after what the loop is in the middle of.
        return asyncio.run_coroutine_threadsafe(self._copy(), self._loop).result(PATIENCE_S)

    def stop(self) -> Tally:
        self._loop.call_soon_threadsafe(self._gone.set)
        self._thread.join(PATIENCE_S)
        return deepcopy(self._loopback.tally)

    kill = stop

    def _run(self, port: int) -> None:
        asyncio.run(self._listen(port))

    async def _listen(self, port: int) -> None:
        try:
            async with self._loopback.listening(port) as url:
                self._started.set_result((url, asyncio.get_running_loop()))
                await self._gone.wait()
        except OSError as error:
            self._started.set_exception(error)

    async def _copy(self) -> Tally:
        return deepcopy(self._loopback.tally)


class Apart:
    """A child process, which ends as soon as the pipe to it is closed, by whatever cause."""

    def __init__(self, script: Script, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._child = context.Process(target=_live, args=(script, port, far), daemon=True)
        self._child.start()
        far.close()
        try:
            self.url: str = self._pipe.recv()
        except EOFError:
            self._end()
            raise OSError(f"the server ended before it listened at port {port}") from None

    def count(self) -> Tally:
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE_S)) as connection:
            connection.request("GET", "/_counts")
            counted: dict[str, Any] = json.loads(connection.getresponse().read())
        for key in ("counts", "sightings"):
            counted[key] = Counter(counted[key])
        return Tally(**counted)

    def stop(self) -> Tally:
        last = self.count() if self._child.is_alive() else Tally()
        self._end()
        return last

    def kill(self) -> Tally:
        last = self.count() if self._child.is_alive() else Tally()
        self._child.kill()
        self._end()
        return last

    def _end(self) -> None:
        self._pipe.close()
        self._child.join(PATIENCE_S)


def _live(script: Script, port: int, pipe: Connection) -> None:
    # Ctrl-C is for the parent, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_listen_until_hung_up(script, port, pipe))


async def _listen_until_hung_up(script: Script, port: int, pipe: Connection) -> None:
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), gone.set)
    async with Loopback(script).listening(port) as url:
        pipe.send(url)
        await gone.wait()
