"""Passes answers on in groups, and after a stop waits a little for those that are nearly there.

Knows nothing of texts, rows or backends.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator
from typing import TypeVar

POLL_SECONDS = 0.1
MAX_GROUP = 256

Answer = TypeVar("Answer")


async def drain(
    answers: AsyncGenerator[Answer, None], stop: threading.Event, *, seconds: float
) -> AsyncGenerator[list[Answer], None]:
    """Yield what has arrived together, as soon as it has; never an empty group.

    Once `stop` is set, only answers that arrive within `seconds` are passed on. The source is
    closed on leaving, which tells a backend to abandon what it has not finished.
    """
    deadline = math.inf
    arriving = asyncio.ensure_future(anext(answers))
    try:
        while time.monotonic() < deadline:
            await asyncio.wait({arriving}, timeout=POLL_SECONDS)
            group: list[Answer] = []
            while arriving.done() and arriving.exception() is None and len(group) < MAX_GROUP:
                group.append(arriving.result())
                arriving = asyncio.ensure_future(anext(answers))
                await asyncio.sleep(0)  # an answer that is there already arrives in this step
            if group:
                yield group
            elif arriving.done() and isinstance(arriving.exception(), StopAsyncIteration):
                return
            elif arriving.done():
                arriving.result()
            if stop.is_set():
                deadline = min(deadline, time.monotonic() + seconds)
    finally:
        if arriving.cancel():
            await asyncio.wait({arriving})
        await answers.aclose()
