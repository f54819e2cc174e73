"""Sends requests to servers and decides, by the kind of a fault alone, what follows it.

Each request taken gets one answer; of those that have theirs, nothing is kept. Knows no client,
no provider and no wording.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.backends.base import Failure, Reply, Request, Requests
from engine.backends.faults import Broken, Busy, Closed, Impossible, RetryPolicy, Unreachable
from engine.backends.health import Server
from engine.backends.outlook import closed_error, down_error, refused_error
from stores.errors import BackendError

REMEMBERED = 10_000
"""Replies after which one that is delivered again is not recognised any more."""


@dataclass(slots=True, eq=False)
class Held:
    """A request without its answer."""

    request: Request
    tries: int = 0
    broke_at: Server | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One try under way."""

    held: Held
    server: Server
    number: int


@dataclass(slots=True)
class Recent:
    """The replies of late."""

    _order: deque[int] = field(default_factory=deque)
    _known: set[int] = field(default_factory=set)

    def repeats(self, reply: Reply) -> bool:
        """Whether this very reply came before; remembers it.

        The text counts as well: some servers draw their ids from a thousand numbers.
        """
        if reply.response_id is None:
            return False
        mark = hash((reply.response_id, reply.text))
        if mark in self._known:
            return True
        self._known.add(mark)
        self._order.append(mark)
        if len(self._order) > REMEMBERED:
            self._known.remove(self._order.popleft())
        return False


@dataclass(slots=True, eq=False)
class Dispatch:
    """What is in flight, what waits for its next try, and what is to be said."""

    requests: Requests
    servers: Sequence[Server]
    policy: RetryPolicy
    rng: random.Random
    clock: Callable[[], float]
    answers: deque[Reply | Failure] = field(default_factory=deque)
    """For the caller to pass on and remove."""
    _calls: dict[asyncio.Task[Reply], Call] = field(default_factory=dict)
    _waiting: list[tuple[float, int, Held]] = field(default_factory=list)
    """A heap: when it may be tried again, a running number, the request."""
    _waits: int = 0
    _taking: asyncio.Task[list[Request]] | None = None
    _exhausted: bool = False
    _recent: Recent = field(default_factory=Recent)
    _replied: bool = False
    _refusals: list[Failure] = field(default_factory=list)
    """Held back until a reply shows that these requests are at fault, not the settings."""
    _refused: int = 0
    _dark_since: float | None = None
    """Since when no server is up."""
    _error: BackendError | None = None
    """Why nothing more is sent."""

    async def advance(self) -> bool:
        """Send what can be sent and wait until something happens; False when all is over.

        Raises BackendError, once nothing is in flight, when it cannot go on.
        """
        self._watch()
        if self._error is None:
            self._send()
            self._take()
        elif not self._calls:
            raise self._error
        for task in (ended := await self._next()):
            if task is self._taking:
                self._receive(self._taking)
            else:
                self._settle(task, self._calls.pop(task))
        if not self._idle() or self._error:
            return True
        if self._exhausted or not ended:
            self._admit_refusals()
        return not self._exhausted

    async def abandon(self) -> None:
        """Cancel everything under way and wait until it is gone."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _idle(self) -> bool:
        """Whether there is nothing to do but what the plan may still give."""
        return not (self._calls or self._waiting)

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._calls, *([self._taking] if self._taking else [])]

    def _watch(self) -> None:
        """Give up when every server is closed, or none has been up for too long."""
        left = [server for server in self.servers if server.closed is None]
        if any(server.up for server in left):
            self._dark_since = None
            return
        now = self.clock()
        if self._dark_since is None:
            self._dark_since = now
        if not left:
            self._error = self._error or closed_error(self.servers)
        elif now >= self._dark_since + self._patience():
            self._error = self._error or down_error(left, self._patience())

    def _patience(self) -> float:
        return self.policy.patience_s if self._replied else self.policy.first_patience_s

    def _send(self) -> None:
        """Begin a call for each request whose time has come, while there is room."""
        now, kept = self.clock(), []
        while self._waiting and self._waiting[0][0] <= now and self._room(now):
            turn = heapq.heappop(self._waiting)
            if server := self._choose(turn[2], now):
                self._begin(turn[2], server)
            else:
                kept.append(turn)
        for turn in kept:
            heapq.heappush(self._waiting, turn)

    def _room(self, now: float) -> int:
        return sum(server.room(now) for server in self.servers)

    def _choose(self, held: Held, now: float) -> Server | None:
        """Where to try: at a server that is to be probed, or else at the one with most room.

        Not where this request broke while another server works, even if that one is full: a
        server that breaks everything is quick about it and would have room for every next try.
        """
        others = [server for server in self.servers if server is not held.broke_at]
        elsewhere = any(server.up and server.rests_until <= now for server in others)
        fit = [server for server in (others if elsewhere else self.servers) if server.room(now)]
        return max(fit, key=lambda server: (server.down, server.room(now)), default=None)

    def _begin(self, held: Held, server: Server) -> None:
        call = asyncio.create_task(server.endpoint.ask(held.request))
        self._calls[call] = Call(held, server, server.begin())

    def _take(self) -> None:
        """Ask for as many requests as there is room for, unless that was asked already."""
        if self._exhausted or self._taking is not None:
            return
        most = sum(server.pace.most for server in self.servers)
        room = min(self._room(self.clock()), most - len(self._waiting))
        if room > 0:
            self._taking = asyncio.create_task(self.requests.take(room))

    async def _next(self) -> set[asyncio.Task[Any]]:
        """What has come to an end, after waiting for it or until it is time to send again."""
        now = self.clock()
        times = [server.rests_until for server in self.servers if server.closed is None]
        times += [turn[0] for turn in self._waiting[:1]]
        if self._dark_since is not None:
            times.append(self._dark_since + self._patience())
        pause = min((at - now for at in times if at > now), default=None)
        if self._refusals and self._idle():
            pause = 0.0  # a plan that gives nothing at once may be waiting for these answers
        if not (tasks := self._tasks()):
            await asyncio.sleep(pause or 0)
            return set()
        done, _ = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        return done

    def _receive(self, taking: asyncio.Task[list[Request]]) -> None:
        self._taking = None
        taken = taking.result()
        self._exhausted = not taken
        for request in taken:
            self._wait(Held(request), self.clock())

    def _wait(self, held: Held, until: float) -> None:
        self._waits += 1
        heapq.heappush(self._waiting, (until, self._waits, held))

    def _settle(self, task: asyncio.Task[Reply], call: Call) -> None:
        """Judge one finished try: an answer, or what its fault says of server and request."""
        now, held, server = self.clock(), call.held, call.server
        try:
            self._reply(task.result(), server)
        except Busy as fault:
            server.slow(fault, call.number, now)
            self._wait(held, now)
        except Unreachable as fault:
            server.fall(fault.reason, call.number, now)
            self._wait(held, now)
        except Closed as fault:
            server.close(fault)
            self._wait(held, now)
        except Broken as fault:
            server.stumble(fault.reason, held.request.key, call.number, now)
            self._retry(held, server, fault.reason, now)
        except Impossible as fault:
            server.answer()
            self._refuse(held, server, fault.reason)
        finally:
            server.end(call.number)

    def _reply(self, reply: Reply, server: Server) -> None:
        """Pass a reply on. Raises Broken when it was delivered before, to another request."""
        if self._recent.repeats(reply):
            raise Broken(f"the reply {reply.response_id} was delivered twice")
        server.answer()
        self._replied = True
        self.answers.append(reply)
        self._admit_refusals()

    def _retry(self, held: Held, server: Server, reason: str, now: float) -> None:
        """Try again: later and at a cost, unless the server was at fault."""
        held.broke_at = server
        if not server.up:
            self._wait(held, now)
            return
        held.tries += 1
        if held.tries < self.policy.tries:
            self._wait(held, now + self.policy.back_off(held.tries, self.rng))
        else:
            reason = f"{held.tries} tries failed, the last one: {reason}"
            self.answers.append(Failure(key=held.request.key, reason=reason))

    def _refuse(self, held: Held, server: Server, reason: str) -> None:
        """Fail a request for good; many refusals and no reply are the settings' fault instead."""
        self._refused += 1
        self._refusals.append(Failure(key=held.request.key, reason=reason, final=True))
        if self._replied:
            self._admit_refusals()
        elif self._refused >= self.policy.impossible_in_a_row:
            self._error = self._error or refused_error(server, self._refused, reason)

    def _admit_refusals(self) -> None:
        self.answers += self._refusals
        self._refusals.clear()
