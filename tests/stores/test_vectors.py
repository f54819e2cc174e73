from typing import Any

import numpy as np
import pytest
import zarr

from stores.arrays import chunk_path
from stores.database import Connection
from stores.errors import NotReady, StoreCorrupt, UsageError
from stores.results import open_run
from stores.vectors import (
    Variant,
    forget_set,
    forget_vectors,
    read_vectors,
    vector_inputs,
    vector_layers,
    vector_path,
    vector_variant,
    vector_variants,
    write_vectors,
)
from stores.workspace import Workspace
from tests.stores.arranged import CORPUS, IMPORTED, READER, files_below

EMOTIONS = ("joyful", "afraid", "calm")
RAW = np.random.default_rng(0).standard_normal((3, 5))
DENOISED = RAW - 0.25
KEPT: dict[str, Any] = {
    "emotions": EMOTIONS,
    "raw": RAW,
    "denoised": DENOISED,
    "settings": {"denoise": 0.5},
    "inputs": "sha256:i",
}


def write(conn: Connection, workspace: Workspace, layer: int = 2, **changes: Any) -> None:
    run = open_run(conn, "vectors build", {})
    write_vectors(conn, workspace, READER, CORPUS, layer=layer, run_id=run, **{**KEPT, **changes})


def test_vectors_come_back_as_they_were(conn: Connection, workspace: Workspace) -> None:
    write(conn, workspace)
    found = read_vectors(conn, workspace, READER, CORPUS, 2)
    assert (found.emotions, found.layer, found.variant) == (EMOTIONS, 2, "denoised")
    np.testing.assert_array_equal(found.vectors, DENOISED)
    raw = read_vectors(conn, workspace, READER, CORPUS, 2, "raw")
    np.testing.assert_array_equal(raw.vectors, RAW)
    assert raw.vectors.dtype == np.float64
    assert raw.sha256 != found.sha256


def test_plain_zarr_reads_vectors_and_what_they_are(conn: Connection, workspace: Workspace) -> None:
    write(conn, workspace)
    array = zarr.open_array(workspace.root / "data/vectors/toy.zarr/main/raw/layer_2", mode="r")
    np.testing.assert_array_equal(array[:], RAW)
    assert dict(array.attrs) == {
        "emotions": list(EMOTIONS),
        "layer": 2,
        "inputs": "sha256:i",
        "denoise": 0.5,
    }


def test_float32_vectors_are_kept_as_float64(conn: Connection, workspace: Workspace) -> None:
    write(conn, workspace, raw=RAW.astype(np.float32))
    raw = read_vectors(conn, workspace, READER, CORPUS, 2, "raw").vectors
    np.testing.assert_array_equal(raw, RAW.astype(np.float32).astype(np.float64))


def test_writing_again_replaces_rows_and_arrays(conn: Connection, workspace: Workspace) -> None:
    write(conn, workspace)
    write(conn, workspace, emotions=EMOTIONS[:2], raw=RAW[:2], denoised=RAW[:2], inputs="sha256:j")
    assert read_vectors(conn, workspace, READER, CORPUS, 2).emotions == EMOTIONS[:2]
    assert vector_inputs(conn, READER, CORPUS, 2) == "sha256:j"
    assert conn.execute("SELECT count(*) FROM vectors").fetchone()[0] == 2


def test_layers_and_inputs_are_told(conn: Connection, workspace: Workspace) -> None:
    for layer in (10, 2):
        write(conn, workspace, layer)
    assert vector_layers(conn, READER, CORPUS) == [2, 10]
    assert vector_inputs(conn, READER, CORPUS, 10) == "sha256:i"
    assert vector_inputs(conn, READER, CORPUS, 3) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raw": RAW[:2]}, r"raw vectors of layer 2: \(2, 5\) for 3 emotions"),
        ({"denoised": RAW[0]}, r"denoised vectors of layer 2: \(5,\) for 3"),
        ({"raw": RAW * np.nan}, "15 numbers are not finite"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(
    conn: Connection, workspace: Workspace, changes: dict[str, Any], message: str
) -> None:
    write(conn, workspace)
    with pytest.raises(ValueError, match=message):
        write(conn, workspace, **changes)
    np.testing.assert_array_equal(
        read_vectors(conn, workspace, READER, CORPUS, 2).vectors, DENOISED
    )


def test_vectors_not_built_are_not_ready(conn: Connection, workspace: Workspace) -> None:
    with pytest.raises(NotReady, match=r"no raw vectors of layer 2.*vectors build --reader toy"):
        read_vectors(conn, workspace, READER, CORPUS, 2, "raw")


@pytest.mark.parametrize("variant", ["raw", "denoised"])
def test_damaged_vectors_are_never_returned(
    conn: Connection, workspace: Workspace, variant: Variant
) -> None:
    write(conn, workspace)
    write(conn, workspace, 3, raw=RAW + 1, denoised=DENOISED + 1)
    file = chunk_path(vector_path(workspace, READER, CORPUS, variant, 2), 0)
    whole = file.read_bytes()
    other = chunk_path(vector_path(workspace, READER, CORPUS, variant, 3), 0).read_bytes()
    for damaged in (whole[:-9], whole[:8] + b"x" + whole[9:], other):
        file.write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match=r"layer_2.*doctor --repair"):
            read_vectors(conn, workspace, READER, CORPUS, 2, variant)
    file.unlink()
    with pytest.raises(StoreCorrupt, match="instead of"):
        read_vectors(conn, workspace, READER, CORPUS, 2, variant)
    (file.parents[2] / "zarr.json").unlink()
    with pytest.raises(StoreCorrupt, match="is missing"):
        read_vectors(conn, workspace, READER, CORPUS, 2, variant)


def test_no_row_speaks_of_vectors_that_were_not_finished(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    write(conn, workspace)
    monkeypatch.setattr("stores.vectors.arrays.write_block", cut)
    with pytest.raises(PowerCut):
        write(conn, workspace, raw=RAW * 2)
    with pytest.raises(NotReady):
        read_vectors(conn, workspace, READER, CORPUS, 2)
    monkeypatch.undo()
    write(conn, workspace, raw=RAW * 2)
    np.testing.assert_array_equal(
        read_vectors(conn, workspace, READER, CORPUS, 2, "raw").vectors, RAW * 2
    )


def test_forgotten_vectors_leave_no_chunk(conn: Connection, workspace: Workspace) -> None:
    write(conn, workspace)
    write(conn, workspace, 3)
    forget_vectors(conn, workspace, READER, CORPUS, 2)
    forget_vectors(conn, workspace, READER, CORPUS, 2)
    assert vector_layers(conn, READER, CORPUS) == [3]
    assert not [name for name in files_below(workspace.vectors(READER)) if "layer_2" in name]


def test_a_forgotten_set_leaves_nothing_and_others_alone(
    conn: Connection, workspace: Workspace
) -> None:
    for layer in (2, 3):
        write(conn, workspace, layer)
    kept = {**KEPT, "corpus": "other", "layer": 2}
    write_vectors(conn, workspace, READER, run_id=open_run(conn, "", {}), **kept)
    forget_set(conn, workspace, READER, CORPUS)
    assert vector_layers(conn, READER, CORPUS) == []
    left = [name for name in files_below(workspace.vectors(READER)) if "layer_" in name]
    assert {name.split("/")[0] for name in left} == {"other"}
    assert vector_layers(conn, READER, "other") == [2]
    read_vectors(conn, workspace, READER, "other", 2)


@pytest.mark.parametrize(("there", "missing"), [("raw", "denoised"), ("denoised", "raw")])
def test_a_set_may_have_one_variant_alone(
    conn: Connection, workspace: Workspace, there: Variant, missing: Variant
) -> None:
    write(conn, workspace)
    without: dict[str, Any] = {missing: None}
    write(conn, workspace, **without)
    read_vectors(conn, workspace, READER, CORPUS, 2, there)
    with pytest.raises(NotReady, match=f"no {missing} vectors of layer 2"):
        read_vectors(conn, workspace, READER, CORPUS, 2, missing)
    assert not vector_path(workspace, READER, CORPUS, missing, 2).exists()
    assert vector_variants(conn, READER, CORPUS) == (there,)
    assert vector_variant(conn, READER, CORPUS) == there
    with pytest.raises(ValueError, match="neither raw nor denoised"):
        write(conn, workspace, raw=None, denoised=None)


def test_denoised_vectors_are_used_only_where_every_layer_has_them(
    conn: Connection, workspace: Workspace
) -> None:
    write(conn, workspace)
    assert vector_variants(conn, READER, CORPUS) == ("raw", "denoised")
    assert vector_variant(conn, READER, CORPUS) == "denoised"
    write(conn, workspace, 3, denoised=None)
    assert vector_variants(conn, READER, CORPUS) == ("raw",)
    assert vector_variant(conn, READER, CORPUS) == "raw"


def test_what_an_imported_reader_lacks_is_to_be_imported(
    conn: Connection, workspace: Workspace
) -> None:
    write(conn, workspace, settings=IMPORTED, denoised=None)
    with pytest.raises(NotReady, match=r"layer 3.*vectors import FILE\.\.\. --reader toy"):
        read_vectors(conn, workspace, READER, CORPUS, 3, "raw")


def test_a_corpus_cannot_leave_the_workspace(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="corpus"):
        vector_path(workspace, READER, "../up", "raw", 0)
