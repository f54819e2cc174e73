"""Applies today's parser and filter to every kept reply of a corpus, without asking anybody again.

First what is done is judged again, then what is open is filled: a text that is taken back may make
room for another, and a second time finds nothing to change. Knows nothing of how a reply is read.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from engine.marking import mark_corpus
from engine.rereading import Rereader
from stores.amending import count_replies
from stores.corpora import rebind_corpus, require_same_questions
from stores.database import Connection, transaction
from stores.failpoints import reach
from stores.protocol import Protocol
from stores.replies import KeptReply, iter_replies
from stores.runs import STOPPED, recorded_run
from stores.texts import KINDS, reclaim

REPLIES_AT_ONCE = 200

Watch = Callable[[str, int, int], None]
"""Told the step ("judge" or "fill"), how many replies it has read, and how many there are."""


@dataclass(frozen=True, slots=True)
class ReparseSummary:
    """What reading every reply again did."""

    replies: int
    changes: Mapping[str, int]
    """Done texts that today would not be, by reason; another_text: the reply holds another one."""
    withdrawn: bool
    """Those were taken back, or replaced by the other text; if not, they are as they were."""
    bound: bool
    """The corpus belongs to the protocol given. If not, that refuses texts which are there, and
    nothing was filled."""
    filled: int
    refused: Mapping[str, int]
    """Texts for rows that stay open, by why they are refused today."""
    stopped: bool


def reparse(
    conn: Connection,
    protocol: Protocol,
    corpus: str,
    *,
    withdraw: bool,
    progress: Watch,
    stop: threading.Event,
    clock: Callable[[], float] = time.time,
) -> ReparseSummary:
    """Fill open rows from replies that hold a good text today; tell which done texts would go.

    Done texts change only with `withdraw`. The protocol may differ from the corpus's own in what
    judges a text; the corpus is bound to it once no done text contradicts it, and before anything
    is filled by it. May be stopped or killed anywhere and called again. The caller holds the
    engine lock.

    Raises:
        FingerprintMismatch: the protocol asks for other texts.
        NotReady: there is no such corpus.
    """
    before = require_same_questions(conn, corpus, protocol.files)
    reclaim(conn, now=clock())
    mark_corpus(conn, corpus)
    settings = {"withdraw": withdraw, "protocol_before": before, "protocol": protocol.digest}
    rereaders = [Rereader(conn, protocol, kind, corpus, clock) for kind in KINDS]
    replies = _Replies(conn, corpus, rereaders, progress, stop)
    changes: Counter[str] = Counter()
    with recorded_run(
        conn, "reparse", settings, protocol_digest=protocol.digest, corpus=corpus
    ) as run:
        seen = replies.read("judge", lambda by, reply: changes.update(by.review(reply, withdraw)))
        bound = before == protocol.digest
        if not (bound or stop.is_set()) and (withdraw or not changes):
            rebind_corpus(conn, corpus, protocol.digest, protocol.files, protocol.root)
            bound = True
        filled, refused = replies.fill() if bound else (0, {})
        if stop.is_set():
            run.outcome = STOPPED
    return ReparseSummary(
        replies=seen,
        changes=dict(changes),
        withdrawn=withdraw,
        bound=bound,
        filled=filled,
        refused=refused,
        stopped=stop.is_set(),
    )


@dataclass(slots=True)
class _Replies:
    """Every reply of a corpus, page by page, each page in one transaction."""

    conn: Connection
    corpus: str
    rereaders: Sequence[Rereader]
    progress: Watch
    stop: threading.Event

    def fill(self) -> tuple[int, dict[str, int]]:
        """Fill open rows; how many, and the texts refused for those left, by reason.

        A text that was filled in may be another reason to refuse what was looked at before.
        """
        filled, outcomes = 0, self._fill_once()
        while new := outcomes.pop(None, 0):
            filled, outcomes = filled + new, self._fill_once()
        return filled, {reason: n for reason, n in outcomes.items() if reason is not None}

    def _fill_once(self) -> Counter[str | None]:
        outcomes: Counter[str | None] = Counter()
        self.read("fill", lambda by, reply: outcomes.update(by.fill(reply)))
        return outcomes

    def read(self, step: str, work: Callable[[Rereader, KeptReply], None]) -> int:
        """Let `work` see every reply, oldest first, until the stop; how many it has seen."""
        total, seen = count_replies(self.conn, self.corpus), 0
        for rereader in self.rereaders:
            replies = iter_replies(self.conn, rereader.kind, self.corpus)
            while not self.stop.is_set() and (page := list(islice(replies, REPLIES_AT_ONCE))):
                with transaction(self.conn):
                    for reply in page:
                        work(rereader, reply)
                reach("settled")
                seen += len(page)
                self.progress(step, seen, total)
        return seen
