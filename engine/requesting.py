"""Turns open rows into requests: leases them, asks for those of one prompt together, keeps count.

A request exists only after its lease and its intent are durable. Knows nothing of backends, replies
or checks.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from engine.backends.base import Request
from engine.settings import GenerationSettings
from engine.tally import Tally
from stores.database import Connection, transaction
from stores.failpoints import reach
from stores.replies import send
from stores.seeds import attempt_seed
from stores.texts import Kind, Lease, lease, release, renew

LEASE_SECONDS = 3600.0
FILLED_IN = 400
"""Characters that an emotion and a topic add to a prompt, at most, when a cost is bounded."""
PROMPTS: Mapping[Kind, str] = {"stories": "story", "dialogues": "dialogue"}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request in flight, the rows it is for, in the order of their slots, and its call."""

    leases: tuple[Lease, ...]
    request: Request
    call: int


@dataclass(slots=True)
class OpenRows:
    """The requests of one run, as a backend takes them. The caller holds the engine lock."""

    conn: Connection
    prompt: str
    """With placeholders {emotion}, {topic} and {n}."""
    settings: GenerationSettings
    run_id: int | None
    tally: Tally
    stop: threading.Event
    clock: Callable[[], float]
    in_flight: dict[int, Sent] = field(default_factory=dict)
    over_budget: bool = False
    ended: bool = False
    """Nothing is left to take, and nothing under way can change that."""
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, limit: int) -> list[Request]:
        """Up to `limit` requests; an empty list when there will be no more."""
        while not self.stop.is_set():
            self._settled.clear()
            if found := self._lease(min(limit, self._affordable())):
                return found
            if not self.in_flight:
                self.over_budget = self._affordable() == 0
                self.ended = True
                break
            await self._settled.wait()
        return []

    def settled(self, keys: Iterable[int]) -> None:
        """These requests are in flight no more: what became of their rows is durable."""
        for key in list(keys):
            del self.in_flight[key]
        self._settled.set()

    def renew(self) -> None:
        """Hold on to the rows in flight for another while."""
        renew(self.conn, self._leases(), now=self.clock(), seconds=LEASE_SECONDS)

    def release(self) -> None:
        """Put every row in flight back, at no cost to it."""
        release(self.conn, self._leases(), now=self.clock())
        self.in_flight.clear()
        self._settled.set()

    def _leases(self) -> list[Lease]:
        return [each for sent in self.in_flight.values() for each in sent.leases]

    def _affordable(self) -> int:
        """How many more calls cannot lift the cost above its limit, whatever comes back."""
        dearest = self.settings.dearest_call(self.prompt + " " * FILLED_IN)
        if self.settings.max_cost is None or dearest == 0:
            return sys.maxsize
        left = self.settings.max_cost - self.tally.cost_usd - dearest * len(self.in_flight)
        return max(0, int(left / dearest))

    def _lease(self, most: int) -> list[Request]:
        held = len(self._leases())
        wanted = self.tally.total - self.tally.done - held
        room = min(most * self.settings.per_call, wanted)
        if room <= 0:
            return []
        with transaction(self.conn):
            taken = lease(
                self.conn,
                self.settings.kind,
                self.settings.corpus,
                f"run {self.run_id}",
                limit=held + room,
                held=held,
                per_call=self.settings.per_call,
                now=self.clock(),
                seconds=LEASE_SECONDS,
                max_attempts=self.settings.max_attempts,
            )
            calls = _calls(taken, self.settings.per_call)
            sent = [self._send(leases) for leases in calls]
        reach("leased")
        self.in_flight |= {each.request.key: each for each in sent}
        return [each.request for each in sent]

    def _send(self, leases: tuple[Lease, ...]) -> Sent:
        """Record the intent to ask for these rows, and phrase the request."""
        first, n = leases[0], len(leases)
        request = Request(
            key=first.id,
            prompt=self.prompt.format(emotion=first.emotion, topic=first.topic, n=n),
            seed=attempt_seed(first.seed, first.attempt),
            max_tokens=self.settings.max_tokens * n,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
        )
        ids = [each.id for each in leases]
        return Sent(leases, request, send(self.conn, self.run_id, first.kind, ids, self.clock()))


def _calls(leases: Iterable[Lease], per_call: int) -> list[tuple[Lease, ...]]:
    """The rows of each call: of one emotion and topic, at most `per_call`, by slot."""
    ordered = sorted(leases, key=lambda each: (each.emotion or "", each.topic, each.slot))
    calls: list[tuple[Lease, ...]] = []
    for _, rows in groupby(ordered, key=lambda each: (each.emotion, each.topic)):
        same = list(rows)
        calls += [tuple(same[i : i + per_call]) for i in range(0, len(same), per_call)]
    return sorted(calls, key=lambda rows: rows[0].id)
