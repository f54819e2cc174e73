"""Vectors as other people's files hold them, and a small protocol that knows most of their names.

Files are written with NumPy alone, without a line of this program.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.vector_import import ImportSummary, import_vectors
from stores.database import Connection
from stores.protocol import Protocol, load_protocol
from stores.vectors import Variant, read_vectors
from stores.workspace import Workspace

READER, CORPUS = "theirs", "imported"
IN_FILE = ("Joyful", "at_ease", "grief stricken", "wistful")
OURS = ("joyful", "at ease", "grief-stricken", "wistful")
KNOWN = OURS[:3]
D = 5


@dataclass(frozen=True)
class Desk:
    """A workspace and a protocol, ready to import into."""

    conn: Connection
    workspace: Workspace
    protocol: Protocol

    def take(
        self, *paths: Path, reader: str = READER, corpus: str = CORPUS, **asked: Any
    ) -> ImportSummary:
        place = (self.conn, self.workspace, self.protocol, reader, corpus)
        return import_vectors(*place, paths, **asked)

    def read(
        self, layer: int, variant: Variant = "raw", corpus: str = CORPUS
    ) -> NDArray[np.float64]:
        return read_vectors(self.conn, self.workspace, READER, corpus, layer, variant).vectors

    def count(self, table: str) -> int:
        return int(self.conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def open_desk(conn: Connection, workspace: Workspace) -> Desk:
    return Desk(conn, workspace, write_protocol(workspace.root / "protocol"))


def write_protocol(folder: Path) -> Protocol:
    """Three emotions of the files and one more; their labels are made up."""
    files = {
        "protocol.toml": 'concept = "emotion"\nlabels = "made up"\n'
        "[bounds]\nstories = { min_words = 1, max_words = 99 }\n",
        "emotions.tsv": "emotion\tvalence\tarousal\njoyful\t.8\t.5\nat ease\t.7\t-.6\n"
        "grief-stricken\t-.8\t-.2\nafraid\t-.7\t.8\n",
        "topics.txt": "a walk\n",
        "prompts/story.txt": "Write {n} stories about {topic} and {emotion}.\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return load_protocol(folder)


def centred(layers: int = 3, seed: int = 0, e: int = len(IN_FILE)) -> NDArray[np.float64]:
    """Vectors [l, e, d] whose mean over emotions is zero up to rounding."""
    drawn = np.random.default_rng(seed).standard_normal((layers, e, D))
    vectors: NDArray[np.float64] = drawn - drawn.mean(axis=1, keepdims=True)
    return vectors


def write_stack(path: Path, **arrays: NDArray[Any]) -> Path:
    """An .npz of `emotions` and what is given beside them."""
    named: dict[str, Any] = {"emotions": np.array(IN_FILE)} | arrays
    np.savez(path, **named)
    return path
