"""A laboratory for tests: a protocol folder, texts and activations in a real workspace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.base import Inputs
from stores.activations import ArraySettings, RowOutcome, open_arrays
from stores.chunks import Block, write_chunk
from stores.corpora import open_corpus
from stores.database import Connection, transaction
from stores.planning import PlannedText, plan, plan_dialogues, plan_stories
from stores.protocol import Protocol, load_protocol
from stores.rows import Row, pending_chunks, plan_rows, read_rows
from stores.texts import Kind, commit, lease, reject
from stores.vectors import write_vectors
from stores.workspace import Workspace
from tests.analyses.planted import Floats, World

READER, CORPUS = "toy", "main"
TOPICS = ("a picnic", "a storm", "a letter")
FOREVER = 1e12


@dataclass(frozen=True)
class Lab:
    conn: Connection
    workspace: Workspace
    protocol: Protocol

    def inputs(self, *layers: int, **changes: Any) -> Inputs:
        settings: dict[str, Any] = {
            "conn": self.conn,
            "workspace": self.workspace,
            "protocol": self.protocol,
            "reader": READER,
            "corpus": CORPUS,
            "layers": layers or (0,),
            "layer": (layers or (0,))[-1],
            "seed": 7,
            "permutations": 199,
        }
        return Inputs(**(settings | changes))

    def outcomes(self) -> list[tuple[str, str | None]]:
        """Command and outcome of every run, in order."""
        found = self.conn.execute("SELECT command, outcome FROM runs ORDER BY id")
        return [(command, outcome) for command, outcome in found]


def write_protocol(folder: Path, world: World, labels: str = "planted") -> Protocol:
    """A protocol whose emotions e00, e01, ... carry the labels and families of a world."""
    rows = [
        f"e{i:02d}\t{v:.6f}\t{a:.6f}\tfamily {f}"
        for i, (v, a, f) in enumerate(
            zip(world.valence, world.arousal, world.families, strict=True)
        )
    ]
    files = {
        "protocol.toml": f'concept = "emotion"\nlabels = "{labels}"\n'
        "[bounds]\nstories = { min_words = 1, max_words = 99 }\n",
        "emotions.tsv": "\n".join(["emotion\tvalence\tarousal\tfamily", *rows]) + "\n",
        "topics.txt": "\n".join(TOPICS) + "\n",
        "prompts/story.txt": "Write {n} stories about {topic} and {emotion}.\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return load_protocol(folder)


def open_lab(conn: Connection, workspace: Workspace, world: World, labels: str = "planted") -> Lab:
    protocol = write_protocol(workspace.root / "protocol", world, labels)
    open_corpus(conn, CORPUS, protocol.digest, protocol.files)
    return Lab(conn, workspace, protocol)


def story_plan(emotions: Sequence[str], per_topic: int = 2) -> list[PlannedText]:
    return plan_stories(
        emotions=emotions, topics=TOPICS, per_topic=per_topic, corpus=CORPUS, seed=1
    )


def dialogue_plan(per_topic: int = 4) -> list[PlannedText]:
    return plan_dialogues(topics=TOPICS, per_topic=per_topic, corpus=CORPUS, seed=1)


def write_texts(
    lab: Lab, kind: Kind, texts: Sequence[PlannedText], refused: frozenset[str] = frozenset()
) -> None:
    """Plan texts and settle them all; those of refused emotions are rejected."""
    with transaction(lab.conn):  # one wait for the disk instead of one a text
        plan(lab.conn, kind, CORPUS, texts, now=0.0)
        leased = lease(
            lab.conn, kind, CORPUS, "t", limit=len(texts), now=0.0, seconds=FOREVER, max_attempts=1
        )
        for held in leased:
            if held.emotion in refused:
                reject(lab.conn, held, reason="leak", reply_id=None, max_attempts=1, now=0.0)
                continue
            text = f"{kind} {held.emotion} {held.topic} {held.slot}"
            commit(lab.conn, held, text=text, words=4, generator="t", reply_id=None, now=0.0)


def write_activations(
    lab: Lab,
    kind: Kind,
    layers: Mapping[int, Callable[[Row], Floats]],
    *,
    d_model: int,
    short: frozenset[int] = frozenset(),
    chunk_rows: int = 17,
) -> list[Row]:
    """Store each layer's function of a row; rows in `short` are rejected as too short."""
    settings = ArraySettings("toy", "r", "w", 9, d_model, 50, "raw", "float32", lab.protocol.digest)
    place = (lab.conn, lab.workspace, READER, CORPUS, kind)
    open_arrays(*place, settings, chunk_rows)
    plan_rows(lab.conn, READER, CORPUS, kind)
    rows = {row.row: row for row in read_rows(lab.conn, READER, CORPUS, kind)}
    for chunk in pending_chunks(lab.conn, READER, CORPUS, kind, sorted(layers)):
        planned = [rows[part.row] for part in chunk.rows]
        norms = np.ones(len(planned), np.float32)
        blocks = {
            layer: Block(np.stack([make(row) for row in planned]).astype(np.float32), norms)
            for layer, make in layers.items()
        }
        outcomes = [
            RowOutcome(row.row, 9, "t", "rejected", "too_short")
            if row.row in short
            else RowOutcome(row.row, 99, "t", "done")
            for row in planned
        ]
        write_chunk(*place, chunk.chunk, blocks, outcomes)
    return read_rows(lab.conn, READER, CORPUS, kind)


def store_vectors(lab: Lab, vectors: Mapping[int, Floats], names: Sequence[str] = ()) -> None:
    """Vectors of some layers as if they had been built; the raw ones lie a little beside them."""
    emotions = names or lab.protocol.names
    run = lab.conn.execute(
        "INSERT INTO runs (command, settings, code_version, started_at) "
        "VALUES ('vectors build', '{}', '', '') RETURNING id"
    ).fetchone()
    for layer, denoised in vectors.items():
        raw = denoised + 0.01 * np.random.default_rng(layer).normal(size=denoised.shape)
        write_vectors(
            lab.conn,
            lab.workspace,
            READER,
            CORPUS,
            emotions=emotions,
            layer=layer,
            raw=raw,
            denoised=denoised,
            settings={},
            inputs=f"inputs {layer}",
            run_id=run["id"],
        )
