"""One run of a local model: takes requests as room frees, decodes in a thread, collects answers.

The event loop stays free, and answers are passed on while the next steps are computed. Knows
nothing of caches or sampling.
"""

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch

from engine.backends.base import Failure, Reply, Request, Requests
from engine.backends.rows import IDLE_SHARE, Row, TokenBudget, longest
from engine.backends.sampling import row_numbers
from engine.memory import is_out_of_memory
from engine.models import Model
from engine.tokens import encode_prompt

SORTED_BATCHES = 4
"""Where batches wait for their slowest row, so many are taken at once and cut from one sorting."""


class Decoder(Protocol):
    """Writes rows. Runs in one thread; an error leaves rows that only `clear` may follow."""

    mode: str

    def admit(self, newcomers: Sequence[Row]) -> list[Row]:
        """Take rows in; returns those that are done at once."""
        ...

    def advance(self, pause: threading.Event) -> list[Row]:
        """Write until rows are done or `pause` is set; returns the rows that are done now."""
        ...

    def clear(self) -> None:
        """Forget all rows."""
        ...


class Writing:
    """The rows of one run: waiting, active, answered."""

    def __init__(
        self,
        model: Model,
        decoder: Decoder,
        budget: TokenBudget,
        requests: Requests,
        shrink: Callable[[int], None],
    ) -> None:
        self.answers: deque[Reply | Failure] = deque()
        self._model = model
        self._decoder = decoder
        self._budget = budget
        self._requests = requests
        self._shrink = shrink
        self._static = decoder.mode == "static"
        self._context = model.context or sys.maxsize
        self._waiting: list[Row] = []
        self._active: list[Row] = []
        self._over = False
        self._pause = threading.Event()
        self._taking: asyncio.Task[list[Request]] | None = None
        self._working: asyncio.Future[list[Row]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local model")

    async def start(self) -> bool:
        """Take what there is room for and start the next steps; False: all is answered."""
        while len(self.answers) <= self._budget.workers:  # more are failures, to be passed on first
            if self._taking is None:
                if self._over or self._room() <= 0:
                    break
                self._taking = asyncio.create_task(self._requests.take(self._room()))
            await asyncio.wait({self._taking}, timeout=0)
            if not self._taking.done():
                break
            await self._receive(self._taking.result())
        newcomers = self._newcomers()
        self._active += newcomers
        if self._active:
            self._pause.clear()
            loop = asyncio.get_running_loop()
            self._working = loop.run_in_executor(self._thread, self._work, newcomers)
        return bool(self._working or self._taking or self.answers)

    async def wait(self) -> None:
        """Wait until rows are done, or requests have come that can join them."""
        under_way = self._under_way()
        if self._static and self._working is not None:
            under_way = {self._working}
        if under_way:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        if self._working is not None:
            self._pause.set()
            await asyncio.wait({self._working})
            self._collect()

    async def close(self) -> None:
        """Abandon what is unanswered; no thread is left when this returns."""
        self._pause.set()
        if self._taking is not None:
            self._taking.cancel()
        under_way = self._under_way()
        try:
            if under_way:
                await asyncio.wait(under_way)
        finally:
            self._thread.shutdown()
            self._decoder.clear()
        for task in under_way:
            if not task.cancelled():
                task.exception()  # abandoned with the rest

    def _under_way(self) -> set[asyncio.Future[Any]]:
        return {task for task in (self._working, self._taking) if task is not None}

    def _room(self) -> int:
        """How many requests to take now."""
        rows = [*self._active, *self._waiting]
        if self._static:
            return 0 if self._active else SORTED_BATCHES * self._budget.workers - len(rows)
        return self._free(self._budget.places(longest(rows)), rows)

    def _free(self, places: int, rows: Sequence[Row]) -> int:
        """How many places these rows leave free, once they are worth filling."""
        free = places - len(rows)
        return free if not rows or IDLE_SHARE * free >= places else 0

    async def _receive(self, taken: list[Request]) -> None:
        self._taking = None
        self._over = not taken
        loop = asyncio.get_running_loop()
        for row in await loop.run_in_executor(self._thread, self._rows, taken):
            if row.limit > 0:
                self._waiting.append(row)
            else:
                reason = f"prompt_too_long: {row.length} tokens, the context is {self._context}"
                self._fail(row, reason)
        if self._static:
            self._waiting.sort(key=lambda row: row.length)

    def _rows(self, taken: Sequence[Request]) -> list[Row]:
        return [self._row(request) for request in taken]

    def _row(self, request: Request) -> Row:
        prompt = encode_prompt(self._model.tokenizer, request.prompt)
        limit = min(request.max_tokens, self._context - len(prompt))
        # one more than it has tokens: it is drawn for once more before it is dropped
        numbers = row_numbers(request.seed, max(limit, 0) + 1)
        return Row(request=request, prompt=prompt, limit=limit, numbers=numbers)

    def _newcomers(self) -> list[Row]:
        """The waiting rows whose turn it is; they wait no more."""
        rows, places = list(self._active), self._budget.workers
        for row in self._waiting:
            cost = longest([*rows, row])
            places = self._budget.places(cost)
            if len(rows) >= places or (self._static and rows and cost > self._context):
                break
            rows.append(row)
        if not self._free(places, self._active):
            return []
        newcomers = rows[len(self._active) :]
        self._waiting = self._waiting[len(newcomers) :]
        for row in newcomers:
            row.started = time.perf_counter()
        return newcomers

    def _work(self, newcomers: Sequence[Row]) -> list[Row]:
        """In the thread: read the newcomers, then write until something is done."""
        done = self._decoder.admit(newcomers) if newcomers else []
        return done or self._decoder.advance(self._pause)

    def _collect(self) -> None:
        """Turn what the thread has done into answers. Raises what the thread raised."""
        working, self._working = self._working, None
        try:
            done = working.result() if working else []
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            done = None
        if done is None:  # outside of the handler, whose error still holds the thread's tensors
            self._give_way()
            return
        self.answers += [self._reply(row) for row in done]
        self._active = [row for row in self._active if not row.done]

    def _give_way(self) -> None:
        """After an out-of-memory error: the same rows again, fewer at once."""
        rows, self._active = self._active, []
        self._decoder.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(rows) > 1:
            self._shrink(self._budget.halve(rows))
            self._waiting = rows + self._waiting
            return
        for row in rows:
            device = self._model.device
            self._fail(row, f"out_of_memory: {row.cost} tokens do not fit {device} even alone")

    def _fail(self, row: Row, reason: str) -> None:
        self.answers.append(Failure(key=row.request.key, reason=reason, final=True))

    def _reply(self, row: Row) -> Reply:
        return Reply(
            key=row.request.key,
            text=str(self._model.tokenizer.decode(row.tokens, skip_special_tokens=True)),
            finish_reason="stop" if row.ended else "length",
            prompt_tokens=len(row.prompt),
            output_tokens=len(row.tokens),
            latency_s=time.perf_counter() - row.started,
        )
