"""A sample is uniform over distinct texts, repeatable, and drawn once; streams give their first."""

import random
import threading
import tracemalloc
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from engine.sources.base import Found
from engine.sources.choosing import rank_of
from engine.sources.sampling import MAX_CHARACTERS, draw_sample
from stores.database import Connection, digest, open_database
from stores.errors import BadValue, EngineError, FingerprintMismatch, NotReady, Stopped
from stores.samples import Document, Sample, count_documents, known_samples, read_documents
from tests.engine.sources.given import Given

MANY = [f"document {number}" for number in range(2000)]


def draw(conn: Connection, source: Given, size: int = 100, seed: int = 0) -> Sample:
    return draw_sample(
        conn, source, size=size, seed=seed, progress=lambda *_: None, stop=threading.Event()
    )


def documents(conn: Connection, sample: Sample) -> list[Document]:
    return read_documents(conn, sample.id, 0, 10**6)


def drawn_texts(conn: Connection, source: Given, size: int = 100, seed: int = 0) -> list[str]:
    return [each.text for each in documents(conn, draw(conn, source, size, seed))]


def outcomes(conn: Connection) -> list[str]:
    return [row["outcome"] for row in conn.execute("SELECT outcome FROM runs ORDER BY id")]


def test_the_same_seed_gives_the_same_sample_whatever_the_order_and_the_source(
    conn: Connection,
) -> None:
    shuffled = random.Random(1).sample(MANY, len(MANY))
    first = drawn_texts(conn, Given(MANY))
    assert drawn_texts(conn, Given(shuffled, settings={"file": "other"})) == first
    assert len(set(first)) == 100


def test_another_seed_gives_another_sample(conn: Connection) -> None:
    one, other = (set(drawn_texts(conn, Given(MANY), seed=seed)) for seed in (0, 1))
    assert len(one & other) < 20  # 5 expected


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(conn: Connection) -> None:
    assert drawn_texts(conn, Given(MANY), 100)[:30] == drawn_texts(conn, Given(MANY), 30)


def test_every_distinct_text_is_drawn_equally_often(conn: Connection) -> None:
    """Copies do not help a text in: 'often' stands in the source fifty times."""
    conn.execute("PRAGMA synchronous = OFF")
    pool, seeds = [f"text {n}" for n in range(19)] + ["often"] * 50, 200
    drawn = Counter(
        text for seed in range(seeds) for text in drawn_texts(conn, Given(pool), 5, seed)
    )
    expected, deviation = seeds * 5 / 20, (seeds * 0.25 * 0.75) ** 0.5
    assert set(drawn) == set(pool)
    assert max(abs(n - expected) for n in drawn.values()) < 4 * deviation


def test_the_rank_of_a_text_is_fixed_for_ever(conn: Connection) -> None:
    ranks = [rank_of(digest("a"), 0), rank_of(digest("a"), 1), rank_of(digest("b"), -1)]
    assert ranks == [7799549038698207518, 8117981790083427385, 993539054938126850]
    assert all(0 <= rank < 2**63 for rank in ranks)


@pytest.mark.parametrize("order", range(3))
def test_faults_blanks_and_copies_of_what_is_drawn_are_counted_whatever_the_order(
    conn: Connection, order: int
) -> None:
    rest: list[str | Found] = ["", " \n\u3000", Found("x", None, fault="not_json")]
    pool = [*MANY[:300], *MANY[:300], *MANY[:300], *rest, Found("y", None)]
    random.Random(order).shuffle(pool)
    sample = draw(conn, Given(pool), 100)
    # each of the 100 documents drawn has two more copies
    assert sample.skipped == {"empty": 2, "not_json": 1, "no_text": 1, "duplicate": 200}
    assert (sample.seen, count_documents(conn, sample.id)) == (904, 100)


def test_a_source_with_fewer_documents_gives_them_all(conn: Connection) -> None:
    sample = draw(conn, Given(MANY[:7]), 100)
    assert {each.text for each in documents(conn, sample)} == set(MANY[:7])
    assert (sample.seen, sample.finished) == (7, True)


def test_a_finished_sample_is_found_and_nothing_is_read(conn: Connection) -> None:
    first, again = Given(MANY), Given(MANY)
    assert draw(conn, first) == draw(conn, again)
    assert (first.reads, again.reads, outcomes(conn)) == (1, 0, ["done"])


@pytest.mark.parametrize(
    ("settings", "size", "seed", "whole"),
    [({"sha": 2}, 100, 0, True), ({}, 99, 0, True), ({}, 100, 1, True), ({}, 100, 0, False)],
)
def test_other_settings_are_another_sample(
    conn: Connection, settings: dict[str, int], size: int, seed: int, whole: bool
) -> None:
    draw(conn, Given(MANY))
    draw(conn, other := Given(MANY, whole, settings), size, seed)
    assert (other.reads, len(known_samples(conn))) == (1, 2)


def test_what_a_source_says_of_a_document_is_kept(conn: Connection) -> None:
    draw(conn, Given([Found("a.jsonl:7", "hello", "Github")]))
    (found,) = documents(conn, known_samples(conn)[0])
    assert (found.place, found.part, found.text) == ("a.jsonl:7", "Github", "hello")
    assert (found.characters, found.text_sha) == (5, digest("hello"))


def test_of_a_long_document_the_beginning_is_kept_and_the_whole_is_told(conn: Connection) -> None:
    long = "中é" * MAX_CHARACTERS
    (found,) = documents(conn, draw(conn, Given([long, long + "."]), 2))[:1]
    both = {each.text_sha for each in documents(conn, known_samples(conn)[0])}
    assert found.text == long[:MAX_CHARACTERS]
    assert both == {digest(long), digest(long + ".")}
    assert found.characters in (len(long), len(long) + 1)


def test_lone_surrogates_are_spelled_out_and_counted_as_they_are_kept(conn: Connection) -> None:
    (found,) = documents(conn, draw(conn, Given(["a\ud83d"])))
    assert (found.text, found.characters) == (r"a\ud83d", 7)
    assert found.text_sha == digest(found.text)


@pytest.mark.parametrize("size", [-1, 0, 10**30])
def test_a_sample_of_no_possible_size_is_refused_and_nothing_is_begun(
    conn: Connection, size: int
) -> None:
    with pytest.raises(BadValue, match="--samples is 1 to 1,000,000,000"):
        draw(conn, Given(MANY), size)
    assert outcomes(conn) == []


def test_a_source_without_any_text_is_told_with_its_reasons(conn: Connection) -> None:
    with pytest.raises(NotReady, match=r"2 documents seen .*\(1 empty, 1 not_json\)"):
        draw(conn, Given(["  ", Found("b", None, fault="not_json")]))
    assert not known_samples(conn)[0].finished
    assert outcomes(conn)[0].startswith("failed: NotReady")


@pytest.mark.parametrize("whole", [True, False])
def test_a_stop_keeps_what_was_drawn_and_the_next_draw_ends_as_if_nothing_had_been(
    conn: Connection, tmp_path: Path, whole: bool
) -> None:
    stop = threading.Event()
    stopping = Given(MANY, whole, before=lambda number: stop.set() if number == 777 else None)
    with pytest.raises(Stopped, match="given: stopped after 777 documents; run the same"):
        draw_sample(conn, stopping, size=1000, seed=0, progress=lambda *_: None, stop=stop)
    (cut_off,) = known_samples(conn)
    assert (count_documents(conn, cut_off.id), cut_off.finished) == (777, False)
    with closing(open_database(tmp_path / "calm.db")) as calm:
        expected = documents(calm, draw(calm, Given(MANY, whole), 1000))
    assert documents(conn, draw(conn, Given(MANY, whole), 1000)) == expected
    assert outcomes(conn) == ["stopped", "done"]


def test_a_source_that_breaks_off_leaves_a_sample_to_draw_again(conn: Connection) -> None:
    def break_off(number: int) -> None:
        if number == 500:
            raise EngineError("the connection was lost: run it again")

    with pytest.raises(EngineError, match="lost"):
        draw(conn, Given(MANY, before=break_off))
    assert draw(conn, Given(MANY)).finished
    assert outcomes(conn) == ["failed: EngineError: the connection was lost: run it again", "done"]


def test_progress_ends_with_all_that_was_seen_and_kept(conn: Connection) -> None:
    told: list[tuple[int, int]] = []
    draw_sample(
        conn,
        Given(MANY),
        size=150,
        seed=0,
        progress=lambda *each: told.append(each),
        stop=threading.Event(),
    )
    assert told[0] == (100, 100)
    assert told[-1] == (2000, 150)
    assert told == sorted(told)


def test_of_a_stream_the_first_distinct_texts_are_taken_and_no_more_is_read(
    conn: Connection,
) -> None:
    source = Given(["a", "b", "a", "", "c", "d", "e"], whole=False)
    sample = draw(conn, source, 4)
    assert [each.text for each in documents(conn, sample)] == ["a", "b", "c", "d"]
    assert (source.handed, sample.seen, sample.skipped) == (6, 6, {"empty": 1, "duplicate": 1})


@pytest.mark.parametrize(
    ("then", "number"),
    [
        (["other", *MANY[1:]], 1),
        ([*MANY[:5], "new", *MANY[5:]], 6),
        ([*MANY[:5], *MANY[6:]], 6),
        (MANY[:300], 301),
    ],
)
def test_a_stream_that_changed_while_it_was_drawn_is_refused(
    conn: Connection, then: list[str], number: int
) -> None:
    stop = threading.Event()
    stopping = Given(MANY, whole=False, before=lambda at: stop.set() if at == 600 else None)
    with pytest.raises(Stopped):
        draw_sample(conn, stopping, size=1000, seed=0, progress=lambda *_: None, stop=stop)
    kept = documents(conn, known_samples(conn)[0])
    assert len(kept) == 600
    with pytest.raises(FingerprintMismatch, match=rf"document {number} is another .*--seed"):
        draw(conn, Given(then, whole=False), 1000)
    assert documents(conn, known_samples(conn)[0]) == kept


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        with closing(open_database(tmp_path / f"{n}.db")) as conn:
            source = Given((f"{number} {'x' * 2000}" for number in range(n)), settings={"n": n})
            tracemalloc.start()
            draw(conn, source, 1000)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    peak(500)  # what is imported and cached once
    assert peak(20_000) < 1.2 * peak(2_000)
