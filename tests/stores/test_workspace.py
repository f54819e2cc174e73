import errno
import fcntl
import os
from pathlib import Path

import pytest

from stores.database import open_database
from stores.errors import LedgerError, UsageError, WorkspaceBusy
from stores.workspace import Workspace, engine_lock, require_slug
from tests.conftest import StartChild, line_of

HOLD = """
import sys
from pathlib import Path
from stores.workspace import Workspace, engine_lock
with engine_lock(Workspace(Path(sys.argv[1])), "generate stories"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_everything_is_inside_the_root() -> None:
    workspace = Workspace(Path("w"))
    assert workspace.database == Path("w/data/emovec.db")
    assert workspace.activations("toy") == Path("w/data/activations/toy.zarr")
    assert workspace.vectors("toy") == Path("w/data/vectors/toy.zarr")
    assert workspace.results("toy") == Path("w/results/toy")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".hidden", "a b", "a\n"])
def test_a_name_that_could_leave_the_workspace_is_refused(name: str) -> None:
    workspace = Workspace(Path("w"))
    for place in (workspace.activations, workspace.vectors, workspace.results):
        with pytest.raises(UsageError, match="reader"):
            place(name)


def test_a_slug_passes_unchanged() -> None:
    assert require_slug("gemma-3_4b.it", "reader") == "gemma-3_4b.it"


def test_a_second_engine_is_refused_and_told_who_holds_the_lock(
    workspace: Workspace, start_child: StartChild
) -> None:
    holder = start_child(HOLD, workspace.root)
    assert line_of(holder) == "locked"
    with (
        pytest.raises(WorkspaceBusy, match=rf"`generate stories` \(pid {holder.pid} on "),
        engine_lock(workspace, "extract"),
    ):
        pass


def test_the_lock_of_a_killed_engine_is_free(workspace: Workspace, start_child: StartChild) -> None:
    holder = start_child(HOLD, workspace.root)
    assert line_of(holder) == "locked"
    holder.kill()
    holder.wait()
    with engine_lock(workspace, "extract"):
        assert f'"pid": {os.getpid()}' in workspace.lock.read_text()


def test_the_lock_is_free_after_the_block_and_after_an_error_in_it(workspace: Workspace) -> None:
    with pytest.raises(KeyError), engine_lock(workspace, "extract"):
        raise KeyError
    with engine_lock(workspace, "a command with a longer name than before"):
        pass
    with engine_lock(workspace, "x"):
        assert '"command": "x"' in workspace.lock.read_text()
        with pytest.raises(WorkspaceBusy, match="`x`"), engine_lock(workspace, "y"):
            pass


def test_a_child_that_outlives_the_block_does_not_keep_the_lock(workspace: Workspace) -> None:
    with engine_lock(workspace, "extract"):
        child = os.fork()
        if child == 0:  # inherits the descriptor, as the workers of a data loader do
            os.read(os.pipe()[0], 1)
    try:
        with engine_lock(workspace, "extract"):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_readers_need_no_lock(workspace: Workspace) -> None:
    open_database(workspace.database).close()
    with engine_lock(workspace, "extract"):
        open_database(workspace.database, read_only=True).close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_holder_that_has_not_named_itself_yet_is_another_engine(
    workspace: Workspace, content: str
) -> None:
    with engine_lock(workspace, "extract"):
        workspace.lock.write_text(content)
        with (
            pytest.raises(WorkspaceBusy, match="in use by another engine"),
            engine_lock(workspace, "extract"),
        ):
            pass


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LedgerError, match="cannot be locked"),
        engine_lock(Workspace(tmp_path / "file"), "extract"),
    ):
        pass


def test_a_file_system_without_locks_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(LedgerError, match=r"No locks available.*local disk"),
        engine_lock(workspace, "extract"),
    ):
        pass
