"""Whatever servers do and in whatever order: nothing is lost, nothing is answered twice."""

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends import dispatch
from engine.backends.base import Failure, Reply, Request
from engine.backends.faults import Broken, Busy, Closed, Impossible, RetryPolicy, Unreachable
from stores.errors import BackendError
from tests.engine.backends.servers import (
    Answer,
    Outcome,
    Server,
    backend,
    now,
    play,
    reply,
    request,
)

KINDS = (
    "reply",
    "slow",
    "busy",
    "pause",
    "quota",
    "broken",
    "dead",
    "impossible",
    "closed",
    "twice",
)
LONGEST_PAUSE = 900.0


def outcome(kind: str, rng: Random) -> Outcome:
    outcomes: dict[str, Outcome] = {
        "slow": rng.uniform(0.1, 300.0),
        "busy": Busy("busy"),
        "pause": Busy("busy", rng.uniform(0.0, LONGEST_PAUSE)),
        "quota": Busy("busy", rng.uniform(LONGEST_PAUSE, 9999.0)),
        "broken": Broken("broken"),
        "dead": Unreachable("dead"),
        "impossible": Impossible("impossible"),
        "closed": Closed("closed", quota=rng.random() < 0.5),
        "twice": lambda asked: reply(request(asked.key), response_id="of another"),
    }
    return outcomes.get(kind)


def weather(rng: Random) -> Iterator[Outcome]:
    """Spells of good and bad weather; the last one, which lasts, may be of any kind."""
    for _ in range(rng.randrange(12)):
        kinds = rng.choices(KINDS, weights=(9, 3, 2, 1, 0.02, 2, 2, 1, 0.05, 1), k=3)
        for _ in range(rng.randrange(1, 30)):
            yield outcome(rng.choice(kinds), rng)
    kinds = rng.choices(KINDS, weights=(30, 3, 0, 0, 1, 3, 3, 1, 1, 1), k=2)
    while True:
        yield outcome(rng.choice(kinds), rng)


class Watched(Server):
    """A server that knows when it must not be asked."""

    shut = False
    rests_until = 0.0

    async def ask(self, request: Request) -> Reply:
        assert not self.shut, "asked after it closed"
        assert now() >= self.rests_until, "asked in a pause that it asked for"
        try:
            return await super().ask(request)
        except Closed:
            self.shut = True
            raise
        except Busy as fault:
            self.shut = self.shut or (fault.delay_s or 0.0) > LONGEST_PAUSE
            self.rests_until = max(self.rests_until, now() + (fault.delay_s or 0.0))
            raise


@dataclass
class Moody:
    """A plan that now gives much, now little, and now waits for answers or for no reason."""

    rng: Random
    left: int
    taken: list[int] = field(default_factory=list)
    answered: int = 0
    ended: bool = False
    asking: bool = False

    async def take(self, limit: int) -> list[Request]:
        assert limit > 0 and not self.ended and not self.asking
        self.asking = True
        try:
            if self.rng.random() < 0.3:
                await asyncio.sleep(self.rng.uniform(0.0, 400.0))
            behind = self.rng.randrange(30) if self.rng.random() < 0.3 else 10**6
            while len(self.taken) - self.answered > behind:
                await asyncio.sleep(1.0)
        finally:
            self.asking = False
        n = min(limit, self.left, self.rng.randrange(1, 40))
        first, self.left = len(self.taken), self.left - n
        self.taken += range(first, first + n)
        self.ended = n == 0
        return [request(key) for key in range(first, first + n)]


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_every_request_taken_gets_one_answer_or_the_run_gives_up(seed: int) -> None:
    rng = Random(seed)
    servers = [Watched(f"http://{n}", weather(rng)) for n in range(rng.randrange(1, 4))]
    workers = rng.randrange(1, 20)
    policy = RetryPolicy(tries=rng.randrange(1, 6))
    plan, found = Moody(rng, rng.randrange(200)), list[Answer]()

    async def scene() -> bool:
        running = backend(*servers, workers=workers, policy=policy, seed=seed)
        try:
            async with aclosing(running.generate(plan)) as answers:
                async for answer in answers:
                    found.append(answer)
                    plan.answered += 1
                    assert running.note().count("\n") == 0
        except BackendError:
            return False
        return True

    finished = play(scene())
    answered = Counter(answer.key for answer in found)
    assert set(answered) <= set(plan.taken)
    assert all(count == 1 for count in answered.values())
    if finished:
        assert set(answered) == set(plan.taken)
        assert plan.ended and plan.left == 0
    for answer in found:
        if isinstance(answer, Reply):
            assert answer.text == f"reply to prompt {answer.key}"
        assert not isinstance(answer, Failure) or answer.reason
    for server in servers:
        assert server.closed == 1
        assert server.most <= workers


class Endless:
    """A plan that never ends and keeps nothing."""

    taken = 0

    async def take(self, limit: int) -> list[Request]:
        first, self.taken = self.taken, self.taken + limit
        return [request(key) for key in range(first, self.taken)]


def test_memory_does_not_grow_with_the_requests_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "REMEMBERED", 500)
    server = Server(then=lambda asked: reply(asked, response_id=f"id-{asked.key}"))

    async def scene() -> list[int]:
        sizes: list[int] = []
        async with aclosing(backend(server, workers=64).generate(Endless())) as answers:
            for n in range(4000):
                await anext(answers)
                server.asked.clear()
                if n % 50 == 0:
                    sizes.append(tracemalloc.get_traced_memory()[0])
        return sizes

    tracemalloc.start()
    try:
        sizes = play(scene())
    finally:
        tracemalloc.stop()
    growth = max(sizes[60:]) - max(sizes[20:40])
    assert growth < 50_000  # a thousand replies kept would be several hundred thousand bytes
