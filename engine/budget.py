"""How many tokens extraction reads at once: what was asked, less where memory ran short.

Knows nothing of models, batches or allocators: the caller says what failed and what went well.
"""

from collections.abc import Callable
from functools import partial

from stores.budgets import remember_budget, remembered_budget
from stores.database import Connection

STAGE = "extract"
# Measured on a CPU: what a batch touches should stay in its caches. On cards nothing was measured.
DEFAULT_TOKENS = {"cpu": 1024}
DEFAULT_ELSEWHERE = 16_384
GROW_AFTER, GROW_BY = 16, 8
"""After so many batches that went well, by one in so many; twice as late when that failed."""


class ExtractionBudget:
    """The tokens of one batch at most: halved when one does not fit, grown back slowly.

    The same failures and successes always give the same sizes. `remember` is told each new size, so
    that the next run can start there. Raises ValueError for a size below 1.
    """

    def __init__(
        self,
        ceiling: int,
        *,
        start: int | None = None,
        remember: Callable[[int], None] = lambda _tokens: None,
    ) -> None:
        if ceiling < 1 or (start is not None and start < 1):
            raise ValueError(f"token budget {ceiling}, begun at {start}: at least 1 is needed")
        self._ceiling = ceiling
        self._tokens = ceiling if start is None else min(start, ceiling)
        self._remember = remember
        self._failed: list[int] = []
        self._went_well, self._patience = 0, GROW_AFTER
        self._grown = False

    @property
    def tokens(self) -> int:
        """What the next batch may hold."""
        return self._tokens

    @property
    def shrunk(self) -> bool:
        """Whether memory ran short in this run."""
        return bool(self._failed)

    def shrink(self, tokens: int) -> int:
        """A batch of `tokens` did not fit: half of it is what the next may hold; returned."""
        self._failed.append(tokens)
        self._patience *= 2 if self._grown else 1
        self._went_well, self._grown = 0, False
        self._settle(max(1, min(tokens, self._tokens) // 2))
        return self._tokens

    def succeed(self) -> None:
        """A batch fitted. Sixteen in a row win an eighth back, never what failed twice."""
        self._went_well += 1
        if self._went_well >= self._patience and self._tokens < self._limit():
            larger = self._tokens + max(1, self._tokens // GROW_BY)
            self._went_well, self._grown = 0, True
            self._settle(min(larger, self._limit()))

    def _limit(self) -> int:
        """The largest size for which at most one batch of that size or a smaller one failed."""
        return min([self._ceiling, *(tokens - 1 for tokens in sorted(self._failed)[1:2])])

    def _settle(self, tokens: int) -> None:
        if tokens != self._tokens:
            self._tokens = tokens
            self._remember(tokens)


def open_budget(
    conn: Connection, asked: int | None, *, model: str, device: str
) -> ExtractionBudget:
    """The budget of one run: what was asked, or what fitted before, or the device's default.

    `model` names a checkpoint and its compute type; `device` is 'cpu', 'cuda:0', ... . What was
    found out is kept in the ledger for the next run.
    """
    default = DEFAULT_TOKENS.get(device.partition(":")[0], DEFAULT_ELSEWHERE)
    place = (STAGE, model, device)
    known = remembered_budget(conn, *place) if asked is None else None
    remember = partial(remember_budget, conn, *place)
    return ExtractionBudget(asked or default, start=known, remember=remember)
