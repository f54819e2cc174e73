"""Documents as packed rows of tokens, all of a run at once, from one seed.

Knows nothing of grammars (it is given two samplers) nor of models: a batch is an array of tokens.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from engine.demo.documents import Document
from engine.demo.tokenizer import EOS_ID

Sampler = Callable[[random.Random], Document]

OTHER, OPTION, AFTER_QUESTION = 0, 1, 2
TOKEN = np.dtype(
    [
        ("id", np.int16),
        ("document", np.int16),  # counts a row's documents from 1; 0 is padding
        ("position", np.int16),  # starts again in each document
        ("role", np.int8),
        ("kind", np.int8),
        ("weight", np.float32),  # of this token as a target; 0 for start token and padding
    ]
)
"""What is known of one token. All zeros is padding."""
Tokens = npt.NDArray[np.void]

CHUNK_STEPS = 25
"""Steps made from one seed of their own, so that the number of workers changes nothing."""
FILL = 0.985
"""Share of a chunk's tokens that is sampled: the rest is room, so that nearly everything fits."""
HELPING = 16
"""Documents sampled and tokenized at once."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How documents become batches."""

    seed: int
    steps: int
    rows: int
    """Rows per step."""
    row_tokens: int
    long_share: float
    """Share of the tokens that comes from the sampler of long documents."""
    late_share: float
    """Share of the batches in which the early layers bind the options late."""


@dataclass(frozen=True)
class Source:
    """Where documents come from. With several workers it must be picklable (no lambdas)."""

    long: Sampler
    short: Sampler
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Batches:
    """A run's batches: `tokens` [steps, rows, t] of TOKEN, and which steps bind late [steps]."""

    tokens: Tokens
    late: npt.NDArray[np.bool_]
    kinds: tuple[str, ...]
    """Document kinds, as numbered in the tokens."""

    @property
    def fill(self) -> float:
        """Share of the positions that hold a token."""
        return float((self.tokens["document"] > 0).mean())


def tokenize(documents: list[Document], tokenizer: Tokenizer) -> list[Tokens]:
    """One array of TOKEN per document, from start to end token, with `document` and `kind` 0.

    The tokenizer adds the start token; the end token, which a document does not write, is ours.
    """
    encodings = tokenizer.encode_batch([document.text for document in documents])
    return [_label(*pair) for pair in zip(documents, encodings, strict=True)]


def _label(document: Document, encoding: Encoding) -> Tokens:
    tokens = np.zeros(len(encoding.ids) + 1, TOKEN)
    tokens["id"] = [*encoding.ids, EOS_ID]
    tokens["position"] = np.arange(len(tokens))
    tokens["weight"][1:] = 1.0
    if document.weights or document.options:
        end_of_text = len(document.text)
        offsets = np.array([*encoding.offsets, (end_of_text, end_of_text + 1)])
        for start, end, weight in document.weights:
            tokens["weight"][_overlaps(offsets, start, end)] = weight
        if document.options and document.question_end is not None:
            tokens["role"][_overlaps(offsets, *document.options)] = OPTION
            # The question mark binds late too: having seen the options it would tell what follows.
            tokens["role"][offsets[:, 1] >= document.question_end] = AFTER_QUESTION
    return tokens


def _overlaps(offsets: npt.NDArray[np.int64], start: int, end: int) -> npt.NDArray[np.bool_]:
    """Which tokens share a character with [start, end)."""
    overlap: npt.NDArray[np.bool_] = (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return overlap


def pack(lengths: list[int], n_rows: int, row_tokens: int) -> list[list[int]]:
    """Best fit, longest first: the indices of the documents in each row.

    A document longer than a row fills one (and will be cut); one that fits nowhere is left out.
    """
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    by_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    by_room[row_tokens] = list(reversed(range(n_rows)))
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = min(lengths[index], row_tokens)
        room = next((r for r in range(length, row_tokens + 1) if by_room[r]), None)
        if room is not None:
            row = by_room[room].pop()
            rows[row].append(index)
            by_room[room - length].append(row)
    return rows


def build_batches(source: Source, settings: BatchSettings, *, workers: int = 1) -> Batches:
    """All batches of a run: the same for the same settings, whatever the number of workers."""
    firsts = range(0, settings.steps, CHUNK_STEPS)
    build = partial(_build_chunk, source, settings)
    if workers == 1:
        return _join([build(first) for first in firsts])
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return _join(list(pool.map(build, firsts)))


def _build_chunk(source: Source, settings: BatchSettings, first_step: int) -> Batches:
    rng = random.Random(f"{settings.seed}/{first_step}")
    steps = min(CHUNK_STEPS, settings.steps - first_step)
    n_rows, row_tokens = steps * settings.rows, settings.row_tokens
    documents, names = _sample(source, int(FILL * n_rows * row_tokens), settings.long_share, rng)
    kinds = tuple(sorted(set(names)))
    packed = pack([len(document) for document in documents], n_rows, row_tokens)
    rng.shuffle(packed)
    tokens = np.zeros((n_rows, row_tokens), TOKEN)
    for row, indices in zip(tokens, packed, strict=True):
        first = 0
        for number, index in enumerate(indices, start=1):
            document = documents[index][:row_tokens]
            document["document"], document["kind"] = number, kinds.index(names[index])
            row[first : first + len(document)] = document
            first += len(document)
    late = [rng.random() < settings.late_share for _ in range(steps)]
    return Batches(tokens.reshape(steps, settings.rows, row_tokens), np.array(late), kinds)


def _sample(
    source: Source, budget: int, long_share: float, rng: random.Random
) -> tuple[list[Tokens], list[str]]:
    """Documents of `budget` tokens or a little more, and their kinds; `long_share` of it long."""
    documents: list[Tokens] = []
    kinds: list[str] = []
    long_tokens, total = 0, 0
    while total < budget:
        is_long = long_tokens <= long_share * total
        sampler = source.long if is_long else source.short
        helping = [sampler(rng) for _ in range(HELPING)]
        arrays = tokenize(helping, source.tokenizer)
        added = sum(len(array) for array in arrays)
        total += added
        long_tokens += added * is_long
        documents += arrays
        kinds += [document.kind for document in helping]
    return documents, kinds


def _join(chunks: list[Batches]) -> Batches:
    """Chunks one after the other, with their kinds numbered alike."""
    kinds = tuple(sorted({kind for chunk in chunks for kind in chunk.kinds}))
    tokens = np.concatenate([chunk.tokens for chunk in chunks])
    first = 0
    for chunk in chunks:
        numbers = np.array([kinds.index(kind) for kind in chunk.kinds], np.int8)
        last = first + len(chunk.tokens)
        tokens["kind"][first:last] = numbers[chunk.tokens["kind"]]
        first = last
    return Batches(tokens, np.concatenate([chunk.late for chunk in chunks]), kinds)
