"""A corpus goes over to another protocol only if that asks for the same texts."""

import json
from pathlib import Path

import pytest

from stores.corpora import open_corpus, protocol_folder, rebind_corpus, require_same_questions
from stores.database import Connection
from stores.errors import FingerprintMismatch, NotReady

NAMES = ("protocol.toml", "base/protocol.toml", "topics.txt", "leaks.tsv")
FILES = dict.fromkeys(NAMES, "sha256:1")


@pytest.mark.parametrize(
    "change",
    [
        {"leaks.tsv": "2"},
        {"protocol.toml": "2"},
        {"base/protocol.toml": "2", "leaks.tsv": "2"},
        {"base/base/protocol.toml": "2"},
    ],
)
def test_what_only_judges_may_change(
    conn: Connection, tmp_path: Path, change: dict[str, str]
) -> None:
    open_corpus(conn, "toy", "sha256:p", FILES, tmp_path)
    after = FILES | change
    assert require_same_questions(conn, "toy", after) == "sha256:p"
    rebind_corpus(conn, "toy", "sha256:q", after, tmp_path / "new")
    open_corpus(conn, "toy", "sha256:q", after)
    assert protocol_folder(conn, "toy") == tmp_path / "new"
    kept = conn.execute("SELECT protocol_files FROM corpora").fetchone()[0]
    assert json.loads(kept) == after


def test_a_filter_that_is_left_out_or_new_is_a_change_of_the_filter(conn: Connection) -> None:
    without = {name: sha for name, sha in FILES.items() if name != "leaks.tsv"}
    open_corpus(conn, "toy", "sha256:p", FILES)
    rebind_corpus(conn, "toy", "sha256:q", without)
    rebind_corpus(conn, "toy", "sha256:p", FILES)


@pytest.mark.parametrize(
    "after",
    [
        FILES | {"topics.txt": "2", "leaks.tsv": "2"},
        FILES | {"prompts/dialogue.txt": "2"},
        {name: sha for name, sha in FILES.items() if name != "topics.txt"},
    ],
)
def test_what_asks_for_texts_may_not_change_come_or_go(
    conn: Connection, after: dict[str, str]
) -> None:
    open_corpus(conn, "toy", "sha256:p", FILES)
    with pytest.raises(FingerprintMismatch, match=r"different: (topics|prompts/dialogue)\.txt\)"):
        rebind_corpus(conn, "toy", "sha256:q", after)
    open_corpus(conn, "toy", "sha256:p", FILES)


def test_a_corpus_that_is_not_there_cannot_be_bound(conn: Connection) -> None:
    with pytest.raises(NotReady, match="no corpus 'toy'"):
        rebind_corpus(conn, "toy", "sha256:q", FILES)
