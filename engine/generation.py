"""Fills planned rows with texts: lease, send, keep the raw reply, split, check, settle.

Planning is a separate step, so that a caller asks `count_open` before it loads a model. Whatever
comes back is durable before it is parsed; a killed run loses what was in flight and nothing else.
Knows nothing of backends' insides, arrays or experiments.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from engine.backends.base import Backend, Failure, Reply
from engine.draining import drain
from engine.marking import mark_corpus
from engine.replying import reply_row
from engine.requesting import LEASE_SECONDS, PROMPTS, OpenRows, Sent
from engine.settings import GenerationSettings
from engine.settling import Settler
from engine.tally import GenerationProgress, GenerationSummary, Tally
from stores.database import Connection, transaction
from stores.errors import LeaseLost, ProtocolError
from stores.failpoints import reach
from stores.protocol import Protocol
from stores.replies import record, record_error
from stores.texts import Kind, counts, fail, reclaim

DRAIN_SECONDS = 5.0
TICK_SECONDS = 1.0
RENEW_TICKS = int(LEASE_SECONDS / TICK_SECONDS) // 6

Watch = Callable[[GenerationProgress], None]


def generate_texts(
    conn: Connection,
    protocol: Protocol,
    backend: Backend,
    settings: GenerationSettings,
    *,
    run_id: int | None,
    progress: Watch,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
) -> GenerationSummary:
    """Answer open rows of one kind until none is left, `limit` texts are done, or `stop` is set.

    The caller holds the engine lock: leases of an engine that died are taken back first. After
    `stop`, what arrives within 5 s is kept; rows without an answer are released, and so they are
    when the backend raises. Ends before a call that could cost more than `max_cost` leaves.

    Raises:
        BackendError: the backend cannot go on; QuotaUsedUp when it can later.
        ProtocolError: there is no prompt for this kind.
    """
    if PROMPTS[settings.kind] not in protocol.prompts:
        raise ProtocolError(
            f"{protocol.root}: prompts/{PROMPTS[settings.kind]}.txt is missing; "
            f"{settings.kind} cannot be asked for without it"
        )
    reclaim(conn, now=clock(), suspects=backend.in_process)
    mark_corpus(conn, settings.corpus)
    total = count_open(conn, settings.kind, settings.corpus)
    if settings.limit is not None:
        total = min(total, settings.limit)
    tally = Tally(total, priced=settings.price is not None)
    prompt = protocol.prompts[PROMPTS[settings.kind]]
    rows = OpenRows(conn, prompt, settings, run_id, tally, stop, clock)
    settler = Settler(
        conn,
        protocol,
        settings.kind,
        settings.corpus,
        backend.model,
        settings.max_attempts,
        clock,
        tally,
    )
    asyncio.run(_Writer(backend, rows, settler, progress).run())
    left = count_open(conn, settings.kind, settings.corpus)
    over_budget = rows.over_budget and left > 0
    return tally.summary(left=left, stopped=stop.is_set(), over_budget=over_budget)


def count_open(conn: Connection, kind: Kind, corpus: str) -> int:
    """How many rows of a corpus are neither done nor given up."""
    open_rows = (c for c in counts(conn) if c.status in ("pending", "leased"))
    return sum(c.n for c in open_rows if (c.kind, c.corpus) == (kind, corpus))


@dataclass(slots=True)
class _Writer:
    """One run: it passes requests to the backend and its answers to the ledger."""

    backend: Backend
    rows: OpenRows
    settler: Settler
    progress: Watch

    async def run(self) -> None:
        try:
            async with self._ticking():
                while not (self.rows.ended or self.rows.stop.is_set()):
                    await self._answer()
        finally:
            self.rows.release()

    @asynccontextmanager
    async def _ticking(self) -> AsyncGenerator[None]:
        """Tell the progress, and renew the leases in flight, also while no answer comes."""
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking

    async def _tick(self) -> None:
        for tick in itertools.count(1):
            await asyncio.sleep(TICK_SECONDS)
            self._report()
            if tick % RENEW_TICKS == 0:
                self.rows.renew()

    def _report(self) -> None:
        self.progress(self.settler.tally.progress(self.backend.note()))

    async def _answer(self) -> None:
        """Let the backend take what it can, and settle what comes back until it is through."""
        answers = self.backend.generate(self.rows)
        async with aclosing(drain(answers, self.rows.stop, seconds=DRAIN_SECONDS)) as groups:
            async for group in groups:
                reach("answered")
                self._settle(group)
                self._report()
        if not self.rows.stop.is_set():  # what a backend forgets must not be asked for ever
            forgotten = [Failure(key=key, reason="unanswered") for key in self.rows.in_flight]
            self._settle(forgotten)

    def _settle(self, group: Sequence[Reply | Failure]) -> None:
        """Keep a group of replies, durably; only then look at them and settle their rows."""
        conn = self.rows.conn
        sent = {answer.key: self.rows.in_flight[answer.key] for answer in group}
        replies = [answer for answer in group if isinstance(answer, Reply)]
        with transaction(conn):
            ids = {reply.key: self._record(sent[reply.key], reply) for reply in replies}
        reach("recorded")
        with transaction(conn):
            for answer in group:
                each = sent[answer.key]
                if isinstance(answer, Reply):
                    self.settler.settle(
                        each.leases,
                        answer.text,
                        answer.finish_reason,
                        ids[answer.key],
                        final=answer.final,
                    )
                else:
                    self._fail(each, answer)
        self.rows.settled(sent)
        reach("settled")

    def _record(self, each: Sent, answer: Reply) -> int:
        settings = self.rows.settings
        reply = reply_row(
            answer,
            each.request,
            self.backend,
            run_id=self.rows.run_id,
            corpus=settings.corpus,
            kind=settings.kind,
            price=settings.price,
            asked=len(each.leases),
        )
        self.settler.tally.add_reply(answer, reply.cost_usd)
        return record(self.rows.conn, each.call, reply, self.rows.clock())

    def _fail(self, each: Sent, answer: Failure) -> None:
        conn, now = self.rows.conn, self.rows.clock()
        record_error(conn, each.call, answer.reason)
        for held in each.leases:
            tries = held.attempt if answer.final else self.rows.settings.max_attempts
            with suppress(LeaseLost):  # as for a reply: a late answer settles nothing
                fail(conn, held, reason=answer.reason, max_attempts=tries, now=now)
        self.settler.tally.failures += len(each.leases)
