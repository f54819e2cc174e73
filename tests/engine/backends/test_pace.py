"""Laws of the pace: it doubles, grows by one, halves once for one piece of news."""

from engine.backends.pace import FIRST_WINDOW, Pace


def round_of_answers(pace: Pace) -> None:
    calls = pace.room
    for _ in range(calls):
        pace.begin()
    for _ in range(calls):
        pace.grow()
        pace.end()


def refused(pace: Pace, number: int) -> bool:
    news = pace.halve(number)
    pace.end()
    return news


def test_it_doubles_with_each_round_until_it_may_not_grow() -> None:
    pace, rooms = Pace(50), []
    for _ in range(6):
        rooms.append(pace.room)
        round_of_answers(pace)
    assert rooms == [4, 8, 16, 32, 50, 50]


def test_a_limit_below_the_first_window_holds_from_the_start() -> None:
    assert (Pace(1).room, Pace(3).room) == (1, 3)


def test_what_is_in_flight_takes_room() -> None:
    pace = Pace(8)
    assert [pace.begin(), pace.begin()] == [1, 2]
    assert pace.room == FIRST_WINDOW - 2
    pace.end()
    assert pace.room == FIRST_WINDOW - 1


def test_asking_for_less_halves_what_was_in_flight_once_for_a_round() -> None:
    pace = Pace(64, window=40)
    calls = [pace.begin() for _ in range(16)]
    assert [refused(pace, call) for call in calls] == [True] + [False] * 15
    assert pace.room == 8


def test_a_call_begun_after_halving_is_news_again() -> None:
    pace = Pace(64, window=16)
    old = [pace.begin() for _ in range(16)]
    assert refused(pace, old[0])
    for _ in old[1:]:
        pace.end()
    assert refused(pace, [pace.begin() for _ in range(8)][-1])
    assert int(pace.window) == 4


def test_after_halving_it_grows_by_one_a_round() -> None:
    pace, rooms = Pace(64, window=16), []
    calls = [pace.begin() for _ in range(16)]
    for call in calls:
        refused(pace, call)
    for _ in range(4):
        rooms.append(pace.room)
        round_of_answers(pace)
    assert rooms == [8, 8, 9, 10]  # 1/8 + 1/8.1 + ... is a little less than one


def test_one_call_is_always_allowed() -> None:
    pace = Pace(8)
    for _ in range(10):
        refused(pace, pace.begin())
    assert pace.room == 1


def test_it_is_held_back_from_halving_until_all_is_allowed_again() -> None:
    pace = Pace(4)
    states = [pace.held_back]
    refused(pace, pace.begin())
    states.append(pace.held_back)
    for _ in range(20):
        round_of_answers(pace)
    assert [*states, pace.held_back] == [False, True, False]


def test_a_server_that_was_away_begins_small_and_doubles_to_half_of_what_it_had() -> None:
    pace, rooms = Pace(64, window=32), []
    pace.restart()
    for _ in range(4):
        rooms.append(pace.room)
        round_of_answers(pace)
    assert rooms == [4, 8, 16, 16]
