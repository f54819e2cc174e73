"""Passes under an SAE whose codes follow from text and bank."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from stores.database import Connection
from stores.encodings import (
    BANKS,
    Bank,
    EncodedText,
    Encoding,
    commit_codes,
    finish_encoding,
    open_encoding,
)
from stores.results import open_run
from stores.texts import KINDS, Kind
from stores.workspace import Workspace
from tests.stores.arranged import CORPUS, READER, add_texts, extract

FEATURES = 50
SETTINGS: dict[str, Any] = {"sae": "sha256:s", "layer": 2, "seed": 0}
NOTED: dict[str, Any] = {"features": FEATURES, "l0": 3.5}


def add_pooled(conn: Connection, workspace: Workspace, n: int = 6) -> None:
    """Stories and dialogues that the reader has pooled."""
    for kind in KINDS:
        add_texts(conn, n, kind)
        extract(conn, workspace, kind=kind)


def begin_encoding(conn: Connection, name: str = "small", **changes: Any) -> Encoding:
    run_id = open_run(conn, f"encode {name}", {})
    return open_encoding(conn, READER, CORPUS, name, SETTINGS | changes, run_id, NOTED)


def code(text_id: int, bank: Bank) -> EncodedText:
    """As many features as the id says, every other one from the id on; none for id 0."""
    features = np.arange(text_id, 3 * text_id, 2, dtype=np.int32)
    means = (features + (0.5 if bank == "sae" else 0.25)).astype(np.float32)
    sums = (text_id / 4, text_id / 8, text_id / 2)
    return EncodedText(text_id, bank, "done", None, 9, *sums, features, means)


def failed(text_id: int, bank: Bank) -> EncodedText:
    return EncodedText(text_id, bank, "failed", "out_of_memory", 9)


def keep(conn: Connection, encoding: Encoding, ids: Iterable[int], kind: Kind = "stories") -> None:
    """One chunk of texts that are done under every bank."""
    commit_codes(conn, encoding, kind, [code(id_, bank) for id_ in ids for bank in BANKS])


def encode(conn: Connection, encoding: Encoding, n: int = 6) -> Encoding:
    """A whole pass over `add_pooled`."""
    for kind in KINDS:
        keep(conn, encoding, range(1, n + 1), kind)
    return finish_encoding(conn, encoding)
