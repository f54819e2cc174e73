"""Where things are in a workspace, and the lock that lets one engine at a time write to it.

Knows nothing of what the files hold.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stores.database import now_text
from stores.errors import LedgerError, UsageError, WorkspaceBusy
from stores.files import make_folder

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")  # with a suffix, a file's name


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder that holds a ledger, arrays and results."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "data" / "emovec.db"

    @property
    def lock(self) -> Path:
        return self.root / "data" / "emovec.lock"

    def activations(self, reader: str) -> Path:
        """The Zarr group of one reader's pooled activations."""
        return self.root / "data" / "activations" / f"{require_slug(reader, 'reader')}.zarr"

    def vectors(self, reader: str) -> Path:
        """The Zarr group of one reader's emotion vectors."""
        return self.root / "data" / "vectors" / f"{require_slug(reader, 'reader')}.zarr"

    def saes(self, reader: str) -> Path:
        """The folder of the SAEs that were trained on one reader, a folder each."""
        return self.root / "data" / "saes" / require_slug(reader, "reader")

    def results(self, reader: str) -> Path:
        """The folder of one reader's exported tables and figures."""
        return self.root / "results" / require_slug(reader, "reader")


def require_slug(name: str, role: str) -> str:
    """`name` if it is safe as the name of a folder; else UsageError naming its `role`."""
    if _SLUG.fullmatch(name) is None:
        raise UsageError(
            f"{role} {name!r} is no slug: use letters, digits, '.', '_' and '-', at most 120, "
            "and begin with a letter or a digit"
        )
    return name


@contextmanager
def engine_lock(workspace: Workspace, command: str) -> Iterator[None]:
    """Hold the workspace for one writing engine; readers need no lock.

    The operating system drops the lock when the process ends, however it ends.

    Raises:
        WorkspaceBusy: another engine holds it; the message names that one.
        LedgerError: the lock file cannot be made or locked.
    """
    descriptor = _open_lock(workspace, command)
    try:
        yield
    finally:
        # an explicit unlock frees it even while a forked child keeps the descriptor open
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _open_lock(workspace: Workspace, command: str) -> int:
    try:
        make_folder(workspace.lock.parent)
        descriptor = os.open(workspace.lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LedgerError(_unusable(workspace, error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_holder(descriptor, command)
    except BlockingIOError as error:
        holder = _describe_holder(descriptor)
        os.close(descriptor)
        raise WorkspaceBusy(
            f"workspace {workspace.root} is in use by {holder}: wait until it ends or stop it; "
            "commands that only read (status, sql) work meanwhile"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise LedgerError(_unusable(workspace, error)) from error
    return descriptor


def _write_holder(descriptor: int, command: str) -> None:
    holder = {
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "command": command,
        "started_at": now_text(),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _describe_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return "`{command}` (pid {pid} on {host}, since {started_at})".format(**holder)
    except (ValueError, KeyError, TypeError):
        # the holder has locked the file and not yet written who it is
        return "another engine"


def _unusable(workspace: Workspace, error: OSError) -> str:
    return (
        f"{workspace.lock} cannot be locked ({error.strerror}): choose a --workspace on a local "
        "disk that you may write to"
    )
