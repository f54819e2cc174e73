"""Derives the seeds of texts and of attempts from what they are for. Knows nothing of rows.

Seeds are integers in [0, 2**63), the same in every process and on every machine.
"""

import hashlib

from stores.database import canonical_json


def text_seed(corpus: str, seed: int, kind: str, *key: str | int | None) -> int:
    """The seed of one text; `key` is what tells it from the others: emotion, topic, slot."""
    return _hashed([corpus, seed, kind, *key])


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of one attempt at the text whose seed is `seed`: a retry must not repeat itself."""
    return _hashed([seed, attempt])


def _hashed(parts: list[str | int | None]) -> int:
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:8]) >> 1
