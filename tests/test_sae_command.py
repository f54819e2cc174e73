"""`sae compare` and `sae train` as a user meets them: what they refuse, keep and leave behind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from stores.corpora import open_corpus
from stores.database import open_database
from stores.failpoints import EXIT_CODE
from stores.planning import plan_dialogues, plan_stories
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.engine.features.saes import make_sae, save_sae
from tests.engine.protocols import write_protocol
from tests.engine.tiny import save_checkpoint
from tests.test_cli import expect_error, run
from tests.test_cli_verification import CORPUS, LAYER, READER, commit_all, read_corpus

POST = f"blocks.{LAYER}.hook_resid_post"
QUICK = ("--steer", 0, "--permutations", 19)
TRAIN = ("--width", 64, "--l0", 4, "--tokens", 4000, "--batch-tokens", 256, "--name", "own")


def open_world(folder: Path, checkpoint: Path, *, topics: int = 2, emotions: int = 3) -> Path:
    """Stories of each emotion about each topic, a few dialogues, read and with vectors."""
    protocol = write_protocol(folder)
    chosen = {"emotions": protocol.names[:emotions], "topics": protocol.topics[:topics]}
    stories = plan_stories(**chosen, per_topic=4, corpus=CORPUS, seed=0)
    dialogues = plan_dialogues(topics=protocol.neutral_topics, per_topic=2, corpus=CORPUS, seed=0)
    with closing(open_database(Workspace(folder).database)) as conn:
        open_corpus(conn, CORPUS, protocol.digest, protocol.files, folder / "protocol")
        commit_all(conn, "stories", stories)
        commit_all(conn, "dialogues", dialogues)
    read_corpus(folder, checkpoint)
    return folder


def write_sae(folder: Path, *, d_in: int = 32, seed: int = 0, **metadata: Any) -> Path:
    said = {"hook_name": POST, "model_name": "llama"} | metadata
    return save_sae(make_sae("topk", d_in=d_in, d_sae=64, seed=seed, **said), folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: sums over threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("base") / "llama", chat=False)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Shared: nothing is encoded in it."""
    return open_world(tmp_path_factory.mktemp("read"), checkpoint)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sae(tmp_path_factory.mktemp("saes") / "mine")


@pytest.fixture(scope="module")
def compared(read: Path, mine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: one SAE was held against the vectors."""
    folder = tmp_path_factory.mktemp("compared") / "workspace"
    shutil.copytree(read, folder)
    done = compare(folder, mine)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def copy(compared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compared, tmp_path / "copy"))


def compare(workspace: Path, sae: Path, *arguments: object) -> Result:
    return run("sae", "compare", "--path", sae, *QUICK, *arguments, workspace=workspace)


def ask(workspace: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(open_database(Workspace(workspace).database, read_only=True)) as conn:
        return [tuple(row) for row in conn.execute(query)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, ["which SAE?", "--path DIR", "--release R --sae-id S", "llama"]),
        (("--path", "nowhere"), 2, ["nowhere: there is no such folder"]),
        (("--path", "{empty}"), 2, ["{empty}: no cfg.json"]),
        (("--path", "{mine}", "--release", "r"), 2, ["--path", "--release", "take one"]),
        (("--release", "gemma-scope-2b-pt-rez"), 2, ["did you mean gemma-scope-2b-pt-res"]),
        (("--release", "gemma-scope-2b-pt-res"), 2, ["choose one with --sae-id: "]),
        (("--path", "{mine}", "--name", "a/b"), 2, ["--name 'a/b' is no slug"]),
        (("--path", "{mine}", "--name", ""), 2, ["--name '' is no slug"]),
        (("--path", "{mine}", "--name", "a.b"), 2, ["--name a.b: ", "without a dot"]),
        (("--path", "{mine}", "--name", "a" * 101), 2, ["100 characters at most"]),
        (("--path", "{mine}", "--layer", 1), 2, ["layer 1 of llama was not extracted"]),
        (("--path", "{mine}", "--layer", 9), 2, ["layer 9, but llama has the layers 0 to 3"]),
        (("--path", "{mine}", "--steer", 2), 1, ["2 steered emotions"]),
        (("--path", "{mine}", "--model", "nowhere/at/all"), 1, ["nowhere/at/all"]),
        (("--path", "{wide}", "--force"), 1, ["it reads 48 numbers per token, llama has 32"]),
        (("--path", "{broken}"), 2, ["its configuration says k = 65 of 64 features"]),
        (("--path", "{other}"), 1, ["it was trained on gemma-2-2b-it (instruct)", "--force"]),
        (("--path", "{inside}"), 2, ["hook point blocks.2.hook_mlp_out", "--force"]),
    ],
)
def test_compare_refuses_in_one_line_before_any_text_is_read(
    read: Path, mine: Path, tmp_path: Path, arguments: Any, code: int, words: list[str]
) -> None:
    """Words in braces are folders: of SAEs that do not fit, or of none."""
    folders = {"mine": mine, "empty": tmp_path / "empty"}
    folders["empty"].mkdir()
    folders["wide"] = write_sae(tmp_path / "wide", d_in=48)
    folders["other"] = write_sae(tmp_path / "other", model_name="gemma-2-2b-it")
    folders["inside"] = write_sae(tmp_path / "inside", hook_name="blocks.2.hook_mlp_out")
    folders["broken"] = Path(shutil.copytree(mine, tmp_path / "broken"))
    written = json.loads((mine / "cfg.json").read_text(encoding="utf-8"))
    (folders["broken"] / "cfg.json").write_text(json.dumps(written | {"k": 65}), encoding="utf-8")
    given = [str(each).format(**folders) for each in arguments]
    refused = run("sae", "compare", *QUICK, *given, workspace=read)
    expect_error(refused, code, *(word.format(**folders) for word in words))
    assert ask(read, "SELECT * FROM encodings") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--l0", 65), ["--l0 65", "--width 64"]),
        (("--tokens", 100), ["--batch-tokens 256", "--tokens 100"]),
        (("--lr", "nan"), ["--lr nan"]),
        (("--sparsity", "nan"), ["--sparsity nan"]),
        (("--held-out", "nan"), ["--held-out nan"]),
        (("--layer", 9), ["layer 9"]),
        (("--name", "a.b"), ["--name a.b: "]),
        (("--name", "../b"), ["--name '../b' is no slug"]),
        (("--name", ""), ["--name '' is no slug"]),
        (("--name", "a" * 101), ["100 characters at most"]),
        (("--sample", "nowhere"), ["no sample of source nowhere"]),
    ],
)
def test_train_refuses_in_one_line_and_names_the_option(
    read: Path, arguments: Any, words: list[str]
) -> None:
    expect_error(run("sae", "train", *TRAIN, *arguments, workspace=read), 2, *words)
    assert not Workspace(read).saes(READER).exists()


def test_nothing_is_made_where_no_workspace_is(mine: Path, tmp_path: Path) -> None:
    for command in (("compare", "--path", mine), ("train", *TRAIN)):
        expect_error(run("sae", *command, workspace=tmp_path / "none"), 1, "there is no ledger")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("world", "word"),
    [({"topics": 1}, "about 1 topic:"), ({"emotions": 2}, "1 of 3 emotions have no vector")],
)
def test_a_corpus_that_cannot_be_compared_is_not_encoded(
    tmp_path: Path, checkpoint: Path, mine: Path, world: dict[str, int], word: str
) -> None:
    folder = open_world(tmp_path / "world", checkpoint, **world)
    expect_error(compare(folder, mine), 1, word)
    assert ask(folder, "SELECT * FROM encodings") == []


def test_the_same_command_again_repeats_nothing(compared: Path, mine: Path, copy: Path) -> None:
    """Not a row, not a run; the answer is the same and, asked for as JSON, one document."""
    counts = "SELECT count(*), max(id) FROM runs"
    again = compare(copy, mine, "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found["settings"]["name"] == "mine"
    assert {"cosine.found", "auc.gain", "rsa"} <= {row["metric"] for row in found["metrics"]}
    assert ask(copy, counts) == ask(compared, counts)


def test_another_sae_takes_no_name_and_one_saved_anew_keeps_its_own(
    copy: Path, mine: Path, tmp_path: Path
) -> None:
    """The rows of the first would be gone; a copy of it elsewhere is the same one."""
    other = write_sae(tmp_path / "elsewhere" / "mine", seed=1)
    expect_error(compare(copy, other), 2, str(other), f"{mine} was compared under the name mine")
    moved = Path(shutil.copytree(mine, tmp_path / "moved" / "mine"))
    assert compare(copy, moved).exit_code == 0
    own = compare(copy, other, "--name", "second")
    assert own.exit_code == 0, own.output
    write_sae(other, seed=2)
    assert compare(copy, other, "--name", "second").exit_code == 0


def test_what_was_forced_says_so_wherever_it_is_shown(copy: Path, tmp_path: Path) -> None:
    """In the analysis of every row, the names of its files, its figures, its page, its answer."""
    other = write_sae(tmp_path / "other", model_name="google/gemma-2-2b-it")
    done = compare(copy, other, "--force")
    assert done.exit_code == 0, done.output
    assert "forced: this SAE is not the reader's: " in done.stdout
    files = [path for path in (copy / "results").rglob("*") if "other" in path.name]
    assert len(files) > 20
    assert [path for path in files if not path.name.startswith("sae-forced.other.")] == []
    told = [path for path in files if path.suffix in (".html", ".svg")]
    assert len(told) == 6
    assert [path for path in told if "forced" not in path.read_text(encoding="utf-8").lower()] == []
    settings = next(path for path in files if path.name.endswith("settings.csv"))
    assert "gemma-2-2b-it (instruct), not on llama" in settings.read_text(encoding="utf-8")


FRESH = """
import sys
from sae_lens import SAE
sae = SAE.load_from_disk(sys.argv[1])
print(sae.cfg.d_sae, sae.cfg.metadata.hook_name, sae.cfg.metadata.reader)
"""


def test_what_was_trained_is_an_sae_like_any_other(copy: Path) -> None:
    """sae-lens itself loads it, it is compared, and it is not trained twice."""
    made = run("sae", "train", *TRAIN, "--json", workspace=copy)
    assert made.exit_code == 0, made.output
    folder = Path(json.loads(made.stdout)["folder"])
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, folder], check=True, capture_output=True, text=True
    )
    assert fresh.stdout.split() == ["64", POST, READER]
    done = compare(copy, folder)
    assert done.exit_code == 0, done.output
    again = run("sae", "train", *TRAIN, workspace=copy)
    assert "it was trained before" in again.stderr
    expect_error(run("sae", "train", *TRAIN, "--seed", 1, workspace=copy), 2, "seed 0, not 1")


# Commands of their own, each killed at a failpoint, forked after the slow imports.
KILLED = """
import json, os, sys
from cli import cli
from engine.features.library import sae_lens
from stores.failpoints import VARIABLE
import torch
torch.set_num_threads(1)
sae_lens()
for place, arguments in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        os.environ[VARIABLE] = place
        cli(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_killed_command_goes_on_to_the_same_weights_and_rows(
    read: Path, compared: Path, mine: Path, tmp_path: Path
) -> None:
    whole, killed = (Path(shutil.copytree(read, tmp_path / name)) for name in ("a", "b"))
    commands = {
        "checkpoint_written": ("train", *TRAIN),
        "codes_kept": ("compare", "--path", mine, *QUICK),
    }
    asked = {
        place: [str(each) for each in ("--workspace", killed, "sae", *command)]
        for place, command in commands.items()
    }
    child = [sys.executable, "-c", KILLED, json.dumps(asked)]
    ended = subprocess.run(child, check=True, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.split() == [str(EXIT_CODE)] * 2

    for workspace in (whole, killed):
        assert run("sae", "train", *TRAIN, workspace=workspace).exit_code == 0
    weights = [next(folder.glob("data/saes/*/own/*.safetensors")) for folder in (whole, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert compare(killed, mine).exit_code == 0
    rows = "SELECT metric, subject, value, p_value FROM metrics WHERE analysis = 'sae.mine'"
    assert ask(killed, rows) == ask(compared, rows) != []
