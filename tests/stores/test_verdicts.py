"""Every look at every reply leaves one verdict, and the rate of each check follows from them."""

import pytest

from stores.database import Connection
from stores.verdicts import CheckRate, Verdict, check_rates, write_verdicts
from tests.stores.corpora import plan_corpus
from tests.stores.test_amending import keep_reply


def verdict(reply_id: int, text_id: int, reason: str | None, corpus: str = "toy") -> Verdict:
    return Verdict(reply_id, text_id, corpus, "stories", 0, 1, reason)


def kept(conn: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in conn.execute("SELECT * FROM verdicts ORDER BY 1, 2")]


def test_a_later_look_replaces_the_earlier_one(conn: Connection) -> None:
    plan_corpus(conn)
    reply_id = keep_reply(conn, 1, 2)
    write_verdicts(conn, [verdict(reply_id, 1, "leak"), verdict(reply_id, 2, None)])
    write_verdicts(conn, [Verdict(reply_id, 1, "toy", "stories", None, 3, "unparsed")])
    assert kept(conn) == [
        (reply_id, 1, "toy", "stories", None, 3, "unparsed"),
        (reply_id, 2, "toy", "stories", 0, 1, None),
    ]


def test_several_replies_to_one_row_are_judged_apart(conn: Connection) -> None:
    plan_corpus(conn)
    replies = [keep_reply(conn, 1) for _ in range(3)]
    for reply_id, reason in zip(replies, ["leak", "leak", None], strict=True):
        write_verdicts(conn, [verdict(reply_id, 1, reason)])
    (rate,) = check_rates(conn)
    assert rate == CheckRate("toy", "stories", "leak", 2, 3)
    assert rate.rate == pytest.approx(2 / 3)


def test_rates_are_of_all_that_was_judged_in_the_corpus_commonest_first(conn: Connection) -> None:
    plan_corpus(conn)
    reply_id, other = keep_reply(conn, 1), keep_reply(conn, 1, corpus="other")
    reasons = ["leak", None, "too_short", "leak", None, None]
    write_verdicts(conn, [verdict(reply_id, n, reason) for n, reason in enumerate(reasons, 1)])
    write_verdicts(conn, [verdict(other, 1, None, "other"), verdict(other, 2, None, "other")])
    assert check_rates(conn) == [
        CheckRate("toy", "stories", "leak", 2, 6),
        CheckRate("toy", "stories", "too_short", 1, 6),
    ]


def test_nothing_judged_has_no_rates(conn: Connection) -> None:
    assert check_rates(conn) == []
