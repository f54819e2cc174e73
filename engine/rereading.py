"""Reads kept replies again and gives their rows what they hold by today's parser and filter.

Nothing is asked for and nothing is paid. A row that another reply filled is left alone. The caller
holds the engine lock and opens the transactions. Knows nothing of runs, files or backends.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.duplicates import Marks, find_duplicate, text_marks
from engine.marking import find_double, mark_space
from engine.quality import check_story
from engine.settling import Reading, read_reply
from engine.splitting import split_reply
from stores.amending import (
    AskedText,
    fill,
    read_asked,
    replace,
    texts_before,
    turn_down,
    withdraw,
)
from stores.database import Connection
from stores.failpoints import reach
from stores.imports import FINISHED
from stores.marks import add_marks, drop_marks, marked_texts
from stores.protocol import Protocol
from stores.replies import KeptReply, note_found
from stores.texts import Kind
from stores.verdicts import Verdict, write_verdicts

ANOTHER_TEXT = "another_text"
"""Why a done row would change whose reply is read differently today."""


def tidy_record(raw: str) -> str:
    """The one story of an imported record, however many a reply with its words would hold."""
    return " ".join(split_reply(raw, "stories", 1))


def read_record(raw: str, emotion: str, protocol: Protocol) -> Reading:
    """What an imported record holds, and whether it may be used."""
    text = tidy_record(raw)
    return Reading(0, text, check_story(text, protocol.emotion(emotion), protocol, cut=False))


@dataclass(frozen=True, slots=True)
class Rereader:
    """Judges the kept replies of one kind and corpus; every finished text there has its marks."""

    conn: Connection
    protocol: Protocol
    kind: Kind
    corpus: str
    clock: Callable[[], float]
    _going: set[int] = field(default_factory=set)
    """Rows whose texts would go: nothing is the double of those any more."""

    def review(self, reply: KeptReply, apply: bool) -> Counter[str]:
        """How many rows that this reply filled would not be filled like this today, by reason.

        With `apply` such a row is taken back, or gets the other text that the reply holds.
        """
        rows = read_asked(self.conn, self.kind, reply.id, reply.text_ids)
        changes: Counter[str] = Counter()
        for row, reading in self._read(reply, rows):
            if row.status == "done" and row.reply_id == reply.id:
                changes.update(self._review(row, reading, apply=apply))
        return changes

    def fill(self, reply: KeptReply) -> Counter[str | None]:
        """Fill the open rows that this reply has a text for; counts them by refusal, None: filled.

        A row that was rejected for this very reply takes on the reason of today.
        """
        outcomes: Counter[str | None] = Counter()
        rows = read_asked(self.conn, self.kind, reply.id, reply.text_ids)
        if not any(row.is_open for row in rows.values()):
            return outcomes
        for row, reading in self._read(reply, rows):
            if row.is_open:
                reason = self._fill(row, reading, reply)
                self._note(row, reading, reply.id, reason)
                outcomes[reason] += 1
                reach("settling")
        return outcomes

    @property
    def space(self) -> str:
        return mark_space(self.kind, self.corpus)

    def _read(
        self, reply: KeptReply, rows: Mapping[int, AskedText]
    ) -> list[tuple[AskedText, Reading]]:
        """What the reply holds for each of its rows; notes how many texts were found in it."""
        if not rows:
            return []
        emotion = next(iter(rows.values())).emotion
        found: int | None = 1
        if reply.finish_reason == FINISHED and emotion is not None:
            readings = [read_record(reply.raw, emotion, self.protocol)]
        else:
            readings, found = read_reply(
                reply.raw,
                reply.finish_reason,
                emotion=emotion,
                asked=len(reply.text_ids),
                protocol=self.protocol,
                kind=self.kind,
            )
        note_found(self.conn, reply.id, found)
        return _pair(reply, rows, readings)

    def _fill(self, row: AskedText, reading: Reading, reply: KeptReply) -> str | None:
        reason, now = reading.reason, self.clock()
        if reason is None:
            marks = text_marks(reading.text, self.space)
            reason = find_double(self.conn, self.kind, marks, reading.text)
            if reason is None:
                fill(
                    self.conn,
                    self.kind,
                    row.id,
                    text=reading.text,
                    generator=reply.model,
                    reply_id=reply.id,
                    now=now,
                )
                add_marks(self.conn, row.id, marks.all)
                return None
        if row.status == "rejected" and row.reply_id == reply.id and row.reason != reason:
            turn_down(self.conn, self.kind, row.id, reason=reason, reply_id=reply.id, now=now)
        return reason

    def _review(self, row: AskedText, reading: Reading, *, apply: bool) -> list[str]:
        marks = text_marks(reading.text, self.space)
        reason = reading.reason or self._double_of_earlier(row, marks, reading.text)
        if reason is None and reading.text == row.text:
            return []
        if apply:
            self._change(row, reading, marks, reason)
        else:
            self._going.add(row.id)
        return [reason or ANOTHER_TEXT]

    def _double_of_earlier(self, row: AskedText, marks: Marks, text: str) -> str | None:
        """Of two texts that are too alike the later one goes."""
        likely = sorted(marked_texts(self.conn, marks.all) - self._going)
        earlier = texts_before(self.conn, self.kind, row, likely)
        return find_duplicate(text, earlier.values())

    def _change(self, row: AskedText, reading: Reading, marks: Marks, reason: str | None) -> None:
        now = self.clock()
        drop_marks(self.conn, row.id, text_marks(row.text or "", self.space).all)
        if reason is None:
            replace(self.conn, self.kind, row.id, text=reading.text, now=now)
            add_marks(self.conn, row.id, marks.all)
        else:
            withdraw(self.conn, self.kind, row.id, reason=reason, now=now)
        self._note(row, reading, row.reply_id or 0, reason)

    def _note(self, row: AskedText, reading: Reading, reply_id: int, reason: str | None) -> None:
        verdict = Verdict(
            reply_id, row.id, self.corpus, self.kind, reading.part, row.attempt, reason
        )
        write_verdicts(self.conn, [verdict])


def _pair(
    reply: KeptReply, rows: Mapping[int, AskedText], readings: list[Reading]
) -> list[tuple[AskedText, Reading]]:
    """Each row with its part of the reply, in turn; but a text that a row has stays its own.

    So a parser that finds one text more gives that one to the row that went without.
    """
    left, pairs = list(readings), {}
    for place, text_id in enumerate(reply.text_ids):
        row = rows.get(text_id)
        if row is None or row.reply_id != reply.id or row.text is None:
            continue
        same = [reading for reading in left if reading.text == row.text]
        if same:
            own = readings[place]
            pairs[text_id] = own if own in same else same[0]
            left.remove(pairs[text_id])
    others = (text_id for text_id in reply.text_ids if text_id not in pairs)
    pairs.update(zip(others, left, strict=True))
    return [(rows[text_id], pairs[text_id]) for text_id in reply.text_ids if text_id in rows]
