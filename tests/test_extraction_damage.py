"""Damage to the arrays of a finished extraction: found, named, and exactly that is made again."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from stores.files import PARTIAL_SUFFIX
from stores.workspace import Workspace
from tests.extracting import (
    CORPUS,
    READER,
    Place,
    Scene,
    Shell,
    Table,
    arrays,
    chunk_file,
    doctor,
    expect_health,
    import_stories,
    open_scene,
    open_shell,
    receipts,
    stamps,
    statuses,
    stories,
)

ROWS, CHUNK_ROWS, LAYERS = 90, 16, (0, 1, 3)
LAST = ROWS // CHUNK_ROWS
ASKED: dict[str, object] = {"layers": "0,1,3", "chunk_rows": CHUNK_ROWS}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("said")) as shell:
        yield shell


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return open_scene(tmp_path_factory.mktemp("scene"))


@dataclass(frozen=True, slots=True)
class Whole:
    """A finished extraction of six chunks, the last one not full, at three layers."""

    root: Path
    arrays: dict[str, bytes]
    statuses: Table


@pytest.fixture(scope="module")
def whole(shell: Shell, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole") / "workspace"
    import_stories(shell, scene, root, stories(ROWS))
    ended = shell.run(root, *scene.extract(**ASKED))
    assert (ended.code, ended.rows) == (0, ROWS), ended.stderr
    expect_health(root)
    return Whole(root, arrays(root), statuses(root))


@pytest.fixture
def root(whole: Whole, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole.root, tmp_path / "workspace"))


def flip(file: Path, position: int) -> None:
    payload = bytearray(file.read_bytes())
    payload[position] ^= 0b100
    file.write_bytes(payload)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "its first bit flipped": lambda file: flip(file, 0),
    "a bit in the middle flipped": lambda file: flip(file, file.stat().st_size // 2),
    "a bit of its checksum flipped": lambda file: flip(file, -1),
    "missing": Path.unlink,
    "truncated": truncate,
    "empty": lambda file: file.write_bytes(b""),
    "too long": lengthen,
}


def name_of(root: Path, place: Place) -> str:
    return chunk_file(root, place).relative_to(root).as_posix()


def repair(root: Path) -> None:
    """Mend what the doctor finds; a second look finds nothing."""
    code, found = doctor(root, "--repair")
    assert (code, found != []) == (0, True)
    expect_health(root)


def expect_these_read_again(
    shell: Shell, scene: Scene, root: Path, whole: Whole, queued: set[Place]
) -> None:
    """Repair has queued exactly these chunks; extraction reads exactly their rows again."""
    before = receipts(whole.root)
    left = receipts(root)
    assert left == {place: row for place, row in before.items() if place not in queued}
    kept = stamps(root)
    rows = {chunk: before[kind, layer, chunk]["rows"] for kind, layer, chunk in queued}
    ended = shell.run(root, *scene.extract(**ASKED))
    assert (ended.code, ended.rows) == (0, sum(rows.values())), ended.stderr
    assert kept.items() <= stamps(root).items()
    assert arrays(root) == whole.arrays
    assert statuses(root) == whole.statuses
    expect_health(root)


@pytest.mark.parametrize(
    ("damage", "chunk"), [*((damage, 2) for damage in DAMAGES), ("truncated", LAST)]
)
def test_a_damaged_chunk_is_named_and_read_again_alone(
    damage: str, chunk: int, shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    place = ("stories", 1, chunk)
    DAMAGES[damage](chunk_file(root, place))
    before = receipts(root)
    code, (finding,) = doctor(root)
    assert (code, finding["thing"], finding["place"]) == (1, "chunk", name_of(root, place))
    assert receipts(root) == before
    repair(root)
    assert statuses(root) == whole.statuses
    expect_these_read_again(shell, scene, root, whole, {place})


def test_several_damages_are_mended_at_once_and_cost_only_themselves(
    shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    places: list[Place] = [("stories", 0, 1), ("stories", 3, 1), ("stories", 1, 4)]
    for place in places:
        flip(chunk_file(root, place), 99)
    code, found = doctor(root)
    assert code == 1
    assert {finding["place"] for finding in found} == {name_of(root, place) for place in places}
    repair(root)
    expect_these_read_again(shell, scene, root, whole, set(places))


def test_a_chunk_lost_at_every_layer_makes_its_rows_pending(
    shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    places: set[Place] = {("stories", layer, 3) for layer in LAYERS}
    for place in places:
        chunk_file(root, place).unlink()
    repair(root)
    pending = [row["row"] for row in statuses(root) if row["status"] == "pending"]
    assert pending == list(range(3 * CHUNK_ROWS, 4 * CHUNK_ROWS))
    expect_these_read_again(shell, scene, root, whole, places)


def forget(root: Path, *places: Place) -> None:
    """Lose receipts behind the engine's back."""
    query = "DELETE FROM receipts WHERE kind = ? AND layer = ? AND chunk = ?"
    with closing(sqlite3.connect(Workspace(root).database)) as conn, conn:
        conn.executemany(query, places)


def test_a_file_without_a_receipt_is_named_and_read_again(
    shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    place = ("stories", 3, 2)
    forget(root, place)
    code, (finding,) = doctor(root)
    assert (code, finding["thing"], finding["place"]) == (1, "file", name_of(root, place))
    repair(root)
    assert not chunk_file(root, place).exists()
    expect_these_read_again(shell, scene, root, whole, {place})


def test_rows_without_any_receipt_are_named_and_read_again(
    shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    places: set[Place] = {("stories", layer, 2) for layer in LAYERS}
    forget(root, *places)
    code, found = doctor(root)
    assert code == 1
    assert {finding["thing"] for finding in found} == {"rows", "file"}
    assert f"{READER}/{CORPUS}/stories chunk 2" in [finding["place"] for finding in found]
    repair(root)
    expect_these_read_again(shell, scene, root, whole, places)


@pytest.mark.parametrize("name", ["layer_1/c/77/0", f"layer_1/c/2/0.abc{PARTIAL_SUFFIX}"])
def test_a_file_of_nobody_is_named_and_removed(
    name: str, shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    stray = Workspace(root).activations(READER) / CORPUS / "stories" / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"?")
    code, (finding,) = doctor(root)
    assert (code, finding["place"]) == (1, stray.relative_to(root).as_posix())
    repair(root)
    assert not stray.exists()
    expect_these_read_again(shell, scene, root, whole, set())


TORN: dict[str, Callable[[Path], object]] = {
    "torn": truncate,
    "empty": lambda file: file.write_bytes(b""),
    "missing": Path.unlink,
    "of another thing": lambda file: file.write_text('{"node_type": "elephant"}'),
}


ARRAY = f"{CORPUS}/stories/layer_3"


@pytest.mark.parametrize(
    ("node", "damage"),
    [*((ARRAY, damage) for damage in TORN), ("", "torn"), (f"{CORPUS}/stories", "missing")],
)
def test_torn_metadata_is_named_and_written_from_the_ledger(
    node: str, damage: str, shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    folder = Workspace(root).activations(READER) / node
    TORN[damage](folder / "zarr.json")
    code, (finding,) = doctor(root)
    assert (code, finding["place"]) == (1, folder.relative_to(root).as_posix())
    assert "zarr.json" in finding["problem"]
    before = stamps(root)
    repair(root)
    assert stamps(root) == before
    assert arrays(root) == whole.arrays
    expect_these_read_again(shell, scene, root, whole, set())


DIES_AT_THE_FILE = """
import os, pathlib
pathlib.Path.unlink = lambda path, missing_ok=False: os._exit(137)
"""


def test_a_repair_that_dies_half_way_can_be_repeated(
    shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    """The claim goes before the file: what is left is a file of nobody."""
    place: Place = ("stories", 1, 2)
    flip(chunk_file(root, place), 5)
    assert shell.run(root, "doctor", "--repair", before=DIES_AT_THE_FILE).code == 137
    assert place not in receipts(root)
    assert chunk_file(root, place).exists()
    repair(root)
    expect_these_read_again(shell, scene, root, whole, {place})


def test_an_extraction_mends_torn_metadata_unasked(
    shell: Shell, scene: Scene, whole: Whole, root: Path
) -> None:
    truncate(Workspace(root).activations(READER) / CORPUS / "stories" / "layer_1" / "zarr.json")
    expect_these_read_again(shell, scene, root, whole, set())
