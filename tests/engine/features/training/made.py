"""A tiny reader that has read stories and dialogues of several topics, and a small training."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.budget import ExtractionBudget
from engine.extraction import ExtractionSettings, extract
from engine.features.training.job import run_training
from engine.features.training.settings import TrainingSettings, TrainingSummary
from engine.loading import LazyModel
from engine.models import Model
from stores.corpora import open_corpus
from stores.database import Connection
from stores.planning import PlannedText, plan
from stores.protocol import Protocol, load_protocol
from stores.texts import Kind, commit, lease
from stores.workspace import Workspace
from tests.engine.protocols import EMOTIONS, write_protocol
from tests.engine.tiny import text_of

TOPICS = tuple(f"topic {i}" for i in range(6))
LAYER, WIDTH = 2, 48


def protocol_of(workspace: Workspace) -> Protocol:
    """Written when it is first asked for."""
    folder = workspace.root / "protocol"
    return load_protocol(folder) if folder.exists() else write_protocol(workspace.root)


def fill_corpus(
    conn: Connection, workspace: Workspace, kind: Kind, topics: tuple[str, ...] = TOPICS
) -> None:
    """A text of 20 to 44 words for each emotion and topic, or for each topic."""
    protocol = protocol_of(workspace)
    open_corpus(conn, "toy", protocol.digest, protocol.files)
    emotions = EMOTIONS if kind == "stories" else (None,)
    rows = [PlannedText(each, topic, 0, 0) for topic in topics for each in emotions]
    plan(conn, kind, "toy", rows, now=0.0)
    held = lease(conn, kind, "toy", "w", limit=99, now=0.0, seconds=9.0, max_attempts=1)
    for i, row in enumerate(held):
        text = text_of(20 + 5 * i % 25, i)
        commit(conn, row, text=text, words=1, generator="stub", reply_id=None, now=0.0)


def read_corpus(conn: Connection, workspace: Workspace, model: Model) -> None:
    """Let the reader read what is there."""
    extract(
        conn,
        workspace,
        protocol_of(workspace),
        model,
        ExtractionSettings(reader="tiny", corpus="toy", layers=(LAYER,), start_token=5),
        batching="padded",
        budget=ExtractionBudget(1024),
        progress=lambda _progress: None,
        stop=threading.Event(),
    )


def make_reader(conn: Connection, workspace: Workspace, model: Model) -> None:
    """18 stories and 6 dialogues, read."""
    fill_corpus(conn, workspace, "stories")
    fill_corpus(conn, workspace, "dialogues", tuple(f"talk {i}" for i in range(6)))
    read_corpus(conn, workspace, model)


def settings_of(**changes: Any) -> TrainingSettings:
    given: dict[str, Any] = {
        "reader": "tiny",
        "corpus": "toy",
        "name": "small",
        "layer": LAYER,
        "width": WIDTH,
        "kind": "topk",
        "format": "raw",
        "tokens": 2400,
        "l0": 4,
        "batch_tokens": 60,
        "buffer_tokens": 400,
        "held_out": 0.2,
    }
    return TrainingSettings(**given | changes)


def train(
    conn: Connection,
    root: Path,
    model: LazyModel,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _note: None,
    tell: Callable[[str], None] = lambda _line: None,
    **changes: Any,
) -> TrainingSummary:
    """The small training, with changes."""
    return run_training(
        conn,
        Workspace(root),
        model,
        settings_of(**changes),
        progress=progress,
        stop=stop or threading.Event(),
        tell=tell,
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a finished SAE."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
