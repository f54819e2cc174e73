"""Asks a model whether emotions fit snippets: each one's own emotion and, apart from it, another.

An answer is durable before it is read. A killed run loses what was in flight; the next one asks for
that alone. Knows nothing of what the scores are compared with.
"""

import asyncio
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from engine.backends.base import Backend, Failure, Reply, Request
from engine.draining import drain
from engine.replying import reply_row
from engine.unwrapping import unwrap
from engine.writers import Writer
from stores.database import Connection, digest, transaction
from stores.errors import NotReady
from stores.failpoints import reach
from stores.judgements import (
    Judgement,
    Question,
    answer_judgement,
    open_judgements,
    plan_judgements,
)
from stores.prices import Price
from stores.projections import Projection, Snippet, read_snippets
from stores.replies import record, record_error, send
from stores.runs import STOPPED, recorded_run
from stores.seeds import text_seed

PROMPT = Path(__file__).parent.parent / "data" / "judging" / "snippet.txt"
DRAIN_SECONDS = 5.0
SCORE = re.compile(
    r"(?<![\d.,-])(10|\d)(?:\.0)?(?:\s*(?:/|out\ of)\s*10)?(?![.,]?\d)", re.ASCII | re.VERBOSE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingSettings:
    """What to ask."""

    layer: int
    per_emotion: int = 3
    """Snippets of each emotion, the best ones."""
    seed: int = 0
    workers: int = 16
    max_tokens: int = 1024
    """Of an answer: a judge that thinks aloud needs more than its number."""
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class JudgingSummary:
    """What a run did, and how many questions it leaves open."""

    judge: str = ""
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Answers without a score, by reason."""
    failures: int = 0
    left: int = 0
    stopped: bool = False


def judge_snippets(
    conn: Connection,
    projection: Projection,
    writer: Writer,
    settings: JudgingSettings,
    *,
    progress: Callable[[int, int], None],
    stop: threading.Event,
) -> JudgingSummary:
    """Ask about the best snippets of a projection what was not answered yet.

    Raises NotReady when there is no snippet, BackendError when the judge cannot go on.
    """
    who = writer.identify()
    judge, prompt = f"{who.backend} {who.model}", PROMPT.read_text(encoding="utf-8").strip()
    snippets = read_snippets(conn, projection.id, settings.layer)
    if not snippets:
        raise NotReady(
            f"no snippet of {projection.sample.source} is kept at layer {settings.layer}: its "
            "documents are shorter than a snippet, or none could be read"
        )
    place = (conn, projection.id, settings.layer, judge, digest(prompt))
    plan_judgements(*place, plan_questions(snippets, projection.emotions, settings))
    waiting = open_judgements(*place)
    if not waiting:
        return JudgingSummary(judge)
    texts = {(each.emotion, each.document_id): "".join(each.tokens) for each in snippets}
    backend = writer.open(conn, settings.workers)
    with recorded_run(
        conn,
        f"judge {projection.sample.source}",
        {**asdict(settings), "judge": judge, **who.settings},
        reader=projection.reader,
        corpus=projection.corpus,
        model=who.model,
        model_revision=who.revision,
    ) as run:
        requests = [_request(each, texts, prompt, settings) for each in waiting]
        asking = _Asking(conn, projection, backend, settings, run.id, deque(requests), stop)
        asyncio.run(asking.run(progress))
        if stop.is_set():
            run.outcome = STOPPED
    return asking.summary(judge)


def plan_questions(
    snippets: Sequence[Snippet], emotions: Sequence[str], settings: JudgingSettings
) -> list[Question]:
    """Of each emotion's best snippets: does it fit, and does another one, drawn by the seed?

    What is drawn for a snippet hangs on nothing but the seed and the snippet.
    """
    questions = []
    asked: Counter[str] = Counter()
    for each in snippets:
        asked[each.emotion] += 1
        if asked[each.emotion] > settings.per_emotion:
            continue
        own = emotions.index(each.emotion)
        rng = np.random.default_rng([abs(settings.seed), own, each.document_id, each.first])
        other = emotions[(own + int(rng.integers(1, len(emotions)))) % len(emotions)]
        where = (each.emotion, each.document_id, each.first)
        questions += [Question(*where, each.emotion), Question(*where, other)]
    return questions


def read_score(answer: str) -> float | None:
    """The one number from 0 to 10 that an answer holds, however often it says so; None else."""
    text = unwrap(answer)
    numbers = {found[1] for found in SCORE.finditer(text)}
    others = re.findall(r"\d+", SCORE.sub("", text), re.ASCII)
    return float(numbers.pop()) if len(numbers) == 1 and not others else None


def _request(
    judgement: Judgement,
    texts: dict[tuple[str, int], str],
    prompt: str,
    settings: JudgingSettings,
) -> Request:
    question = judgement.question
    filled = prompt.replace("{emotion}", question.asked)
    text = texts[question.emotion, question.document_id]
    return Request(
        key=judgement.id,
        prompt=filled.replace("{text}", text),
        seed=text_seed("judge", settings.seed, "snippets", judgement.id),
        max_tokens=settings.max_tokens,
        temperature=0.0,
        top_p=1.0,
    )


@dataclass(slots=True)
class _Asking:
    """One run: what waits, which calls are under way, and the counts."""

    conn: Connection
    projection: Projection
    backend: Backend
    settings: JudgingSettings
    run_id: int
    waiting: deque[Request]
    stop: threading.Event
    calls: dict[int, tuple[int, Request]] = field(default_factory=dict)
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    async def take(self, limit: int) -> list[Request]:
        """The next requests; that they are sent is durable before they are."""
        if self.stop.is_set():
            return []
        taken = [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]
        with transaction(self.conn):
            for request in taken:
                call = send(self.conn, self.run_id, "snippets", [request.key], time.time())
                self.calls[request.key] = (call, request)
        return taken

    async def run(self, progress: Callable[[int, int], None]) -> None:
        """Ask until everything is answered or a stop came."""
        total = len(self.waiting)
        answers = self.backend.generate(self)
        async with aclosing(drain(answers, self.stop, seconds=DRAIN_SECONDS)) as groups:
            async for group in groups:
                reach("judging")
                with transaction(self.conn):  # an answer and what it says: neither is there alone
                    for answer in group:
                        self._settle(answer)
                reach("judged")
                progress(self.answered + self.refused.total() + self.failures, total)

    def summary(self, judge: str) -> JudgingSummary:
        """The counts at the end."""
        left = len(self.waiting) + len(self.calls) + self.failures
        return JudgingSummary(
            judge, self.answered, self.refused, self.failures, left, self.stop.is_set()
        )

    def _settle(self, answer: Reply | Failure) -> None:
        """Keep one answer and what it says; a failure leaves its question open, unless final."""
        call, request = self.calls.pop(answer.key)
        score, reason, reply_id = None, None, None
        if isinstance(answer, Failure):
            record_error(self.conn, call, answer.reason)
            self.failures += not answer.final
            reason = answer.reason if answer.final else None
        else:
            row = reply_row(
                answer,
                request,
                self.backend,
                run_id=self.run_id,
                corpus=self.projection.sample.source,
                kind="snippets",
                price=self.settings.price,
            )
            reply_id = record(self.conn, call, row, time.time())
            score = read_score(answer.text) if answer.finish_reason == "stop" else None
            reason = None if score is not None else _reason(answer)
        if score is None and reason is None:
            return
        answer_judgement(self.conn, answer.key, score, reason, reply_id)
        if reason is None:
            self.answered += 1
        else:
            self.refused[reason] += 1


def _reason(answer: Reply) -> str:
    """Why an answer gives no score."""
    ends = {"length": "truncated", "blocked": "blocked", "unknown": "unknown_finish"}
    return ends.get(answer.finish_reason, "unparsed")
