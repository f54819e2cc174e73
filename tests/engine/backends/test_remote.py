"""Laws of the remote backend in good and bad weather: pace, tries, other servers, pauses."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest

from engine.backends.base import Failure, Reply, Request
from engine.backends.faults import Broken, Busy, Impossible, RetryPolicy, Unreachable
from tests.engine.backends.servers import (
    Answer,
    Plan,
    Server,
    answers,
    backend,
    collect,
    failed,
    now,
    play,
    replied,
    reply,
    request,
)


def test_every_request_gets_its_reply() -> None:
    found = answers(Plan(50), Server())
    assert replied(found) == list(range(50))
    assert len(found) == 50


def test_a_plan_without_requests_ends_at_once() -> None:
    server = Server()
    assert answers(Plan(0), server) == []
    assert server.asked == []


def test_a_server_gets_more_while_it_answers_and_never_more_than_its_workers() -> None:
    server = Server(then=1.0)
    answers(Plan(200), server, workers=20)
    begun = [sum(time == second for time in server.times) for second in range(4)]
    assert begun == [4, 8, 16, 20]
    assert server.most == 20


def test_every_server_has_its_own_workers() -> None:
    servers = Server("http://a", then=1.0), Server("http://b", then=1.0)
    answers(Plan(40), *servers, workers=3)
    assert [server.most for server in servers] == [3, 3]


def test_a_slow_answer_holds_up_no_other() -> None:
    slow = Server(outcomes=[100.0], then=1.0)
    found = answers(Plan(30), slow, workers=4)
    assert [answer.key for answer in found][-1] == 0
    assert max(slow.times) < 15


def test_no_more_is_taken_than_there_is_room_for() -> None:
    plan, server = Plan(40), Server(then=1.0)
    answers(plan, server, workers=8)
    assert plan.limits[0] == 4
    assert max(plan.limits) <= 8

    plan, server = Plan(40), Server(outcomes=[Busy("slow down", 50.0)] * 4, then=1.0)
    taken_while_waiting = []

    async def watch() -> None:
        found: list[Answer] = []
        running = asyncio.create_task(collect(backend(server).generate(plan), found))
        await asyncio.sleep(25)
        taken_while_waiting.append(len(plan.taken))
        await running
        assert replied(found) == list(range(40))

    play(watch())
    assert taken_while_waiting == [4]


def test_busy_halves_the_pace_once_and_costs_no_tries() -> None:
    server = Server(outcomes=[None] * 12 + [Busy("slow down")] * 60)
    found = answers(Plan(60), server, workers=16, policy=RetryPolicy(tries=1))
    assert replied(found) == list(range(60))
    rounds = [sum(time == at for time in server.times) for at in sorted(set(server.times))]
    assert rounds[:6] == [4, 8, 16, 8, 4, 2]


def test_the_delay_that_a_server_asks_for_is_waited_for_exactly() -> None:
    server = Server(outcomes=[Busy("slow down", 40.0)])
    answers(Plan(1), server)
    assert server.times == [0.0, pytest.approx(40.01)]


def test_without_a_delay_the_pauses_of_a_busy_server_grow_to_a_limit() -> None:
    server = Server(outcomes=[Busy("slow down")] * 40)
    answers(Plan(1), server, policy=RetryPolicy(longest_delay_s=8.0))
    pauses = [after - before for before, after in pairwise(server.times)]
    assert pauses[0] < 2.1 and max(pauses[:2]) < 4.1
    assert all(1.0 <= pause <= 8.1 for pause in pauses)
    assert max(pauses) > 6.0
    assert len(set(pauses)) > 30  # by chance, so that many clients do not return together


def test_a_delay_of_nothing_is_no_reason_to_ask_in_a_flurry() -> None:
    server = Server(outcomes=[Busy("slow down", delay) for delay in (0.0, -1.0, float("nan"))])
    answers(Plan(1), server)
    assert all(after - before >= 1.0 for before, after in pairwise(server.times))


def test_while_one_server_pauses_the_other_goes_on() -> None:
    paused, other = Server("http://a", [Busy("slow down", 300.0)] * 4), Server("http://b")
    found = answers(Plan(50), paused, other)
    assert replied(found) == list(range(50))
    assert max(other.times) < 5


def test_a_request_that_breaks_five_times_fails_and_the_others_go_on() -> None:
    def answer(asked: Request) -> Reply:
        if asked.key == 3:
            raise Broken("500 internal error")
        return reply(asked)

    server = Server(then=answer)
    found = answers(Plan(30), server)
    assert failed(found) == [
        Failure(key=3, reason="5 tries failed, the last one: 500 internal error")
    ]
    assert replied(found) == [key for key in range(30) if key != 3]
    assert server.keys.count(3) == 5


def test_the_waits_between_tries_grow_with_chance_and_stay_below_a_minute() -> None:
    server = Server(then=Broken("500"))
    answers(Plan(1), server, policy=RetryPolicy(tries=10))
    waits = [after - before - 0.01 for before, after in pairwise(server.times)]
    assert len(waits) == 9
    for nth, wait in enumerate(waits, 1):
        assert 1.0 <= wait <= min(2.0**nth, 60.0) + 0.001
    assert max(waits) > 15.0


def test_the_next_try_goes_to_another_server_even_if_the_first_has_room() -> None:
    sick, well = Server("http://a", then=Broken("500")), Server("http://b", then=5.0)
    found = answers(Plan(6), sick, well, workers=2)
    assert replied(found) == list(range(6))
    assert all(sick.keys.count(key) <= 1 for key in range(6))


def test_a_single_server_gets_the_next_try_itself() -> None:
    server = Server(outcomes=[Broken("502")])
    assert replied(answers(Plan(1), server)) == [0]
    assert server.keys == [0, 0]


def test_a_dead_server_costs_no_tries_and_is_probed_by_one_request_at_a_time() -> None:
    dead, well = Server("http://a", then=Unreachable("refused")), Server("http://b", then=2.0)
    found = answers(Plan(200), dead, well, workers=4, policy=RetryPolicy(tries=1))
    assert replied(found) == list(range(200))
    assert sum(time == 0 for time in dead.times) == 4
    probes = sorted({time for time in dead.times if time > 0})
    assert len(probes) == len(dead.times) - 4
    assert 4 <= len(probes) <= 12  # of a hundred seconds, ever more apart
    assert max(well.times) < 110


def test_a_request_that_meets_a_dead_server_is_asked_elsewhere_at_once() -> None:
    dead, well = Server("http://a", then=Unreachable("refused")), Server("http://b")
    answers(Plan(2), dead, well, workers=1)
    assert set(well.keys) == {0, 1}
    assert max(well.times) < 0.05


def test_a_server_that_comes_back_is_used_again_at_a_gentle_pace() -> None:
    server = Server(outcomes=[1.0] * 28 + [Unreachable("refused")] * 18, then=1.0)
    found = answers(Plan(100), server, workers=16)
    assert replied(found) == list(range(100))
    first_fault = server.times[28]
    after = [time for time in server.times if time > first_fault + 0.5]
    rounds = [sum(time == at for time in after) for at in sorted(set(after))]
    assert rounds[:8] == [1, 1, 1, 5, 8, 9, 10, 11]  # two probes fail, the third is answered


def test_different_requests_that_break_in_a_row_show_a_server_to_be_down() -> None:
    server = Server(outcomes=[None] * 4 + [Broken("502 bad gateway")] * 14)
    found = answers(Plan(40), server, workers=8, policy=RetryPolicy(tries=2))
    assert replied(found) == list(range(40))
    alone = [time for time in server.times if time > 1]
    assert alone[1] - alone[0] > 0.9  # one probe, then another


def test_answers_between_broken_requests_show_that_the_server_works() -> None:
    server = Server(outcomes=[Broken("500"), None] * 30)
    found = answers(Plan(60), server, workers=1, policy=RetryPolicy(tries=1))
    assert (len(failed(found)), len(replied(found))) == (30, 30)
    assert server.times[-1] < 1


def test_a_server_that_dies_again_is_probed_as_soon_as_the_first_time() -> None:
    dead = [Unreachable("refused")] * 7
    server = Server(outcomes=[None, *dead, None, *dead])
    answers(Plan(3), server, workers=1)
    waits = [after - before for before, after in pairwise(server.times)]
    assert waits[1] < 2.1 and max(waits[1:8]) > 5
    assert waits[9] < 2.1


def test_a_dead_server_is_probed_even_when_the_other_has_room_for_everything() -> None:
    class Slow(Plan):
        async def take(self, limit: int) -> list[Request]:
            await asyncio.sleep(5)
            return await super().take(1)

    dead, well = Server("http://a", outcomes=[Unreachable("refused")] * 3), Server("http://b")
    found = answers(Slow(30), dead, well, workers=8)
    assert replied(found) == list(range(30))
    assert len(dead.asked) == 4


def test_no_more_requests_wait_for_their_next_try_than_there_are_workers() -> None:
    plan, server = Plan(1000), Server(then=Broken("500"))
    never_down = RetryPolicy(broken_in_a_row=10**6, first_delay_s=60.0, first_patience_s=9e9)

    async def scene() -> None:
        running = backend(server, workers=6, policy=never_down).generate(plan)
        task = asyncio.create_task(collect(running, []))
        await asyncio.sleep(50)
        assert 6 <= len(plan.taken) <= 12
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(scene())


def test_few_broken_requests_do_not_stop_a_run_that_has_nothing_else_left() -> None:
    server = Server(outcomes=[None] * 3, then=Broken("500"))
    found = answers(Plan(10), server, workers=16)
    assert len(failed(found)) == 7
    assert len(server.asked) == 3 + 7 * 5


def test_an_impossible_request_fails_for_good_at_the_first_try() -> None:
    server = Server(outcomes=[None, Impossible("400 too long")])
    found = answers(Plan(5), server)
    assert failed(found) == [Failure(key=1, reason="400 too long", final=True)]
    assert len(server.asked) == 5


def test_a_reply_that_is_delivered_twice_is_asked_for_again() -> None:
    first = reply(request(0), response_id="r-0")
    again = replace(first, key=1)  # the text of request 0 in answer to request 1
    server = Server(outcomes=[lambda _: first, lambda _: again])
    found = answers(Plan(2), server, workers=1)
    texts = [(answer.key, answer.text) for answer in found if isinstance(answer, Reply)]
    assert texts == [(0, "reply to prompt 0"), (1, "reply to prompt 1")]
    assert server.keys == [0, 1, 1]


def test_ids_that_a_server_uses_again_for_other_texts_do_not_matter() -> None:
    server = Server(then=lambda asked: reply(asked, response_id="chatcmpl-1"))
    assert replied(answers(Plan(20), server)) == list(range(20))
    assert len(server.asked) == 20


def test_answers_flow_while_the_plan_has_nothing_to_give_yet() -> None:
    class Slow(Plan):
        async def take(self, limit: int) -> list[Request]:
            if self.taken:
                await asyncio.sleep(1000)
            return await super().take(min(limit, 2))

    async def scene() -> list[float]:
        times = []
        async with aclosing(backend(Server(then=1.0)).generate(Slow(4))) as found:
            async for _ in found:
                times.append(now())
        return times

    assert play(scene()) == [1, 1, 1001, 1001]


def test_a_backend_can_generate_again() -> None:
    servers = Server("http://a"), Server("http://b")
    again = backend(*servers)
    for _ in range(2):
        found: list[Answer] = []
        play(collect(again.generate(Plan(6)), found))
        assert replied(found) == list(range(6))
    assert [server.closed for server in servers] == [2, 2]


def test_a_backend_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1"):
        backend(Server(), workers=0)
