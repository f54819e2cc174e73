"""Offers a list of requests, known from the start, to a backend."""

from collections.abc import Iterable

from engine.backends.base import Request


class Listed:
    """`Requests` out of a list, in its order."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._left = list(requests)

    async def take(self, limit: int) -> list[Request]:
        """The next `limit` requests at most; an empty list when none is left."""
        taken, self._left = self._left[:limit], self._left[limit:]
        return taken
