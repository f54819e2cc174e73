"""Imported stories are known by their digest; those without a verdict wait for one."""

from dataclasses import replace

import pytest

from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import FingerprintMismatch
from stores.imports import (
    BACKEND,
    FINISHED,
    StoryRow,
    add_story,
    any_planned,
    imported_digests,
    same_subject,
    story_at,
    waiting_imports,
)
from stores.planning import PlannedText
from stores.replies import KeptReply, ReplyRow, record, send
from stores.verdicts import Verdict, write_verdicts
from tests.stores.corpora import plan_corpus, take, write

REPLY = ReplyRow(
    run_id=None,
    corpus="toy",
    kind="stories",
    prompt_sha="sha256:1",
    backend=BACKEND,
    model="somebody",
    seed=None,
    raw="Rain fell.",
    finish_reason=FINISHED,
)


def keep(conn: Connection, text_id: int, **changes: str) -> int:
    row = replace(REPLY, **changes)  # type: ignore[arg-type]
    return record(conn, send(conn, None, "stories", [text_id], 0.0), row, 0.0)


def test_only_the_records_of_the_corpus_are_known(conn: Connection) -> None:
    plan_corpus(conn)
    keep(conn, 1)
    keep(conn, 2, prompt_sha="sha256:2")
    keep(conn, 3, prompt_sha="sha256:3", corpus="other")
    keep(conn, 4, prompt_sha="sha256:4", backend="local")
    assert imported_digests(conn, "toy") == {"sha256:1", "sha256:2"}


def test_a_record_waits_until_it_has_a_verdict(conn: Connection) -> None:
    plan_corpus(conn)
    first, second = keep(conn, 1), keep(conn, 2, raw="Snow fell.")
    keep(conn, 3, backend="local", finish_reason="stop")
    write_verdicts(conn, [Verdict(first, 1, "toy", "stories", 0, 0, "leak")])
    waiting = KeptReply(second, "Snow fell.", FINISHED, "somebody", (2,))
    assert list(waiting_imports(conn, "toy")) == [waiting]
    assert list(waiting_imports(conn, "other")) == []


def test_a_slot_is_free_open_or_taken(conn: Connection) -> None:
    plan_corpus(conn)
    done, leased = take(conn, 2)
    write(conn, done)
    for held, is_open in ((done, False), (leased, False)):
        found = story_at(conn, "toy", held.emotion or "", held.topic, held.slot)
        assert found == StoryRow(held.id, is_open)
    assert story_at(conn, "toy", "proud", "rain", 0) == StoryRow(3, is_open=True)
    assert story_at(conn, "toy", "proud", "rain", 1) is None


def test_a_row_is_made_once_and_with_the_seed_of_the_plan(conn: Connection) -> None:
    open_corpus(conn, "toy", "sha256:p", {})
    assert any_planned(conn, "toy") is None
    planned = PlannedText("calm", "rain", 4, seed=7)
    assert add_story(conn, "toy", planned, 0.0) == add_story(conn, "toy", planned, 0.0) == 1
    assert any_planned(conn, "toy") == planned
    with pytest.raises(FingerprintMismatch, match="another seed"):
        add_story(conn, "toy", replace(planned, seed=8), 0.0)


def test_texts_about_the_same_are_told_from_others(conn: Connection) -> None:
    plan_corpus(conn)
    held = take(conn, 3)
    for text in held[:2]:
        write(conn, text, f"About {text.emotion}.")
    ids = [text.id for text in held]
    assert same_subject(conn, ids, "calm", "rain") == ["About calm."]
    assert same_subject(conn, ids[1:], "calm", "rain") == []
    assert same_subject(conn, ids, "calm", "a letter") == []
    assert same_subject(conn, ids, "proud", "rain") == []
