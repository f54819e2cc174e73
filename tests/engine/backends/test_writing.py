"""Answers come as they are finished, room is used at once, and closing leaves nothing behind."""

import asyncio
import threading
import time
from contextlib import aclosing, suppress
from typing import Any

import pytest

from engine.backends.base import Failure, Reply, Request
from engine.backends.listed import Listed
from engine.backends.local import LocalBackend
from engine.models import Model
from tests.engine.backends.asking import answer, collect, mixed_requests, request
from tests.engine.backends.watching import watched
from tests.engine.tiny import text_of

PATIENCE = 20.0


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.backends.local.joining_obstacle", lambda _model: "so it is")


def long(key: int, **changes: Any) -> Request:
    """A request whose answer has exactly `max_tokens` tokens: greedy answers do not end."""
    return request(key, temperature=0.0, **{"max_tokens": 90} | changes)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("local model")]


def test_an_answer_comes_as_soon_as_it_is_finished(tiny: Model) -> None:
    first_came = threading.Event()
    in_time = []

    def wait_at_the_tenth(count: int, _shape: tuple[int, int]) -> None:
        if count == 10:
            in_time.append(first_came.wait(PATIENCE))

    async def listen() -> list[int]:
        keys = []
        backend = LocalBackend(tiny, workers=4)
        async for found in backend.generate(Listed([long(0), long(1, max_tokens=2), long(2)])):
            first_came.set()
            keys.append(found.key)
        return keys

    with watched(tiny, wait_at_the_tenth):
        assert asyncio.run(listen()) == [1, 0, 2]
    assert in_time == [True]


def test_a_waiting_request_takes_the_place_of_a_finished_one(tiny: Model) -> None:
    requests = [long(0), *(long(key, max_tokens=3) for key in range(1, 6))]
    with watched(tiny) as passes:
        found = collect(LocalBackend(tiny, workers=2), Listed(requests))
    assert [each.key for each in found] == [1, 2, 3, 4, 5, 0]
    assert max(rows for rows, _ in passes) == 2
    assert len(passes) == 90 + 4  # four joined the first two while the longest was written


def test_finished_rows_are_not_computed_on_for_long(tiny: Model) -> None:
    requests = [long(key, max_tokens=3 if key else 60) for key in range(6)]
    with watched(tiny) as passes:
        collect(LocalBackend(tiny, workers=6), Listed(requests))
    assert [rows for rows, _ in passes] == [6] * 3 + [1] * 57


def test_newcomers_are_read_together_once_an_eighth_of_the_places_is_free(tiny: Model) -> None:
    requests = [long(key, max_tokens=10 + key) for key in range(32)]
    with watched(tiny) as passes:
        collect(LocalBackend(tiny, workers=16), Listed(requests))
    read = [rows for rows, columns in passes if columns > 1]
    assert read[0] == 16
    assert sum(read) == 32
    assert min(read[:-1]) >= 2  # the last takes what is left


def test_rows_in_flight_stay_within_the_tokens(tiny: Model) -> None:
    requests = [long(key, prompt=text_of(6), max_tokens=20 + key % 3) for key in range(12)]
    cost = max(len(tiny.tokenizer(each.prompt)["input_ids"]) for each in requests) + 40
    with watched(tiny) as passes:
        answer(tiny, requests, workers=12, tokens_per_batch=3 * cost)
        whole = max(rows for rows, _ in passes)
        passes.clear()
        answer(tiny, requests, workers=12, tokens_per_batch=cost // 4)
    assert 3 <= whole < 12
    assert {rows for rows, _ in passes} == {1}


@pytest.mark.usefixtures("static")
def test_static_batches_are_cut_from_prompts_sorted_by_length(tiny: Model) -> None:
    with watched(tiny) as passes:
        answer(tiny, mixed_requests(16, temperature=0.0), workers=4)
    widths = [columns for _, columns in passes if columns > 1]
    assert len(widths) == 4
    assert widths == sorted(widths)


class Asked:
    """Requests in rounds; each round after the first waits for its turn."""

    def __init__(self, *rounds: list[Request]) -> None:
        self.rounds = list(rounds)
        self.turn = asyncio.Event()
        self.open = 0
        self.most_open = 0
        self.cancelled = 0
        self.limits: list[int] = []
        self._first = True

    async def take(self, limit: int) -> list[Request]:
        if not self._first:
            try:
                await self.turn.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        self._first = False
        self.limits.append(limit)
        taken = self.rounds.pop(0)[:limit] if self.rounds else []
        self.open += len(taken)
        self.most_open = max(self.most_open, self.open)
        return taken


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_taken_than_there_is_room_for(tiny: Model, workers: int) -> None:
    async def listen() -> Asked:
        asked = Asked(*([each] for each in mixed_requests(8)))
        asked.turn.set()
        async for _ in LocalBackend(tiny, workers=workers).generate(asked):
            asked.open -= 1
        return asked

    asked = asyncio.run(listen())
    assert (asked.open, asked.rounds) == (0, [])
    assert asked.most_open <= 2 * workers  # some may be answered and not passed on yet
    assert max(asked.limits) == workers


@pytest.mark.parametrize("mode", ["continuous", "static"])
def test_an_answer_may_bring_the_next_request(
    tiny: Model, mode: str, request: pytest.FixtureRequest
) -> None:
    if mode == "static":
        request.getfixturevalue("static")

    async def listen() -> list[int]:
        asked, keys = Asked([long(0)], [long(1)]), []
        async for found in LocalBackend(tiny, workers=4).generate(asked):
            keys.append(found.key)
            asked.turn.set()
        return keys

    assert asyncio.run(asyncio.wait_for(listen(), PATIENCE)) == [0, 1]


def test_failures_are_passed_on_though_requests_never_end(tiny: Model) -> None:
    class Endless:
        async def take(self, limit: int) -> list[Request]:
            return [request(key, prompt=text_of(400)) for key in range(limit)]

    async def first() -> Reply | Failure:
        async with aclosing(LocalBackend(tiny, workers=2).generate(Endless())) as stream:
            return await anext(stream)

    assert isinstance(asyncio.run(asyncio.wait_for(first(), PATIENCE)), Failure)


def listen_late(model: Model) -> tuple[list[int], list[int], int]:
    """One long row, and two short ones that come at its sixth pass: keys, limits, passes."""

    async def listen() -> tuple[list[int], list[int], int]:
        loop = asyncio.get_running_loop()
        short = [[long(key, max_tokens=2)] for key in (1, 2)]
        asked = Asked([long(0, max_tokens=200)], *short)

        def let_them_come(count: int, _shape: tuple[int, int]) -> None:
            if count == 5:
                loop.call_soon_threadsafe(asked.turn.set)
            time.sleep(0.001)  # the long row must not end before the loop has turned

        with watched(model, let_them_come) as passes:
            backend = LocalBackend(model, workers=3)
            keys = [each.key async for each in backend.generate(asked)]
        return keys, asked.limits, len(passes)

    return asyncio.run(asyncio.wait_for(listen(), PATIENCE))


def test_what_comes_late_joins_the_rows_under_way(tiny: Model) -> None:
    keys, limits, passes = listen_late(tiny)
    assert sorted(keys[:2]) == [1, 2]
    assert keys[2] == 0
    assert limits[:3] == [3, 2, 1]
    assert passes <= 200 + 2


@pytest.mark.usefixtures("static")
def test_what_comes_late_waits_for_a_static_batch_and_does_not_end_it(tiny: Model) -> None:
    keys, _, passes = listen_late(tiny)
    assert keys[0] == 0
    assert passes == 200 + 2


@pytest.mark.parametrize(
    ("mode", "end"), [("continuous", "cancel"), ("continuous", "close"), ("static", "cancel")]
)
def test_it_ends_within_the_step_under_way_and_leaves_no_thread(
    tiny: Model, mode: str, end: str, request: pytest.FixtureRequest
) -> None:
    if mode == "static":
        request.getfixturevalue("static")
    entered, gate = threading.Event(), threading.Event()

    def stand_still(count: int, _shape: tuple[int, int]) -> None:
        if count == 7:
            entered.set()
            gate.wait(PATIENCE)

    async def leave() -> None:
        stream = LocalBackend(tiny, workers=2).generate(Listed([long(0), long(1)]))
        arriving = asyncio.ensure_future(anext(stream))
        assert await asyncio.to_thread(entered.wait, PATIENCE)  # meanwhile the loop is free
        arriving.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        with suppress(asyncio.CancelledError):
            await arriving
        await stream.aclose()
        assert threads() == []

    async def close() -> None:
        requests = [long(0, max_tokens=3), long(1)]
        async with aclosing(LocalBackend(tiny, workers=2).generate(Listed(requests))) as stream:
            await anext(stream)
            assert await asyncio.to_thread(entered.wait, PATIENCE)
            asyncio.get_running_loop().call_later(0.01, gate.set)
        assert threads() == []

    with watched(tiny, stand_still) as passes:
        asyncio.run(leave() if end == "cancel" else close())
        assert len(passes) == 8


def test_closing_cancels_what_is_being_taken(tiny: Model) -> None:
    async def leave() -> int:
        asked = Asked([long(0, max_tokens=2)])
        async with aclosing(LocalBackend(tiny, workers=2).generate(asked)) as stream:
            await anext(stream)
        return asked.cancelled

    assert asyncio.run(asyncio.wait_for(leave(), PATIENCE)) == 1
    assert threads() == []
