"""`verify` as a user meets it: what it refuses, in one line that names the thing."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from engine.demo.job import DEMO_MODEL
from stores.corpora import open_corpus
from stores.database import open_database, transaction
from stores.planning import PlannedText, plan, plan_dialogues, plan_stories
from stores.protocol import Protocol, load_protocol
from stores.texts import Kind, commit, lease
from stores.workspace import Workspace
from tests.engine.spelling import JOINED, WORDS, build_pieces
from tests.engine.tiny import save_checkpoint, text_of
from tests.test_cli import expect_error, run

PROTOCOL = DEMO_MODEL / "protocol"
CORPUS, READER, LAYER = "main", "tiny", 2
HOUR = 3600.0
QUICK = ("--randoms", 5, "--steered", 3, "--band-emotions", 3, "--permutations", 19)


def write_corpus(workspace: Path, protocol: Protocol, emotions: tuple[str, ...]) -> None:
    """A short story of each emotion and a few dialogues."""
    topics = protocol.topics[:1], protocol.neutral_topics[:4]
    stories = plan_stories(emotions=emotions, topics=topics[0], per_topic=1, corpus=CORPUS, seed=0)
    dialogues = plan_dialogues(topics=topics[1], per_topic=1, corpus=CORPUS, seed=0)
    with closing(open_database(Workspace(workspace).database)) as conn:
        open_corpus(conn, CORPUS, protocol.digest, protocol.files, PROTOCOL)
        for kind, texts in (("stories", stories), ("dialogues", dialogues)):
            with transaction(conn):
                commit_all(conn, kind, texts)  # type: ignore[arg-type]


def commit_all(conn: sqlite3.Connection, kind: Kind, texts: list[PlannedText]) -> None:
    plan(conn, kind, CORPUS, texts, now=0.0)
    place = (conn, kind, CORPUS, "t")
    leased = lease(*place, limit=len(texts), now=0.0, seconds=HOUR, max_attempts=1)
    for number, held in enumerate(leased):
        text = text_of(12, number)
        commit(conn, held, text=text, words=12, generator="t", reply_id=None, now=0.0)


def read_corpus(workspace: Path, checkpoint: Path) -> None:
    """Extraction and vectors at the analysis layer, through the command line."""
    steps = (
        ("extract", "--model", checkpoint, "--reader", READER, "--layers", LAYER),
        ("vectors", "build"),
    )
    for step in steps:
        more = ("--start-token", 3) if step[0] == "extract" else ()
        done = run(*step, *more, workspace=workspace)
        assert done.exit_code == 0, done.output


def open_world(folder: Path, checkpoint: Path, *, without: int = 0) -> Path:
    protocol = load_protocol(PROTOCOL)
    names = protocol.names[: len(protocol.names) - without]
    write_corpus(folder, protocol, names)
    read_corpus(folder, checkpoint)
    return folder


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace read by a base model, whose tokenizer has no chat template."""
    checkpoint = save_checkpoint(tmp_path_factory.mktemp("base") / "llama", chat=False)
    return open_world(tmp_path_factory.mktemp("read"), checkpoint)


@pytest.fixture
def copy(read: Path, tmp_path: Path) -> Path:
    """The same workspace, to be spoilt."""
    return Path(shutil.copytree(read, tmp_path / "copy"))


def verify(workspace: Path, *arguments: object) -> Any:
    return run("verify", *arguments, *QUICK, workspace=workspace)


def test_an_unknown_criterion_and_wrong_numbers_are_refused(read: Path) -> None:
    expect_error(verify(read, "V12"), 2, "unknown criterion 'V12'; known: V1, V2")
    expect_error(verify(read, "V10", "--strength", 0), 1, "strength 0.0")
    expect_error(verify(read, "V10", "--doses", "much"), 2, "--doses 'much'", "numbers with commas")
    expect_error(verify(read, "V10", "--band", "9"), 2, "no layer 9 in a model of 4 blocks")
    expect_error(verify(read, "V10", "--band", "1"), 2, "layers [1] are not extracted", "are [2]")


def test_a_layer_without_arrays_is_named(read: Path) -> None:
    expect_error(verify(read, "V3", "--layer", 1), 2, "analysis layer 1", "layers [2]", "extract")


def test_a_workspace_without_arrays_says_what_to_run(tmp_path: Path) -> None:
    protocol = load_protocol(PROTOCOL)
    write_corpus(tmp_path, protocol, protocol.names)
    expect_error(verify(tmp_path), 1, "no reader yet", "cli.py extract")


def test_a_base_model_is_asked_in_the_plain_form_and_the_prompts_show_it(read: Path) -> None:
    expect_error(verify(read, "V3", "--form", "chat"), 1, "no chat template", "--form plain")
    done = verify(read, "V3", "--json")
    assert done.exit_code == 0, done.output
    (line,) = json.loads(done.stdout)
    assert (line["criterion"], line["score"]["n"]) == ("V3", 12)
    assert {row["source"] for row in line["published"]} == {"paper", "report"}
    query = "SELECT rows FROM tables WHERE analysis = 'scenarios' AND name = 'prompts'"
    told = json.loads(run("sql", query, "--json", workspace=read).stdout)[-1]["rows"]
    for _key, _kind, form, rendered, token, *_ in json.loads(told):
        assert form == "plain"
        assert rendered.startswith("<bos>Human: ") and rendered.endswith("\n\nAssistant:")
        assert token.strip() and rendered.endswith(token)


def test_strict_exits_3_when_a_criterion_fails(read: Path) -> None:
    done = verify(read, "V3", "--strict")
    assert (done.exit_code, "no" in done.stdout) == (3, True), done.output


def test_a_second_call_computes_nothing(read: Path) -> None:
    runs = "SELECT count(*) AS n FROM runs WHERE command LIKE 'analyze%'"
    first = verify(read, "V5")
    before = run("sql", runs, "--json", workspace=read).stdout
    again = verify(read, "V5")
    assert again.stdout == first.stdout
    assert run("sql", runs, "--json", workspace=read).stdout == before


def test_a_model_that_is_named_must_be_the_readers_even_where_nothing_is_read(read: Path) -> None:
    assert verify(read, "V3").exit_code == 0
    told = ("is not what reader tiny read with", "weights_sha", "--dtype")
    expect_error(verify(read, "V3", "--model", DEMO_MODEL), 1, *told)
    expect_error(verify(read, "V3", "--model", "./nothing"), 1, "model ./nothing", "no such folder")


def test_nothing_is_created_where_there_is_nothing_to_verify(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    expect_error(verify(missing), 1, str(missing))
    assert not missing.exists()


def test_a_ledger_of_before_is_brought_up_to_date_and_verified(copy: Path) -> None:
    with closing(sqlite3.connect(Workspace(copy).database)) as conn, conn:
        for table in ("answers", "arms", "questions", "sweeps"):
            conn.execute(f"DROP TABLE {table}")
        assert conn.execute("DELETE FROM _sqlite_migrations WHERE name LIKE 'm004%'").rowcount == 1
    done = verify(copy, "V3")
    assert done.exit_code == 0, done.output


def test_a_tokenizer_that_merges_the_bracket_with_the_letter_is_refused(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "llama", chat=False)
    merging = build_pieces(None, (*WORDS, *JOINED), split=False)
    build_network(checkpoint, len(merging))
    merging.save_pretrained(checkpoint)
    workspace = open_world(tmp_path / "workspace", checkpoint)
    told = ("model llama", "A is no token of its own after the bracket", "▁(A")
    expect_error(verify(workspace, "V7"), 1, *told)


def build_network(checkpoint: Path, vocabulary: int) -> None:
    """A Llama like the one that is there, for another vocabulary."""
    import transformers

    library: Any = transformers
    config = library.AutoConfig.from_pretrained(checkpoint)
    config.vocab_size = vocabulary
    library.LlamaForCausalLM(config).save_pretrained(checkpoint)


def test_the_emotion_without_a_vector_is_named(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "llama", chat=False)
    workspace = open_world(tmp_path / "workspace", checkpoint, without=1)
    missing = load_protocol(PROTOCOL).names[-1]
    expect_error(verify(workspace, "V3"), 1, "1 of 171 emotions have no vector", missing)


def test_a_number_that_is_none_in_an_array_is_named_with_its_row(copy: Path) -> None:
    activations = Workspace(copy).activations(READER)
    array: Any = zarr.open_array(str(activations / CORPUS / "stories" / f"layer_{LAYER}"))
    array[17, 5] = np.nan
    with closing(sqlite3.connect(Workspace(copy).database)) as conn, conn:
        conn.execute("DELETE FROM vectors")
    built = run("vectors", "build", workspace=copy)
    expect_error(built, 1, f"row 17 of layer {LAYER} of stories", "not finite", "doctor --repair")


def test_vectors_whose_bytes_changed_are_refused_with_their_place(copy: Path) -> None:
    vectors = Workspace(copy).vectors(READER)
    array: Any = zarr.open_array(str(vectors / CORPUS / "denoised" / f"layer_{LAYER}"))
    array[0, 0] = np.nan
    expect_error(verify(copy, "V1"), 1, f"layer_{LAYER}", "doctor --repair")
