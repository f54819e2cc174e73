"""After a stop, what arrives in time is kept and the source is told to give up the rest."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator

import pytest

from engine.draining import drain


class Source:
    """Yields numbers after given pauses, and remembers whether it was closed while it waited."""

    def __init__(self, *pauses: float) -> None:
        self.pauses = pauses
        self.abandoned = False

    async def answers(self) -> AsyncGenerator[int, None]:
        for number, pause in enumerate(self.pauses):
            try:
                await asyncio.sleep(pause)
            except asyncio.CancelledError:
                self.abandoned = True
                raise
            yield number


def collect(source: Source, stop: threading.Event, seconds: float = 0.3) -> list[int]:
    async def run() -> list[int]:
        groups = [group async for group in drain(source.answers(), stop, seconds=seconds)]
        return [number for group in groups for number in group]

    return asyncio.run(run())


def test_without_a_stop_every_answer_passes() -> None:
    assert collect(Source(0, 0, 0.01), threading.Event()) == [0, 1, 2]


def test_after_a_stop_late_answers_are_abandoned() -> None:
    stop, source = threading.Event(), Source(0, 0, 60)
    stop.set()
    began = time.monotonic()
    assert collect(source, stop) == [0, 1]
    assert source.abandoned
    assert time.monotonic() - began < 5


def test_a_stop_while_waiting_is_noticed() -> None:
    stop, source = threading.Event(), Source(0, 60)
    threading.Timer(0.1, stop.set).start()
    assert collect(source, stop) == [0]


def test_answers_within_the_time_are_kept() -> None:
    stop, source = threading.Event(), Source(0, 0.15, 60)
    stop.set()
    assert collect(source, stop, seconds=1.0) == [0, 1]


def test_answers_that_arrive_together_are_one_group() -> None:
    async def at_once() -> AsyncGenerator[int, None]:
        for number in range(3):
            yield number
        await asyncio.sleep(0.05)
        yield 3

    async def run() -> list[list[int]]:
        return [group async for group in drain(at_once(), threading.Event(), seconds=0)]

    assert asyncio.run(run()) == [[0, 1, 2], [3]]


def test_what_came_before_an_error_is_passed_on_first() -> None:
    groups: list[list[int]] = []

    async def broken() -> AsyncGenerator[int, None]:
        yield 1
        raise OSError("gone")

    async def run() -> None:
        async for group in drain(broken(), threading.Event(), seconds=0):
            groups.append(group)

    with pytest.raises(OSError, match="gone"):
        asyncio.run(run())
    assert groups == [[1]]
