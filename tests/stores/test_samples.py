"""A sample keeps the lowest ranks of distinct texts, and once it is finished it never changes."""

import random
import sqlite3
from dataclasses import replace

import pytest

from stores.database import Connection, digest
from stores.errors import NotReady, UsageError
from stores.results import open_run
from stores.samples import (
    Drawn,
    Sample,
    count_documents,
    drop_documents,
    find_sample,
    finish_sample,
    keep_documents,
    kept_ranks,
    known_samples,
    open_sample,
    read_documents,
)

SETTINGS = {"seed": 0, "size": 5, "source": {"files": ["a.txt"]}}


def opened(conn: Connection, source: str = "pile", **settings: object) -> Sample:
    return open_sample(conn, source, SETTINGS | settings, open_run(conn, "sample", {}))


def drawn(rank: int, text: str | None = None, place: str = "a.txt") -> Drawn:
    text = f"text {rank}" if text is None else text
    return Drawn(rank, place, text, len(text), digest(text), None)


def texts(conn: Connection, sample: Sample) -> list[str]:
    return [each.text for each in read_documents(conn, sample.id, 0, 99)]


def test_a_sample_is_opened_once_and_other_settings_or_sources_are_others(conn: Connection) -> None:
    assert find_sample(conn, "pile", SETTINGS) is None
    first = opened(conn)
    assert opened(conn) == first == find_sample(conn, "pile", SETTINGS)
    assert (first.settings, first.seen, first.skipped, first.finished) == (
        SETTINGS,
        None,
        {},
        False,
    )
    others = [opened(conn, seed=1), opened(conn, "lmsys")]
    assert known_samples(conn) == [first, *others]


def test_a_source_that_is_no_slug_is_refused(conn: Connection) -> None:
    with pytest.raises(UsageError, match=r"source '\.\./x' is no slug"):
        opened(conn, "../x")
    assert known_samples(conn) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_lowest_ranks_are_kept_in_whatever_order_they_come(conn: Connection, seed: int) -> None:
    sample, everything = opened(conn), [drawn(rank) for rank in range(40)]
    rng = random.Random(seed)
    rng.shuffle(everything)
    while everything:
        batch = rng.randint(1, 9)
        keep_documents(conn, sample.id, everything[:batch], 5)
        everything = everything[batch:]
        assert count_documents(conn, sample.id) <= 5
    assert texts(conn, sample) == [f"text {rank}" for rank in range(5)]


def test_a_text_that_is_there_stays_where_it_was_found_first(conn: Connection) -> None:
    sample = opened(conn)
    keep_documents(conn, sample.id, [drawn(3, "same", "one")], 5)
    keep_documents(conn, sample.id, [drawn(3, "same", "two"), drawn(3, "same", "three")], 5)
    assert [each.place for each in read_documents(conn, sample.id, 0, 9)] == ["one"]


def test_positions_count_by_rank_and_pages_join_to_the_whole(conn: Connection) -> None:
    sample = opened(conn)
    keep_documents(conn, sample.id, [drawn(rank * 100) for rank in (4, 2, 0, 3, 1)], 5)
    whole = read_documents(conn, sample.id, 0, 99)
    assert [each.position for each in whole] == list(range(5))
    assert [each.text for each in whole] == [f"text {rank * 100}" for rank in range(5)]
    pages = [read_documents(conn, sample.id, first, 2) for first in (0, 2, 4, 6)]
    assert [each for page in pages for each in page] == whole
    assert whole[2].text_sha == digest("text 200")


def test_samples_do_not_touch_each_other(conn: Connection) -> None:
    one, other = opened(conn), opened(conn, seed=1)
    keep_documents(conn, one.id, [drawn(rank) for rank in range(5)], 5)
    keep_documents(conn, other.id, [drawn(rank) for rank in range(9, 0, -1)], 3)
    assert texts(conn, other) == ["text 1", "text 2", "text 3"]
    assert len(texts(conn, one)) == 5
    assert kept_ranks(conn, other.id) == {n: digest(f"text {n}") for n in (1, 2, 3)}
    drop_documents(conn, one.id)
    assert (texts(conn, one), len(texts(conn, other))) == ([], 3)


def test_a_finished_sample_says_what_was_seen_and_never_changes(conn: Connection) -> None:
    sample = opened(conn)
    keep_documents(conn, sample.id, [drawn(1), drawn(2)], 5)
    finished = finish_sample(conn, sample.id, seen=7, skipped={"empty": 4, "duplicate": 1})
    expected = replace(sample, seen=7, skipped={"empty": 4, "duplicate": 1}, finished=True)
    assert finished == expected == opened(conn) == find_sample(conn, "pile", SETTINGS)
    with pytest.raises(ValueError, match="is finished"):
        keep_documents(conn, sample.id, [drawn(0)], 5)
    with pytest.raises(ValueError, match="is finished"):
        drop_documents(conn, sample.id)
    with pytest.raises(ValueError, match="is finished"):
        finish_sample(conn, sample.id, seen=0, skipped={})
    assert texts(conn, sample) == ["text 1", "text 2"]


def test_a_sample_without_a_document_is_not_finished_and_says_why(conn: Connection) -> None:
    sample = opened(conn)
    why = r"pile: none of the 9 documents seen has a text \(2 empty, 7 not_json\); check the source"
    with pytest.raises(NotReady, match=why):
        finish_sample(conn, sample.id, seen=9, skipped={"not_json": 7, "empty": 2})
    with pytest.raises(NotReady, match=r"\(7 no_field\); name the field .* with --text-field"):
        finish_sample(conn, sample.id, seen=7, skipped={"no_field": 7})
    with pytest.raises(NotReady, match="it is empty"):
        finish_sample(conn, sample.id, seen=0, skipped={})
    assert not opened(conn).finished


def test_half_a_batch_is_never_kept(conn: Connection) -> None:
    sample, torn = opened(conn), replace(drawn(2), text_sha=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        keep_documents(conn, sample.id, [drawn(1), torn], 5)
    assert count_documents(conn, sample.id) == 0


def test_text_is_kept_to_the_letter_and_what_utf8_cannot_hold_is_spelled_out(
    conn: Connection,
) -> None:
    sample = opened(conn)
    strange = " \r\n\t a\0b \u202e é 中 👩\u200d🔬 '); DROP TABLE documents; -- <b>"
    torn = Drawn(1, "\ud800.txt", "\ud83d!", 2, "sha256:t", "\udfff")
    keep_documents(conn, sample.id, [drawn(0, strange), torn], 5)
    first, second = read_documents(conn, sample.id, 0, 9)
    assert (first.text, first.part) == (strange, None)
    assert (second.place, second.text, second.part) == (r"\ud800.txt", r"\ud83d!", r"\udfff")
