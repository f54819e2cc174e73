"""Corpora: named sets of texts, each bound to the protocol it is first used with.

Knows nothing of how texts are planned, written or judged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stores.database import Connection, canonical_json, now_text, transaction
from stores.errors import FingerprintMismatch, NotReady
from stores.workspace import require_slug

if TYPE_CHECKING:
    from stores.texts import Kind

JUDGING = ("leaks.tsv", "protocol.toml")
"""Files of a protocol that judge a text and ask for none."""


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
            """INSERT INTO corpora
                   (corpus, protocol_digest, protocol_files, protocol_folder, created_at)
               VALUES (?, ?, ?, ?, ?) ON CONFLICT (corpus) DO NOTHING""",
            (corpus, protocol_digest, canonical_json(dict(files)), place, now_text()),
        )
        found = conn.execute("SELECT * FROM corpora WHERE corpus = ?", (corpus,)).fetchone()
    if found["protocol_digest"] != protocol_digest:
        differing = _differing(json.loads(found["protocol_files"]), files)
        raise FingerprintMismatch(
            f"corpus {corpus!r} was made with another protocol (different: "
            f"{', '.join(differing) or 'the digest alone'}): give the --protocol it was made "
            "with, or a new --corpus"
        )


def require_same_questions(conn: Connection, corpus: str, files: Mapping[str, str]) -> str:
    """The digest of the corpus's protocol, if another one with `files` asks for the same texts.

    They may differ in what judges a text: leaks.tsv, and protocol.toml, of which nothing but the
    bounds touches a text; a base folder named there shows in the digests of its own files.

    Raises:
        FingerprintMismatch: the emotions, topics, prompts or other files differ; names them.
        NotReady: there is no such corpus.
    """
    row = conn.execute("SELECT * FROM corpora WHERE corpus = ?", (corpus,)).fetchone()
    if row is None:
        raise NotReady(f"this workspace has no corpus {corpus!r}: generate or import texts first")
    differing = _differing(json.loads(row["protocol_files"]), files)
    if asking := [name for name in differing if Path(name).name not in JUDGING]:
        raise FingerprintMismatch(
            f"corpus {corpus!r} was made with another protocol (different: {', '.join(asking)}); "
            f"only {' and '.join(JUDGING)} may change for texts that are there: give a new --corpus"
        )
    return str(row["protocol_digest"])


def rebind_corpus(
    conn: Connection,
    corpus: str,
    protocol_digest: str,
    files: Mapping[str, str],
    folder: Path | None = None,
) -> None:
    """Bind a corpus to a protocol that asks the same and judges otherwise.

    For who made sure that its texts pass the new checks. Raises what `require_same_questions` does.
    """
    place = None if folder is None else str(folder.resolve())
    with transaction(conn):
        require_same_questions(conn, corpus, files)
        conn.execute(
            """UPDATE corpora SET protocol_digest = ?, protocol_files = ?,
               protocol_folder = coalesce(?, protocol_folder) WHERE corpus = ?""",
            (protocol_digest, canonical_json(dict(files)), place, corpus),
        )


def _differing(before: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | files if before.get(name) != files.get(name))


def protocol_folder(conn: Connection, corpus: str) -> Path | None:
    """Where the protocol of a corpus was read from; None when that was never told."""
    row = conn.execute("SELECT protocol_folder FROM corpora WHERE corpus = ?", (corpus,)).fetchone()
    return Path(row[0]) if row and row[0] else None


def iter_done(conn: Connection, kind: "Kind", corpus: str) -> Iterator[tuple[int, str]]:
    """Id and text of every text that is done, in planned order, one at a time."""
    done = f"SELECT id, text FROM {kind} WHERE corpus = ? AND status = 'done' ORDER BY id"
    yield from conn.execute(done, (corpus,))


def read_texts(conn: Connection, kind: "Kind", text_ids: Sequence[int]) -> dict[int, str]:
    """Those of the texts that are done, by id."""
    query = f"""SELECT id, text FROM {kind} WHERE status = 'done'
                AND id IN (SELECT value FROM json_each(?))"""
    return dict(conn.execute(query, (canonical_json(list(text_ids)),)).fetchall())


def require_generator(conn: Connection, kind: "Kind", corpus: str, generator: str) -> None:
    """Raise FingerprintMismatch when somebody else wrote texts of this corpus.

    A model's folder may move: only the last part of a name counts.
    """
    query = f"SELECT DISTINCT generator FROM {kind} WHERE corpus = ? AND status = 'done'"
    found = [row["generator"] for row in conn.execute(query, (corpus,))]
    others = [name for name in found if Path(name).name != Path(generator).name]
    if others:
        raise FingerprintMismatch(
            f"{kind} of corpus {corpus!r} were written by {', '.join(sorted(others))}, not by "
            f"{generator}: give a new --corpus, or --mix-generators to have both in one"
        )


def marks_rule(conn: Connection, corpus: str) -> str | None:
    """The rule by which every finished text of a corpus is marked; None when some are not."""
    row = conn.execute("SELECT marks_rule FROM corpora WHERE corpus = ?", (corpus,)).fetchone()
    return row["marks_rule"] if row else None


def set_marks_rule(conn: Connection, corpus: str, rule: str) -> None:
    """Say that every finished text of a corpus is marked by this rule."""
    conn.execute("UPDATE corpora SET marks_rule = ? WHERE corpus = ?", (rule, corpus))


def planned_emotions(conn: Connection, corpus: str) -> frozenset[str]:
    """The emotions that have a row in the corpus, whatever became of it."""
    found = conn.execute("SELECT DISTINCT emotion FROM stories WHERE corpus = ?", (corpus,))
    return frozenset(row["emotion"] for row in found)
