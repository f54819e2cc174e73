import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.common import JSON

from stores.arrays import (
    array_metadata,
    chunk_fault,
    chunk_path,
    describe_chunk,
    encode_chunk,
    find_chunks,
    find_partials,
    read_block,
    read_metadata,
    require_array,
    write_block,
    write_payload,
)
from stores.errors import EngineError, FingerprintMismatch, NotReady, StoreCorrupt
from tests.stores.arranged import files_below

NAME = "main/stories/layer_0"
ATTRIBUTES: dict[str, JSON] = {"model": "toy", "layer": 0}
BLOCK = np.arange(12, dtype=np.float32).reshape(4, 3)


def require(root: Path, rows: int = 6, **attributes: object) -> Path:
    wanted = array_metadata(rows, 3, 4, "float32", {**ATTRIBUTES, **attributes})
    return require_array(root, NAME, wanted)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "activations" / "toy.zarr"


def test_plain_zarr_reads_arrays_groups_and_attributes(root: Path) -> None:
    path = require(root)
    write_block(path, 0, BLOCK)
    write_block(path, 1, BLOCK[:2] + 100)
    array = zarr.open_array(path, mode="r")
    assert (array.shape, array.chunks) == ((6, 3), (4, 3))
    assert array.dtype == np.float32
    assert dict(array.attrs) == ATTRIBUTES
    np.testing.assert_array_equal(array[:], np.vstack([BLOCK, BLOCK[:2] + 100]))
    group = zarr.open_group(root, mode="r")["main/stories"]
    assert isinstance(group, zarr.Group)
    assert list(group.array_keys()) == ["layer_0"]


def test_our_metadata_is_what_zarr_itself_would_write(root: Path) -> None:
    path = require(root)
    zarr.create_array(
        root / "by_zarr",
        shape=(6, 3),
        chunks=(4, 3),
        dtype="float32",
        fill_value=np.nan,
        compressors=[Crc32cCodec()],
        attributes={**ATTRIBUTES},
    )
    assert read_metadata(path) == read_metadata(root / "by_zarr")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [3, 4, 6, 8])
def test_our_chunks_are_the_bytes_that_zarr_itself_would_write(
    root: Path, dtype: str, rows: int
) -> None:
    block = np.random.default_rng(0).standard_normal((rows, 3)).astype(dtype)
    block[1] = np.nan
    wanted = array_metadata(rows, 3, 4, dtype, ATTRIBUTES)
    path = require_array(root, NAME, wanted)
    for chunk in range((rows + 3) // 4):
        write_block(path, chunk, block[4 * chunk : 4 * chunk + 4])
    array = zarr.create_array(
        root / "by_zarr",
        shape=(rows, 3),
        chunks=(4, 3),
        dtype=dtype,
        fill_value=np.nan,
        compressors=[Crc32cCodec()],
    )
    array[:] = block
    assert files_below(path / "c") == files_below(root / "by_zarr" / "c")


def test_rows_without_a_place_are_nan_in_the_bytes_of_a_chunk(root: Path) -> None:
    path = require(root)
    wanted = read_metadata(path)
    assert wanted is not None
    places = np.array([3, 0])
    write_payload(path, 0, encode_chunk(wanted, 0, BLOCK[:2], places))
    stored = read_block(path, slice(0, 4))
    np.testing.assert_array_equal(stored[[3, 0]], BLOCK[:2])
    assert np.isnan(stored[1:3]).all()


def test_a_place_beyond_the_rows_of_the_array_is_refused(root: Path) -> None:
    wanted = array_metadata(6, 3, 4, "float32", ATTRIBUTES)
    with pytest.raises(ValueError, match=r"does not fit chunk 1 \(2, 3\)"):
        encode_chunk(wanted, 1, BLOCK[:1], np.array([2]))


def test_requiring_twice_changes_nothing(root: Path) -> None:
    write_block(require(root), 0, BLOCK)
    before = files_below(root)
    require(root)
    assert files_below(root) == before


def test_an_array_grows_and_never_shrinks(root: Path) -> None:
    path = require(root)
    write_block(path, 0, BLOCK)
    require(root, 9)
    require(root, 5)
    assert zarr.open_array(path).shape == (9, 3)
    np.testing.assert_array_equal(read_block(path, slice(0, 4)), BLOCK)
    assert np.isnan(read_block(path, slice(4, 9))).all()


def test_notes_of_users_in_the_attributes_are_kept(root: Path) -> None:
    path = require(root)
    zarr.open_array(path, mode="r+").attrs["note"] = "mine"
    require(root, 9)
    assert dict(zarr.open_array(path).attrs) == {**ATTRIBUTES, "note": "mine"}


def test_other_settings_are_refused_naming_each_difference(root: Path) -> None:
    require(root)
    with pytest.raises(FingerprintMismatch, match=r"model \(stored 'toy', now 'big'\)") as raised:
        require(root, model="big")
    assert "layer_0" in str(raised.value)
    assert "--reader" in str(raised.value)
    other = array_metadata(6, 5, 2, "float64", ATTRIBUTES)
    with pytest.raises(FingerprintMismatch, match=r"data_type.*float64.*chunk_grid.*columns"):
        require_array(root, NAME, other)


@pytest.mark.parametrize("torn", ["", '{"shape": [6,', "[]", "{}", '{"node_type": "array"}', None])
@pytest.mark.parametrize("node", [NAME, "main/stories", "main", "."])
def test_torn_metadata_is_written_anew_over_the_chunks(
    root: Path, torn: str | None, node: str
) -> None:
    path = require(root)
    write_block(path, 0, BLOCK)
    before = files_below(root)
    if torn is None:
        (root / node / "zarr.json").unlink()
    else:
        (root / node / "zarr.json").write_text(torn)
    require(root)
    assert files_below(root) == before


def test_the_same_rows_give_the_same_bytes_whatever_was_there(root: Path) -> None:
    path = require(root, 6)
    write_block(path, 1, BLOCK[:1])
    require(root, 8)
    chunk_path(path, 1).write_bytes(b"torn")
    again = write_block(path, 1, BLOCK[:3])
    fresh = root.parent / "fresh.zarr"
    first = write_block(require(fresh, 7), 1, BLOCK[:3])
    assert again == first
    assert chunk_path(path, 1).read_bytes() == chunk_path(fresh / NAME, 1).read_bytes()


def test_a_chunk_without_numbers_is_a_file_too(root: Path) -> None:
    path = require(root)
    written = write_block(path, 0, np.full((4, 3), np.nan, dtype=np.float32))
    assert chunk_fault(chunk_path(path, 0), written) is None


@pytest.mark.parametrize("shape", [(5, 3), (4, 2), (4,)])
def test_a_block_that_does_not_fit_is_refused(root: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit chunk 0"):
        write_block(require(root), 0, np.zeros(shape, dtype=np.float32))


def test_a_chunk_beyond_the_array_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="does not fit chunk 7"):
        write_block(require(root), 7, BLOCK)


def test_a_full_disk_is_told_with_the_place_and_the_next_step(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = require(root)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"layer_0/c/0/0 .*No space left.*free space.*again"):
        write_block(path, 0, BLOCK)


def test_faults_of_a_chunk_file_are_told_apart(root: Path) -> None:
    path = require(root)
    receipt = write_block(path, 0, BLOCK)
    file = chunk_path(path, 0)
    whole = file.read_bytes()
    assert (receipt.size, describe_chunk(file)) == (len(whole), receipt)
    assert chunk_fault(file, receipt) is None
    file.write_bytes(whole[:-1])
    assert chunk_fault(file, receipt) == f"{len(whole) - 1} bytes instead of {len(whole)}"
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert "instead of sha256:" in str(chunk_fault(file, receipt))
    file.unlink()
    assert chunk_fault(file, receipt) == "the file is missing"


def test_damaged_bytes_are_never_returned_as_numbers(root: Path) -> None:
    path = require(root)
    write_block(path, 0, BLOCK)
    file = chunk_path(path, 0)
    whole = file.read_bytes()
    for damaged in (bytes([whole[0] ^ 1]) + whole[1:], whole[:9], b""):
        file.write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match=r"layer_0.*doctor --repair"):
            read_block(path, slice(0, 4))


def test_an_array_that_is_not_there_is_not_ready(root: Path) -> None:
    with pytest.raises(NotReady, match=r"layer_0 is not there.*extract"):
        read_block(root / NAME, slice(None))


def test_chunks_and_leftovers_are_found(root: Path) -> None:
    path = require(root)
    write_block(path, 1, BLOCK[:2])
    write_block(path, 0, BLOCK)
    left = [path / "c" / "0" / "0.12.partial", root / ".zarr.json.ab.partial"]
    for file in left:
        file.touch()
    assert find_chunks(root.parent) == [chunk_path(path, 0), chunk_path(path, 1)]
    assert find_partials(root.parent) == sorted(left)
