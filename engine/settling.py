"""Reads a raw reply as the texts that were asked for, and settles their rows.

The raw reply is durable before anything here looks at it. What is read depends on the reply and the
protocol alone, so that the same can be read again after a parser or a filter changed. Knows nothing
of backends, prompts or leasing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.duplicates import text_marks
from engine.marking import find_double, mark_space
from engine.quality import check_dialogue, check_story, is_refusal
from engine.splitting import split_reply
from engine.tally import Tally
from stores.database import Connection
from stores.errors import LeaseLost
from stores.failpoints import reach
from stores.marks import add_marks
from stores.protocol import Protocol
from stores.replies import note_found
from stores.texts import Kind, Lease, commit, reject
from stores.verdicts import Verdict, write_verdicts

# Why no text of such a reply may be used, by how the reply ended.
WITHHELD = {"blocked": "blocked", "unknown": "unknown_finish"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply holds for one row: its text, or why there is none that may be used."""

    part: int | None
    """0-based place in the reply; None when the reply has none for this row."""
    text: str
    reason: str | None


def read_reply(
    raw: str, finish_reason: str, *, emotion: str | None, asked: int, protocol: Protocol, kind: Kind
) -> tuple[list[Reading], int | None]:
    """What a reply holds for each of the `asked` texts in turn, and how many texts it holds.

    The number is None where the reply as a whole is of no use. Further texts than were asked for
    are left in the reply. Whether a text is like another one is not decided here.
    """
    parts = split_reply(raw, kind, asked)
    if reason := _whole_reply_fault(raw, finish_reason, parts):
        return [Reading(None, "", reason)] * asked, None
    cut_off = finish_reason == "length"
    lacking = "unparsed" if not parts else "truncated" if cut_off else "wrong_number"
    readings = []
    for place in range(asked):
        if place >= len(parts):
            readings.append(Reading(None, "", lacking))
            continue
        text, cut = parts[place], cut_off and place == len(parts) - 1
        readings.append(Reading(place, text, _fault(text, emotion, protocol, cut=cut)))
    return readings, len(parts)


def _whole_reply_fault(raw: str, finish_reason: str, parts: Sequence[str]) -> str | None:
    if finish_reason in WITHHELD:
        return WITHHELD[finish_reason]
    if not raw.strip():
        return "truncated" if finish_reason == "length" else "empty"
    # with several texts it is a preamble that sounds like a refusal
    return "refusal" if len(parts) < 2 and is_refusal(raw) else None


def _fault(text: str, emotion: str | None, protocol: Protocol, *, cut: bool) -> str | None:
    if emotion is None:
        return check_dialogue(text, protocol, cut=cut)
    return check_story(text, protocol.emotion(emotion), protocol, cut=cut)


@dataclass(slots=True)
class Settler:
    """Settles leased rows with what a kept reply holds for them."""

    conn: Connection
    protocol: Protocol
    kind: Kind
    corpus: str
    generator: str
    max_attempts: int
    clock: Callable[[], float]
    tally: Tally

    @property
    def space(self) -> str:
        return mark_space(self.kind, self.corpus)

    def settle(
        self, leases: Sequence[Lease], raw: str, finish_reason: str, reply_id: int, *, final: bool
    ) -> None:
        """Commit or reject every row, within the caller's transaction."""
        readings, found = read_reply(
            raw,
            finish_reason,
            emotion=leases[0].emotion,
            asked=len(leases),
            protocol=self.protocol,
            kind=self.kind,
        )
        verdicts = []
        for held, reading in zip(leases, readings, strict=True):
            try:
                reason = self._settle_row(held, reading, reply_id, final=final)
            except LeaseLost:  # a suspended engine woke up late: the reply is kept, the row is not
                self.tally.late += 1
                continue
            verdicts.append(self._verdict(held, reading.part, reply_id, reason))
            reach("settling")
        write_verdicts(self.conn, verdicts)
        note_found(self.conn, reply_id, found)

    def _settle_row(
        self, held: Lease, reading: Reading, reply_id: int, *, final: bool
    ) -> str | None:
        reason, now = reading.reason, self.clock()
        marks = text_marks(reading.text, self.space) if reason is None else None
        if marks is not None:
            reason = find_double(self.conn, self.kind, marks, reading.text)
        if marks is None or reason is not None:
            tries = held.attempt if final else self.max_attempts
            said = reason or ""
            reject(self.conn, held, reason=said, reply_id=reply_id, max_attempts=tries, now=now)
            self.tally.rejections[said] += 1
            return said
        commit(
            self.conn,
            held,
            text=reading.text,
            words=len(reading.text.split()),
            generator=self.generator,
            reply_id=reply_id,
            now=now,
        )
        add_marks(self.conn, held.id, marks.all)
        self.tally.done += 1
        return None

    def _verdict(self, held: Lease, part: int | None, reply_id: int, reason: str | None) -> Verdict:
        return Verdict(reply_id, held.id, self.corpus, self.kind, part, held.attempt, reason)
