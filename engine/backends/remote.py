"""A backend that asks servers: many requests at once, around the servers that are down.

Knows no client and no provider. What follows a fault is decided in dispatch.py, how fast to ask in
pace.py, whether a server is up in health.py.
"""

import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack

from engine.backends.base import Failure, Reply, Requests
from engine.backends.dispatch import Dispatch
from engine.backends.faults import Endpoint, RetryPolicy
from engine.backends.health import Server
from engine.backends.outlook import describe
from engine.backends.pace import Pace


class RemoteBackend:
    """A `Backend` of one or more endpoints that serve the same model."""

    revision: str | None = None
    mode = "remote"
    in_process = False

    def __init__(
        self,
        name: str,
        model: str,
        make_endpoints: Callable[[], Sequence[Endpoint]],
        *,
        workers: int,
        policy: RetryPolicy,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Endpoints are made by each `generate`, inside its event loop, and closed by it.

        At most `workers` calls are under way at each endpoint.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.name = name
        self.model = model
        self._make_endpoints = make_endpoints
        self._workers = workers
        self._policy = policy
        self._rng = rng
        self._clock = clock
        self._servers: list[Server] = []

    async def generate(self, requests: Requests) -> AsyncGenerator[Reply | Failure, None]:
        """See `Backend`. Raises QuotaUsedUp when the servers refuse until a quota resets."""
        async with AsyncExitStack() as leaving:
            self._servers = []
            for endpoint in self._make_endpoints():
                leaving.push_async_callback(endpoint.close)
                pace = Pace(self._workers)
                self._servers.append(Server(endpoint, pace, self._policy, self._rng))
            dispatch = Dispatch(requests, self._servers, self._policy, self._rng, self._clock)
            leaving.push_async_callback(dispatch.abandon)
            going = True
            while going:
                going = await dispatch.advance()
                while dispatch.answers:
                    yield dispatch.answers.popleft()

    def note(self) -> str:
        """See `Backend`."""
        return describe(self._servers, self._clock())
