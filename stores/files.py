"""Writes files so that they survive a crash: whole or not at all, and on the disk.

Knows nothing of what the bytes mean.
"""

import os
import secrets
from pathlib import Path

from stores.errors import EngineError

PARTIAL_SUFFIX = ".partial"


def write_file_atomically(path: Path, payload: bytes) -> None:
    """Put `payload` at `path`: readers see the old file or the new one, never a part.

    Missing folders are made. When this returns, file and folder entry are on the disk.

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
        sync(path.parent)
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
