"""Codes of texts: each pooled token encoded where it is computed, their mean kept for each text.

A text is encoded by itself, so that its codes do not hang on what shares its batch. Knows nothing
of the ledger.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.capture import Recorder, recording
from engine.models import Model
from engine.packing import Batching, Layout, Segment
from engine.pooling import Batch, BatchReader, Told
from stores.errors import ModelError

# Numbers in a matrix of codes [t, f]: 64 MiB of float32, of which encoding holds a few.
CODES_AT_ONCE = 2**24
_MEASURES = 3
"""Columns of a row behind its mean codes: l0, error, square."""


@dataclass(frozen=True, slots=True, eq=False)
class TextCodes:
    """One text under one SAE: f features, of which k fired on a pooled token.

    A token whose activation or reconstruction is not finite makes `error` not finite.
    """

    features: NDArray[np.int32]
    """[k], ascending."""
    means: NDArray[np.float32]
    """[k]: mean code over the pooled tokens; those that did not fire count as 0."""
    tokens: int
    """Pooled ones."""
    l0: float
    """Mean number of features that fire on a token."""
    error: float
    """Mean over tokens of the squared distance between activation and reconstruction."""
    square: float
    """Mean over tokens of the activation's squared norm."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """n texts under b SAEs: `texts[i][j]` is text i under SAE j.

    None for a text that was not read, or that has no pooled token.
    """

    texts: list[tuple[TextCodes, ...] | None]
    too_large: set[int] = field(default_factory=set)
    """Positions of segments that do not fit the memory even alone."""


@dataclass(slots=True)
class CodePooler(BatchReader):
    """Reads segments at one layer and keeps their pooled codes under each of `saes` (sae-lens)."""

    layer: int
    saes: Sequence[Any]

    def encode(
        self, segments: Sequence[Segment], wanted: Sequence[int], told: Told
    ) -> Encoded | None:
        """Codes of those of `segments` at `wanted`; None after a stop.

        `told` hears the texts and the tokens of every batch that is done.
        """
        encoding = _Encoding(self.model, self.layer, self.saes, self.batching)
        edges = np.cumsum(encoding.columns)[:-1]
        texts: list[tuple[TextCodes, ...] | None] = [None] * len(segments)

        def keep(batch: Batch, rows: NDArray[np.float32]) -> None:
            for i, row in zip(batch, rows, strict=True):
                if tokens := _pooled_tokens(segments[i]):
                    texts[i] = tuple(_sparse(each, tokens) for each in np.split(row, edges))

        too_large = self.read(encoding, segments, wanted, keep, told)
        return None if too_large is None else Encoded(texts, too_large)


def encode_tokens(
    model: Model, layer: int, saes: Sequence[Any], segment: Segment
) -> list[NDArray[np.float32]]:
    """Every code of one text: [t, f] for each SAE, over its pooled tokens. For a few texts.

    Raises what `read_tokens` raises.
    """
    tokens = torch.from_numpy(read_tokens(model, layer, [segment])[0])
    with torch.inference_mode():
        return [sae.encode(tokens.to(sae.W_dec.device)).float().cpu().numpy() for sae in saes]


def mean_codes(sae: Any, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """[f] Mean code of every feature over activations [t, d], as a text's are pooled."""
    with torch.inference_mode():
        row: NDArray[np.float32] = _pool(sae, torch.tensor(tokens)).float().cpu().numpy()
    return row[:-_MEASURES]


def read_tokens(model: Model, layer: int, segments: Sequence[Segment]) -> list[NDArray[np.float32]]:
    """The residual stream after `layer` at each text's pooled tokens, [t, d] each. For a few.

    Raises ModelError where it is not finite.
    """
    with recording(TokenRecorder(model, layer, "alone")) as reading:
        texts = [reading.start([segment]).wait() for segment in segments]
    if not all(np.isfinite(tokens).all() for tokens in texts):
        raise ModelError(
            f"model {model.name}: layer {layer} gives numbers that are not finite in "
            f"{model.dtype}; use --dtype float32"
        )
    return texts


def decoder_rows(sae: Any) -> NDArray[np.float32]:
    """W_dec, [f, d]: a copy of its own."""
    rows: NDArray[np.float32] = sae.W_dec.detach().to("cpu", torch.float32, copy=True).numpy()
    return rows


def encode_in_parts(sae: Any, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and their codes, [t, d] and [t, f], so few at a time that their codes stay small."""
    at_once = max(1, CODES_AT_ONCE // sae.W_dec.shape[0])
    for part in torch.split(tokens.to(sae.W_dec.device), at_once):
        yield part, sae.encode(part)


class _Encoding(Recorder[NDArray[np.float32]]):
    """Keeps one row of each text: for each SAE its mean codes, l0, error and square."""

    def __init__(self, model: Model, layer: int, saes: Sequence[Any], batching: Batching) -> None:
        self.columns = [sae.W_dec.shape[0] + _MEASURES for sae in saes]
        Recorder.__init__(self, model, [layer], batching, sum(self.columns))
        self._saes = saes
        self._lengths: list[int] = []

    def _rows_of(self, segment: Segment) -> int:
        return 1

    def _places(self, layout: Layout) -> NDArray[np.int64]:
        self._lengths = np.count_nonzero(~layout.spare, axis=1).tolist()
        return layout.index[~layout.spare]

    def _fill(self, layer: int, tokens: Tensor, rows: Tensor) -> None:
        for text, row in zip(torch.split(tokens, self._lengths), rows, strict=True):
            for sae, own in zip(self._saes, torch.split(row, self.columns), strict=True):
                own.copy_(_pool(sae, text))

    def _read(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        kept: NDArray[np.float32] = rows[0]
        return kept


class TokenRecorder(Recorder[NDArray[np.float32]]):
    """Keeps the pooled tokens of one layer as they are."""

    def __init__(self, model: Model, layer: int, batching: Batching) -> None:
        Recorder.__init__(self, model, [layer], batching, model.d_model)

    def _rows_of(self, segment: Segment) -> int:
        return _pooled_tokens(segment)

    def _places(self, layout: Layout) -> NDArray[np.int64]:
        return layout.index[~layout.spare]

    def _fill(self, layer: int, tokens: Tensor, rows: Tensor) -> None:
        rows.copy_(tokens)

    def _read(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        kept: NDArray[np.float32] = rows[0]
        return kept


def _pool(sae: Any, tokens: Tensor) -> Tensor:
    """A text's row [f + 3]. No sum is atomic, so that the same tokens give the same bits.

    Decoded right after it is encoded: some SAEs keep the scale of what they encoded last.
    """
    columns = sae.W_dec.shape[0] + _MEASURES
    total = torch.zeros(columns, dtype=torch.float64, device=sae.W_dec.device)
    for part, codes in encode_in_parts(sae, tokens):
        exact = part.float()
        # Exact to 2e-7: torch adds float32 in a cascade. In float64 it takes twenty times as long.
        total[:-_MEASURES] += codes.sum(dim=0, dtype=torch.float32)
        total[-3] += torch.count_nonzero(codes)
        total[-2] += (sae.decode(codes).float() - exact).square().sum(dtype=torch.float64)
        total[-1] += exact.square().sum(dtype=torch.float64)
    return total / len(tokens)


def _sparse(row: NDArray[np.float32], tokens: int) -> TextCodes:
    means = row[:-_MEASURES]
    features = np.flatnonzero(means)
    l0, error, square = row[-_MEASURES:].tolist()
    return TextCodes(features.astype(np.int32), means[features], tokens, l0, error, square)


def _pooled_tokens(segment: Segment) -> int:
    return len(segment.ids[segment.pooled])
