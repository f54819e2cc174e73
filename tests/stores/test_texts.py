import sqlite3
import time
from collections.abc import Callable

import pytest

from stores.corpora import open_corpus
from stores.errors import FingerprintMismatch, LeaseLost, UsageError
from stores.planning import plan, plan_dialogues, plan_stories
from stores.texts import KINDS, Counts, Kind, Lease, counts, fail, reject, release, renew
from tests.stores.corpora import EMOTIONS, TOPICS, plan_corpus, row, take, write

Change = Callable[[sqlite3.Connection, Lease], object]

CHANGES: dict[str, Change] = {
    "commit": write,
    "reject": lambda conn, held: reject(
        conn, held, reason="leak", reply_id=None, max_attempts=3, now=9.0
    ),
    "fail": lambda conn, held: fail(conn, held, reason="timeout", max_attempts=3, now=9.0),
}


# ---- plans -------------------------------------------------------------------------------------


def test_planning_twice_adds_nothing_and_changes_nothing(conn: sqlite3.Connection) -> None:
    assert plan_corpus(conn, per_topic=2) == 16
    write(conn, take(conn)[0])
    before = conn.execute("SELECT * FROM stories").fetchall()
    assert plan_corpus(conn, per_topic=2) == 0
    assert conn.execute("SELECT * FROM stories").fetchall() == before
    assert plan_corpus(conn, per_topic=3) == 8


def test_the_first_rows_cover_every_emotion() -> None:
    texts = plan_stories(emotions=EMOTIONS, topics=TOPICS, per_topic=2, corpus="toy", seed=0)
    assert [(t.slot, t.topic, t.emotion) for t in texts] == sorted(
        [(s, t, e) for s in range(2) for t in TOPICS for e in EMOTIONS],
        key=lambda key: (key[0], TOPICS.index(key[1]), EMOTIONS.index(key[2])),
    )


def test_every_text_has_its_own_seed_and_the_same_in_every_plan() -> None:
    wide = plan_stories(emotions=EMOTIONS, topics=TOPICS, per_topic=9, corpus="toy", seed=0)
    narrow = plan_stories(emotions=EMOTIONS[1:], topics=TOPICS, per_topic=9, corpus="toy", seed=0)
    neutral = plan_dialogues(topics=TOPICS, per_topic=9, corpus="toy", seed=0)
    assert set(narrow) < set(wide)
    assert len({t.seed for t in [*wide, *neutral]}) == len(wide) + len(neutral)
    assert {t.emotion for t in neutral} == {None}


def test_another_seed_for_a_planned_corpus_is_refused(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    with pytest.raises(FingerprintMismatch, match=r"stories of corpus 'toy'.*another seed"):
        plan_corpus(conn, per_topic=2, seed=1)
    assert sum(c.n for c in counts(conn)) == 8
    assert plan_corpus(conn, corpus="other", seed=1) == 8


def test_a_plan_of_nothing_adds_nothing(conn: sqlite3.Connection) -> None:
    assert plan_corpus(conn, per_topic=0) == 0


def test_a_corpus_keeps_to_its_protocol_and_the_files_that_differ_are_named(
    conn: sqlite3.Connection,
) -> None:
    open_corpus(conn, "toy", "sha256:p", {"topics.txt": "1", "emotions.tsv": "2", "old.txt": "3"})
    open_corpus(conn, "toy", "sha256:p", {})
    with pytest.raises(
        FingerprintMismatch, match=r"\(different: new\.txt, old\.txt, topics\.txt\)"
    ):
        open_corpus(
            conn, "toy", "sha256:q", {"topics.txt": "9", "emotions.tsv": "2", "new.txt": ""}
        )
    open_corpus(conn, "other", "sha256:q", {})


def test_a_corpus_is_named_so_that_it_can_name_a_folder(conn: sqlite3.Connection) -> None:
    with pytest.raises(UsageError, match="corpus"):
        open_corpus(conn, "../toy", "sha256:p", {})


def test_planning_the_full_corpus_takes_seconds(conn: sqlite3.Connection) -> None:
    emotions, topics = [f"e{n}" for n in range(171)], [f"topic {n}" for n in range(120)]
    open_corpus(conn, "toy", "sha256:p", {})
    for expected in (20_520, 0):
        began = time.process_time()
        texts = plan_stories(emotions=emotions, topics=topics, per_topic=1, corpus="toy", seed=0)
        assert plan(conn, "stories", "toy", texts, now=0.0) == expected
        assert time.process_time() - began <= 0.6  # 205,200 rows take 2.5 s on one core: twice that


# ---- leases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_lease_tells_all_and_is_unique(conn: sqlite3.Connection, kind: Kind) -> None:
    plan_corpus(conn)
    first, second = take(conn, kind=kind), take(conn, 99, kind=kind)
    ids = [held.id for held in [*first, *second]]
    assert ids == list(range(1, len(ids) + 1))
    assert take(conn, kind=kind) == []
    expected = ("calm" if kind == "stories" else None, "rain", 0, 1)
    held = first[0]
    assert (held.emotion, held.topic, held.slot, held.attempt) == expected
    assert row(conn, held)["seed"] == held.seed


def test_a_lease_leaves_other_corpora_alone(conn: sqlite3.Connection) -> None:
    plan_corpus(conn, corpus="other")
    plan_corpus(conn)
    assert {held.corpus for held in take(conn, 99)} == {"toy"}


def test_a_lease_of_nothing_takes_nothing_and_a_negative_one_is_a_mistake(
    conn: sqlite3.Connection,
) -> None:
    plan_corpus(conn)
    assert take(conn, 0) == []
    with pytest.raises(ValueError, match="negative"):
        take(conn, -1)


def test_a_committed_text_is_whole_and_final(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    (held,) = take(conn)
    write(conn, held, "Rain, and a half \ud83d smile.")
    done = row(conn, held)
    assert (done["status"], done["text"]) == ("done", r"Rain, and a half \ud83d smile.")
    assert (done["words"], done["generator"], done["attempts"]) == (6, "g", 1)
    assert (done["owner"], done["lease_until"], done["reason"]) == (None, None, None)
    for change in CHANGES.values():
        with pytest.raises(LeaseLost, match=f"stories row {held.id} "):
            change(conn, held)
    assert release(conn, [held], now=9.0) == 0
    assert renew(conn, [held], now=9.0, seconds=60.0) == []
    assert row(conn, held) == done


@pytest.mark.parametrize(("change", "ended"), [("reject", "rejected"), ("fail", "failed")])
def test_attempts_are_used_up_and_the_reason_stays(
    conn: sqlite3.Connection, change: str, ended: str
) -> None:
    plan_corpus(conn)
    seen = []
    while (taken := take(conn)) and taken[0].id == 1:
        CHANGES[change](conn, taken[0])
        left = row(conn, taken[0])
        seen.append((left["status"], left["attempts"]))
    assert seen == [("pending", 1), ("pending", 2), (ended, 3)]
    assert left["reason"] == {"reject": "leak", "fail": "timeout"}[change]


def test_a_text_that_succeeds_later_has_no_reason_left(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    CHANGES["reject"](conn, take(conn)[0])
    (held,) = take(conn)
    assert (held.id, held.attempt, row(conn, held)["reason"]) == (1, 2, "leak")
    write(conn, held)
    assert row(conn, held)["reason"] is None


@pytest.mark.parametrize("change", CHANGES)
def test_an_expired_lease_is_taken_by_another_and_the_zombie_writes_nothing(
    conn: sqlite3.Connection, change: str
) -> None:
    plan_corpus(conn)
    (zombie,) = take(conn, now=0.0)
    assert take(conn, now=59.9)[0].id != zombie.id
    (heir,) = take(conn, now=60.0)
    assert (heir.id, heir.attempt) == (zombie.id, 2)
    with pytest.raises(LeaseLost):
        CHANGES[change](conn, zombie)
    write(conn, heir, "By the heir.")
    with pytest.raises(LeaseLost):
        CHANGES[change](conn, zombie)
    assert row(conn, heir)["text"] == "By the heir."


def test_a_renewed_lease_does_not_expire(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    lost, held = take(conn, 2)
    write(conn, lost)
    assert renew(conn, [lost, held], now=50.0, seconds=60.0) == [held]
    assert held.id not in {other.id for other in take(conn, 99, now=109.0)}
    assert held.id in {other.id for other in take(conn, 99, now=110.0)}


def test_a_row_that_always_expires_is_abandoned(conn: sqlite3.Connection) -> None:
    plan_corpus(conn)
    attempts = []
    for hour in range(5):
        attempts += [held.attempt for held in take(conn, 99, now=hour * 3600.0) if held.id == 1]
    assert attempts == [1, 2, 3]
    assert Counts("toy", "stories", "failed", "abandoned", 6) in counts(conn)


@pytest.mark.parametrize("change", CHANGES)
def test_a_released_row_is_as_before_and_its_old_lease_writes_nothing(
    conn: sqlite3.Connection, change: str
) -> None:
    plan_corpus(conn)
    (stopped,) = take(conn)
    assert release(conn, [stopped, stopped], now=1.0) == 1
    assert (row(conn, stopped)["status"], row(conn, stopped)["attempts"]) == ("pending", 0)
    (heir,) = take(conn)  # the same owner and the same attempt again
    assert (heir.id, heir.attempt) == (stopped.id, stopped.attempt)
    with pytest.raises(LeaseLost):
        CHANGES[change](conn, stopped)
    write(conn, heir)


# ---- cost --------------------------------------------------------------------------------------


def test_a_lease_costs_the_same_in_a_large_corpus(conn: sqlite3.Connection) -> None:
    def steps_of_a_lease() -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        conn.set_progress_handler(count, 10)
        release(conn, take(conn, 4), now=0.0)
        conn.set_progress_handler(None, 0)
        return steps

    plan_corpus(conn, per_topic=2)
    small = steps_of_a_lease()
    plan_corpus(conn, per_topic=400)
    assert steps_of_a_lease() <= 1.2 * small


@pytest.mark.parametrize("kind", KINDS)
def test_counting_reads_no_text(conn: sqlite3.Connection, kind: Kind) -> None:
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    counts(conn)
    conn.set_trace_callback(None)
    (statement,) = [s for s in statements if kind in s]
    steps = conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    assert "USING COVERING INDEX" in steps[0]["detail"]
