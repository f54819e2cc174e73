import errno
import os
import re
from pathlib import Path

import pytest

from stores.errors import EngineError
from stores.files import PARTIAL_SUFFIX, make_folder, sync, write_file_atomically
from tests.conftest import StartChild, line_of

REWRITE = """
import sys
from pathlib import Path
from stores.files import write_file_atomically
while True:
    for letter in (b"a", b"b"):
        write_file_atomically(Path(sys.argv[1]), letter * 3_000_000)
        print("written", flush=True)
"""


@pytest.fixture
def disk_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Records what is synced and renamed, in order."""
    steps: list[tuple[str, str]] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> Path:
        steps.append(("rename", target.name))
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return steps


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "results" / "toy" / "table.json"
    write_file_atomically(path, b"[]")
    assert path.read_bytes() == b"[]"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_file_atomically(tmp_path / "table.json", b"a longer old payload")
    write_file_atomically(tmp_path / "table.json", b"new")
    assert (tmp_path / "table.json").read_bytes() == b"new"


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, disk_steps: list[tuple[str, str]]
) -> None:
    write_file_atomically(tmp_path / "new" / "table.json", b"[]")
    folder, partial, rename, entry = disk_steps
    assert folder == ("sync", tmp_path.name)  # the entry of the folder that was made
    assert partial[0] == "sync"
    assert re.fullmatch(r"\.table\.json\.\w+\.partial", partial[1])
    assert rename == ("rename", "table.json")
    assert entry == ("sync", "new")


def test_a_full_disk_leaves_the_old_file_and_no_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    write_file_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"table\.json .*No space left.*free space"):
        write_file_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="could not be written") as raised:
        write_file_atomically(tmp_path / "file" / "table.json", b"")
    assert "\n" not in str(raised.value)


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, start_child: StartChild) -> None:
    path = tmp_path / "table"
    for kill in range(4):
        child = start_child(REWRITE, path)
        for _ in range(1 + kill):
            assert line_of(child) == "written"
        child.kill()
        child.wait()
        assert path.read_bytes() in {b"a" * 3_000_000, b"b" * 3_000_000}
    leftovers = {p for p in tmp_path.iterdir() if p.suffix == PARTIAL_SUFFIX}
    assert {path, *leftovers} == set(tmp_path.iterdir())


def test_every_new_folder_is_synced_into_its_parent(
    tmp_path: Path, disk_steps: list[tuple[str, str]]
) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert disk_steps == [("sync", tmp_path.name), ("sync", "a")]


def test_sync_takes_files_and_folders_and_closes_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    before = len(list(Path("/proc/self/fd").iterdir()))
    sync(tmp_path / "file")
    sync(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
