"""One server as its callers see it: up, pausing, down or closed, and with how much room.

Knows which requests broke, by key, and nothing else of them; it calls nobody and never waits.
"""

import random
from dataclasses import dataclass, field

from engine.backends.faults import Busy, Closed, Endpoint, RetryPolicy
from engine.backends.pace import Pace


@dataclass(slots=True, eq=False)
class Server:
    """An endpoint, its pace and its health. `now` is in seconds, on any clock that only rises."""

    endpoint: Endpoint
    pace: Pace
    policy: RetryPolicy
    rng: random.Random
    down: bool = False
    closed: Closed | None = None
    reason: str = ""
    """What it last said instead of an answer."""
    asked_to_wait: bool = False
    """Whether the present pause is the server's own wish."""
    _paused_until: float = 0.0
    _probed_from: float = 0.0
    _probe: int | None = None
    """The number of the call that finds out whether a server that is down is back."""
    _pauses: int = 0
    _falls: int = 0
    _broken: set[int] = field(default_factory=set)
    """Keys of the requests that broke since the last answer; no more than tell that it is down."""

    @property
    def up(self) -> bool:
        """Whether requests may go there, now or after its rest."""
        return not self.down and self.closed is None

    @property
    def rests_until(self) -> float:
        """Until then nothing is sent: it is busy, or down and not to be probed yet."""
        return max(self._paused_until, self._probed_from if self.down else 0.0)

    def room(self, now: float) -> int:
        """How many calls may begin: none at rest, and a single one while it is down."""
        if self.closed is not None or now < self.rests_until:
            return 0
        if self.down:
            return 1 if self._probe is None else 0
        return self.pace.room

    def begin(self) -> int:
        """A call begins; gives its number, which the other methods ask for."""
        number = self.pace.begin()
        if self.down:
            self._probe = number
        return number

    def end(self, number: int) -> None:
        """A call has ended, and what came of it has been told."""
        self.pace.end()
        if number == self._probe:
            self._probe = None

    def answer(self) -> None:
        """It answered a request, if only to refuse this very one."""
        self.down = False
        self._pauses = self._falls = 0
        self._broken.clear()
        self.pace.grow()

    def slow(self, fault: Busy, number: int, now: float) -> None:
        """It asked for less. A wish to wait longer than the policy knows closes it."""
        self.reason, self.down = fault.reason, False
        if fault.delay_s is not None and fault.delay_s > self.policy.quota_delay_s:
            self.close(Closed(f"asks to wait {fault.delay_s:.0f} s: {fault.reason}", quota=True))
        news = self.pace.halve(number)
        if fault.delay_s is not None:
            self._pause(now + max(self.policy.first_delay_s, fault.delay_s), asked=True)
        elif news:
            self._pauses += 1
            self._pause(now + self.policy.back_off(self._pauses, self.rng), asked=False)

    def stumble(self, reason: str, key: int, number: int, now: float) -> None:
        """A try broke. One request may be at fault itself; several different ones are not."""
        self.reason = reason
        if not self.down:
            self._broken.add(key)
        if len(self._broken) >= self.policy.broken_in_a_row or self.down:
            self.fall(reason, number, now)

    def fall(self, reason: str, number: int, now: float) -> None:
        """It is down, or was found to be so still: a single probe goes out after each rest."""
        self.reason = reason
        if not self.down:
            self.pace.restart()
        elif number != self._probe:
            return
        self.down = True
        self._falls += 1
        self._probed_from = now + self.policy.back_off(self._falls, self.rng)

    def close(self, fault: Closed) -> None:
        """It is of no use any more."""
        self.closed, self.reason = fault, fault.reason
        self._broken.clear()

    def _pause(self, until: float, *, asked: bool) -> None:
        if until > self._paused_until:
            self._paused_until, self.asked_to_wait = until, asked
