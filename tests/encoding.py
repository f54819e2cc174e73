"""A small pass of a real model under a real SAE: texts of several lengths that a reader pooled."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from engine.budget import ExtractionBudget
from engine.extraction import ExtractionProgress, ExtractionSettings, extract
from engine.features.identity import Identity
from engine.features.job import EncodingSettings, EncodingSummary, run_encoding
from engine.loading import LazyModel
from stores.corpora import open_corpus
from stores.database import Connection
from stores.planning import PlannedText, plan
from stores.protocol import load_protocol
from stores.texts import Kind, commit, lease
from stores.workspace import Workspace
from tests.engine.protocols import write_protocol
from tests.engine.tiny import text_of

READER, CORPUS, NAME = "toy", "main", "small"
LAYER, START = 2, 5
FEATURES = 64
MEAN_NORM = 7.0


def texts_of(n: int, kind: Kind = "stories") -> list[str]:
    """Distinct texts, every tenth too short for anything to be pooled."""
    start = 0 if kind == "stories" else 100
    return [
        f"{i + start:x} " + text_of(1 if i % 10 == 3 else 12 + 7 * i % 45, i + start)
        for i in range(n)
    ]


def add_texts(conn: Connection, texts: Sequence[str], kind: Kind = "stories") -> None:
    """Finish these texts as they are, in this order, after those that are there."""
    (slot,) = conn.execute(f"SELECT count(*) FROM {kind}").fetchone()
    emotion = "calm" if kind == "stories" else None
    open_corpus(conn, CORPUS, "sha256:p", {})
    rows = [PlannedText(emotion, "rain", slot + i, i) for i in range(len(texts))]
    plan(conn, kind, CORPUS, rows, now=0.0)
    n = len(texts)
    held = lease(conn, kind, CORPUS, "w", limit=n, now=0.0, seconds=9.0, max_attempts=1)
    for row, text in zip(held, texts, strict=True):
        commit(conn, row, text=text, words=1, generator="stub", reply_id=None, now=0.0)


def pool(conn: Connection, workspace: Workspace, lazy: LazyModel, **changes: Any) -> None:
    """Extract what is there."""
    given: dict[str, Any] = {"reader": READER, "corpus": CORPUS, "layers": (LAYER,)}
    folder = workspace.root / "protocol"
    protocol = load_protocol(folder) if folder.exists() else write_protocol(workspace.root)
    extract(
        conn,
        workspace,
        protocol,
        lazy.loaded,
        ExtractionSettings(**given | {"start_token": START, "chunk_rows": 8} | changes),
        batching="padded",
        budget=ExtractionBudget(1024),
        progress=lambda _progress: None,
        stop=threading.Event(),
    )


def settings_of(**changes: Any) -> EncodingSettings:
    given: dict[str, Any] = {
        "reader": READER,
        "corpus": CORPUS,
        "name": NAME,
        "layer": LAYER,
        "format": "raw",
        "start_token": START,
        "seed": 0,
        "spread_tokens": 200,
    }
    return EncodingSettings(**given | changes)


def encode(
    conn: Connection,
    lazy: LazyModel,
    identity: Identity,
    *,
    mean_norm: float = MEAN_NORM,
    progress: Callable[[ExtractionProgress], None] = lambda _progress: None,
    stop: threading.Event | None = None,
    tell: Callable[[str], None] = lambda _line: None,
    **changes: Any,
) -> EncodingSummary:
    return run_encoding(
        conn,
        lazy,
        identity,
        settings_of(**changes),
        mean_norm=mean_norm,
        progress=progress,
        stop=stop or threading.Event(),
        tell=tell,
    )


def rows_of(conn: Connection, encoding_id: int = 1) -> list[tuple[Any, ...]]:
    """All codes of a pass, in the order of their key, without the pass."""
    query = "SELECT * FROM codes WHERE encoding_id = ? ORDER BY kind, bank, text_id"
    return [tuple(row)[1:] for row in conn.execute(query, (encoding_id,))]
