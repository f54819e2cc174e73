"""Which texts belong to a sample: those of the lowest ranks, or the first of a stream.

Memory follows the size of the sample, not that of the source. Knows nothing of files, hubs or the
ledger.
"""

import heapq
from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

from stores.errors import FingerprintMismatch

LOWEST = "lowest hashes of seed and text"
FIRST = "first distinct texts of the stream"


class Choice(Protocol):
    """Which texts belong to the sample, as far as is known."""

    @property
    def duplicates(self) -> int:
        """Further copies of texts that belong to it."""
        ...

    @property
    def full(self) -> bool:
        """No further text can enter."""
        ...

    def admit(self, text_sha: str) -> int | None:
        """The rank of a text that may belong to the sample; None for another, or a copy."""
        ...

    def holds(self, rank: int) -> bool:
        """Whether the text of that rank still belongs to it."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None:
        """The source has no more."""
        ...


class Lowest:
    """The lowest ranks of a source that is read whole."""

    full = False

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._copies: dict[int, int] = {}  # rank -> times seen
        self._highest: list[int] = []  # a heap of the same ranks, negative

    @property
    def duplicates(self) -> int:
        return sum(self._copies.values()) - len(self._copies)

    def admit(self, text_sha: str) -> int | None:
        rank = rank_of(text_sha, self._seed)
        if rank in self._copies:
            self._copies[rank] += 1
            return None
        if len(self._highest) < self._size:
            heapq.heappush(self._highest, -rank)
        elif rank < -self._highest[0]:
            del self._copies[-heapq.heapreplace(self._highest, -rank)]
        else:
            return None
        self._copies[rank] = 1
        return rank

    def holds(self, rank: int) -> bool:
        return rank in self._copies

    def __len__(self) -> int:
        return len(self._highest)

    def close(self) -> None:
        """Nothing is owed."""


class First:
    """The first distinct texts of a stream, which must be those that an earlier draw kept."""

    def __init__(self, source: str, size: int, kept: Mapping[int, str]) -> None:
        self._source, self._size, self._kept = source, size, kept
        self._seen: set[str] = set()
        self.duplicates = 0

    @property
    def full(self) -> bool:
        return len(self._seen) >= self._size

    def admit(self, text_sha: str) -> int | None:
        if text_sha in self._seen:
            self.duplicates += 1
            return None
        rank = len(self._seen)
        self._require(rank, text_sha)
        self._seen.add(text_sha)
        return rank

    def holds(self, rank: int) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._seen)

    def close(self) -> None:
        if len(self._seen) < len(self._kept):
            self._require(len(self._seen), "")

    def _require(self, rank: int, text_sha: str) -> None:
        if self._kept.get(rank, text_sha) != text_sha:
            raise FingerprintMismatch(
                f"{self._source}: document {rank + 1} is another than when this draw was begun: "
                "the stream has changed; draw a new sample with another --seed or --name"
            )


def rank_of(text_sha: str, seed: int) -> int:
    """A number below 2 ** 63 that looks random, fixed by the text and the seed.

    BLAKE2b (RFC 7693) of 8 bytes, less a bit: SQLite's integers have a sign.
    """
    return int.from_bytes(blake2b(f"{seed} {text_sha}".encode(), digest_size=8).digest()) >> 1
