"""What a reader's pass under an SAE left: codes pooled by text, sparse, of the SAE and its control.

Features (int32) and mean codes (float32) are little-endian BLOBs. A chunk is committed whole. Only
codes of texts count that the reader has pooled, and as they were then: those of a text that was
read again in other words are as good as not there. Knows nothing of models or SAEs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stores.database import Connection, canonical_json, digest, now_text, transaction
from stores.errors import StoreCorrupt
from stores.texts import KINDS, Kind

Bank = Literal["sae", "control"]
BANKS: tuple[Bank, ...] = ("sae", "control")

VALID = """
    FROM codes c JOIN encodings e ON e.id = c.encoding_id
    JOIN activations a ON a.reader = e.reader AND a.corpus = e.corpus AND a.kind = c.kind
        AND a.text_id = c.text_id AND a.text_sha = c.text_sha AND a.status = 'done'"""
"""The rows of codes (c) that count, with their pass (e) and what the reader pooled (a)."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One pass: a reader over its corpus under the SAE called `name`."""

    id: int
    reader: str
    corpus: str
    name: str
    settings: Mapping[str, Any]
    """What identifies the pass: sae (fingerprint), layer, differences, weights_sha, dtype,
    sae_dtype, format, start_token, seed, spread_tokens, spread (digest of the stories whose tokens
    the control matches), mean_norm (where the SAE needs one), chunk_texts. And what was noted of
    it: source, architecture, features, model, l0 (on those tokens; the control's), scaled."""
    finished: bool

    @property
    def layer(self) -> int:
        return int(self.settings["layer"])

    @property
    def features(self) -> int:
        return int(self.settings["features"])


@dataclass(frozen=True, slots=True, eq=False)
class EncodedText:
    """A text under one bank: what `TextCodes` says of it, or why there is nothing."""

    text_id: int
    bank: Bank
    status: Literal["done", "rejected", "failed"]
    reason: str | None
    tokens: int
    l0: float | None = None
    error: float | None = None
    square: float | None = None
    features: NDArray[np.int32] | None = None
    means: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PooledCodes:
    """The done texts of one kind under one bank, n of them, in the order of their ids: CSR."""

    text_ids: NDArray[np.int64]
    bounds: NDArray[np.int64]
    """[n + 1]: text i has `features[bounds[i]:bounds[i + 1]]`."""
    features: NDArray[np.int32]
    means: NDArray[np.float32]
    tokens: NDArray[np.int64]
    l0: NDArray[np.float64]
    error: NDArray[np.float64]
    square: NDArray[np.float64]


def open_encoding(
    conn: Connection,
    reader: str,
    corpus: str,
    name: str,
    settings: Mapping[str, Any],
    run_id: int,
    noted: Mapping[str, Any] | None = None,
) -> Encoding:
    """The pass with these settings, made when it is not there; unfinished from now on.

    `noted` is kept with the settings of a new one and identifies nothing.
    """
    kept = canonical_json({**settings, **(noted or {})})
    key = (reader, corpus, name, digest(canonical_json(dict(settings))))
    with transaction(conn):
        conn.execute(
            "INSERT OR IGNORE INTO encodings (reader, corpus, name, digest, settings, run_id, "
            "created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*key, kept, run_id, now_text()),
        )
        conn.execute(
            "UPDATE encodings SET finished_at = NULL "
            "WHERE reader = ? AND corpus = ? AND name = ? AND digest = ?",
            key,
        )
        found = find_encoding(conn, reader, corpus, name, settings)
    if found is None:
        raise ValueError(f"encoding {name}: no row for its own settings")
    return found


def find_encoding(
    conn: Connection, reader: str, corpus: str, name: str, settings: Mapping[str, Any]
) -> Encoding | None:
    """The pass with these settings, if there is one."""
    query = "SELECT id FROM encodings WHERE reader = ? AND corpus = ? AND name = ? AND digest = ?"
    key = (reader, corpus, name, digest(canonical_json(dict(settings))))
    ids = [id_ for (id_,) in conn.execute(query, key)]
    return next((each for each in every_encoding(conn) if each.id in ids), None)


def known_encodings(conn: Connection, reader: str, corpus: str) -> list[Encoding]:
    """The finished passes, the newest of each name, by name."""
    here = [each for each in every_encoding(conn) if (each.reader, each.corpus) == (reader, corpus)]
    newest = {each.name: each for each in here if each.finished}
    return [newest[name] for name in sorted(newest)]


def every_encoding(conn: Connection) -> list[Encoding]:
    """All passes, in the order in which they were finished."""
    query = "SELECT * FROM encodings ORDER BY finished_at, id"
    return [
        Encoding(
            *(row["id"], row["reader"], row["corpus"], row["name"], json.loads(row["settings"])),
            finished=row["finished_at"] is not None,
        )
        for row in conn.execute(query)
    ]


def encoded_texts(conn: Connection, encoding: Encoding, kind: Kind) -> set[int]:
    """Ids of the texts that have rows of every bank."""
    query = f"""SELECT c.text_id {VALID} WHERE c.encoding_id = ? AND c.kind = ?
        GROUP BY c.text_id HAVING count(*) = ?"""
    return {text_id for (text_id,) in conn.execute(query, (encoding.id, kind, len(BANKS)))}


def commit_codes(
    conn: Connection, encoding: Encoding, kind: Kind, texts: Sequence[EncodedText]
) -> None:
    """Keep a chunk's rows in one transaction, in the place of older ones of the same texts.

    They are codes of what the reader pooled; sqlite3.IntegrityError for a text that it never did.
    """
    sha = """(SELECT text_sha FROM activations
              WHERE reader = ? AND corpus = ? AND kind = ? AND text_id = ?)"""
    query = f"""INSERT OR REPLACE INTO codes (text_sha, encoding_id, kind, text_id, bank, status,
        reason, tokens, l0, error, square, features, means)
        VALUES ({sha}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
    here = (encoding.reader, encoding.corpus, kind)
    with transaction(conn):
        conn.executemany(
            query,
            [
                (*here, each.text_id, encoding.id, kind, each.text_id, *_cells(each))
                for each in texts
            ],
        )


def finish_encoding(conn: Connection, encoding: Encoding) -> Encoding:
    """Say that every text has its rows. ValueError when one has none.

    Said again, it makes this pass the newest one: the one that was asked for last.
    """
    with transaction(conn):
        if missing := count_missing(conn, encoding):
            raise ValueError(f"encoding {encoding.id}: {missing} texts have no codes")
        conn.execute("UPDATE encodings SET finished_at = ? WHERE id = ?", (now_text(), encoding.id))
    return Encoding(
        *(encoding.id, encoding.reader, encoding.corpus, encoding.name, encoding.settings),
        finished=True,
    )


def count_missing(conn: Connection, encoding: Encoding) -> int:
    """How many texts the reader has pooled that lack the rows of a bank."""
    query = "SELECT count(*) FROM activations WHERE reader = ? AND corpus = ? AND status = 'done'"
    (pooled,) = conn.execute(query, (encoding.reader, encoding.corpus)).fetchone()
    return int(pooled) - sum(len(encoded_texts(conn, encoding, kind)) for kind in KINDS)


def read_codes(conn: Connection, encoding: Encoding, kind: Kind, bank: Bank) -> PooledCodes:
    """Codes of the texts that are done. StoreCorrupt for a row whose BLOBs do not fit."""
    done = f"{VALID} WHERE c.encoding_id = ? AND c.kind = ? AND c.bank = ? AND c.status = 'done'"
    here = (encoding.id, kind, bank)
    query = f"SELECT c.text_id, c.tokens, c.l0, c.error, c.square {done} ORDER BY c.text_id"
    rows = conn.execute(query, here).fetchall()
    sizes = f"SELECT coalesce(length(c.features), 0) / 4 {done} ORDER BY c.text_id"
    bounds = np.cumsum([0, *(size for (size,) in conn.execute(sizes, here))], dtype=np.int64)
    features, means = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.float32)
    cells = conn.execute(f"SELECT c.text_id, c.features, c.means {done} ORDER BY c.text_id", here)
    for row, (text_id, fired, coded) in enumerate(cells):
        if fault := codes_fault(fired, coded, encoding.features):
            place = f"codes of {kind} {text_id} under {bank} of {encoding.name}"
            raise StoreCorrupt(
                f"{place}: {fault}; run `cli.py doctor --repair`, then compare again"
            )
        own = slice(bounds[row], bounds[row + 1])
        features[own], means[own] = np.frombuffer(fired, "<i4"), np.frombuffer(coded, "<f4")
    ids, tokens = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    l0, error, square = (np.array([row[i] for row in rows], np.float64) for i in (2, 3, 4))
    return PooledCodes(ids, bounds, features, means, tokens, l0, error, square)


def codes_fault(features: bytes | None, means: bytes | None, f: int) -> str:
    """What is wrong with the BLOBs of a text that is done, under f features; blank for nothing."""
    if features is None or means is None:
        return "they are not there"
    if len(features) % 4 or len(features) != len(means):
        return f"{len(features)} bytes of features do not fit {len(means)} of codes"
    fired = np.frombuffer(features, "<i4")
    if len(fired) and not (fired[0] >= 0 and fired[-1] < f and (np.diff(fired) > 0).all()):
        return f"they are not ascending features of {f}"
    return "" if np.isfinite(np.frombuffer(means, "<f4")).all() else "a code is not finite"


def count_encoded(conn: Connection, encoding: Encoding) -> dict[str, int]:
    """Texts by status, or by reason where there is one."""
    query = f"""SELECT coalesce(c.reason, c.status), count(*) {VALID}
        WHERE c.encoding_id = ? AND c.bank = ? GROUP BY 1 ORDER BY 1"""
    counted = conn.execute(query, (encoding.id, BANKS[0])).fetchall()
    return dict(chain([("done", 0)], map(tuple, counted)))


def _cells(text: EncodedText) -> tuple[Any, ...]:
    features = None if text.features is None else text.features.astype("<i4").tobytes()
    means = None if text.means is None else text.means.astype("<f4").tobytes()
    return (
        *(text.bank, text.status, text.reason, text.tokens),
        *(text.l0, text.error, text.square, features, means),
    )
