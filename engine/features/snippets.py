"""Where features fire: windows of tokens around the highest codes, out of a few texts.

Knows nothing of emotions.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.features.codes import encode_tokens
from engine.models import Model
from engine.projection.cutting import token_edges
from engine.readings import TextReader
from engine.tokens import LocatedText, locate_chat, locate_raw

WINDOW, BEFORE = 30, 20
"""Tokens of a window, and how many of them stand before its peak: a code follows from those."""


@dataclass(frozen=True, slots=True)
class FeatureSnippet:
    """A window of a text around a feature's highest code in it."""

    feature: int
    text_id: int
    first: int
    """Number of the window's first token among the text's own."""
    peak: float
    """The highest code of the window."""
    pieces: tuple[str, ...]
    """Pieces of the text; joined they are the text of the window."""
    codes: tuple[float, ...]
    """Of each token."""


def read_snippets(
    model: Model,
    layer: int,
    sae: Any,
    texts: Mapping[int, str],
    wanted: Mapping[int, Sequence[int]],
    *,
    format: Literal["raw", "chat"],  # noqa: A002
    start_token: int,
) -> list[FeatureSnippet]:
    """For each feature of `wanted` its texts (ids), highest peak first. Every text is read once.

    A window lies within the pooled tokens. ValueError for a text of which none is pooled, KeyError
    for one that is not in `texts`.
    """
    reader = TextReader(model, format, start_token)
    by_text: dict[int, list[int]] = defaultdict(list)
    for feature, text_ids in wanted.items():
        for text_id in text_ids:
            by_text[text_id].append(feature)
    found: dict[int, list[FeatureSnippet]] = {feature: [] for feature in wanted}
    for text_id, features in by_text.items():
        for snippet in _read_text(reader, layer, sae, text_id, texts[text_id], features):
            found[snippet.feature].append(snippet)
    return [
        snippet for own in found.values() for snippet in sorted(own, key=lambda each: -each.peak)
    ]


def _read_text(
    reader: TextReader, layer: int, sae: Any, text_id: int, text: str, features: Sequence[int]
) -> Iterator[FeatureSnippet]:
    """The window of each of these features."""
    locate = locate_raw if reader.format == "raw" else locate_chat
    located = locate(reader.model, text)
    reading = reader.judge(located.text, located.tokenized)
    if reading.fault is not None:
        raise ValueError(f"text {text_id} is not read: {reading.fault[1]}")
    (codes,) = encode_tokens(reader.model, layer, [sae], reading.segment)
    before = reading.segment.pooled.start - located.tokenized.content.start
    pieces = _pieces(located)[before:]
    for feature in features:
        yield _cut(feature, text_id, before, pieces, codes[:, feature])


def _pieces(located: LocatedText) -> list[str]:
    """The text of every content token; joined they are a beginning of the text."""
    edges = token_edges(located.spans, len(located.text))
    return [located.text[left:right] for left, right in pairwise(edges)]


def _cut(
    feature: int, text_id: int, before: int, pieces: Sequence[str], codes: NDArray[np.float32]
) -> FeatureSnippet:
    """The window around the first of the highest codes [t]; `before` tokens are not pooled."""
    peak = int(codes.argmax())
    first = max(0, min(peak - BEFORE, len(codes) - WINDOW))
    shown = slice(first, first + WINDOW)
    return FeatureSnippet(
        feature,
        text_id,
        before + first,
        float(codes[peak]),
        tuple(pieces[shown]),
        tuple(codes[shown].tolist()),
    )
