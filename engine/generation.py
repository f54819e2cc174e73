"""Fills planned rows with texts: lease, send, keep the raw reply, split, check, settle.

Planning is a separate step, so that a caller asks `count_open` before it loads a model. Whatever
comes back is durable before it is parsed; a killed run loses what was in flight and nothing else.
Knows the prompt of a text and nothing of backends' insides, arrays or experiments.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from engine.backends.base import Backend, Failure, Reply, Request
from engine.draining import drain
from engine.quality import check_dialogue, check_story, split_reply, text_fingerprint
from stores.corpora import iter_done_texts
from stores.database import Connection, digest, transaction
from stores.errors import ProtocolError
from stores.protocol import Protocol
from stores.replies import ReplyRow, record, record_error, send
from stores.seeds import attempt_seed
from stores.texts import (
    Kind,
    Lease,
    commit,
    counts,
    fail,
    lease,
    reclaim,
    reject,
    release,
)

LEASE_SECONDS = 3600.0
DRAIN_SECONDS = 5.0
PROMPTS: Mapping[Kind, str] = {"stories": "story", "dialogues": "dialogue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """What to write and how; stored with the run."""

    corpus: str
    kind: Kind
    emotions: tuple[str, ...]
    """Planned for; empty for dialogues."""
    topics: tuple[str, ...]
    per_topic: int
    seed: int
    max_attempts: int
    """Replies asked for one row before it is rejected or failed for good."""
    batch: int
    """Rows in flight at once."""
    limit: int | None = None
    """Texts to finish in this run; None for all."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 400

    def __post_init__(self) -> None:
        for name in ("per_topic", "max_attempts", "batch", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must not be negative, not {self.limit}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature must not be negative, and top_p lies in (0, 1]")


@dataclass(frozen=True, slots=True)
class GenerationProgress:
    """How far this run has come. `rejections` counts refused replies by reason, not rows."""

    done: int
    rejections: Mapping[str, int]
    failures: int
    total: int
    """Texts that this run was to finish when it began."""
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Texts finished per second."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class GenerationSummary:
    """What a run did, and how many rows it leaves open (0 when there is nothing to resume)."""

    done: int
    rejections: Mapping[str, int]
    failures: int
    left: int
    stopped: bool
    elapsed_s: float


def generate_texts(
    conn: Connection,
    protocol: Protocol,
    backend: Backend,
    settings: GenerationSettings,
    *,
    run_id: int | None,
    progress: Callable[[GenerationProgress], None],
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
) -> GenerationSummary:
    """Answer open rows of one kind until none is pending, `limit` texts are done, or `stop` is set.

    The caller holds the engine lock: leases of an engine that died are taken back first. After
    `stop`, what arrives within 5 s is kept; rows without an answer are released, and so they are
    when the backend raises. Raises BackendError, ProtocolError when there is no prompt.
    """
    if PROMPTS[settings.kind] not in protocol.prompts:
        raise ProtocolError(
            f"{protocol.root}: prompts/{PROMPTS[settings.kind]}.txt is missing; "
            f"{settings.kind} cannot be asked for without it"
        )
    writer = _Writer(conn, protocol, backend, settings, run_id, progress, stop, clock)
    return asyncio.run(writer.run())


def count_open(conn: Connection, kind: Kind, corpus: str) -> int:
    """How many rows of a corpus are neither done nor given up."""
    open_rows = (c for c in counts(conn) if c.status in ("pending", "leased"))
    return sum(c.n for c in open_rows if (c.kind, c.corpus) == (kind, corpus))


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request in flight, the lease it is for and the call that records its sending."""

    lease: Lease
    request: Request
    call: int


@dataclass(slots=True)
class _Writer:
    """One run: what it was given, and its tallies."""

    conn: Connection
    protocol: Protocol
    backend: Backend
    settings: GenerationSettings
    run_id: int | None
    progress: Callable[[GenerationProgress], None]
    stop: threading.Event
    clock: Callable[[], float]
    done: int = 0
    failures: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    seen: set[bytes] = field(default_factory=set)

    async def run(self) -> GenerationSummary:
        kind, corpus = self.settings.kind, self.settings.corpus
        began = time.monotonic()
        reclaim(self.conn, now=self.clock())
        self.seen = {text_fingerprint(t) for t in iter_done_texts(self.conn, kind, corpus)}
        wanted = count_open(self.conn, kind, corpus)
        if self.settings.limit is not None:
            wanted = min(wanted, self.settings.limit)
        while self.done < wanted and not self.stop.is_set():
            if not (leases := self._lease(wanted - self.done)):
                break
            await self._answer(leases, lambda: self._report(wanted, began))
        return GenerationSummary(
            self.done,
            dict(self.rejections),
            self.failures,
            count_open(self.conn, kind, corpus),
            self.stop.is_set(),
            time.monotonic() - began,
        )

    def _report(self, total: int, began: float) -> None:
        elapsed = time.monotonic() - began
        rejections = dict(self.rejections)
        self.progress(GenerationProgress(self.done, rejections, self.failures, total, elapsed))

    def _lease(self, wanted: int) -> list[Lease]:
        return lease(
            self.conn,
            self.settings.kind,
            self.settings.corpus,
            f"run {self.run_id}",
            limit=min(self.settings.batch, wanted),
            now=self.clock(),
            seconds=LEASE_SECONDS,
            max_attempts=self.settings.max_attempts,
        )

    async def _answer(self, leases: list[Lease], report: Callable[[], None]) -> None:
        """Send one request for each lease and settle what comes back; release the others."""
        unsettled = {each.id: each for each in leases}
        try:
            sent = self._send(leases)
            answers = self.backend.generate([each.request for each in sent.values()])
            async with aclosing(drain(answers, self.stop, seconds=DRAIN_SECONDS)) as groups:
                async for group in groups:
                    self._settle(group, sent)
                    for answer in group:
                        del unsettled[answer.key]
                    report()
            if not self.stop.is_set():  # what a backend forgets must not be asked for ever
                self._settle([Failure(key=key, reason="unanswered") for key in unsettled], sent)
                unsettled.clear()
        finally:
            release(self.conn, unsettled.values(), now=self.clock())

    def _send(self, leases: list[Lease]) -> dict[int, _Sent]:
        """Record the intent to send, durably, for all rows at once."""
        with transaction(self.conn):
            return {each.id: _Sent(each, self._request(each), self._call(each)) for each in leases}

    def _call(self, taken: Lease) -> int:
        return send(self.conn, self.run_id, taken.kind, [taken.id], self.clock())

    def _request(self, taken: Lease) -> Request:
        prompt = self.protocol.prompts[PROMPTS[taken.kind]]
        return Request(
            key=taken.id,
            prompt=prompt.format(emotion=taken.emotion, topic=taken.topic, n=1),
            seed=attempt_seed(taken.seed, taken.attempt),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
        )

    def _settle(self, group: Sequence[Reply | Failure], sent: Mapping[int, _Sent]) -> None:
        """Keep a group of replies, durably; only then look at them and settle their rows."""
        replies = [answer for answer in group if isinstance(answer, Reply)]
        with transaction(self.conn):
            ids = {reply.key: self._record(sent[reply.key], reply) for reply in replies}
        with transaction(self.conn):
            for answer in group:
                each = sent[answer.key]
                if isinstance(answer, Reply):
                    self._judge(each.lease, answer, ids[answer.key])
                else:
                    self._fail(each, answer.reason)

    def _record(self, each: _Sent, answer: Reply) -> int:
        reply = ReplyRow(
            run_id=self.run_id,
            corpus=each.lease.corpus,
            kind=each.lease.kind,
            prompt_sha=digest(each.request.prompt),
            backend=self.backend.name,
            model=self.backend.model,
            seed=each.request.seed,
            raw=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            latency_s=answer.latency_s,
        )
        return record(self.conn, each.call, reply, self.clock())

    def _judge(self, taken: Lease, answer: Reply, reply_id: int) -> None:
        """Commit the reply's text, or reject the row with what is wrong with it."""
        text = next(iter(split_reply(answer.text, taken.kind)), "")
        fingerprint, now = text_fingerprint(text), self.clock()
        reason = self._check(taken, text, answer.finish_reason)
        if reason is None and fingerprint in self.seen:
            reason = "duplicate"
        if reason is not None:
            self.rejections[reason] += 1
            limit = self.settings.max_attempts
            reject(self.conn, taken, reason=reason, reply_id=reply_id, max_attempts=limit, now=now)
            return
        words, generator = len(text.split()), self.backend.model
        commit(
            self.conn,
            taken,
            text=text,
            words=words,
            generator=generator,
            reply_id=reply_id,
            now=now,
        )
        self.seen.add(fingerprint)
        self.done += 1

    def _check(self, taken: Lease, text: str, finish_reason: str) -> str | None:
        if taken.emotion is None:
            return check_dialogue(text, self.protocol, finish_reason)
        emotion = self.protocol.emotion(taken.emotion)
        return check_story(text, emotion, self.protocol, finish_reason)

    def _fail(self, each: _Sent, reason: str) -> None:
        limit = self.settings.max_attempts
        record_error(self.conn, each.call, reason)
        fail(self.conn, each.lease, reason=reason, max_attempts=limit, now=self.clock())
        self.failures += 1
