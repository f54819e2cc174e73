"""Writes files so that they survive a crash: whole or not at all, and on the disk.

Knows nothing of what the bytes mean.
"""

import os
import secrets
from pathlib import Path

from stores.errors import EngineError

PARTIAL_SUFFIX = ".partial"


def write_file_atomically(path: Path, payload: bytes | memoryview, *, folders: int = 1) -> None:
    """Put `payload` at `path`: readers see the old file or the new one, never a part.

    Missing folders are made. When this returns, the file is on the disk and so are the entries of
    that many `folders` above it, which a killed run may have made and not synced.

    Raises:
        EngineError: the bytes could not be written; whatever stood at `path` is untouched.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        make_folder(path.parent)
        try:
            with partial.open("xb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        for folder in path.parents[:folders]:
            sync(folder)
    except OSError as error:
        raise EngineError(
            f"{path} could not be written ({error.strerror}): free space or check its folder's "
            "permissions, then run the same command again"
        ) from error


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, each one's entry synced to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk.

    A new file survives a power loss only once both it and the folder that names it are synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
