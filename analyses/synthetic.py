"""Workspaces of any size with activations that were made up, so that their vectors are known.

A text's numbers are its emotion's centre plus noise from a small pool. Both are whole multiples of
GRAIN, so that float32 holds their sum exactly. Goes through the stores' own doors: the ledger is a
real one, and so are the arrays. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.methods.directions import difference_of_means
from stores.activations import ArraySettings, RowOutcome, open_arrays
from stores.chunks import Block, write_behind
from stores.corpora import open_corpus
from stores.database import Connection, transaction
from stores.planning import plan, plan_dialogues, plan_stories
from stores.protocol import Protocol
from stores.receipts import Here
from stores.rows import pending_chunks, plan_rows
from stores.texts import KINDS, Kind, commit, lease
from stores.workspace import Workspace

READER, CORPUS = "synthetic", "synthetic"
GRAIN = 2.0**-12
POOL = 997
NEUTRAL = 8
"""Dialogues vary along the centres of this many emotions."""
SECONDS = 1e9
AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """The made-up numbers of one layer."""

    centres: NDArray[np.float32]
    """(e, d)"""
    noise: NDArray[np.float32]
    """(POOL, d)"""

    def stories(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, d) for the stories in these rows, of these emotions."""
        return self.centres[labels] + self.noise[rows % POOL]

    def dialogues(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, d) for the dialogues in these rows."""
        return 4 * self.centres[rows % NEUTRAL] + self.noise[rows % POOL]

    def vectors(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """The raw vectors (e, d) of stories with these emotions in rows 0, 1, ..."""
        counts = np.zeros((len(self.centres), POOL))
        np.add.at(counts, (labels, np.arange(len(labels)) % POOL), 1.0)
        noise = counts @ self.noise.astype(np.float64) / counts.sum(axis=1, keepdims=True)
        means: NDArray[np.float64] = self.centres + noise
        return difference_of_means(means)


def planted(layer: int, emotions: int, d_model: int) -> Planted:
    """The same numbers for the same layer and sizes."""
    rng = np.random.default_rng(layer)
    drawn = np.rint(rng.standard_normal((emotions + POOL, d_model), np.float32) / GRAIN) * GRAIN
    return Planted(drawn[:emotions].astype(np.float32), drawn[emotions:].astype(np.float32))


def story_labels(rows: int, emotions: int) -> NDArray[np.int64]:
    """(rows,) which emotion the story in each row is about."""
    return np.arange(rows, dtype=np.int64) % emotions


def write_texts(conn: Connection, protocol: Protocol, stories: int) -> None:
    """Plan and finish `stories` stories, and one dialogue for each round of the emotions.

    Every verb of a text's life is used, but in one transaction: one wait for the disk for all.
    """
    dialogues = -(-stories // len(protocol.names))
    with transaction(conn):
        open_corpus(conn, CORPUS, protocol.digest, protocol.files)
        planned_stories = plan_stories(
            emotions=protocol.names,
            topics=protocol.topics,
            per_topic=-(-dialogues // len(protocol.topics)),
            corpus=CORPUS,
            seed=0,
        )
        planned_dialogues = plan_dialogues(
            topics=protocol.neutral_topics,
            per_topic=-(-dialogues // len(protocol.neutral_topics)),
            corpus=CORPUS,
            seed=0,
        )
        plan(conn, "stories", CORPUS, planned_stories[:stories], now=0.0)
        plan(conn, "dialogues", CORPUS, planned_dialogues[:dialogues], now=0.0)
        _finish(conn, "stories")
        _finish(conn, "dialogues")


def _finish(conn: Connection, kind: Kind) -> None:
    place = (conn, kind, CORPUS, "synthetic")
    while held := lease(*place, limit=AT_ONCE, now=0.0, seconds=SECONDS, max_attempts=1):
        for text in held:
            words = f"{text.emotion or kind}, {text.topic}, {text.slot}"
            commit(conn, text, text=words, words=3, generator="none", reply_id=None, now=0.0)


def plan_arrays(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    *,
    layers: int,
    d_model: int,
    chunk_rows: int,
) -> None:
    """Open the arrays of both kinds and give every text its row."""
    settings = ArraySettings(
        model="none",
        revision="none",
        weights_sha="none",
        n_layers=layers,
        d_model=d_model,
        start_token=0,
        format="raw",
        dtype="float32",
        protocol_digest=protocol.digest,
    )
    for kind in KINDS:
        open_arrays(conn, workspace, READER, CORPUS, kind, settings, chunk_rows)
        plan_rows(conn, READER, CORPUS, kind)


def write_arrays(conn: Connection, workspace: Workspace, worlds: Sequence[Planted]) -> int:
    """Write every chunk of every layer with its receipt; return the bytes that are durable."""
    layers = range(len(worlds))
    with write_behind(conn, workspace) as writer:
        for kind in KINDS:
            here: Here = (READER, CORPUS, kind)
            for chunk in pending_chunks(conn, *here, layers):
                rows = np.array([plan.row for plan in chunk.rows])
                outcomes = [RowOutcome(plan.row, 1, plan.text_sha, "done") for plan in chunk.rows]
                blocks = {layer: _block(world, kind, rows) for layer, world in enumerate(worlds)}
                writer.write(here, chunk.chunk, blocks, outcomes)
        writer.flush()
    return writer.bytes_written


def _block(world: Planted, kind: Kind, rows: NDArray[np.int64]) -> Block:
    if kind == "stories":
        means = world.stories(rows, rows % len(world.centres))
    else:
        means = world.dialogues(rows)
    return Block(means, np.linalg.norm(means, axis=1))
