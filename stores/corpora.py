"""Corpora: named sets of texts, each bound to the protocol it is first used with.

Knows nothing of how texts are planned, written or judged.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stores.database import Connection, canonical_json, now_text, transaction
from stores.errors import FingerprintMismatch
from stores.workspace import require_slug

if TYPE_CHECKING:
    from stores.texts import Kind


def open_corpus(
    conn: Connection,
    corpus: str,
    protocol_digest: str,
    files: Mapping[str, str],
    folder: Path | None = None,
) -> None:
    """Bind `corpus` to the protocol it is first used with; `files` maps file name to digest.

    `folder` is where that protocol was read from: later commands look there unless told otherwise.

    Raises:
        FingerprintMismatch: the corpus was made with another protocol; names the files.
        UsageError: the corpus name cannot name a folder.
    """
    require_slug(corpus, "corpus")
    place = None if folder is None else str(folder.resolve())
    with transaction(conn):
        conn.execute(
            "INSERT INTO corpora VALUES (?, ?, ?, ?, ?) ON CONFLICT (corpus) DO NOTHING",
            (corpus, protocol_digest, canonical_json(dict(files)), place, now_text()),
        )
        found = conn.execute("SELECT * FROM corpora WHERE corpus = ?", (corpus,)).fetchone()
    if found["protocol_digest"] != protocol_digest:
        before = json.loads(found["protocol_files"])
        differing = sorted(n for n in before.keys() | files if before.get(n) != files.get(n))
        raise FingerprintMismatch(
            f"corpus {corpus!r} was made with another protocol (different: "
            f"{', '.join(differing) or 'the digest alone'}): give the --protocol it was made "
            "with, or a new --corpus"
        )


def protocol_folder(conn: Connection, corpus: str) -> Path | None:
    """Where the protocol of a corpus was read from; None when that was never told."""
    row = conn.execute("SELECT protocol_folder FROM corpora WHERE corpus = ?", (corpus,)).fetchone()
    return Path(row[0]) if row and row[0] else None


def iter_done_texts(conn: Connection, kind: "Kind", corpus: str) -> Iterator[str]:
    """Every text that is done, in planned order, one at a time."""
    done = f"SELECT text FROM {kind} WHERE corpus = ? AND status = 'done' ORDER BY id"
    for (text,) in conn.execute(done, (corpus,)):
        yield text


def planned_emotions(conn: Connection, corpus: str) -> frozenset[str]:
    """The emotions that have a row in the corpus, whatever became of it."""
    found = conn.execute("SELECT DISTINCT emotion FROM stories WHERE corpus = ?", (corpus,))
    return frozenset(row["emotion"] for row in found)
