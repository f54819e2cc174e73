"""Worlds for the verification suite: one where everything is planted, and two where nothing is.

All read stories of the grammar that the embedded model learned: the model itself, a twin of it with
random weights, and the model again with the emotions of the stories dealt anew within each topic.
The dealt world has the readings of the first, and vectors of its own.
"""

import random
import shutil
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from analyses.base import Inputs
from analyses.opening import open_inputs
from analyses.suite import Suite
from analyses.vectors import build_layer, build_vectors, open_sources
from engine.demo.stories import write_dialogue, write_story
from engine.demo.world import DEMO_FOLDER, load_world
from engine.extraction import ExtractionSettings
from engine.loading import LazyModel
from engine.stages import run_extraction
from stores.corpora import open_corpus
from stores.database import Connection, open_database, transaction
from stores.planning import PlannedText, plan, plan_dialogues, plan_stories
from stores.protocol import Protocol, load_protocol
from stores.rows import read_rows
from stores.texts import Kind, commit, lease
from stores.vectors import write_vectors
from stores.workspace import Workspace

CORPUS, READER = "grammar", "toy"
LAYERS, LAYER = (2, 3), 3
TOPICS, DIALOGUES, CHUNK_ROWS = 10, 100, 256
DENOISE = 0.5
HOUR = 3600.0


@dataclass(frozen=True)
class World:
    """A workspace whose stories a model has read, with vectors at LAYERS."""

    workspace: Workspace
    protocol: Protocol
    model: LazyModel

    def inputs(self, conn: Connection, suite: Suite, permutations: int) -> Inputs:
        """What an analysis of this world is given."""
        place = (conn, self.workspace, self.protocol, READER, CORPUS, LAYERS, LAYER)
        rest = {"suite": suite, "model": self.model, "stop": threading.Event()}
        return open_inputs(*place, rest, seed=0, permutations=permutations)


def write_stories(workspace: Workspace) -> Protocol:
    """A story about each topic for every emotion, and neutral dialogues, out of the grammar."""
    world, rng = load_world(), random.Random("twins")
    protocol = world.protocol
    stories = plan_stories(
        emotions=protocol.names,
        topics=protocol.topics[:TOPICS],
        per_topic=1,
        corpus=CORPUS,
        seed=0,
    )
    dialogues = plan_dialogues(
        topics=protocol.neutral_topics[:DIALOGUES], per_topic=1, corpus=CORPUS, seed=0
    )
    with closing(open_database(workspace.database)) as conn:
        open_corpus(conn, CORPUS, protocol.digest, protocol.files)
        with transaction(conn):
            for held in _leased(conn, "stories", stories):
                text = write_story(world, held.emotion or "", held.topic, rng)
                _commit(conn, held, text)
            for held in _leased(conn, "dialogues", dialogues):
                _commit(conn, held, write_dialogue(world, held.topic, rng))
    return protocol


def _leased(conn: Connection, kind: Kind, texts: list[PlannedText]) -> list[Any]:
    plan(conn, kind, CORPUS, texts, now=0.0)
    place = (conn, kind, CORPUS, "t")
    return list(lease(*place, limit=len(texts), now=0.0, seconds=HOUR, max_attempts=1))


def _commit(conn: Connection, held: Any, text: str) -> None:
    words = len(text.split())
    commit(conn, held, text=text, words=words, generator="grammar", reply_id=None, now=0.0)


def deal_anew(conn: Connection, world: World, seed: int) -> None:
    """Put in place of the vectors those of stories whose emotions are dealt anew within topics."""
    place = (conn, world.workspace, world.protocol, READER, CORPUS)
    sources = open_sources(*place, denoise=DENOISE)
    topics: dict[str, list[int]] = {}
    for row in read_rows(conn, READER, CORPUS, "stories"):
        if row.status == "done":
            topics.setdefault(row.topic, []).append(row.row)
    rng, labels = np.random.default_rng(seed), sources.stories.copy()
    for members in topics.values():
        labels[members] = rng.permutation(labels[members])
    dealt = replace(sources, stories=labels)
    run = int(conn.execute("SELECT max(id) FROM runs").fetchone()[0])
    for layer in LAYERS:
        built = build_layer(dealt, layer, DENOISE)
        write_vectors(
            *(conn, world.workspace, READER, CORPUS),
            emotions=sources.emotions,
            layer=layer,
            raw=built.raw,
            denoised=built.denoised,
            settings={"denoise": DENOISE},
            inputs=f"dealt {seed}",
            run_id=run,
        )


def draw_twin(folder: Path) -> Path:
    """A checkpoint with the embedded model's configuration and tokenizer, and random weights."""
    library: Any = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = library.from_config(AutoConfig.from_pretrained(DEMO_FOLDER))
    network.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer
    tokenizer.from_pretrained(DEMO_FOLDER).save_pretrained(folder)
    return folder


def read_stories(workspace: Workspace, checkpoint: Path) -> World:
    """Let the model read the stories of the workspace, and build the vectors."""
    protocol = load_protocol(DEMO_FOLDER / "protocol")
    model = LazyModel(name=str(checkpoint), device="cpu", dtype="float32")
    settings = ExtractionSettings(
        reader=READER, corpus=CORPUS, layers=LAYERS, chunk_rows=CHUNK_ROWS
    )
    with closing(open_database(workspace.database)) as conn:
        place = (conn, workspace, protocol)
        run_extraction(*place, settings, model, progress=lambda _seen: None, stop=threading.Event())
        build_vectors(*place, READER, CORPUS, LAYERS, denoise=DENOISE)
    return World(workspace, protocol, model)


def copy_workspace(workspace: Workspace, folder: Path) -> Workspace:
    """A workspace that begins as a copy of this one."""
    shutil.copytree(workspace.root, folder)
    return Workspace(folder)
