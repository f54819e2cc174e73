"""Laws of how the remote backend ends: when it gives up, what it says, what it leaves behind."""

import asyncio
import random
from collections.abc import Callable

import pytest

from engine.backends.base import Request
from engine.backends.faults import (
    Broken,
    Busy,
    Closed,
    EndpointFault,
    Impossible,
    RetryPolicy,
    Unreachable,
)
from engine.backends.remote import RemoteBackend
from stores.errors import BackendError
from tests.engine.backends.servers import (
    Answer,
    Outcome,
    Plan,
    Server,
    answers,
    backend,
    collect,
    failed,
    now,
    play,
    replied,
)

DEAD = Unreachable("connection refused")


def ending(plan: Plan, *servers: Server, workers: int = 4) -> tuple[list[Answer], str, float]:
    """The answers before a run gives up, why it does, and when."""
    found: list[Answer] = []
    caught: list[BackendError] = []

    async def scene() -> float:
        try:
            await collect(backend(*servers, workers=workers).generate(plan), found)
        except BackendError as error:
            caught.append(error)
        return now()

    at = play(scene())
    assert [server.closed for server in servers] == [1] * len(servers)
    return found, f"{type(caught[0]).__name__}: {caught[0]}", at


def test_a_run_gives_up_soon_when_nobody_ever_answers() -> None:
    server = Server("http://host:8000", then=DEAD)
    found, why, at = ending(Plan(9), server)
    assert found == []
    assert why.startswith("BackendError: http://host:8000: connection refused; no answer for 15 s")
    assert "then run the same command again" in why and "\n" not in why
    assert 15 <= at < 16
    assert 3 <= len(set(server.times)) <= 9


def test_it_is_patient_with_servers_that_have_answered_before() -> None:
    servers = Server("http://a", [None] * 4, then=DEAD), Server("http://b", then=DEAD)
    found, why, at = ending(Plan(20), *servers)
    assert len(replied(found)) == 4
    assert "http://a: connection refused; http://b: connection refused; no answer for 600 s" in why
    assert 600 <= at < 602


def test_patience_begins_anew_after_an_answer() -> None:
    server = Server(outcomes=[None, *[DEAD] * 14, None, *[DEAD] * 14])
    assert replied(answers(Plan(5), server, workers=1)) == list(range(5))
    assert server.times[-1] > 610


def test_errors_from_the_start_are_no_answers() -> None:
    _, why, at = ending(Plan(100), Server(then=Broken("500 internal error")), workers=8)
    assert "500 internal error; no answer for 15 s" in why
    assert at < 17


def test_a_pausing_server_is_not_down() -> None:
    server = Server(outcomes=[Busy("slow down", 800.0)] * 2)
    assert replied(answers(Plan(3), server, workers=1)) == [0, 1, 2]


def test_when_one_server_closes_its_requests_go_to_the_other() -> None:
    closed, other = Server("http://a", then=Closed("401 bad key")), Server("http://b")
    assert replied(answers(Plan(30), closed, other)) == list(range(30))
    assert len(closed.asked) == 4


def test_when_all_are_closed_what_is_in_flight_is_answered_before_the_run_gives_up() -> None:
    servers = (
        Server("http://a", [30.0, Closed("404 no such model")]),
        Server("http://b", [Closed("401 bad key"), 20.0]),
    )
    found, why, at = ending(Plan(9), *servers, workers=2)
    assert len(replied(found)) == 2
    assert why.startswith("BackendError: http://a: 404 no such model; http://b: 401 bad key; check")
    assert at == pytest.approx(30.0)
    assert sum(len(server.asked) for server in servers) == 4


def test_a_used_up_quota_is_told_apart() -> None:
    _, why, _ = ending(Plan(9), Server(then=Closed("429 daily limit", quota=True)))
    assert why.startswith("QuotaUsedUp: http://a: 429 daily limit; run the same command again when")


def test_one_used_up_quota_among_closed_servers_is_worth_waiting_for() -> None:
    servers = Server("http://a", then=Closed("401")), Server("http://b", then=Busy("429", 1000.0))
    _, why, _ = ending(Plan(9), *servers)
    assert why.startswith("QuotaUsedUp: http://a: 401; http://b: asks to wait 1000 s: 429; run the")


def test_a_server_that_asks_to_wait_for_long_has_used_up_its_quota() -> None:
    found, why, at = ending(Plan(9), Server(outcomes=[None] * 4, then=Busy("429", 901.0)))
    assert len(replied(found)) == 4
    assert why.startswith("QuotaUsedUp: http://a: asks to wait 901 s: 429;")
    assert at < 1


def test_a_run_waits_for_servers_that_are_down_when_the_others_are_closed() -> None:
    closed = Server("http://a", then=Closed("401"))
    down = Server("http://b", [DEAD] * 4)
    assert replied(answers(Plan(9), closed, down)) == list(range(9))


def test_many_refusals_and_no_reply_stop_the_run_before_they_cost_a_row() -> None:
    server = Server(then=Impossible("400 max_tokens is too large"))
    found, why, _ = ending(Plan(100), server, workers=4)
    assert found == []
    assert "refused all of 20 requests: 400 max_tokens is too large; check the model" in why
    assert 20 <= len(server.asked) <= 24


def test_refusals_are_passed_on_when_a_reply_shows_that_the_settings_work() -> None:
    bad = Impossible("400 too long")
    server = Server(outcomes=[*[bad] * 19, None, *[bad] * 30])
    found = answers(Plan(60), server)
    assert len(failed(found)) == 49
    assert len(replied(found)) == 11


def test_few_refusals_are_passed_on_when_there_is_nothing_else() -> None:
    found = answers(Plan(5), Server(then=Impossible("400 too long")))
    assert [answer.final for answer in failed(found)] == [True] * 5


def test_refusals_held_back_do_not_keep_a_plan_waiting_that_waits_for_them() -> None:
    class Following(Plan):
        """Gives a request only after the one before has its answer."""

        answered = 0

        async def take(self, limit: int) -> list[Request]:
            while self.answered < len(self.taken):
                await asyncio.sleep(1)
            return await super().take(1)

    plan, found = Following(3), []

    async def scene() -> None:
        async for answer in backend(Server(then=Impossible("400"))).generate(plan):
            found.append(answer.key)
            plan.answered += 1

    play(scene())
    assert found == [0, 1, 2]


@pytest.mark.parametrize("bug", [ValueError("a bug"), EndpointFault("of no kind")])
def test_a_bug_of_an_endpoint_surfaces_and_everything_is_closed(bug: Exception) -> None:
    server = Server(outcomes=[100.0, None, bug])
    with pytest.raises(type(bug)) as caught:
        answers(Plan(9), server)
    assert caught.value is bug
    assert server.in_flight == 0


def test_a_bug_of_the_plan_surfaces_and_everything_is_closed() -> None:
    class Torn(Plan):
        async def take(self, limit: int) -> list[Request]:
            if self.taken:
                raise RuntimeError("the ledger is gone")
            return await super().take(limit)

    server = Server(then=50.0)
    with pytest.raises(RuntimeError, match="the ledger is gone"):
        answers(Torn(9), server, workers=8)
    assert server.in_flight == 0


@pytest.mark.parametrize("reached", [1, 5, 40])
def test_closing_the_iterator_cancels_what_is_in_flight_and_closes_servers(reached: int) -> None:
    servers = Server("http://a", then=1.0), Server("http://b", then=3.3)

    async def scene() -> None:
        running = backend(*servers, workers=8).generate(Plan(1000))
        for _ in range(reached):
            await anext(running)
        assert sum(server.in_flight for server in servers) > 0
        at = now()
        await running.aclose()
        assert now() == at
        assert [(server.in_flight, server.closed) for server in servers] == [(0, 1), (0, 1)]

    play(scene())


@pytest.mark.parametrize("after", [0.0, 0.005, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("then", [None, 2.0, DEAD, Busy("429", 20.0), Broken("500")])
def test_cancelling_at_any_point_leaves_no_task_and_closes_servers(
    after: float, then: Outcome
) -> None:
    class Endless(Plan):
        async def take(self, limit: int) -> list[Request]:
            if len(self.taken) > 10:
                await asyncio.sleep(1000)
            return await super().take(min(limit, 3))

    server = Server(outcomes=[None, 1.0], then=then)

    async def scene() -> None:
        running = asyncio.create_task(collect(backend(server).generate(Endless(10**4)), []))
        await asyncio.sleep(after)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert server.in_flight == 0
        assert server.closed == 1

    play(scene())


def test_a_server_that_cannot_be_closed_keeps_no_other_open() -> None:
    class Stuck(Server):
        async def close(self) -> None:
            raise OSError("stuck")

    servers = Server("http://a"), Stuck("http://b"), Server("http://c")
    with pytest.raises(OSError, match="stuck"):
        play(collect(backend(*servers).generate(Plan(3)), []))
    assert (servers[0].closed, servers[2].closed) == (1, 1)


def noted(*servers: Server, at: float, workers: int = 16) -> str:
    """The note so many seconds into a run."""

    async def scene() -> str:
        running = backend(*servers, workers=workers)
        assert running.note() == ""
        task = asyncio.create_task(collect(running.generate(Plan(10**4)), []))
        await asyncio.sleep(at)
        note = running.note()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return note

    return play(scene())


ALIVE: Callable[[], Server] = lambda: Server("http://b", then=1.0)  # noqa: E731
SLOW_DOWN = Busy("slow down", 40.0)


@pytest.mark.parametrize(
    ("servers", "note"),
    [
        ([Server(then=1.0)], ""),
        ([Server(then=DEAD), ALIVE(), ALIVE()], "2 of 3 servers answer"),
        ([Server(then=Closed("401")), ALIVE(), ALIVE()], "2 of 3 servers answer"),
        ([Server(then=DEAD)], "the server does not answer"),
        ([Server(then=SLOW_DOWN)], "waiting 38 s as the server asks"),
        (
            [Server(outcomes=[1.0, 1.0, 1.0, SLOW_DOWN], then=1.0)],
            "waiting 38 s as the server asks",
        ),
        ([Server(then=SLOW_DOWN), ALIVE()], "16 calls at once"),
        ([Server(outcomes=[Busy("slow down", 1.0)] * 6, then=9.0)], "1 call at once"),
        (
            [Server(then=SLOW_DOWN), Server(then=DEAD)],
            "1 of 2 servers answer, waiting 38 s as the server asks",
        ),
    ],
)
def test_the_note_says_what_holds_a_run_up(servers: list[Server], note: str) -> None:
    assert noted(*servers, at=2.5) == note


def test_a_pause_of_our_own_choosing_is_not_called_the_servers_wish() -> None:
    assert noted(Server(then=Busy("slow down")), at=0.5) in ("waiting 1 s", "waiting 2 s")


def test_endpoints_are_made_inside_the_loop_that_uses_them() -> None:
    made = []

    def make() -> list[Server]:
        made.append(asyncio.get_running_loop())
        return [Server()]

    made_for = RemoteBackend(
        "gemini", "m", make, workers=1, policy=RetryPolicy(), rng=random.Random(0)
    )
    for _ in range(2):
        play(collect(made_for.generate(Plan(1)), []))
    assert made[0] is not made[1]
    assert (made_for.name, made_for.model, made_for.revision) == ("gemini", "m", None)
