"""A list is offered to a backend in its order, each request once."""

import asyncio

from engine.backends.listed import Listed
from tests.engine.backends.asking import request


def test_a_list_is_offered_in_its_order_and_ends() -> None:
    async def takes() -> list[list[int]]:
        listed = Listed(request(key) for key in range(5))
        return [[each.key for each in await listed.take(3)] for _ in range(3)]

    assert asyncio.run(takes()) == [[0, 1, 2], [3, 4], []]
