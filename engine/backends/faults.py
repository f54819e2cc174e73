"""How a server is asked once, and what can go wrong with one try.

An endpoint turns whatever its client raises into one of the faults below; whoever asks decides by
the kind of fault alone. Knows no client, no provider and no waiting.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from engine.backends.base import Reply, Request


class EndpointFault(Exception):
    """Base of what a try may raise. `reason` is one line that holds no key and no query."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Busy(EndpointFault):
    """The server asks for less: wait `delay_s` seconds if it says how long, and slow down."""

    def __init__(self, reason: str, delay_s: float | None = None) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class Broken(EndpointFault):
    """This try came to nothing (server error, timeout, torn answer); the next may succeed."""


class Unreachable(EndpointFault):
    """Nobody answers at this address: the request was never received."""


class Impossible(EndpointFault):
    """The server refuses this very request, and always will."""


class Closed(EndpointFault):
    """The server refuses everything from now on: key, model, account or, if `quota`, its quota."""

    def __init__(self, reason: str, *, quota: bool = False) -> None:
        super().__init__(reason)
        self.quota = quota


class Endpoint(Protocol):
    """One server, and the client that talks to it; belongs to the event loop that made it."""

    name: str
    """Its base address, without credentials or query."""

    async def ask(self, request: Request) -> Reply:
        """Try once, without retries inside, every wait bounded. Raises an EndpointFault.

        Anything else that it raises is a bug and stops the run.
        """
        ...

    async def close(self) -> None:
        """Give up connections. Called once, after every `ask` has ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and when to try again; all times in seconds."""

    tries: int = 5
    """Broken tries after which a request is given up."""
    first_delay_s: float = 1.0
    """No wait before another try at a server in trouble is shorter."""
    longest_delay_s: float = 60.0
    """No wait of our own choosing is longer."""
    quota_delay_s: float = 900.0
    """A server that asks for a longer wait than this has used up its quota."""
    broken_in_a_row: int = 8
    """Different requests broken, with none answered between, that show a server to be down."""
    patience_s: float = 600.0
    """How long to go on while every server is down."""
    first_patience_s: float = 15.0
    """The same while no server has ever answered."""
    impossible_in_a_row: int = 20
    """Refused requests, before any reply, that show a wrong setting."""

    def back_off(self, nth: int, rng: random.Random) -> float:
        """Seconds to wait after the nth fault in a row: up to twice as long each time, at random.

        Random, because many requests meet the same fault at once and should not return at once.
        """
        longest = self.first_delay_s * 2.0 ** min(nth, 32)
        return rng.uniform(
            self.first_delay_s, max(self.first_delay_s, min(longest, self.longest_delay_s))
        )
