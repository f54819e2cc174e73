"""How many calls one server gets at once: more while it answers, half when it asks for less.

Knows no server, no request and no time: callers report what happened.
"""

import math
from dataclasses import dataclass

FIRST_WINDOW = 4.0


@dataclass(slots=True)
class Pace:
    """A window of calls that grows by additions and shrinks by halves, as TCP's does.

    It doubles with every round of answers until the server first asks for less, from then on it
    grows by one a round.
    """

    most: int
    """The window never opens further."""
    in_flight: int = 0
    window: float = FIRST_WINDOW
    _slow_from: float = math.inf
    _begun: int = 0
    _round: int = 0
    """Calls with a lower number were under way when the window last shrank."""

    def __post_init__(self) -> None:
        self.window = min(self.window, self.most)

    @property
    def room(self) -> int:
        """How many more calls may begin."""
        return max(0, int(self.window) - self.in_flight)

    @property
    def held_back(self) -> bool:
        """Whether the server has asked for less and does not have all it may get again."""
        return self._slow_from < math.inf and int(self.window) < self.most

    def begin(self) -> int:
        """A call begins; gives its number, by which `halve` knows its round."""
        self.in_flight += 1
        self._begun += 1
        return self._begun

    def end(self) -> None:
        """A call has ended, however it did."""
        self.in_flight -= 1

    def grow(self) -> None:
        """A call was answered."""
        step = 1.0 if self.window < self._slow_from else 1.0 / self.window
        self.window = min(self.window + step, self.most)

    def halve(self, number: int) -> bool:
        """The server asked for less, at this call; False if that is no news.

        What was under way when the window shrank says the same again, and does not count. Call it
        before `end`: half is counted of what the server really had.
        """
        if number <= self._round:
            return False
        self.window = self._slow_from = max(1.0, min(self.window, self.in_flight) / 2)
        self._round = self._begun
        return True

    def restart(self) -> None:
        """The server was away: begin small, and double up to half of what it had."""
        self._slow_from = max(1.0, min(self._slow_from, self.window / 2))
        self.window = min(FIRST_WINDOW, self.most)
