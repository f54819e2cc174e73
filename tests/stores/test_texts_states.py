"""Random histories of a corpus, compared after every step with a model in plain Python."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stores.database import open_database
from stores.errors import LeaseLost
from stores.texts import MAX_CRASHES, Lease, counts, fail, reclaim, reject, release, renew
from tests.stores.corpora import MAX_ATTEMPTS, plan_corpus, take, write

SECONDS = 60.0  # how long `take` leases
PICK = st.integers(0, 30)


@dataclass
class Row:
    status: str = "pending"
    attempts: int = 0
    crashes: int = 0
    text: str | None = None
    holder: Lease | None = None
    until: float = 0.0

    def leave(self, status: str) -> None:
        self.status, self.holder = status, None


class Corpus(RuleBasedStateMachine):
    """Every lease ever given is kept, so that stale ones are tried as often as valid ones."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.conn = open_database(Path(self.folder.name) / "emovec.db")
        self.rows: dict[int, Row] = {}
        self.leases: list[Lease] = []
        self.slots, self.now, self.writes = 0, 0.0, 0

    def teardown(self) -> None:
        self.conn.close()
        self.folder.cleanup()

    @rule(slots=st.integers(1, 2))
    def plan(self, slots: int) -> None:
        assert plan_corpus(self.conn, per_topic=slots) == 8 * max(slots - self.slots, 0)
        self.slots = max(slots, self.slots)
        self.rows |= {n: Row() for n in range(len(self.rows) + 1, 6 * self.slots + 1)}

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 9))
    def lease(self, limit: int) -> None:
        for row in self.rows.values():
            if row.status == "leased" and row.until <= self.now:
                row.leave("failed" if row.attempts == MAX_ATTEMPTS else "pending")
        pending = [row for row in self.rows.values() if row.status == "pending"]
        fewest = min((row.crashes for row in pending), default=0)
        taken = take(self.conn, limit, now=self.now)
        assert bool(taken) == bool(pending)
        assert len(taken) <= limit
        for held in taken:
            row = self.rows[held.id]
            assert (row.status, row.crashes, row.attempts + 1) == ("pending", fewest, held.attempt)
            row.status, row.holder, row.until = "leased", held, self.now + SECONDS
            row.attempts += 1
        self.leases += taken

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def commit(self, pick: int) -> None:
        self.writes += 1
        text = f"text {self.writes}"
        if row := self.settled(pick, lambda held: write(self.conn, held, text)):
            row.text = text
            row.leave("done")

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def reject(self, pick: int) -> None:
        def refuse(held: Lease) -> None:
            reject(
                self.conn,
                held,
                reason="leak",
                reply_id=None,
                max_attempts=MAX_ATTEMPTS,
                now=self.now,
            )

        if row := self.settled(pick, refuse):
            row.leave("rejected" if row.attempts == MAX_ATTEMPTS else "pending")

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def fail(self, pick: int) -> None:
        def give_up(held: Lease) -> None:
            fail(self.conn, held, reason="timeout", max_attempts=MAX_ATTEMPTS, now=self.now)

        if row := self.settled(pick, give_up):
            row.leave("failed" if row.attempts == MAX_ATTEMPTS else "pending")

    @precondition(lambda self: self.leases)
    @rule(picks=st.lists(PICK, max_size=4))
    def release(self, picks: list[int]) -> None:
        chosen = list(dict.fromkeys(self.picked(pick) for pick in picks))
        valid = [held for held in chosen if self.rows[held.id].holder == held]
        assert release(self.conn, chosen, now=self.now) == len(valid)
        for held in valid:
            self.rows[held.id].attempts -= 1
            self.rows[held.id].leave("pending")

    @precondition(lambda self: self.leases)
    @rule(picks=st.lists(PICK, max_size=4))
    def renew(self, picks: list[int]) -> None:
        chosen = [self.picked(pick) for pick in picks]
        valid = [held for held in chosen if self.rows[held.id].holder == held]
        assert renew(self.conn, chosen, now=self.now, seconds=SECONDS) == valid
        for held in valid:
            self.rows[held.id].until = self.now + SECONDS

    @rule()
    def crash(self) -> None:
        orphans = [row for row in self.rows.values() if row.status == "leased"]
        assert reclaim(self.conn, now=self.now) == len(orphans)
        for row in orphans:
            row.attempts, row.crashes = row.attempts - 1, row.crashes + 1
            row.leave("failed" if row.crashes == MAX_CRASHES else "pending")

    @invariant()
    def the_ledger_equals_the_model(self) -> None:
        stored = self.conn.execute("SELECT id, status, attempts, crashes, text FROM stories")
        assert {row["id"]: tuple(row)[1:] for row in stored} == {
            n: (row.status, row.attempts, row.crashes, row.text) for n, row in self.rows.items()
        }

    @invariant()
    def nothing_is_lost_and_nothing_is_tried_for_ever(self) -> None:
        assert sum(c.n for c in counts(self.conn)) == 8 * self.slots
        for row in self.rows.values():
            assert 0 <= row.attempts <= MAX_ATTEMPTS
            assert row.crashes <= MAX_CRASHES

    def picked(self, pick: int) -> Lease:
        """Recent leases are the small picks: they are the ones that may still hold."""
        return self.leases[-1 - pick % len(self.leases)]

    def settled(self, pick: int, write_once: Callable[[Lease], None]) -> Row | None:
        """The row, if its lease held; otherwise the write must have been refused."""
        held = self.picked(pick)
        row = self.rows[held.id]
        if row.holder == held:
            write_once(held)
            return row
        try:
            write_once(held)
        except LeaseLost:
            return None
        raise AssertionError(f"a stale lease has written: {held}")


Corpus.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, database=None, derandomize=True
)
TestCorpus = Corpus.TestCase
