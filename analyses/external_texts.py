"""The texts behind the numbers: how tokens are spread, and where an emotion is highest.

    token_quantiles  mean, standard deviation and quantiles of single tokens' projections
    documents        the documents that an emotion is highest in, own-centred
    snippets         its best windows; z is in the tokens' standard deviations, and `bar` their 90th
                     percentile; `tokens` and `heat` are lists of equal length, as JSON

Tables of one source at the analysis layer. Knows nothing of other sources.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.external_measures import Measured
from analyses.external_reading import Known
from analyses.external_rows import DOCUMENTS, QUANTILES, SNIPPETS, TOKEN_QUANTILES
from engine.projection.summaries import merge_moments, quantiles_at, rank_error
from stores.database import canonical_json
from stores.projections import Snippet, TokenSummary
from stores.results import Cell, Table

Floats = NDArray[np.float64]

TOP = 5
"""Documents shown of an emotion."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenScale:
    """How the projections of a source's tokens are spread: (e,) and (e, q) of `QUANTILES`."""

    tokens: int
    mean: Floats
    sd: Floats
    quantiles: Floats
    rank_error: float


def scale_tokens(summaries: Sequence[TokenSummary]) -> TokenScale:
    """From the summaries of every chunk. ValueError without any."""
    tokens, mean, sd = merge_moments(summaries)
    found = quantiles_at(summaries, list(QUANTILES.values()))
    return TokenScale(tokens, mean, sd, found, rank_error(summaries))


def best_documents(found: Measured) -> list[list[int]]:
    """Of each emotion the rows of `found` with the highest scores, the highest first."""
    return [np.argsort(-column, kind="stable")[:TOP].tolist() for column in found.z.T]


def show_texts(
    found: Measured,
    scale: TokenScale,
    best: Sequence[Sequence[int]],
    snippets: Sequence[Snippet],
    known: Mapping[int, Known],
) -> tuple[Table, ...]:
    """The three tables; `known` has the documents of `best_documents` and of the snippets."""
    tables = (
        ("token_quantiles", TOKEN_QUANTILES, _quantile_rows(found, scale)),
        ("documents", DOCUMENTS, _document_rows(found, best, known)),
        ("snippets", SNIPPETS, _snippet_rows(found, scale, snippets, known)),
    )
    return tuple(Table(name, columns, tuple(rows), found.layer) for name, columns, rows in tables)


def _quantile_rows(found: Measured, scale: TokenScale) -> Iterator[tuple[Cell, ...]]:
    columns = (scale.mean.tolist(), scale.sd.tolist(), scale.quantiles.tolist())
    for emotion, mean, sd, quantiles in zip(found.emotions, *columns, strict=True):
        yield found.source, emotion, scale.tokens, mean, sd, *quantiles


def _document_rows(
    found: Measured, best: Sequence[Sequence[int]], known: Mapping[int, Known]
) -> Iterator[tuple[Cell, ...]]:
    for probe, rows in enumerate(best):
        for rank, row in enumerate(rows, 1):
            document = int(found.ids[row])
            shown = known[document]
            yield (
                *(found.source, found.emotions[probe], rank, document, shown.place, shown.part),
                *(float(found.scores[row, probe]), float(found.z[row, probe]), shown.beginning),
            )


def _snippet_rows(
    found: Measured, scale: TokenScale, snippets: Sequence[Snippet], known: Mapping[int, Known]
) -> Iterator[tuple[Cell, ...]]:
    probes = {emotion: probe for probe, emotion in enumerate(found.emotions)}
    bars = scale.quantiles[:, list(QUANTILES).index("q90")]
    ranks = dict.fromkeys(found.emotions, 0)
    for each in snippets:
        probe, shown = probes[each.emotion], known[each.document_id]
        ranks[each.emotion] += 1
        mean, sd = float(scale.mean[probe]), float(scale.sd[probe])
        yield (
            *(found.source, each.emotion, ranks[each.emotion], each.document_id),
            *(shown.place, shown.part, each.first, each.score),
            (each.score - mean) / sd if sd > 0.0 else None,
            *(canonical_json(list(each.tokens)), canonical_json(list(each.heat))),
            float(bars[probe]),
        )
