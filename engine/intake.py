"""Takes records of stories into a corpus: keeps each as a reply, then judges it like one.

What is there already is left out. Knows nothing of files or runs; `rereading` does the judging.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from engine.duplicates import find_duplicate, text_marks
from engine.rereading import Rereader, tidy_record
from stores.amending import turn_down
from stores.database import Connection, canonical_json, digest, transaction
from stores.failpoints import reach
from stores.imports import (
    BACKEND,
    FINISHED,
    UNREAD,
    add_story,
    imported_digests,
    same_subject,
    story_at,
)
from stores.marks import marked_texts
from stores.planning import PlannedText
from stores.replies import KeptReply, ReplyRow, record, send
from stores.seeds import text_seed
from stores.storyfiles import StoryRecord

SLOT_TAKEN = "slot_taken"
"""Why a record is not kept whose slot holds another text."""

Slot = tuple[str, str, int]
"""Emotion, topic and number."""


def planned(corpus: str, seed: int, slot: Slot) -> PlannedText:
    """The row of a slot as a plan with this seed has it."""
    return PlannedText(*slot, text_seed(corpus, seed, "stories", *slot))


@dataclass(slots=True)
class Intake:
    """Takes the records of one run; `rereader` judges them, by the checks of its protocol."""

    conn: Connection
    rereader: Rereader
    seed: int
    generator: str | None
    """Who wrote the records that do not say so."""
    given: Collection[Slot]
    """Slots that records without one must leave alone."""
    run_id: int
    clock: Callable[[], float]
    already_there: int = 0
    outcomes: Counter[str | None] = field(default_factory=Counter)
    """Records by why they were refused; None: taken."""
    _known: set[str] = field(init=False)
    _next_slots: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = imported_digests(self.conn, self.corpus)

    @property
    def corpus(self) -> str:
        return self.rereader.corpus

    def take(self, records: Iterable[StoryRecord]) -> None:
        """Keep what is not there yet, durably; only then judge it and settle its rows."""
        with transaction(self.conn):
            kept = [reply for each in records if (reply := self._keep(each))]
        reach("recorded")
        self.judge(kept)

    def judge(self, kept: Iterable[KeptReply]) -> None:
        """Give the rows of kept records their texts, where those pass every check."""
        with transaction(self.conn):
            for reply in kept:
                self.outcomes.update(self.rereader.fill(reply))
        reach("settled")

    def _keep(self, story: StoryRecord) -> KeptReply | None:
        """Keep a record as a reply; None when it is there already, or its slot is taken.

        A row that is made for it is rejected until it is judged, so that no backend is asked.
        """
        sha = digest(canonical_json([story.emotion, story.topic, story.text]))
        if sha in self._known or self._has(story):
            self.already_there += 1
            return None
        number = self._free_slot(story) if story.slot is None else story.slot
        slot, now = (story.emotion, story.topic, number), self.clock()
        row = story_at(self.conn, self.corpus, *slot)
        if row is not None and not row.is_open:
            self.outcomes[SLOT_TAKEN] += 1
            return None
        self._known.add(sha)
        if row is not None:
            return self._record(story, sha, row.id, now)
        text_id = add_story(self.conn, self.corpus, planned(self.corpus, self.seed, slot), now)
        kept = self._record(story, sha, text_id, now)
        turn_down(self.conn, "stories", text_id, reason=UNREAD, reply_id=kept.id, now=now)
        return kept

    def _record(self, story: StoryRecord, sha: str, text_id: int, now: float) -> KeptReply:
        reply = ReplyRow(
            run_id=self.run_id,
            corpus=self.corpus,
            kind="stories",
            prompt_sha=sha,
            backend=BACKEND,
            model=story.generator or self.generator or "",
            seed=None,
            raw=story.text,
            finish_reason=FINISHED,
        )
        call = send(self.conn, self.run_id, "stories", [text_id], now)
        reply_id = record(self.conn, call, reply, now)
        return KeptReply(reply_id, reply.raw, FINISHED, reply.model, (text_id,))

    def _has(self, story: StoryRecord) -> bool:
        """Whether the same text about the same emotion and topic is done, whoever wrote it."""
        text = tidy_record(story.text)
        found = marked_texts(self.conn, [text_marks(text, self.rereader.space).whole])
        same = same_subject(self.conn, sorted(found), story.emotion, story.topic)
        return find_duplicate(text, same) == "duplicate"

    def _free_slot(self, story: StoryRecord) -> int:
        subject = (story.emotion, story.topic)
        number = self._next_slots.get(subject, 0)
        while (*subject, number) in self.given or story_at(
            self.conn, self.corpus, *subject, number
        ):
            number += 1
        self._next_slots[subject] = number + 1
        return number
