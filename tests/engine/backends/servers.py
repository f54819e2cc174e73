"""Servers that follow a script, plans that record what is taken, and a clock that never waits."""

import asyncio
import random
import selectors
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from engine.backends.base import Failure, Reply, Request
from engine.backends.faults import RetryPolicy
from engine.backends.remote import RemoteBackend

Answer = Reply | Failure
Outcome = Exception | float | Callable[[Request], Reply] | None
"""What a try comes to: a fault, a reply after so many seconds, a reply of its own, or a reply."""
Result = TypeVar("Result")


class _Skipping(selectors.SelectSelector):
    """Where a loop would wait, its time jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for something else")
        self.now += timeout
        return super().select(0)


class _SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.skipping = _Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.now


def now() -> float:
    """The time of the loop, which began at 0."""
    return asyncio.get_running_loop().time()


def play(scene: Awaitable[Result]) -> Result:
    """Run a coroutine on a loop where hours pass at once; tasks it leaves behind are an error."""

    async def main() -> Result:
        result = await scene
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=_SkippingLoop) as runner:
        return runner.run(main())


def request(key: int) -> Request:
    return Request(
        key=key, prompt=f"prompt {key}", seed=key, max_tokens=9, temperature=1.0, top_p=1.0
    )


def reply(asked: Request, *, response_id: str | None = None) -> Reply:
    return Reply(
        key=asked.key,
        text=f"reply to {asked.prompt}",
        finish_reason="stop",
        prompt_tokens=1,
        output_tokens=1,
        latency_s=0.0,
        response_id=response_id,
    )


class Server:
    """An endpoint that goes through its outcomes, then repeats the last word, `then`."""

    def __init__(
        self, name: str = "http://a", outcomes: Iterable[Outcome] = (), then: Outcome = None
    ) -> None:
        self.name = name
        self.outcomes = iter(outcomes)
        self.then = then
        self.asked: list[tuple[float, int]] = []
        """When each request came, and its key."""
        self.in_flight = 0
        self.most = 0
        self.closed = 0

    async def ask(self, request: Request) -> Reply:
        self.asked.append((now(), request.key))
        outcome = next(self.outcomes, self.then)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(outcome if isinstance(outcome, float) else 0.01)
        finally:
            self.in_flight -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(request) if callable(outcome) else reply(request)

    async def close(self) -> None:
        assert self.in_flight == 0
        self.closed += 1

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.asked]

    @property
    def keys(self) -> list[int]:
        return [key for _, key in self.asked]


class Plan:
    """Requests with the keys 0 .. n - 1, and the limits with which they were taken."""

    def __init__(self, n: int) -> None:
        self.left = [request(key) for key in range(n)]
        self.limits: list[int] = []
        self.taken: list[int] = []

    async def take(self, limit: int) -> list[Request]:
        assert limit > 0
        self.limits.append(limit)
        taken, self.left = self.left[:limit], self.left[limit:]
        self.taken += [each.key for each in taken]
        return taken


def backend(
    *servers: Server, workers: int = 4, policy: RetryPolicy | None = None, seed: int = 0
) -> RemoteBackend:
    return RemoteBackend(
        "openai",
        "m",
        lambda: servers,
        workers=workers,
        policy=policy or RetryPolicy(),
        rng=random.Random(seed),
        clock=now,
    )


async def collect(answers: AsyncGenerator[Answer, None], into: list[Answer]) -> None:
    """Add every answer to a list, which keeps those that came before an error."""
    async with aclosing(answers) as each:
        async for answer in each:
            into.append(answer)


def answers(plan: Any, *servers: Server, **settings: Any) -> list[Answer]:
    """All answers of one run, with which every server is closed."""
    found: list[Answer] = []
    try:
        play(collect(backend(*servers, **settings).generate(plan), found))
    finally:
        assert [server.closed for server in servers] == [1] * len(servers)
    return found


def replied(found: Sequence[Answer]) -> list[int]:
    """The keys of the replies, in order of key."""
    return sorted(answer.key for answer in found if isinstance(answer, Reply))


def failed(found: Sequence[Answer]) -> list[Failure]:
    return sorted((a for a in found if isinstance(a, Failure)), key=lambda a: a.key)
