"""A seeded handful of a corpus' own stories, read token by token: for covariances and for losses.

Knows nothing of what they are for.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from stores.database import Connection, digest
from stores.errors import NotReady
from stores.rows import Row, read_rows, read_texts
from stores.texts import Kind

if TYPE_CHECKING:  # they load torch
    from engine.models import Model
    from engine.packing import Segment


def choose_stories(
    conn: Connection, reader: str, corpus: str, *, start_token: int, tokens: int, seed: int
) -> list[Row]:
    """Stories that the reader has pooled, in a seeded order, until `tokens` are pooled of them.

    Which ones hangs on the ledger and the seed alone.
    """
    rows = [row for row in read_rows(conn, reader, corpus, "stories") if row.status == "done"]
    rows.sort(key=lambda row: hashlib.sha256(f"{seed} {row.text_id}".encode()).digest())
    pooled = np.cumsum([(row.tokens or 0) - start_token for row in rows])
    return rows[: int(np.searchsorted(pooled, tokens)) + 1]


def sample_segments(
    conn: Connection,
    model: "Model",
    reader: str,
    corpus: str,
    *,
    format: Literal["raw", "chat"],  # noqa: A002
    start_token: int,
    tokens: int,
    seed: int,
) -> "list[Segment]":
    """The stories of `choose_stories` as the model reads them, without those it cannot read.

    Raises NotReady when one of them is not what the reader read.
    """
    from engine.readings import TextReader

    rows = choose_stories(conn, reader, corpus, start_token=start_token, tokens=tokens, seed=seed)
    refuse_changed(conn, reader, corpus, [("stories", rows)])
    text_reader = TextReader(model, format, start_token)
    texts = read_texts(conn, "stories", [row.text_id for row in rows])
    readings = [text_reader.read(texts.get(row.text_id, "")) for row in rows]
    return [reading.segment for reading in readings if reading.fault is None]


def refuse_changed(
    conn: Connection, reader: str, corpus: str, wanted: Iterable[tuple[Kind, Sequence[Row]]]
) -> None:
    """Raise NotReady for texts that are not what the reader pooled."""
    changed = 0
    for kind, rows in wanted:
        texts = read_texts(conn, kind, [row.text_id for row in rows])
        changed += sum(digest(texts.get(row.text_id, "")) != row.text_sha for row in rows)
    if changed:
        raise NotReady(
            f"{changed} texts of corpus {corpus} were changed after reader {reader} read them; "
            f"run `cli.py extract --reader {reader} --corpus {corpus}` first"
        )


def sample_tokens(model: "Model", layer: int, segments: "Sequence[Segment]") -> NDArray[np.float32]:
    """Activations [m, d] after `layer` at the pooled tokens of the segments, text after text."""
    from engine.features.codes import read_tokens

    none = np.empty((0, model.d_model), np.float32)
    return np.concatenate([none, *read_tokens(model, layer, segments)])
