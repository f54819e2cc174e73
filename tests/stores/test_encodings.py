"""Codes come back as they were kept, and count only for what the reader has pooled."""

import re
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from stores.database import Connection, open_database
from stores.encodings import (
    BANKS,
    Bank,
    commit_codes,
    count_encoded,
    count_missing,
    encoded_texts,
    find_encoding,
    finish_encoding,
    known_encodings,
    read_codes,
)
from stores.errors import LedgerError, StoreCorrupt
from stores.rows import plan_rows
from stores.workspace import Workspace
from tests.stores.arranged import CORPUS, HERE, READER, change_text, extract
from tests.stores.encoding import (
    FEATURES,
    NOTED,
    SETTINGS,
    add_pooled,
    begin_encoding,
    code,
    encode,
    failed,
    keep,
)


@pytest.fixture
def pooled(conn: Connection, workspace: Workspace) -> Connection:
    add_pooled(conn, workspace)
    return conn


def test_a_pass_is_known_by_its_settings_and_name(conn: Connection) -> None:
    made = begin_encoding(conn)
    assert begin_encoding(conn) == made == find_encoding(conn, READER, CORPUS, "small", SETTINGS)
    assert made.settings == SETTINGS | NOTED
    assert (made.layer, made.features, made.finished) == (2, FEATURES, False)
    others = [begin_encoding(conn, "large"), begin_encoding(conn, seed=1)]
    assert len({each.id for each in (made, *others)}) == 3
    assert find_encoding(conn, READER, CORPUS, "small", SETTINGS | {"seed": 2}) is None
    assert find_encoding(conn, "other", CORPUS, "small", SETTINGS) is None


@pytest.mark.parametrize("bank", BANKS)
def test_codes_come_back_to_the_bit_in_the_order_of_texts(pooled: Connection, bank: Bank) -> None:
    encoding = begin_encoding(pooled)
    keep(pooled, encoding, (5, 2))
    keep(pooled, encoding, (4,))
    commit_codes(pooled, encoding, "stories", [failed(1, each) for each in BANKS])
    keep(pooled, encoding, (3,), "dialogues")
    found = read_codes(pooled, encoding, "stories", bank)
    expected = [code(id_, bank) for id_ in (2, 4, 5)]
    assert found.text_ids.tolist() == [2, 4, 5]
    assert found.bounds.tolist() == [0, 2, 6, 11]
    assert (str(found.features.dtype), str(found.means.dtype)) == ("int32", "float32")
    np.testing.assert_array_equal(found.features, np.concatenate([e.features for e in expected]))
    np.testing.assert_array_equal(found.means, np.concatenate([e.means for e in expected]))
    for name in ("tokens", "l0", "error", "square"):
        assert getattr(found, name).tolist() == [getattr(each, name) for each in expected]
    assert read_codes(pooled, encoding, "dialogues", bank).text_ids.tolist() == [3]


def test_a_pass_without_codes_reads_as_no_texts(pooled: Connection) -> None:
    found = read_codes(pooled, begin_encoding(pooled), "stories", "sae")
    assert (found.text_ids.shape, found.bounds.tolist(), found.means.shape) == ((0,), [0], (0,))


def test_a_text_on_which_nothing_fires_has_no_features(pooled: Connection) -> None:
    encoding = begin_encoding(pooled)
    silent = replace(code(1, "sae"), features=np.empty(0, np.int32), means=np.empty(0, np.float32))
    commit_codes(pooled, encoding, "stories", [silent])
    assert read_codes(pooled, encoding, "stories", "sae").bounds.tolist() == [0, 0]


def test_a_text_counts_once_it_has_every_bank(pooled: Connection) -> None:
    encoding = begin_encoding(pooled)
    keep(pooled, encoding, (1, 2))
    commit_codes(pooled, encoding, "stories", [code(3, "sae")])
    assert encoded_texts(pooled, encoding, "stories") == {1, 2}
    assert encoded_texts(pooled, encoding, "dialogues") == set()
    assert count_missing(pooled, encoding) == 10


def test_outcomes_are_counted_by_text(pooled: Connection) -> None:
    encoding = begin_encoding(pooled)
    assert count_encoded(pooled, encoding) == {"done": 0}
    keep(pooled, encoding, (1, 2))
    keep(pooled, encoding, (1,), "dialogues")
    commit_codes(pooled, encoding, "stories", [failed(3, bank) for bank in BANKS])
    assert count_encoded(pooled, encoding) == {"done": 3, "out_of_memory": 1}


def test_a_pass_is_finished_when_every_pooled_text_has_codes(
    pooled: Connection, workspace: Workspace
) -> None:
    encoding = begin_encoding(pooled)
    keep(pooled, encoding, range(1, 7))
    keep(pooled, encoding, range(1, 6), "dialogues")
    with pytest.raises(ValueError, match="1 texts have no codes"):
        finish_encoding(pooled, encoding)
    keep(pooled, encoding, (6,), "dialogues")
    assert finish_encoding(pooled, encoding).finished
    assert [each.id for each in known_encodings(pooled, READER, CORPUS)] == [encoding.id]


def test_the_newest_finished_pass_of_each_name_is_known(pooled: Connection) -> None:
    older, newer = encode(pooled, begin_encoding(pooled)), begin_encoding(pooled, seed=1)
    time.sleep(0.002)  # the ledger's clock counts milliseconds
    other = encode(pooled, begin_encoding(pooled, "large"))
    assert known_encodings(pooled, READER, CORPUS) == [other, older]
    encode(pooled, newer)
    assert [each.id for each in known_encodings(pooled, READER, CORPUS)] == [other.id, newer.id]
    time.sleep(0.002)
    assert finish_encoding(pooled, older) == known_encodings(pooled, READER, CORPUS)[1]
    assert known_encodings(pooled, "other", CORPUS) == []


def test_a_pass_that_is_begun_again_is_not_finished(pooled: Connection) -> None:
    assert encode(pooled, begin_encoding(pooled)).finished
    assert not begin_encoding(pooled).finished
    assert known_encodings(pooled, READER, CORPUS) == []


def test_a_text_that_is_read_again_in_other_words_has_no_codes(
    pooled: Connection, workspace: Workspace
) -> None:
    encoding = encode(pooled, begin_encoding(pooled))
    change_text(pooled, 2, "other words altogether")
    plan_rows(pooled, *HERE)  # its chunk of four waits to be read again
    assert encoded_texts(pooled, encoding, "stories") == {5, 6}
    extract(pooled, workspace)
    assert encoded_texts(pooled, encoding, "stories") == {1, 3, 4, 5, 6}
    assert read_codes(pooled, encoding, "stories", "sae").text_ids.tolist() == [1, 3, 4, 5, 6]
    assert count_encoded(pooled, encoding) == {"done": 11}
    keep(pooled, encoding, (2,))
    assert read_codes(pooled, encoding, "stories", "sae").text_ids.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_text_that_is_extracted_again_as_it_was_keeps_its_codes(
    pooled: Connection, workspace: Workspace
) -> None:
    encoding = encode(pooled, begin_encoding(pooled))
    pooled.execute("UPDATE activations SET status = 'pending'")
    pooled.execute("DELETE FROM receipts")
    assert encoded_texts(pooled, encoding, "stories") == set()
    extract(pooled, workspace)
    assert encoded_texts(pooled, encoding, "stories") == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("features = NULL", "they are not there"),
        ("means = x'0000'", "8 bytes of features do not fit 2 of codes"),
        ("features = x'010203', means = x'010203'", "3 bytes of features do not fit 3 of codes"),
        ("features = x'0500000002000000'", "they are not ascending features of 50"),
        ("features = x'0500000005000000'", "they are not ascending features of 50"),
        ("features = x'0500000032000000'", "they are not ascending features of 50"),
        ("features = x'ffffffff32000000'", "they are not ascending features of 50"),
        ("means = x'0000c07f0000803f'", "a code is not finite"),
    ],
)
def test_blobs_that_do_not_fit_are_refused_by_name(
    pooled: Connection, change: str, problem: str
) -> None:
    encoding = encode(pooled, begin_encoding(pooled))
    pooled.execute(f"UPDATE codes SET {change} WHERE kind = 'dialogues' AND text_id = 2")
    for bank in BANKS:
        place = re.escape(f"codes of dialogues 2 under {bank} of small: {problem};")
        with pytest.raises(StoreCorrupt, match=place):
            read_codes(pooled, encoding, "dialogues", bank)
    assert len(read_codes(pooled, encoding, "stories", "sae").text_ids) == 6


def test_a_chunk_is_kept_whole_or_not_at_all(pooled: Connection) -> None:
    encoding = begin_encoding(pooled)
    with pytest.raises(sqlite3.IntegrityError):
        wrong = replace(code(2, "sae"), status="lost")  # type: ignore[arg-type]
        commit_codes(pooled, encoding, "stories", [code(1, "sae"), wrong])
    assert pooled.execute("SELECT count(*) FROM codes").fetchone()[0] == 0


def test_a_full_disk_is_one_line_and_keeps_what_was_there(
    pooled: Connection, workspace: Workspace
) -> None:
    encoding = begin_encoding(pooled)
    keep(pooled, encoding, (1,))
    pages = pooled.execute("PRAGMA page_count").fetchone()[0]
    pooled.execute(f"PRAGMA max_page_count = {pages}")
    large = np.arange(400_000, dtype=np.int32)
    text = replace(code(2, "sae"), features=large, means=large.astype(np.float32))
    with pytest.raises(LedgerError, match=r"free space, then run the same command again"):
        commit_codes(pooled, encoding, "stories", [text])
    with closing(open_database(workspace.database, read_only=True)) as reader:
        assert encoded_texts(reader, encoding, "stories") == {1}
