"""A run as a block of code: its row is opened before the work and closed however the work ends.

Knows nothing of what a run does.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stores.database import Connection
from stores.errors import QuotaUsedUp, Stopped
from stores.results import close_run, open_run

DONE, STOPPED = "done", "stopped"


@dataclass(slots=True)
class Run:
    """An open run; set `outcome` to STOPPED when the user ended it before the work was done."""

    id: int
    outcome: str = DONE


@contextmanager
def recorded_run(
    conn: Connection, command: str, settings: Mapping[str, Any], **origin: str | None
) -> Iterator[Run]:
    """Open a run and close it: 'done', 'stopped' (by the user or a quota), or 'failed' and why.

    `origin` is what `open_run` takes besides. A killed engine leaves its run open, without an end.
    """
    run = Run(open_run(conn, command, dict(settings), **origin))
    try:
        yield run
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | QuotaUsedUp | Stopped)
        failure = f"failed: {type(error).__name__}: {error}"
        close_run(conn, run.id, STOPPED if stopped else failure)
        raise
    close_run(conn, run.id, run.outcome)
