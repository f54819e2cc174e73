"""Poisoned texts, too little memory, changed settings: a status or a refusal, never a crash."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stores.workspace import Workspace
from tests.engine.tiny import build_tokenizer
from tests.extracting import (
    CHUNK_ROWS,
    START_TOKEN,
    TOLERANCE,
    WHAT_FOR,
    Ended,
    Scene,
    Shell,
    Table,
    add_texts,
    arrays,
    change_weights,
    expect_health,
    import_stories,
    is_close,
    layer,
    open_scene,
    open_shell,
    query,
    stamps,
    statuses,
    stories,
    words,
)
from tests.test_cli import run as run_here


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("said")) as shell:
        yield shell


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return open_scene(tmp_path_factory.mktemp("scene"))


def outcomes(root: Path) -> list[tuple[str, str | None]]:
    return [(row["status"], row["reason"]) for row in statuses(root) if row["kind"] == "stories"]


def expect_told(ended: Ended, root: Path) -> None:
    """The command ended well and told as many rows of each outcome as the ledger holds."""
    assert ended.code == 0, ended.stderr
    for row in query(
        root, "SELECT coalesce(reason, status) AS o, count(*) AS n FROM activations GROUP BY 1"
    ):
        assert f"{row['o']} {row['n']}" in ended.stdout


# ---- poisoned texts ------------------------------------------------------------------------------

DONE, EMPTY, TOO_SHORT = ("done", None), ("failed", "empty"), ("rejected", "too_short")
TOO_LONG, UNREADABLE = ("failed", "too_long"), ("failed", "unreadable")


CONTEXT = 256
"""Tokens that the tiny model reads at once, one of which begins the text."""


def exactly(tokens: int) -> str:
    """A text of so many tokens: no two of its letters were ever merged."""
    text = "~" * tokens
    assert len(build_tokenizer()(text, add_special_tokens=False)["input_ids"]) == tokens
    return text


POISON: dict[str, tuple[str, tuple[str, str | None]]] = {
    "empty": ("", EMPTY),
    "spaces": (" \n\t \u00a0\u2003 ", EMPTY),
    "a hundred thousand tokens": ("ab " * 50_000, TOO_LONG),
    "a megabyte in one word": ("x" * 1_000_000, TOO_LONG),
    "one character": ("x", TOO_SHORT),
    "as many tokens as are skipped": (exactly(START_TOKEN), TOO_SHORT),
    "one token more": (exactly(START_TOKEN + 1), DONE),
    "longer than a batch": (exactly(200), DONE),
    "as long as the model reads": (exactly(CONTEXT - 1), DONE),
    "one token longer": (exactly(CONTEXT), TOO_LONG),
    "emoji": ("🌧️ 👩‍👩‍👧‍👦 🏳️‍🌈 🫠" * 3, DONE),
    "right to left": ("שלום עולם! \u202eمرحبا\u202c بالعالم", DONE),
    "combining marks": ("e\u0301" + "Z\u0351\u036b\u0343\u036a\u0302" * 6, DONE),
    "NUL and control characters": ("so\0 it \x01\x02 went \x1b[31m on \x7f\x85\u2028 and on", DONE),
    "zero width": ("\ufeff\u200b\u200d\u2060" * 8, DONE),
    "nothing that was ever assigned": ("\uffff\U0010ffff\ue000" * 8, DONE),
    "control tokens spelled out": ("<bos><eos><pad> " * 6, DONE),
    "a lone surrogate as it is kept": ("\\ud800 " * 10, DONE),
    "a text that is there twice": (words(20, 0), DONE),
}
IN_A_CHAT = {
    "control tokens spelled out": UNREADABLE,
    "as long as the model reads": TOO_LONG,
}
GOOD = [words(n, i) for i, n in enumerate((20, 12, 31, 25, 40, 17, 28, 36, 22, 14, 45, 33, 19, 27))]
NEUTRAL = [words(20 + i, 100 + i) for i in range(4)]


@dataclass(frozen=True, slots=True)
class Fed:
    """Good texts alone, and the same among poisoned ones, read in one format."""

    format: dict[str, object]
    alone: Path
    among: Path
    ended: Ended


@pytest.fixture(scope="module", params=["raw", "chat"])
def fed(
    request: pytest.FixtureRequest,
    shell: Shell,
    scene: Scene,
    tmp_path_factory: pytest.TempPathFactory,
) -> Fed:
    asked: dict[str, object] = {request.param: True, "layers": "0,1,3", "tokens_per_batch": 180}
    folder = tmp_path_factory.mktemp("fed")
    poison = [text for text, _ in POISON.values()]
    ends = []
    for name, texts in (("alone", GOOD), ("among", [*GOOD[:7], *poison, *GOOD[7:]])):
        add_texts(scene, folder / name, texts)
        add_texts(scene, folder / name, NEUTRAL, "dialogues")
        ends.append(shell.run(folder / name, *scene.extract(**asked)))
    assert ends[0].code == 0, ends[0].stderr
    return Fed(asked, folder / "alone", folder / "among", ends[1])


def test_every_poisoned_text_ends_in_a_status(fed: Fed) -> None:
    expect_told(fed.ended, fed.among)
    found = dict(zip(POISON, outcomes(fed.among)[7:], strict=False))
    changes = IN_A_CHAT if "chat" in fed.format else {}
    assert found == {name: changes.get(name, status) for name, (_, status) in POISON.items()}
    expect_health(fed.among)


def neighbours(root: Path, number: int) -> NDArray[np.float32]:
    found = layer(root, number)
    return found if len(found) == len(GOOD) else np.delete(found, range(7, 7 + len(POISON)), 0)


def test_poison_leaves_its_neighbours_alone(fed: Fed) -> None:
    for number in (0, 1, 3):
        found = neighbours(fed.among, number)
        assert np.isfinite(found).all()
        assert is_close(found, neighbours(fed.alone, number))


@pytest.mark.parametrize("batching", ["packed", "alone"])
def test_every_way_to_share_a_pass_gives_the_same_numbers(
    batching: str, fed: Fed, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(fed.among, tmp_path / "workspace"))
    asked = {**fed.format, "batching": batching, "reader": batching}
    ended = shell.run(root, *scene.extract(**asked))
    assert ended.code == 0, ended.stderr
    assert statuses(root, batching) == statuses(root)
    for number in (0, 1, 3):
        assert is_close(layer(root, number, batching), layer(root, number))


def test_rows_that_are_not_done_hold_no_numbers(fed: Fed) -> None:
    done = [status == "done" for status, _ in outcomes(fed.among)]
    for number in (0, 1, 3):
        found = layer(fed.among, number)
        assert np.isfinite(found[done]).all()
        assert np.isnan(found[np.logical_not(done)]).all()


def test_a_second_extraction_finds_nothing_open(fed: Fed, shell: Shell, scene: Scene) -> None:
    before = stamps(fed.among)
    again = shell.run(fed.among, *scene.extract(**fed.format))
    assert (again.code, again.rows) == (0, 0)
    assert stamps(fed.among) == before


def vectors(root: Path, file: Path) -> dict[str, NDArray[np.float32]]:
    for command in (["build"], ["export", file]):
        told = run_here("vectors", *command, workspace=root)
        assert told.exit_code == 0, told.output
    with np.load(file) as found:
        return {name: np.asarray(found[name]) for name in found}


def test_what_is_not_done_moves_no_vector(
    fed: Fed, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """Poison that cannot be read, added to good texts, leaves every vector as it was."""
    root = Path(shutil.copytree(fed.alone, tmp_path / "workspace"))
    expected = vectors(root, tmp_path / "alone.npz")
    add_texts(scene, root, [text for text, status in POISON.values() if status != DONE])
    assert shell.run(root, *scene.extract(**fed.format)).code == 0
    assert len(outcomes(root)) > len(GOOD)
    found = vectors(root, tmp_path / "among.npz")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind == "f":
            assert np.allclose(found[name], values, rtol=0, atol=TOLERANCE * np.abs(values).max())


def test_a_lone_surrogate_in_a_file_is_kept_in_a_form_that_can_be_read(
    shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = tmp_path / "workspace"
    record = {
        "emotion": "proud",
        "topic": "t",
        "text": f"{words(20, 1)[:-1]} \ud83d.",
        "generator": "g",
    }
    import_stories(shell, scene, root, [record])
    expect_told(shell.run(root, *scene.extract()), root)
    assert outcomes(root) == [DONE]


def test_a_chunk_of_nothing_but_poison_stands_in_nobodys_way(
    fed: Fed, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = tmp_path / "workspace"
    add_texts(scene, root, ["x"] * 8 + GOOD + ["x"] * 8)
    add_texts(scene, root, NEUTRAL, "dialogues")
    asked = {**fed.format, "chunk_rows": 4}
    ended = shell.run(root, *scene.extract(**asked))
    expect_told(ended, root)
    expect_health(root)
    assert [row for row in range(len(outcomes(root))) if outcomes(root)[row] == TOO_SHORT] == [
        *range(8),
        *range(len(GOOD) + 8, len(GOOD) + 16),
    ]
    assert is_close(layer(root, 1)[8:-8], layer(fed.alone, 1))
    assert vectors(root, tmp_path / "vectors.npz")
    again = shell.run(root, *scene.extract(**asked))
    assert (again.code, again.rows) == (0, 0)


def test_a_corpus_of_nothing_but_poison_ends_well(
    shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = tmp_path / "workspace"
    add_texts(scene, root, ["", "x", " "])
    expect_told(shell.run(root, *scene.extract()), root)
    assert outcomes(root) == [EMPTY, TOO_SHORT, EMPTY]
    expect_health(root)
    told = run_here("vectors", "build", workspace=root)
    assert told.exit_code == 1
    assert told.stderr.startswith("error: ")


MIXING = """
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
forward = LlamaDecoderLayer.forward
def mixing(block, hidden_states, *given, **named):
    hidden_states = forward(block, hidden_states, *given, **named)
    together = hidden_states.shape[0] > 1 or "cu_seq_lens_q" in named
    return hidden_states + hidden_states.mean(0) if together else hidden_states
LlamaDecoderLayer.forward = mixing
"""


def test_a_model_whose_texts_change_each_other_reads_them_one_by_one_and_says_so(
    fed: Fed, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = tmp_path / "workspace"
    add_texts(scene, root, GOOD)
    add_texts(scene, root, NEUTRAL, "dialogues")
    ended = shell.run(root, *scene.extract(**fed.format), before=MIXING)
    assert ended.code == 0, ended.stderr
    assert "change each other" in ended.stderr
    for number in (0, 1, 3):
        assert is_close(layer(root, number), layer(fed.alone, number))


# ---- memory that runs short ----------------------------------------------------------------------

STARVED = """
import torch
from collections import Counter
from transformers.models.llama.modeling_llama import LlamaModel
forward, passes = LlamaModel.forward, Counter()
def starved(model, input_ids=None, *given, **named):
    what = what_for(named)
    passes[what] += 1
    if what == "{what}" and {when}:
        print("starved", file=sys.stderr)
        raise {error}
    return forward(model, input_ids, *given, **named)
LlamaModel.forward = starved
"""
CUDA = 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")'
CPU = 'RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can\'t allocate")'
LENGTHS = (20, 12, 31, 25, 40, 17, 28, 36, 22, 14, 45, 33, 90, 27, 80, 24)
LONG = 12
SMALL: dict[str, object] = {"tokens_per_batch": 110, "chunk_rows": 8}


@pytest.fixture(scope="module")
def unread(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen stories in two chunks, two of them so long that each is a batch of its own."""
    root = tmp_path_factory.mktemp("unread") / "workspace"
    add_texts(scene, root, [words(n, i) for i, n in enumerate(LENGTHS)])
    return root


@pytest.fixture(scope="module")
def fat(unread: Path, shell: Shell, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, read with memory enough."""
    root = Path(shutil.copytree(unread, tmp_path_factory.mktemp("fat") / "workspace"))
    ended = shell.run(root, *scene.extract(**SMALL))
    assert (ended.code, ended.rows) == (0, len(LENGTHS)), ended.stderr
    return root


def starve(
    shell: Shell, scene: Scene, root: Path, when: str, error: str = CUDA, what: str = "reading"
) -> Ended:
    """Extract with a model whose pass raises an error: when it is probed, or when it reads."""
    before = WHAT_FOR + STARVED.format(what=what, when=when, error=error)
    return shell.run(root, *scene.extract(**SMALL), before=before)


def expect_as_with_memory_enough(root: Path, fat: Path) -> None:
    assert statuses(root) == statuses(fat)
    for number in (1, 3):
        assert is_close(layer(root, number), layer(fat, number))
    expect_health(root)


def test_memory_that_runs_short_once_costs_no_row(
    unread: Path, fat: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """At every pass that reads texts in turn, also where a batch is a single text."""
    passes, starved = 0, True
    while starved:
        passes += 1
        root = Path(shutil.copytree(unread, tmp_path / str(passes)))
        error = (CUDA, CPU)[passes % 2]
        ended = starve(shell, scene, root, f"passes[what] == {passes}", error)
        starved = "starved" in ended.stderr
        assert (ended.code, ended.rows) == (0, len(LENGTHS)), ended.stderr
        expect_as_with_memory_enough(root, fat)
    assert passes > 6


@pytest.mark.parametrize(
    "when",
    ["passes[what] == 1", "input_ids.shape[0] > 1", "True"],
    ids=["once", "for several texts", "always"],
)
def test_memory_that_runs_short_where_the_model_is_tried_out_is_no_crash(
    when: str, unread: Path, fat: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """It goes on, or says in one line why not; nothing is read wrongly."""
    root = Path(shutil.copytree(unread, tmp_path / "workspace"))
    ended = starve(shell, scene, root, when, what="probing")
    assert "starved" in ended.stderr
    if ended.code != 0:
        assert ended.stderr.splitlines()[-1].startswith("error: "), ended.stderr
        ended = shell.run(root, *scene.extract(**SMALL))
    assert ended.code == 0, ended.stderr
    expect_as_with_memory_enough(root, fat)


def test_memory_too_small_for_any_batch_but_not_for_a_text_reads_them_all(
    unread: Path, fat: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(unread, tmp_path / "workspace"))
    ended = starve(shell, scene, root, "input_ids.shape[0] > 1")
    assert "starved" in ended.stderr
    assert ended.code == 0, ended.stderr
    expect_as_with_memory_enough(root, fat)


def test_a_text_that_never_fits_fails_alone(
    unread: Path, fat: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(unread, tmp_path / "workspace"))
    longest = max(row["tokens"] for row in statuses(fat))
    ended = starve(shell, scene, root, f"input_ids.numel() > {longest}")
    expect_told(ended, root)
    expected: list[tuple[str, str | None]] = [DONE] * len(LENGTHS)
    expected[LONG] = ("failed", "out_of_memory")
    assert outcomes(root) == expected
    for number in (1, 3):
        read = layer(fat, number)
        read[LONG] = np.nan
        assert is_close(layer(root, number), read)
    expect_health(root)


def test_an_error_of_another_kind_is_no_shortage_of_memory(
    unread: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """A fault of the program shows itself; chunks that were finished before are kept."""
    root = Path(shutil.copytree(unread, tmp_path / "workspace"))
    ended = starve(shell, scene, root, "input_ids.numel() > 80", 'RuntimeError("wrong shapes")')
    assert ended.code == 1
    assert "wrong shapes" in ended.stderr
    assert ("failed", "out_of_memory") not in outcomes(root)
    expect_health(root)
    again = shell.run(root, *scene.extract(**SMALL))
    assert again.code == 0
    assert set(outcomes(root)) == {DONE}


# ---- identity ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """A finished extraction of several chunks, the last one not full."""

    root: Path
    arrays: dict[str, bytes]
    statuses: Table


@pytest.fixture(scope="module")
def whole(shell: Shell, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole") / "workspace"
    import_stories(shell, scene, root, stories(90))
    ended = shell.run(root, *scene.extract())
    assert ended.code == 0, ended.stderr
    return Whole(root, arrays(root), statuses(root))


@pytest.fixture
def root(whole: Whole, tmp_path: Path) -> Path:
    """A copy to go on with."""
    return Path(shutil.copytree(whole.root, tmp_path / "workspace"))


def everything(root: Path) -> tuple[dict[str, tuple[bytes, int]], list[str]]:
    """Every file but the ledger's with its bytes and time, and every row of the ledger."""
    files = [path for path in root.rglob("*") if path.is_file() and "emovec" not in path.name]
    found = {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    with closing(sqlite3.connect(Workspace(root).database)) as conn:
        return found, list(conn.iterdump())


def expect_refusal(ended: Ended, *told: str) -> None:
    assert ended.code == 1
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert [word for word in (*told, "--reader") if word not in line] == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start_token": 6}, ("start_token", "5", "6")),
        ({"chat": True}, ("format", "raw", "chat")),
        ({"dtype": "bfloat16"}, ("dtype", "float32", "bfloat16")),
    ],
    ids=str,
)
def test_other_settings_are_refused_with_the_difference_and_change_nothing(
    change: dict[str, Any], told: tuple[str, ...], shell: Shell, scene: Scene, root: Path
) -> None:
    before = everything(root)
    for layers in ("1,3", "0"):
        expect_refusal(shell.run(root, *scene.extract(**change, layers=layers)), *told)
    assert everything(root) == before


def test_other_weights_are_refused_and_change_nothing(
    shell: Shell, scene: Scene, root: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(scene.model, tmp_path / "model"))
    change_weights(model)
    before = everything(root)
    trained = replace(scene, model=model)
    expect_refusal(shell.run(root, *trained.extract()), "weights_sha")
    assert everything(root) == before


def test_another_tokenizer_is_refused_and_damages_nothing(
    whole: Whole, shell: Shell, scene: Scene, root: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(scene.model, tmp_path / "model"))
    file = model / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"]["merges"] = document["model"]["merges"][:20]
    file.write_text(json.dumps(document))
    changed = replace(scene, model=model)
    ended = shell.run(root, *changed.extract(layers="0,1,3"))
    expect_refusal(ended, "tokenizer")
    assert {name: arrays(root).get(name) for name in whole.arrays} == whole.arrays
    assert statuses(root) == whole.statuses


def test_another_reader_has_a_group_of_its_own(
    whole: Whole, shell: Shell, scene: Scene, root: Path
) -> None:
    before = stamps(root)
    ended = shell.run(root, *scene.extract(reader="other"))
    assert (ended.code, ended.rows) == (0, len(whole.statuses)), ended.stderr
    assert (stamps(root), arrays(root), statuses(root)) == (before, whole.arrays, whole.statuses)
    assert arrays(root, "other") == whole.arrays
    chat = shell.run(root, *scene.extract(reader="chat", chat=True))
    assert chat.code == 0, chat.stderr
    assert stamps(root) == before
    expect_health(root)


def test_new_stories_extend_the_arrays_and_leave_full_chunks_alone(
    whole: Whole, shell: Shell, scene: Scene, root: Path
) -> None:
    rows = len(whole.statuses)
    full = {place: stamp for place, stamp in stamps(root).items() if place[2] < rows // CHUNK_ROWS}
    import_stories(shell, scene, root, stories(40, seed=1))
    ended = shell.run(root, *scene.extract())
    assert (ended.code, ended.rows) == (0, rows % CHUNK_ROWS + 40), ended.stderr
    after = stamps(root)
    assert full.items() <= after.items()
    assert len(after) == 2 * -(-(rows + 40) // CHUNK_ROWS)
    assert statuses(root)[:rows] == whole.statuses
    again = shell.run(root, *scene.extract(reader="other"))
    assert (again.code, again.rows) == (0, rows + 40), again.stderr
    assert arrays(root) == arrays(root, "other")
    expect_health(root)


def test_a_story_that_changed_costs_its_chunk_alone(
    whole: Whole, shell: Shell, scene: Scene, root: Path
) -> None:
    before = stamps(root)
    with closing(sqlite3.connect(Workspace(root).database)) as conn, conn:
        conn.execute("UPDATE stories SET text = ? WHERE id = 40", (words(50, 99),))
    ended = shell.run(root, *scene.extract())
    assert (ended.code, ended.rows) == (0, CHUNK_ROWS), ended.stderr
    after = stamps(root)
    changed = {place for place, stamp in after.items() if before[place] != stamp}
    assert changed == {("stories", number, 39 // CHUNK_ROWS) for number in (1, 3)}
    again = shell.run(root, *scene.extract(reader="other"))
    assert (again.code, arrays(root)) == (0, arrays(root, "other")), again.stderr
    expect_health(root)


def test_new_layers_leave_earlier_ones_alone(
    whole: Whole, shell: Shell, scene: Scene, root: Path
) -> None:
    before = stamps(root)
    ended = shell.run(root, *scene.extract(layers="all"))
    assert (ended.code, ended.rows) == (0, len(whole.statuses)), ended.stderr
    assert before.items() <= stamps(root).items()
    assert len(stamps(root)) == 2 * len(before)
    assert statuses(root) == whole.statuses
    again = shell.run(root, *scene.extract(reader="other", layers="all"))
    assert again.code == 0, again.stderr
    assert arrays(root) == arrays(root, "other")
    expect_health(root)
