"""Answers requests with a model loaded here; each reply as soon as its last token is written.

A row's random numbers are its own, so that its text is the same in any batch, but for the rare
token whose probability rounding moves across a random number: the stored text, not the seed, is
the record. Knows nothing of emotions, topics or databases.
"""

from collections.abc import AsyncGenerator, Callable

from engine.backends.base import Failure, Reply, Requests
from engine.backends.continuous import ContinuousDecoder
from engine.backends.joining import joining_obstacle
from engine.backends.rows import TokenBudget
from engine.backends.static import StaticDecoder
from engine.backends.writing import Writing
from engine.models import Model


class LocalBackend:
    """A `Backend` over a loaded model.

    `mode` is 'continuous' where a waiting request takes the place of a finished one at once, and
    'static' for models that cannot: batches that wait for their slowest row. At most `workers` rows
    are in flight, and their number times the longest prompt and answer stays within
    `tokens_per_batch` (None: no bound). When memory runs short, the bound is halved, `remember` is
    told (in the event loop's thread) and the same rows go on. A row too large even alone fails.
    """

    name, in_process = "local", True

    def __init__(
        self,
        model: Model,
        *,
        workers: int,
        tokens_per_batch: int | None = None,
        remember: Callable[[int], None] = lambda _tokens: None,
    ) -> None:
        self._model = model
        self._budget = TokenBudget(workers, tokens_per_batch)
        self._remember = remember
        self._obstacle = joining_obstacle(model)
        self._shrunk = False
        self.model = model.name
        self.revision: str | None = model.revision
        self.mode = "static" if self._obstacle else "continuous"

    async def generate(self, requests: Requests) -> AsyncGenerator[Reply | Failure, None]:
        """Yield each answer when it is there. Closing it ends the work within one step."""
        static = self.mode == "static"
        decoder = StaticDecoder(self._model) if static else ContinuousDecoder(self._model)
        writing = Writing(self._model, decoder, self._budget, requests, self._shrink)
        try:
            while await writing.start():
                while writing.answers:
                    yield writing.answers.popleft()
                await writing.wait()
        finally:
            await writing.close()

    def note(self) -> str:
        """Why batches wait for their slowest row, and that memory ran short."""
        notes = [f"static batches: {self._obstacle}"] if self._obstacle else []
        if self._shrunk:
            notes.append(f"memory ran short: {self._budget.tokens} tokens at once")
        return "; ".join(notes)

    def _shrink(self, tokens: int) -> None:
        self._shrunk = True
        self._remember(tokens)
