from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from stores.activations import layer_path
from stores.arrays import chunk_path, find_chunks
from stores.database import Connection
from stores.integrity import inspect, repair
from stores.layers import read_layer
from stores.results import open_run
from stores.rows import plan_rows, read_rows
from stores.vectors import vector_layers, vector_path, write_vectors
from stores.workspace import Workspace
from tests.stores.arranged import (
    CORPUS,
    HERE,
    LAYERS,
    READER,
    add_texts,
    change_text,
    extract,
    files_below,
    import_set,
)

Damage = Callable[[Workspace], None]


@pytest.fixture
def extracted(conn: Connection, workspace: Workspace) -> Connection:
    """Ten stories and three dialogues read at two layers, and vectors at both."""
    add_texts(conn, 10)
    add_texts(conn, 3, "dialogues")
    for kind in ("stories", "dialogues"):
        extract(conn, workspace, kind=kind)
    for layer in LAYERS:
        write_layer_vectors(conn, workspace, layer)
    assert faults(conn, workspace) == []
    return conn


def write_layer_vectors(conn: Connection, workspace: Workspace, layer: int) -> None:
    write_vectors(
        conn,
        workspace,
        READER,
        CORPUS,
        emotions=("joyful", "afraid"),
        layer=layer,
        raw=np.ones((2, 5)),
        denoised=np.zeros((2, 5)),
        settings={},
        inputs="sha256:i",
        run_id=open_run(conn, "vectors build", {}),
    )


def faults(conn: Connection, workspace: Workspace) -> list[tuple[str, str]]:
    return [(f.thing, f.place) for f in inspect(conn, workspace, now=0.0) if f.fault]


def chunk_file(workspace: Workspace) -> Path:
    return chunk_path(layer_path(workspace, *HERE, 2), 1)


def flip_a_bit(workspace: Workspace) -> None:
    file = chunk_file(workspace)
    whole = file.read_bytes()
    file.write_bytes(whole[:7] + bytes([whole[7] ^ 4]) + whole[8:])


def truncate(workspace: Workspace) -> None:
    chunk_file(workspace).write_bytes(chunk_file(workspace).read_bytes()[:-1])


def remove(workspace: Workspace) -> None:
    chunk_file(workspace).unlink()


def exchange(workspace: Workspace) -> None:
    other = chunk_path(layer_path(workspace, *HERE, 2), 0)
    chunk_file(workspace).write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove, exchange])
def test_a_damaged_chunk_is_found_and_exactly_it_is_made_again(
    extracted: Connection, workspace: Workspace, damage: Damage
) -> None:
    before = files_below(workspace.activations(READER))
    claims = "SELECT reader, corpus, kind, layer, chunk, sha256, bytes, rows, norm, done"
    receipts = extracted.execute(f"{claims} FROM receipts ORDER BY 1, 2, 3, 4, 5").fetchall()
    damage(workspace)
    found = inspect(extracted, workspace, now=0.0)
    place = "data/activations/toy.zarr/main/stories/layer_2/c/1/0"
    assert [(f.thing, f.place) for f in found if f.fault] == [("chunk", place)]
    assert repair(extracted, workspace, found) == 1
    left = extracted.execute("SELECT layer, chunk FROM receipts WHERE kind = 'stories'").fetchall()
    assert len(left) == 5
    assert (2, 1) not in [tuple(row) for row in left]
    assert {row.status for row in read_rows(extracted, *HERE)} == {"done"}
    assert faults(extracted, workspace) == []
    assert extract(extracted, workspace) == [1]
    assert files_below(workspace.activations(READER)) == before
    after = extracted.execute(f"{claims} FROM receipts ORDER BY 1, 2, 3, 4, 5").fetchall()
    assert list(map(tuple, after)) == list(map(tuple, receipts))


def test_vectors_that_may_hold_damaged_numbers_are_built_again(
    extracted: Connection, workspace: Workspace
) -> None:
    flip_a_bit(workspace)
    repair(extracted, workspace, inspect(extracted, workspace, now=0.0))
    assert vector_layers(extracted, READER, CORPUS) == [0]


def test_rows_without_any_layer_left_are_pending_again(
    extracted: Connection, workspace: Workspace
) -> None:
    for layer in LAYERS:
        chunk_path(layer_path(workspace, *HERE, layer), 2).unlink()
    repair(extracted, workspace, inspect(extracted, workspace, now=0.0))
    assert [row.status for row in read_rows(extracted, *HERE)] == ["done"] * 8 + ["pending"] * 2


def test_a_chunk_lost_with_its_receipts_is_found_by_its_rows(
    extracted: Connection, workspace: Workspace
) -> None:
    before = files_below(workspace.activations(READER))
    for layer in LAYERS:
        chunk_path(layer_path(workspace, *HERE, layer), 1).unlink()
    extracted.execute("DELETE FROM receipts WHERE chunk = 1 AND kind = 'stories'")
    found = inspect(extracted, workspace, now=0.0)
    assert [(f.thing, f.place) for f in found if f.fault] == [("rows", "toy/main/stories chunk 1")]
    repair(extracted, workspace, found)
    statuses = [row.status for row in read_rows(extracted, *HERE)]
    assert statuses == ["done"] * 4 + ["pending"] * 4 + ["done"] * 2
    assert faults(extracted, workspace) == []
    assert extract(extracted, workspace) == [1]
    assert files_below(workspace.activations(READER)) == before


def test_every_damaged_chunk_is_named_in_order(extracted: Connection, workspace: Workspace) -> None:
    places = []
    for layer in LAYERS:
        for chunk in range(3):
            file = chunk_path(layer_path(workspace, *HERE, layer), chunk)
            file.write_bytes(file.read_bytes()[:-1] + b"x")
            places.append(file.relative_to(workspace.root).as_posix())
    assert [place for _, place in faults(extracted, workspace)] == places


def test_inspecting_changes_nothing(extracted: Connection, workspace: Workspace) -> None:
    flip_a_bit(workspace)
    before = list(extracted.iterdump()), files_below(workspace.root / "data" / "activations")
    inspect(extracted, workspace)
    after = list(extracted.iterdump()), files_below(workspace.root / "data" / "activations")
    assert before == after


def test_a_chunk_without_a_receipt_is_removed_and_extracted_again(
    extracted: Connection, workspace: Workspace
) -> None:
    extracted.execute("DELETE FROM receipts WHERE layer = 2 AND chunk = 1 AND kind = 'stories'")
    found = inspect(extracted, workspace, now=0.0)
    assert [(f.thing, f.problem) for f in found if f.fault] == [("file", "no receipt mentions it")]
    repair(extracted, workspace, found)
    assert not chunk_file(workspace).exists()
    assert extract(extracted, workspace) == [1]
    assert faults(extracted, workspace) == []


def test_half_written_files_are_removed_and_nothing_else(
    extracted: Connection, workspace: Workspace
) -> None:
    before = files_below(workspace.root)
    left = [
        chunk_file(workspace).with_suffix(".0a.partial"),
        workspace.vectors(READER) / ".zarr.json.0a.partial",
        workspace.results(READER) / ".geometry.json.0a.partial",
    ]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = [f for f in inspect(extracted, workspace, now=0.0) if f.fault]
    assert {f.place for f in found} == {f.relative_to(workspace.root).as_posix() for f in left}
    assert repair(extracted, workspace, found) == 3
    assert files_below(workspace.root) == before


@pytest.mark.parametrize("torn", [b"", b"{", None])
@pytest.mark.parametrize("node", ["main/stories/layer_0", "main/stories", "main", "."])
def test_torn_metadata_is_written_from_the_ledger(
    extracted: Connection, workspace: Workspace, node: str, torn: bytes | None
) -> None:
    root = workspace.activations(READER)
    before = files_below(root)
    if torn is None:
        (root / node / "zarr.json").unlink()
    else:
        (root / node / "zarr.json").write_bytes(torn)
    found = inspect(extracted, workspace, now=0.0)
    (fault,) = [f for f in found if f.fault]
    assert (fault.thing, fault.problem) == ("array", "zarr.json is missing or torn")
    assert fault.place == (root / node).relative_to(workspace.root).as_posix()
    repair(extracted, workspace, found)
    assert files_below(root) == before


def test_attributes_that_disagree_with_the_ledger_are_told_and_set_right(
    extracted: Connection, workspace: Workspace
) -> None:
    path = layer_path(workspace, *HERE, 0)
    array = zarr.open_array(path, mode="r+")
    array.attrs.update({"model": "other", "layer": 7})
    (fault,) = [f for f in inspect(extracted, workspace, now=0.0) if f.fault]
    assert "layer (stored 0, now 7), model (stored 'toy/model', now 'other')" in fault.problem
    repair(extracted, workspace, [fault])
    assert zarr.open_array(path).attrs["model"] == "toy/model"
    assert faults(extracted, workspace) == []


def test_an_array_shorter_than_its_rows_is_grown_again(
    extracted: Connection, workspace: Workspace
) -> None:
    path = layer_path(workspace, *HERE, 0)
    whole = read_layer(workspace, *HERE, 0)
    metadata = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(metadata.replace("10,", "8,", 1))
    (fault,) = [f for f in inspect(extracted, workspace, now=0.0) if f.fault]
    assert fault.problem == "zarr.json covers 8 of 10 rows"
    repair(extracted, workspace, [fault])
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 0), whole)


def test_rows_planned_and_not_yet_read_are_no_fault(
    extracted: Connection, workspace: Workspace
) -> None:
    add_texts(extracted, 12)
    assert faults(extracted, workspace) == []
    plan_rows(extracted, *HERE)
    found = inspect(extracted, workspace, now=0.0)
    assert {f.problem for f in found if f.fault} == {"no receipt mentions it"}


@pytest.mark.parametrize("damage", ["flip", "remove", "metadata"])
def test_damaged_vectors_are_withdrawn_and_nothing_else(
    extracted: Connection, workspace: Workspace, damage: str
) -> None:
    path = vector_path(workspace, READER, CORPUS, "raw", 2)
    file = chunk_path(path, 0)
    if damage == "flip":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    else:
        (file if damage == "remove" else path / "zarr.json").unlink()
    found = inspect(extracted, workspace, now=0.0)
    place = "data/vectors/toy.zarr/main/raw/layer_2"
    assert [(f.thing, f.place) for f in found if f.fault] == [("vectors", place)]
    repair(extracted, workspace, found)
    assert vector_layers(extracted, READER, CORPUS) == [0]
    assert faults(extracted, workspace) == []
    assert extract(extracted, workspace) == []


def test_vectors_whose_activations_are_gone_are_withdrawn(
    extracted: Connection, workspace: Workspace
) -> None:
    extracted.execute("DELETE FROM receipts WHERE layer = 2")
    found = [f for f in inspect(extracted, workspace, now=0.0) if f.thing == "vectors"]
    assert [f.problem for f in found] == ["the activations it was built from are gone"] * 2
    repair(extracted, workspace, found)
    assert vector_layers(extracted, READER, CORPUS) == [0]


def test_imported_vectors_need_no_activations(extracted: Connection, workspace: Workspace) -> None:
    import_set(extracted, workspace, "theirs")
    assert faults(extracted, workspace) == []


def test_damaged_vectors_are_made_again_the_way_they_were_made(
    extracted: Connection, workspace: Workspace
) -> None:
    import_set(extracted, workspace, "theirs")
    for reader in ("theirs", READER):
        chunk_path(vector_path(workspace, reader, CORPUS, "raw", 2), 0).write_bytes(b"")
    found = inspect(extracted, workspace, now=0.0)
    assert {f.place.split("/")[2]: f.repair for f in found if f.fault} == {
        "theirs.zarr": "import it again",
        "toy.zarr": "build the layer's vectors again",
    }
    repair(extracted, workspace, found)
    assert vector_layers(extracted, "theirs", CORPUS) == [0]
    assert faults(extracted, workspace) == []


def test_vectors_without_a_row_are_removed(extracted: Connection, workspace: Workspace) -> None:
    extracted.execute("DELETE FROM vectors WHERE layer = 2 AND variant = 'raw'")
    found = inspect(extracted, workspace, now=0.0)
    place = "data/vectors/toy.zarr/main/raw/layer_2/c/0/0"
    assert [(f.thing, f.place) for f in found if f.fault] == [("file", place)]
    repair(extracted, workspace, found)
    assert len(find_chunks(workspace.vectors(READER))) == 3


def test_several_faults_are_mended_at_once(extracted: Connection, workspace: Workspace) -> None:
    before = files_below(workspace.activations(READER))
    flip_a_bit(workspace)
    chunk_path(layer_path(workspace, *HERE, 0), 2).unlink()
    chunk_path(layer_path(workspace, READER, CORPUS, "dialogues", 2), 0).write_bytes(b"")
    (layer_path(workspace, *HERE, 0) / "zarr.json").write_bytes(b"")
    (layer_path(workspace, *HERE, 0) / "c" / "x.partial").touch()
    change_text(extracted, 1, "new words")
    change_text(extracted, 1, "stories joyful rain 0")
    found = inspect(extracted, workspace, now=0.0)
    assert repair(extracted, workspace, found) == 5
    assert faults(extracted, workspace) == []
    assert extract(extracted, workspace) == [1, 2]
    assert extract(extracted, workspace, kind="dialogues") == [0]
    assert files_below(workspace.activations(READER)) == before
