from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr

from stores.activations import (
    ArraySettings,
    layer_path,
    open_arrays,
    sweep_partials,
)
from stores.corpora import rebind_corpus
from stores.database import Connection, open_database
from stores.errors import FingerprintMismatch, UsageError
from stores.layers import read_layer
from stores.receipts import chunk_length
from stores.rows import read_rows
from stores.workspace import Workspace
from tests.stores.arranged import (
    CHUNK_ROWS,
    CORPUS,
    HERE,
    LAYERS,
    READER,
    SETTINGS,
    add_texts,
    change_text,
    extract,
    files_below,
    import_set,
    numbers,
    settings_with,
)


def begin(conn: Connection, workspace: Workspace, settings: ArraySettings) -> None:
    """Arrays that have something on the disk: from then on their settings bind."""
    open_arrays(conn, workspace, *HERE, settings, CHUNK_ROWS)
    workspace.activations(READER).mkdir(parents=True)


def expected(conn: Connection, layer: int) -> np.ndarray:
    return np.stack([numbers(layer, row.text_sha, 5) for row in read_rows(conn, *HERE)])


def test_what_is_written_is_read_back_by_us_and_by_plain_zarr(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 10)
    assert extract(conn, workspace) == [0, 1, 2]
    for layer in LAYERS:
        ours = read_layer(workspace, *HERE, layer)
        np.testing.assert_array_equal(ours, expected(conn, layer))
        array = zarr.open_array(
            workspace.root / f"data/activations/toy.zarr/main/stories/layer_{layer}"
        )
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(array[:], ours)
        assert array.dtype == np.float32
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 2, slice(3, 6)), ours[3:6])
    assert {row.status for row in read_rows(conn, *HERE)} == {"done"}


def test_the_attributes_of_an_array_tell_what_it_is(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 1)
    extract(conn, workspace, [2])
    attributes = dict(zarr.open_array(layer_path(workspace, *HERE, 2), mode="r").attrs)
    assert attributes == {
        "model": "toy/model",
        "revision": "r1",
        "weights_sha": "sha256:1",
        "layer": 2,
        "n_layers": 3,
        "d_model": 5,
        "start_token": 50,
        "format": "raw",
        "dtype": "float32",
        "protocol_digest": "sha256:p",
        "bos_counted": False,
    }


def test_a_second_run_finds_nothing_to_do(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 6)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    assert extract(conn, workspace) == []
    assert files_below(workspace.activations(READER)) == before


def test_new_layers_extend_what_is_there(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 6)
    extract(conn, workspace, [0])
    before = files_below(layer_path(workspace, *HERE, 0))
    assert extract(conn, workspace, [0, 1]) == [0, 1]
    assert files_below(layer_path(workspace, *HERE, 0)) == before
    np.testing.assert_array_equal(read_layer(workspace, *HERE, 1), expected(conn, 1))


def test_growing_in_steps_gives_the_bytes_of_one_go(
    conn: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    for n in (3, 6, 7):
        add_texts(conn, n)
        extract(conn, workspace)
    other = Workspace(tmp_path / "other")
    with closing(open_database(other.database)) as fresh:
        add_texts(fresh, 7)
        extract(fresh, other)
    assert files_below(workspace.activations(READER)) == files_below(other.activations(READER))


OTHERWISE = {
    "model": "toy/other",
    "revision": "r2",
    "weights_sha": "sha256:2",
    "n_layers": 4,
    "d_model": 6,
    "start_token": 0,
    "format": "chat",
    "dtype": "bfloat16",
    "bos_counted": True,
}


@pytest.mark.parametrize("field", OTHERWISE)
@pytest.mark.parametrize("corpus", [CORPUS, "other"])
@pytest.mark.parametrize("kind", ["stories", "dialogues"])
def test_other_settings_are_refused_with_both_values_and_the_way_out(
    conn: Connection, workspace: Workspace, field: str, corpus: str, kind: str
) -> None:
    begin(conn, workspace, SETTINGS)
    changed = settings_with(**{field: OTHERWISE[field]})
    with pytest.raises(FingerprintMismatch) as raised:
        open_arrays(conn, workspace, READER, corpus, kind, changed, CHUNK_ROWS)  # type: ignore[arg-type]
    stored, now = getattr(SETTINGS, field), getattr(changed, field)
    assert f"{field} (stored {stored!r}, now {now!r})" in str(raised.value)
    assert "--reader" in str(raised.value)
    assert conn.execute("SELECT count(*) FROM arrays").fetchone()[0] == 1


@pytest.mark.parametrize("stored", ["bfloat16", "nf4+bfloat16", "nf4+float32"])
@pytest.mark.parametrize("now", ["bfloat16", "nf4+bfloat16", "nf4+float32"])
def test_weights_of_four_bits_are_another_type_of_numbers(
    conn: Connection, workspace: Workspace, stored: str, now: str
) -> None:
    begin(conn, workspace, settings_with(dtype=stored))
    if stored == now:
        open_arrays(conn, workspace, *HERE, settings_with(dtype=now), CHUNK_ROWS)
        return
    with pytest.raises(FingerprintMismatch) as raised:
        open_arrays(conn, workspace, *HERE, settings_with(dtype=now), CHUNK_ROWS)
    assert f"other settings: dtype (stored {stored!r}, now {now!r}); go back" in str(raised.value)


def test_a_plan_alone_binds_nobody(conn: Connection, workspace: Workspace) -> None:
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    changed = settings_with(start_token=7)
    open_arrays(conn, workspace, *HERE, changed, CHUNK_ROWS + 1)
    assert chunk_length(conn, *HERE) == CHUNK_ROWS + 1
    workspace.activations(READER).mkdir(parents=True)
    with pytest.raises(FingerprintMismatch, match="start_token"):
        open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)


def test_arrays_of_before_the_bos_was_stored_did_not_count_it(
    conn: Connection, workspace: Workspace
) -> None:
    begin(conn, workspace, SETTINGS)
    conn.execute("UPDATE arrays SET settings = json_remove(settings, '$.bos_counted')")
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    with pytest.raises(FingerprintMismatch, match="bos_counted"):
        open_arrays(conn, workspace, *HERE, settings_with(bos_counted=True), CHUNK_ROWS)


def test_every_setting_of_an_array_is_compared() -> None:
    assert {*OTHERWISE, "protocol_digest"} == set(ArraySettings.__dataclass_fields__)


def test_every_difference_is_named(conn: Connection, workspace: Workspace) -> None:
    begin(conn, workspace, SETTINGS)
    changed = settings_with(model="m2", dtype="bfloat16")
    with pytest.raises(FingerprintMismatch, match=r"model \(.*\), dtype \(.*\)"):
        open_arrays(conn, workspace, *HERE, changed, CHUNK_ROWS)


def test_another_corpus_may_follow_another_protocol(conn: Connection, workspace: Workspace) -> None:
    begin(conn, workspace, SETTINGS)
    other = settings_with(protocol_digest="sha256:q")
    open_arrays(conn, workspace, READER, "other", "stories", other, CHUNK_ROWS)
    with pytest.raises(FingerprintMismatch, match="protocol_digest"):
        open_arrays(conn, workspace, READER, CORPUS, "dialogues", other, CHUNK_ROWS)


def test_a_corpus_bound_to_another_protocol_is_read_again_only_where_texts_changed(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 6)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    bound = settings_with(protocol_digest="sha256:q")
    with pytest.raises(FingerprintMismatch, match="protocol_digest"):
        extract(conn, workspace, settings=bound)
    rebind_corpus(conn, CORPUS, "sha256:q", {"leaks.tsv": "sha256:l"})
    assert extract(conn, workspace, settings=bound) == []
    assert files_below(workspace.activations(READER)) == before
    change_text(conn, 5, "other words")
    assert extract(conn, workspace, settings=bound) == [1]


def test_another_reader_may_have_any_settings(conn: Connection, workspace: Workspace) -> None:
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    open_arrays(conn, workspace, "big", CORPUS, "stories", settings_with(model="b"), CHUNK_ROWS)


def test_a_reader_of_imported_vectors_reads_nothing_here(
    conn: Connection, workspace: Workspace
) -> None:
    import_set(conn, workspace, "theirs", "imported")
    with pytest.raises(UsageError, match="theirs is the name of imported vectors"):
        open_arrays(conn, workspace, "theirs", CORPUS, "stories", SETTINGS, CHUNK_ROWS)
    assert conn.execute("SELECT count(*) FROM arrays").fetchone()[0] == 0
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)


def test_arrays_keep_their_chunks(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 6)
    extract(conn, workspace, [0])
    extract(conn, workspace, [1], chunk_rows=512)
    assert zarr.open_array(layer_path(workspace, *HERE, 1)).chunks == (CHUNK_ROWS, 5)


def test_opening_restores_metadata_that_a_crash_tore(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 6)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    (layer_path(workspace, *HERE, 0) / "zarr.json").write_bytes(b"")
    (workspace.activations(READER) / "main" / "zarr.json").unlink()
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    assert files_below(workspace.activations(READER)) == before


def test_leftovers_of_a_killed_writer_are_swept(conn: Connection, workspace: Workspace) -> None:
    assert sweep_partials(workspace, READER) == 0
    add_texts(conn, 4)
    extract(conn, workspace)
    before = files_below(workspace.activations(READER))
    (layer_path(workspace, *HERE, 0) / "c" / "0" / "0.1f.partial").touch()
    assert sweep_partials(workspace, READER) == 1
    assert files_below(workspace.activations(READER)) == before
