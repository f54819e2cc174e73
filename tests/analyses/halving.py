"""Stories made of known parts, extracted and made into vectors, to halve."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

import numpy as np

from analyses.vectors import build_vectors
from stores.planning import PlannedText
from stores.rows import Row
from tests.analyses.lab import (
    CORPUS,
    READER,
    TOPICS,
    Lab,
    dialogue_plan,
    story_plan,
    write_activations,
    write_texts,
)
from tests.analyses.planted import Floats, frozen, planted_world

E, D, LAYER = 8, 400, 2
PER_TOPIC = 8
N = PER_TOPIC * len(TOPICS)
WORLD = planted_world(e=E, d=4, families=2)


@cache
def drawn(size: float, *key: object) -> Floats:
    """(D,) numbers of this size at random, always the same for the same key; not to be changed."""
    seed = int.from_bytes(sha256(repr(key).encode()).digest()[:8])
    return frozen(size * np.random.default_rng(seed).normal(size=D))


@dataclass(frozen=True)
class Recipe:
    """What a story's numbers are made of; each part has this variance in every dimension."""

    emotion: float = 0.5
    noise: float = 1.0
    topic: float = 0.0
    """Shared by all emotions."""
    both: float = 0.0
    """Of an emotion on a topic."""
    odd: Mapping[int, float] = field(default_factory=dict)
    """What the numbers of a row are multiplied by."""

    def __call__(self, row: Row) -> Floats:
        parts = {
            ("emotion", row.emotion): self.emotion,
            ("topic", row.topic): self.topic,
            ("both", row.emotion, row.topic): self.both,
            ("noise", row.text_sha): self.noise,
        }
        total = sum(drawn(size**0.5, *key) for key, size in parts.items())
        return np.asarray(total + 3.0) * self.odd.get(row.row, 1.0)


def neutral(row: Row) -> Floats:
    """Dialogues vary along one direction, and a little along all."""
    return np.asarray(drawn(1.0, "loud") * drawn(20.0, row.text_sha)[0] + drawn(0.1, row.text_sha))


def fill(
    lab: Lab,
    make: Callable[[Row], Floats],
    plan: list[PlannedText] | None = None,
    *,
    denoise: float = 0.0,
    chunk_rows: int = 64,
    short: frozenset[int] = frozenset(),
) -> Lab:
    """Write and extract stories and, where they are needed, dialogues, and build the vectors."""
    write_texts(lab, "stories", plan or story_plan(lab.protocol.names, PER_TOPIC))
    extract(lab, make, chunk_rows, short)
    if denoise:
        write_texts(lab, "dialogues", dialogue_plan())
        write_activations(lab, "dialogues", {LAYER: neutral}, d_model=D)
    build(lab, denoise)
    return lab


def extract(
    lab: Lab,
    make: Callable[[Row], Floats],
    chunk_rows: int = 64,
    short: frozenset[int] = frozenset(),
) -> None:
    settings = {"d_model": D, "chunk_rows": chunk_rows}
    write_activations(lab, "stories", {LAYER: make}, short=short, **settings)


def build(lab: Lab, denoise: float = 0.0) -> None:
    place = (lab.conn, lab.workspace, lab.protocol, READER, CORPUS, (LAYER,))
    build_vectors(*place, denoise=denoise)


def known(signal: float, noise: float) -> float:
    """Share of the signal's variance: the reliability of a vector that has both."""
    return signal / (signal + noise)
