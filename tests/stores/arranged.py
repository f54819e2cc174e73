"""Small ledgers with finished texts, and extractions whose numbers follow from the texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores.activations import ArraySettings, RowOutcome, open_arrays
from stores.chunks import Block, write_behind
from stores.corpora import open_corpus
from stores.database import Connection, digest
from stores.planning import PlannedText, plan
from stores.receipts import Here
from stores.results import open_run
from stores.rows import ChunkPlan, pending_chunks, plan_rows
from stores.texts import Kind, commit, lease
from stores.vectors import write_vectors
from stores.workspace import Workspace

READER, CORPUS = "toy", "main"
HERE: Here = (READER, CORPUS, "stories")
LAYERS = (0, 2)
CHUNK_ROWS = 4
SETTINGS = ArraySettings(
    model="toy/model",
    revision="r1",
    weights_sha="sha256:1",
    n_layers=3,
    d_model=5,
    start_token=50,
    format="raw",
    dtype="float32",
    protocol_digest="sha256:p",
)
IMPORTED = {
    "imported": [{"file": "theirs.npz", "sha256": "sha256:t"}],
    "layers": [0, 2],
    "n_layers": 7,
    "n_layers_assumed": True,
    "d_model": 5,
    "model": None,
}
"""What vectors that came from a file are stored with."""


def add_texts(conn: Connection, n: int, kind: Kind = "stories", *, topic: str = "rain") -> None:
    """Plan `n` texts of a topic, and finish those that are not."""
    emotions = [None] if kind == "dialogues" else ["joyful", "afraid"]
    texts = [PlannedText(emotions[i % len(emotions)], topic, i, i) for i in range(n)]
    open_corpus(conn, CORPUS, "sha256:p", {})
    plan(conn, kind, CORPUS, texts, now=0.0)
    held = lease(conn, kind, CORPUS, "w", limit=n, now=0.0, seconds=9.0, max_attempts=1)
    for text in held:
        words = f"{kind} {text.emotion} {topic} {text.slot}"
        commit(conn, text, text=words, words=4, generator="stub", reply_id=None, now=0.0)


def numbers(layer: int, text_sha: str, d_model: int) -> NDArray[np.float32]:
    """What a pooled activation would be: the same for the same text and layer, [d_model]."""
    seed = int.from_bytes(hashlib.sha256(f"{layer} {text_sha}".encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(d_model).astype(np.float32)


def blocks(chunk: ChunkPlan, d_model: int = 5) -> dict[int, Block]:
    """What would be computed for a chunk; the norm of a row is its layer plus its row plus one."""
    norms = np.array([row.row + 1 for row in chunk.rows], np.float32)
    return {
        layer: Block(
            np.stack([numbers(layer, row.text_sha, d_model) for row in chunk.rows]), norms + layer
        )
        for layer in chunk.layers_missing
    }


def outcomes(chunk: ChunkPlan) -> list[RowOutcome]:
    return [RowOutcome(row.row, 9, digest(f"tokens {row.text_sha}"), "done") for row in chunk.rows]


def extract(
    conn: Connection,
    workspace: Workspace,
    layers: Sequence[int] = LAYERS,
    kind: Kind = "stories",
    settings: ArraySettings = SETTINGS,
    chunk_rows: int = CHUNK_ROWS,
) -> list[int]:
    """Do what an extraction does, without a model; return the chunks that were written."""
    here = (READER, CORPUS, kind)
    open_arrays(conn, workspace, *here, settings, chunk_rows)
    plan_rows(conn, *here)
    pending = pending_chunks(conn, *here, layers)
    with write_behind(conn, workspace) as writer:
        for chunk in pending:
            writer.write(here, chunk.chunk, blocks(chunk, settings.d_model), outcomes(chunk))
    return [chunk.chunk for chunk in pending]


def import_set(
    conn: Connection,
    workspace: Workspace,
    reader: str,
    corpus: str = CORPUS,
    **changes: object,
) -> None:
    """Do what an import does, without a file: raw vectors at the layers that the settings say."""
    settings: dict[str, Any] = {**IMPORTED, **changes}
    open_corpus(conn, corpus, "sha256:p", {})
    for layer in settings["layers"]:
        write_vectors(
            *(conn, workspace, reader, corpus),
            emotions=("joyful", "afraid"),
            layer=layer,
            raw=np.ones((2, 5)),
            denoised=None,
            settings=settings,
            inputs="sha256:i",
            run_id=open_run(conn, "vectors import", {}),
        )


def change_text(conn: Connection, text_id: int, text: str) -> None:
    conn.execute("UPDATE stories SET text = ? WHERE id = ?", (text, text_id))


def settings_with(**changes: object) -> ArraySettings:
    return replace(SETTINGS, **changes)  # type: ignore[arg-type]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
