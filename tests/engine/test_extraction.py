"""Every finished text becomes one row, right and durable, however often the run is interrupted."""

import json
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.budget import ExtractionBudget
from engine.checkpoints import describe_checkpoint
from engine.extraction import (
    ExtractionProgress,
    ExtractionSettings,
    ExtractionSummary,
    array_settings,
    extract,
    plan_extraction,
)
from engine.models import Model, load_model
from engine.tokens import encode_chat, encode_raw
from stores.corpora import open_corpus
from stores.database import Connection, digest, open_database
from stores.errors import FingerprintMismatch, NotReady
from stores.layers import read_layer
from stores.planning import PlannedText, plan
from stores.protocol import Protocol
from stores.receipts import mean_norms
from stores.rows import Row, read_rows
from stores.texts import Kind, commit, lease
from stores.workspace import Workspace
from tests.conftest import StartChild
from tests.engine.protocols import write_protocol
from tests.engine.tiny import text_of
from tests.stores.arranged import files_below

START = 5
SETTINGS = ExtractionSettings(
    reader="tiny",
    corpus="toy",
    layers=(1, 3),
    kinds=("stories", "dialogues"),
    start_token=START,
    format="raw",
    tokens_per_batch=120,
    chunk_rows=4,
)
# float32 sums in another order, relative to the norm of the row
TOLERANCE = 1e-5


def add_texts(conn: Connection, texts: list[str], kind: Kind = "stories", slot: int = 0) -> None:
    """Finish these texts as they are, in this order."""
    emotion = "calm" if kind == "stories" else None
    open_corpus(conn, "toy", "sha256:p", {})
    rows = [PlannedText(emotion, "rain", slot + i, i) for i in range(len(texts))]
    plan(conn, kind, "toy", rows, now=0.0)
    n = len(texts)
    held = lease(conn, kind, "toy", "w", limit=n, now=0.0, seconds=9.0, max_attempts=1)
    for row, text in zip(held, texts, strict=True):
        commit(conn, row, text=text, words=1, generator="stub", reply_id=None, now=0.0)


STORIES = [text_of(words, start=words) for words in (30, 12, 50, 21, 33, 9, 44, 18, 27, 60)]
DIALOGUES = [text_of(words, start=words) for words in (25, 14, 40)]


@pytest.fixture
def protocol(tmp_path: Path) -> Protocol:
    return write_protocol(tmp_path)


@pytest.fixture
def texts(conn: Connection) -> None:
    add_texts(conn, STORIES)
    add_texts(conn, DIALOGUES, "dialogues")


def run(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    model: Model,
    *,
    stop: threading.Event | None = None,
    progress: Any = lambda _progress: None,
    budget: ExtractionBudget | None = None,
    **changes: Any,
) -> ExtractionSummary:
    settings = replace(SETTINGS, **changes)
    return extract(
        conn,
        workspace,
        protocol,
        model,
        settings,
        batching="padded" if settings.batching == "auto" else settings.batching,
        budget=budget or ExtractionBudget(settings.tokens_per_batch or 120),
        progress=progress,
        stop=stop or threading.Event(),
    )


def layer_of(workspace: Workspace, layer: int, kind: Kind = "stories") -> NDArray[np.float32]:
    found: NDArray[np.float32] = read_layer(workspace, "tiny", "toy", kind, layer)
    return found


def rows_of(conn: Connection, kind: Kind = "stories") -> list[Row]:
    return read_rows(conn, "tiny", "toy", kind)


def plain_means(model: Model, texts: list[str], layer: int) -> NDArray[np.float32]:
    """One text at a time through the whole model; `layer` is not the last one."""
    means = []
    for text in texts:
        encoded = encode_raw(model, text)
        with torch.inference_mode():
            run = model.model(torch.tensor([encoded.ids]), output_hidden_states=True)
        means.append(run.hidden_states[layer + 1][0, encoded.content.start + START :].mean(dim=0))
    return torch.stack(means).numpy()


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    return bool((np.abs(found - expected) <= TOLERANCE * norms).all())


@pytest.mark.usefixtures("texts")
def test_arrays_equal_a_plain_loop_over_texts(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    summary = run(conn, workspace, protocol, tiny)
    assert (summary.chunks, summary.rows, summary.outcomes) == (4, 13, {"done": 13})
    assert close(layer_of(workspace, 1), plain_means(tiny, STORIES, 1))
    assert close(layer_of(workspace, 1, "dialogues"), plain_means(tiny, DIALOGUES, 1))


@pytest.mark.usefixtures("texts")
def test_rows_tell_their_tokens(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    run(conn, workspace, protocol, tiny)
    lengths = [len(encode_raw(tiny, text).ids) - 1 for text in STORIES]
    assert [row.tokens for row in rows_of(conn)] == lengths
    assert [row.row for row in rows_of(conn)] == list(range(10))
    ids = np.asarray(encode_raw(tiny, STORIES[0]).ids, dtype="<i4")
    stored = conn.execute("SELECT tokens_sha FROM activations WHERE row = 0 AND kind = 'stories'")
    assert stored.fetchone()[0] == digest(ids.tobytes())


@pytest.mark.usefixtures("texts")
def test_receipts_keep_the_mean_residual_norm_of_the_pooled_tokens(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    add_texts(conn, ["A b c."], slot=90)  # too short: it has no norm
    run(conn, workspace, protocol, tiny)
    norms = []
    for text in (*STORIES, *DIALOGUES):
        encoded = encode_raw(tiny, text)
        with torch.inference_mode():
            states = tiny.model.model(torch.tensor([encoded.ids]), output_hidden_states=True)
        pooled = states.hidden_states[2][0, encoded.content.start + START :]
        norms.append(float(pooled.norm(dim=-1).mean()))
    assert mean_norms(conn, "tiny", "toy")[1] == pytest.approx(np.mean(norms), rel=1e-5)
    stories = mean_norms(conn, "tiny", "toy", ["stories"])
    assert stories[1] == pytest.approx(np.mean(norms[: len(STORIES)]), rel=1e-5)


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("batching", ["packed", "alone"])
def test_every_batching_gives_the_same_numbers(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model, batching: Any
) -> None:
    run(conn, workspace, protocol, tiny)
    run(conn, workspace, protocol, tiny, reader="other", batching=batching)
    for layer in SETTINGS.layers:
        other = read_layer(workspace, "other", "toy", "stories", layer)
        assert close(layer_of(workspace, layer), other)


@pytest.mark.usefixtures("texts")
def test_a_text_that_memory_cannot_hold_fails_alone(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    lengths = [len(encode_raw(tiny, text).ids) for text in STORIES]

    def refuse(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[1] == max(lengths):
            raise torch.OutOfMemoryError("simulated")

    hook = tiny.backbone.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        summary = run(conn, workspace, protocol, tiny, budget=ExtractionBudget(4000))
    finally:
        hook.remove()
    assert summary.outcomes == {"done": 12, "out_of_memory": 1}
    assert (summary.rows, summary.shrunk) == (13, True)
    longest = int(np.argmax(lengths))
    assert [row.row for row in rows_of(conn) if row.status == "failed"] == [longest]
    expected = plain_means(tiny, STORIES, 1)
    assert close(np.delete(layer_of(workspace, 1), longest, 0), np.delete(expected, longest, 0))
    assert run(conn, workspace, protocol, tiny).rows == 0
    again = run(conn, workspace, protocol, tiny, retry_memory=True)
    assert (again.chunks, again.rows) == (1, len(STORIES) - longest // 4 * 4)
    assert close(layer_of(workspace, 1), expected)
    assert run(conn, workspace, protocol, tiny, retry_memory=True).rows == 0


@pytest.mark.usefixtures("texts")
def test_a_second_extraction_writes_nothing(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    run(conn, workspace, protocol, tiny)
    assert run(conn, workspace, protocol, tiny).chunks == 0
    arrays = array_settings(tiny, tiny.dtype, protocol, SETTINGS)
    assert plan_extraction(conn, workspace, arrays, SETTINGS) == 0


@pytest.mark.usefixtures("texts")
def test_new_texts_and_new_layers_cost_only_themselves(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    run(conn, workspace, protocol, tiny)
    assert run(conn, workspace, protocol, tiny, layers=(0, 1, 3)).chunks == 4
    add_texts(conn, [text_of(40, 99)], slot=10)
    assert run(conn, workspace, protocol, tiny).chunks == 1
    assert close(layer_of(workspace, 1), plain_means(tiny, [*STORIES, text_of(40, 99)], 1))
    assert not np.isnan(layer_of(workspace, 0)[:8]).any()


@pytest.mark.usefixtures("texts")
def test_the_numbers_do_not_depend_on_batches_or_chunks(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    run(conn, workspace, protocol, tiny)
    run(conn, workspace, protocol, tiny, reader="other", chunk_rows=3, tokens_per_batch=1)
    for layer in SETTINGS.layers:
        other = read_layer(workspace, "other", "toy", "stories", layer)
        assert close(layer_of(workspace, layer), other)


def test_texts_that_cannot_be_read_get_a_status(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    good = [text_of(20), text_of(20, 3)]
    add_texts(conn, [good[0], "", "   \n ", text_of(400), "A b c.", good[1], "<bos><eos> " * 20])
    summary = run(conn, workspace, protocol, tiny)
    found = [(row.status, row.reason) for row in rows_of(conn)]
    assert found == [
        ("done", None),
        ("failed", "empty"),
        ("failed", "empty"),
        ("failed", "too_long"),
        ("rejected", "too_short"),
        ("done", None),
        ("done", None),
    ]
    assert summary.outcomes == Counter(reason or status for status, reason in found)
    numbers = layer_of(workspace, 1)
    assert np.isnan(numbers[1:5]).all()
    assert close(numbers[[0, 5]], plain_means(tiny, good, 1))


def test_one_token_after_the_start_is_enough(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    text = text_of(20)
    tokens = len(encode_raw(tiny, text).ids) - 1
    add_texts(conn, [text])
    run(conn, workspace, protocol, tiny, start_token=tokens - 1)
    run(conn, workspace, protocol, tiny, start_token=tokens, reader="other")
    assert [row.status for row in rows_of(conn)] == ["done"]
    assert [row.reason for row in read_rows(conn, "other", "toy", "stories")] == ["too_short"]


def test_numbers_that_overflow_fail_their_row_alone(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny_path: Path
) -> None:
    model = load_model(str(tiny_path), device="cpu")
    (tilde,) = encode_raw(model, "~").ids[1:]
    embeddings: Any = model.model.get_input_embeddings()
    with torch.no_grad():
        embeddings.weight[tilde] = torch.inf
    add_texts(conn, [text_of(20), f"{text_of(20)} ~", text_of(20, 5)])
    run(conn, workspace, protocol, model)
    assert [row.reason for row in rows_of(conn)] == [None, "not_finite", None]


@pytest.mark.usefixtures("texts")
def test_the_chat_format_pools_the_text_in_its_turn(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    run(conn, workspace, protocol, tiny)
    run(conn, workspace, protocol, tiny, format="chat", reader="chat")
    tokens = [row.tokens for row in read_rows(conn, "chat", "toy", "stories")]
    contents = [encode_chat(tiny, text).content for text in STORIES]
    assert tokens == [content.stop - content.start for content in contents]
    assert not close(layer_of(workspace, 1), read_layer(workspace, "chat", "toy", "stories", 1))


def test_control_tokens_in_a_chat_text_fail_it(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    add_texts(conn, [f"{text_of(9)}<eos>{text_of(9)}", text_of(20)])
    run(conn, workspace, protocol, tiny, format="chat")
    assert [row.reason for row in rows_of(conn)] == ["unreadable", None]


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("change", [{"start_token": 6}, {"format": "chat"}])
def test_other_settings_are_refused_before_anything_is_read(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    tiny: Model,
    change: dict[str, Any],
) -> None:
    run(conn, workspace, protocol, tiny)
    with pytest.raises(FingerprintMismatch, match=next(iter(change))):
        run(conn, workspace, protocol, replace(tiny, blocks=()), **change)


@pytest.mark.usefixtures("texts")
def test_other_weights_are_refused(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    run(conn, workspace, protocol, tiny)
    with pytest.raises(FingerprintMismatch, match="weights_sha"):
        run(conn, workspace, protocol, replace(tiny, weights_sha="sha256:0"))


@pytest.mark.usefixtures("texts")
def test_open_rows_are_counted_without_loading_the_model(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model, tiny_path: Path
) -> None:
    checkpoint = describe_checkpoint(str(tiny_path))
    arrays = array_settings(checkpoint, "float32", protocol, SETTINGS)
    assert arrays == array_settings(tiny, tiny.dtype, protocol, SETTINGS)
    assert plan_extraction(conn, workspace, arrays, SETTINGS) == 13


def test_a_corpus_without_texts_says_what_to_run(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    with pytest.raises(NotReady, match=r"corpus toy has no finished stories or dialogues; run"):
        run(conn, workspace, protocol, tiny)


@pytest.mark.usefixtures("texts")
def test_a_stop_drops_the_chunk_at_hand(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    stop = threading.Event()

    def stop_in_the_second_chunk(progress: ExtractionProgress) -> None:
        if progress.done > 5:
            stop.set()

    summary = run(conn, workspace, protocol, tiny, stop=stop, progress=stop_in_the_second_chunk)
    assert (summary.chunks, summary.stopped) == (1, True)
    assert Counter(row.status for row in rows_of(conn)) == {"done": 4, "pending": 6}
    assert run(conn, workspace, protocol, tiny).chunks == 3
    assert close(layer_of(workspace, 1), plain_means(tiny, STORIES, 1))


@pytest.mark.usefixtures("texts")
def test_progress_ends_at_its_total(
    conn: Connection, workspace: Workspace, protocol: Protocol, tiny: Model
) -> None:
    seen: list[ExtractionProgress] = []
    run(conn, workspace, protocol, tiny, progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (13, 13)
    ids = [encode_raw(tiny, text).ids for text in (*STORIES, *DIALOGUES)]
    assert seen[-1].tokens == sum(map(len, ids))


@pytest.mark.parametrize("change", [{"layers": ()}, {"layers": (2, 1)}, {"start_token": -1}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SETTINGS, **change)


CHILD = """
import json, os, signal, sys, threading
from pathlib import Path
import torch

torch.set_num_threads(1)  # a fork must not inherit a pool of threads
from engine.extraction import extract
from engine.models import load_model
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
from tests.engine import test_extraction as laws
from tests.engine.protocols import write_protocol

model = load_model(sys.argv[1], device="cpu")
fsync = os.fsync

def run(root, fatal):
    \"\"\"Extract in a process that kills itself at its `fatal`-th fsync (0: never).\"\"\"
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0

    def count(descriptor):
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = count
    conn = open_database(Workspace(root).database)
    protocol = load_protocol(root / "protocol")
    summary = laws.run(conn, Workspace(root), protocol, model)
    os._exit(100 + summary.chunks)

calm, stormy = Path(sys.argv[2]), Path(sys.argv[3])
for root in (calm, stormy):
    write_protocol(root)
    conn = open_database(Workspace(root).database)
    laws.add_texts(conn, laws.STORIES)
    conn.close()
killed = [run(stormy, fatal) for fatal in (1, 4, 9, 16, 23, 33, 20)]
ends = [run(stormy, 0), run(stormy, 0)]
print(json.dumps({"calm": run(calm, 0), "killed": killed, "ends": ends}))
"""


def durable(root: Path) -> tuple[dict[str, bytes], list[tuple[object, ...]]]:
    """Every array file, and every receipt and row without its time."""
    rows: list[tuple[object, ...]] = []
    with closing(open_database(Workspace(root).database, read_only=True)) as conn:
        for query in (
            "SELECT * FROM activations ORDER BY kind, row",
            "SELECT layer, chunk, sha256, bytes, rows FROM receipts ORDER BY kind, layer, chunk",
        ):
            rows += [tuple(row) for row in conn.execute(query)]
    return files_below(Workspace(root).activations("tiny")), rows


def test_killed_and_resumed_extractions_leave_the_same_bytes(
    tiny_path: Path, tmp_path: Path, start_child: StartChild
) -> None:
    """kill -9 just before chosen fsyncs, one after the other, in one workspace."""
    child = start_child(CHILD, tiny_path, tmp_path / "calm", tmp_path / "stormy")
    output, _ = child.communicate(timeout=120)
    found = json.loads(output)
    assert found["calm"] == 103
    assert found["killed"].count(-9) >= 5
    assert found["ends"][1] == 100
    assert durable(tmp_path / "stormy") == durable(tmp_path / "calm")
