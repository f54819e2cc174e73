"""What nobody holds may be changed, one verb for each change; what somebody holds never is."""

from collections.abc import Callable

import pytest

from stores.amending import (
    count_replies,
    fill,
    read_asked,
    replace,
    texts_before,
    turn_down,
    withdraw,
)
from stores.database import Connection
from stores.replies import ReplyRow, record, send
from stores.texts import KINDS, Kind, Lease, commit, fail, lease, reject, release
from stores.verdicts import Verdict, write_verdicts
from tests.stores.corpora import plan_corpus, row, take, write

Verb = Callable[[Connection, Lease], bool]

VERBS: dict[str, Verb] = {
    "fill": lambda conn, text: fill(
        conn, text.kind, text.id, text="Rain fell.", generator="g", reply_id=1, now=9.0
    ),
    "turn_down": lambda conn, text: turn_down(
        conn, text.kind, text.id, reason="leak", reply_id=1, now=9.0
    ),
    "replace": lambda conn, text: replace(conn, text.kind, text.id, text="Snow fell.", now=9.0),
    "withdraw": lambda conn, text: withdraw(conn, text.kind, text.id, reason="leak", now=9.0),
}
STATES: dict[str, Callable[[Connection, Lease], object]] = {
    "pending": lambda conn, held: release(conn, [held], now=0.0),
    "leased": lambda _conn, _held: None,
    "done": write,
    "rejected": lambda conn, held: reject(
        conn, held, reason="too_short", reply_id=None, max_attempts=1, now=0.0
    ),
    "failed": lambda conn, held: fail(conn, held, reason="quota", max_attempts=1, now=0.0),
}
ALLOWED = {
    **{(state, "fill"): "done" for state in ("pending", "rejected", "failed")},
    **{(state, "turn_down"): "rejected" for state in ("pending", "rejected", "failed")},
    ("done", "replace"): "done",
    ("done", "withdraw"): "pending",
}


def keep_reply(conn: Connection, *text_ids: int, corpus: str = "toy") -> int:
    reply = ReplyRow(
        run_id=None,
        corpus=corpus,
        kind="stories",
        prompt_sha="sha256:p",
        backend="local",
        model="g",
        seed=1,
        raw="raw",
        finish_reason="stop",
    )
    return record(conn, send(conn, None, "stories", text_ids, 0.0), reply, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", STATES)
def test_a_verb_changes_the_states_it_is_for_and_no_other(
    conn: Connection, state: str, verb: str, kind: Kind
) -> None:
    plan_corpus(conn)
    keep_reply(conn, 1)
    (held, other) = take(conn, 2, kind=kind)
    STATES[state](conn, held)
    before, bystander = row(conn, held), row(conn, other)
    expected = ALLOWED.get((state, verb))
    assert VERBS[verb](conn, held) is (expected is not None)
    after = row(conn, held)
    if expected is None:
        assert after == before
    else:
        assert after["status"] == expected
        assert after["updated_at"] == "1970-01-01T00:00:09.000Z"
    assert row(conn, other) == bystander


def test_a_filled_row_is_like_one_that_was_generated(conn: Connection) -> None:
    plan_corpus(conn)
    reply_id = keep_reply(conn, 1, 2)
    (first,) = take(conn)
    reject(conn, first, reason="leak", reply_id=None, max_attempts=1, now=0.0)
    (second,) = take(conn)
    text = "Rain, and a half \ud83d smile."
    commit(conn, second, text=text, words=6, generator="g", reply_id=reply_id, now=9.0)
    fill(conn, "stories", first.id, text=text, generator="g", reply_id=reply_id, now=9.0)
    own = ("id", "emotion", "topic", "slot", "seed")
    filled, written = row(conn, first), row(conn, second)
    assert {k: v for k, v in filled.items() if k not in own} == {
        k: v for k, v in written.items() if k not in own
    }


def test_a_replaced_text_keeps_its_reply_and_writer(conn: Connection) -> None:
    plan_corpus(conn)
    reply_id = keep_reply(conn, 1)
    (held,) = take(conn)
    commit(conn, held, text="Rain.", words=1, generator="g", reply_id=reply_id, now=1.0)
    replace(conn, "stories", held.id, text="Rain fell all day.", now=9.0)
    found = row(conn, held)
    assert (found["text"], found["words"]) == ("Rain fell all day.", 4)
    assert (found["generator"], found["reply_id"]) == ("g", reply_id)


def test_a_withdrawn_row_is_leased_again_with_a_seed_of_its_own(conn: Connection) -> None:
    plan_corpus(conn)
    (held,) = take(conn)
    write(conn, held)
    withdraw(conn, "stories", held.id, reason="leak", now=9.0)
    found = row(conn, held)
    assert (found["text"], found["words"], found["generator"]) == (None, None, None)
    assert (found["reason"], found["crashes"]) == ("leak", 0)
    (again,) = take(conn)
    assert (again.id, again.attempt) == (held.id, held.attempt + 1)


def test_a_row_whose_last_attempt_was_withdrawn_gets_one_more(conn: Connection) -> None:
    plan_corpus(conn)
    (held,) = lease(conn, "stories", "toy", "w", limit=1, now=0, seconds=9, max_attempts=1)
    write(conn, held)
    withdraw(conn, "stories", held.id, reason="leak", now=9.0)
    (again,) = lease(conn, "stories", "toy", "w", limit=1, now=9, seconds=9, max_attempts=1)
    assert again.id == held.id
    write(conn, again)
    assert row(conn, held)["status"] == "done"


def test_the_rows_of_a_reply_are_told_as_they_are_now(conn: Connection) -> None:
    plan_corpus(conn)
    first, second = take(conn, 2)
    write(conn, first, "Rain fell.")
    reject(conn, second, reason="leak", reply_id=None, max_attempts=9, now=0.0)
    reply_id = keep_reply(conn, first.id, second.id, 999)
    write_verdicts(conn, [Verdict(reply_id, second.id, "toy", "stories", 1, 7, "leak")])
    rows = read_asked(conn, "stories", reply_id, [first.id, second.id, 999])
    assert rows.keys() == {first.id, second.id}
    done, pending = rows[first.id], rows[second.id]
    assert (done.emotion, done.status, done.text, done.is_open) == (
        first.emotion,
        "done",
        "Rain fell.",
        False,
    )
    assert (pending.status, pending.reason, pending.is_open) == ("pending", "leak", True)
    assert (done.attempt, pending.attempt) == (1, 7)
    assert read_asked(conn, "dialogues", reply_id, [1])[1].emotion is None


def test_earlier_is_what_an_earlier_reply_or_an_earlier_row_of_the_same_one_filled(
    conn: Connection,
) -> None:
    plan_corpus(conn)
    held = take(conn, 5)
    replies = [keep_reply(conn, 1) for _ in range(2)]
    filled_by = [replies[1], replies[1], replies[0], None, None]
    for text, reply_id in zip(held, filled_by, strict=True):
        commit(conn, text, text="Rain.", words=1, generator="g", reply_id=reply_id, now=0.0)
    ids = [text.id for text in held]

    def before(text_id: int) -> set[int]:
        reply_id = row(conn, held[text_id - 1])["reply_id"] or 0
        asked = read_asked(conn, "stories", int(str(reply_id)), [text_id])[text_id]
        return set(texts_before(conn, "stories", asked, ids))

    assert [before(text_id) for text_id in ids] == [
        {3, 4, 5},
        {1, 3, 4, 5},
        {4, 5},
        set(),
        {4},
    ]
    withdraw(conn, "stories", 4, reason="leak", now=0.0)
    assert before(3) == {5}


def test_replies_are_counted_by_corpus(conn: Connection) -> None:
    plan_corpus(conn)
    keep_reply(conn, 1)
    keep_reply(conn, 2)
    keep_reply(conn, 1, corpus="other")
    assert (count_replies(conn, "toy"), count_replies(conn, "none")) == (2, 0)
