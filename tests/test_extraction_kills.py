"""kill -9 at random moments of an extraction: afterwards all is as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stores.failpoints import EXIT_CODE, EXTRACTION, VARIABLE
from stores.files import PARTIAL_SUFFIX
from tests.conftest import ROOT
from tests.extracting import (
    ALIVE,
    CHUNK_ROWS,
    WHAT_FOR,
    Ended,
    Scene,
    Shell,
    Stamps,
    Table,
    add_texts,
    arrays,
    chunk_file,
    doctor,
    expect_health,
    import_stories,
    is_close,
    layer,
    open_scene,
    open_shell,
    query,
    receipts,
    stamps,
    statuses,
    stories,
    words,
)
from tests.test_cli import run as run_here

KILLS = int(os.environ.get("EMOVEC_TEST_EXTRACTION_KILLS", "8"))
STORIES, DIALOGUES = 270, 40
ROWS = STORIES + DIALOGUES
IN_A_PASS = "in a pass"
SLOWLY = f"""
import time
from transformers.models.llama.modeling_llama import LlamaModel
forward = LlamaModel.forward
def slow(*given, **named):
    if what_for(named) == "reading":
        print("{IN_A_PASS}", file=sys.stderr, flush=True)
        time.sleep({{seconds}})
    return forward(*given, **named)
LlamaModel.forward = slow
"""
SLOW, VERY_SLOW = (WHAT_FOR + SLOWLY.format(seconds=seconds) for seconds in (0.02, 1.5))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("said")) as shell:
        yield shell


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return open_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def ready(shell: Shell, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with texts that nobody has read."""
    root = tmp_path_factory.mktemp("ready") / "workspace"
    import_stories(shell, scene, root, stories(STORIES))
    add_texts(scene, root, [words(15 + i, -i) for i in range(DIALOGUES)], "dialogues")
    return root


@dataclass(frozen=True, slots=True)
class Calm:
    """What an uninterrupted extraction leaves."""

    root: Path
    arrays: dict[str, bytes]
    statuses: Table
    seconds: float
    """From the first sign of life to the end."""


@pytest.fixture(scope="module")
def calm(ready: Path, shell: Shell, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    root = copy(ready, tmp_path_factory.mktemp("calm"))
    command = shell.start(root, *scene.extract())
    assert command.wait_for(ALIVE)
    began = time.monotonic()
    ended = command.wait()
    seconds = time.monotonic() - began
    assert (ended.code, ended.rows) == (0, ROWS), ended.stderr
    reached = statuses(root)
    assert {row["status"] for row in reached} == {"done", "rejected"}
    return Calm(root, arrays(root), reached, seconds)


def copy(ready: Path, folder: Path) -> Path:
    return Path(shutil.copytree(ready, folder / "workspace"))


def expect_as_if_nothing_happened(root: Path, calm: Calm) -> None:
    found = arrays(root)
    assert [name for name in found if name.endswith(PARTIAL_SUFFIX)] == []
    assert found == calm.arrays
    assert statuses(root) == calm.statuses
    expect_health(root)


def rows_without(kept: Stamps) -> int:
    """How many rows lie in chunks that lack a receipt."""
    read = {(kind, chunk): receipt["rows"] for (kind, _, chunk), (receipt, *_) in kept.items()}
    return ROWS - sum(int(rows) for rows in read.values())


def resume(shell: Shell, scene: Scene, root: Path, **changes: object) -> Ended:
    """Bring an extraction to its end; what has a receipt is neither read nor written again."""
    kept = stamps(root)
    left = rows_without(kept)
    ended = shell.run(root, *scene.extract(**changes))
    assert (ended.code, ended.rows) == (0, left), ended.stderr
    assert kept.items() <= stamps(root).items()
    return ended


def kill_after(seconds: float, shell: Shell, scene: Scene, root: Path, before: str = "") -> bool:
    """Start an extraction and kill it so long after its first sign of life; False: it had ended."""
    command = shell.start(root, *scene.extract(), before=before)
    if command.wait_for(ALIVE):
        time.sleep(seconds)
        command.kill(signal.SIGKILL)
    code = command.wait().code
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_kills_at_random_moments_change_nothing(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """As many kills as asked for; a run that gets to its end is compared, and another begins."""
    rng, killed, ended, between = random.Random(0), 0, 0, 0
    while killed < KILLS or not ended:
        root = copy(ready, tmp_path / str(ended))
        kept: Stamps = {}
        while killed < KILLS:
            # in turns busy with the disk, and with a model that leaves time for it
            pace, longest = (("", calm.seconds), (SLOW, 1.0))[killed % 2]
            if not kill_after(rng.uniform(0, longest), shell, scene, root, pace):
                break
            killed, before, kept = killed + 1, kept, stamps(root)
            # what had a receipt before a kill has it after it, and the same file
            assert before.items() <= kept.items()
            between += len(before) < len(kept) < len(stamps(calm.root))
        resume(shell, scene, root)
        expect_as_if_nothing_happened(root, calm)
        ended += 1
    assert between >= KILLS / 4


@pytest.mark.parametrize("name", EXTRACTION)
def test_a_hard_exit_between_two_durable_steps_changes_nothing(
    name: str, ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    for times in (1, 3) if name != "rows_planned" else (1,):
        die_at(f"{name}:{times}", shell, scene, root)
        stamps(root)
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def die_at(place: str, shell: Shell, scene: Scene, root: Path) -> None:
    died = shell.run(root, *scene.extract(), **{VARIABLE: place})
    assert died.code == EXIT_CODE, died.stderr


def test_bytes_come_before_their_receipts_and_these_with_the_statuses(
    ready: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """What the first chunk has left behind at each place on its way."""
    found = {}
    for name in EXTRACTION:
        root = copy(ready, tmp_path / name)
        die_at(name, shell, scene, root)
        first = [("stories", number, 0) for number in (1, 3)]
        files = sum(chunk_file(root, place).exists() for place in first)
        settled = sum(row["status"] != "pending" for row in statuses(root))
        found[name] = (files, len(stamps(root)), settled)
    assert found == {
        "rows_planned": (0, 0, 0),
        "chunk_started": (0, 0, 0),
        "chunk_computed": (0, 0, 0),
        "receipts_dropped": (0, 0, 0),
        "bytes_written": (2, 0, 0),
        "receipts_written": (2, 2, CHUNK_ROWS),
    }


@pytest.mark.parametrize("name", ["receipts_dropped", "bytes_written", "receipts_written"])
def test_a_hard_exit_while_arrays_are_extended_changes_nothing(
    name: str, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """The last chunk was not full: it has receipts, and they go before its file is replaced."""
    root = copy(calm.root, tmp_path)
    full = {place: stamp for place, stamp in stamps(root).items() if stamp[0]["rows"] == CHUNK_ROWS}
    import_stories(shell, scene, root, stories(50, seed=1))
    for times in (1, 1) if name == "receipts_written" else (1, 2):
        die_at(f"{name}:{times}", shell, scene, root)
        assert full.items() <= stamps(root).items()
    ended = shell.run(root, *scene.extract())
    assert ended.code == 0, ended.stderr
    assert full.items() <= stamps(root).items()
    expect_health(root)
    again = shell.run(root, *scene.extract(reader="again"))
    assert (again.code, again.rows) == (0, ROWS + 50), again.stderr
    assert arrays(root) == arrays(root, "again")


FULL_DISK = """
import os, stat
fsync, calls = os.fsync, 0
def full(descriptor):
    global calls
    file = os.fstat(descriptor)
    calls += stat.S_ISREG(file.st_mode) and file.st_size > 4000  # a chunk's
    if calls >= {n}:
        raise OSError(28, "No space left on device")
    fsync(descriptor)
os.fsync = full
"""


@pytest.mark.parametrize("n", [1, 9])
def test_a_full_disk_ends_in_one_line_and_keeps_what_is_finished(
    n: int, ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    ended = shell.run(root, *scene.extract(), before=FULL_DISK.format(n=n))
    assert ended.code == 1
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith(ALIVE)]
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert len(stamps(root)) < len(stamps(calm.root))
    assert (len(stamps(root)) > 0) == (n > 1)
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def test_a_process_of_its_own_killed_and_resumed_leaves_the_same_bytes(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """Nothing is forked here: an interpreter of its own, as a user starts it."""
    for attempt in "ABC":  # it runs for a third of a second, and may have ended
        root = copy(ready, tmp_path / attempt)
        command = [sys.executable, "cli.py", "--workspace", str(root), *scene.extract()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stderr is not None
            next(line for line in child.stderr if line.startswith(ALIVE))
            child.kill()
        if child.returncode == -signal.SIGKILL:
            break
    assert len(stamps(root)) < len(stamps(calm.root))
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def test_a_resume_with_other_batches_gives_the_same_numbers(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    assert kill_after(0.5, shell, scene, root, SLOW)
    resume(shell, scene, root, tokens_per_batch=1500)
    for number in (1, 3):
        assert is_close(layer(root, number), layer(calm.root, number))
    assert statuses(root) == calm.statuses
    expect_health(root)


def test_what_a_killed_writer_left_half_written_is_swept(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    folder = Path(
        shutil.copytree(calm.root / "data" / "activations", root / "data" / "activations")
    )
    (chunk,) = folder.glob("*/*/stories/layer_1/c/2/0")
    chunk.rename(chunk.with_name(f"0.abc{PARTIAL_SUFFIX}"))
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def wait_for_a_receipt(root: Path) -> None:
    until = time.monotonic() + 30
    while not receipts(root):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_keeps_what_is_finished_and_exits_130(
    number: signal.Signals, ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    command = shell.start(root, *scene.extract(), before=SLOW)
    assert command.wait_for(ALIVE)
    wait_for_a_receipt(root)
    command.kill(number)
    ended = command.wait(10)
    assert ended.code == 130, ended.stderr
    assert "the same command goes on" in ended.stderr
    assert 0 < len(stamps(root)) < len(stamps(calm.root))
    assert query(root, "SELECT outcome FROM runs WHERE command = 'extract'") == [
        {"outcome": "stopped"}
    ]
    expect_health(root)
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def test_a_stop_waits_for_a_batch_and_not_for_a_chunk(
    ready: Path, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    """All in one chunk of more than a hundred batches, with a model that takes its time."""
    root = copy(ready, tmp_path)
    asked = scene.extract(chunk_rows=ROWS, tokens_per_batch=128)
    command = shell.start(root, *asked, before=VERY_SLOW)
    assert command.wait_for(IN_A_PASS)
    command.kill(signal.SIGINT)
    assert command.wait(10).code == 130
    assert stamps(root) == {}
    expect_health(root)


def test_a_second_stop_ends_at_once(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    command = shell.start(root, *scene.extract(), before=VERY_SLOW)
    assert command.wait_for(IN_A_PASS)
    command.kill(signal.SIGINT)
    assert command.wait_for("once more stops at once")
    command.kill(signal.SIGINT)
    ended = command.wait(10)
    assert ended.code == 130
    # the first stop was not answered any more: the model takes long for a batch
    assert "what was finished is kept" not in ended.stderr
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def test_a_second_extraction_is_told_who_holds_the_workspace(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    first = shell.start(root, *scene.extract(), before=VERY_SLOW)
    assert first.wait_for(ALIVE)
    second = shell.run(root, *scene.extract())
    assert second.code == 1
    (line,) = second.stderr.splitlines()
    assert "in use by `extract`" in line
    assert f"pid {first.pid}" in line
    first.kill(signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    resume(shell, scene, root)
    expect_as_if_nothing_happened(root, calm)


def test_who_only_reads_may_look_on(
    ready: Path, calm: Calm, shell: Shell, scene: Scene, tmp_path: Path
) -> None:
    root = copy(ready, tmp_path)
    command = shell.start(root, *scene.extract(), before=SLOW)
    assert command.wait_for(ALIVE)
    looks = 0
    while not command.is_over():
        found = doctor(root)[1]
        # the chunk that is being written has files and no receipt yet
        assert {finding["thing"] for finding in found} <= {"file", "array"}
        assert run_here("status", workspace=root).exit_code == 0
        stamps(root)
        looks += 1
    assert looks >= 3
    assert command.wait().code == 0
    expect_as_if_nothing_happened(root, calm)
