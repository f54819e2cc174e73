"""The tables of the analysis of texts of others: their names and columns, and the rows in them.

    settings         what was read and how, and in words what the raw scores share
    sources          one row a source: where its documents come from, how many were read
    outcomes         what became of the documents of a sample
    ranking          the emotions of a source, raw, against neutral texts, and by first places
    token_quantiles  how the projections of single tokens are spread
    documents        the documents that an emotion is highest in, with how they begin
    snippets         the windows that an emotion is highest in, token by token

The last four are of the analysis layer, and say so by their own layer. Ranks count from 1, the
highest first. What has no value is None: neutral values without neutral texts, most of all.
Knows nothing of figures.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analyses.external_measures import FEWEST_NEUTRAL, Measured, tell_offset
from analyses.external_reading import External
from analyses.keeping import PLANTED_NOTE
from analyses.methods.offsets import ranks_from_top
from analyses.methods.resampling import RESAMPLES
from analyses.methods.statistics import benjamini_hochberg
from stores.database import canonical_json
from stores.readers import reader_settings
from stores.results import Cell, Table

SOURCES = (
    *("source", "origin", "drawn_from", "rule", "seed", "size", "seen", "skipped", "kept"),
    *("documents", "tokens", "cut", "unread", "max_tokens", "format", "start_token", "offset"),
)
OUTCOMES = ("source", "outcome", "documents")
RANKING = (
    *("source", "emotion", "valence", "n"),
    *("raw", "raw_low", "raw_high", "raw_rank"),
    *("neutral", "neutral_low", "neutral_high", "neutral_p", "neutral_q", "neutral_rank"),
    *("first", "first_low", "first_high", "first_rank"),
)
QUANTILES = {
    **{"q01": 0.01, "q05": 0.05, "q10": 0.1, "q25": 0.25, "q50": 0.5},
    **{"q75": 0.75, "q90": 0.9, "q95": 0.95, "q99": 0.99, "q999": 0.999},
}
TOKEN_QUANTILES = ("source", "emotion", "tokens", "mean", "sd", *QUANTILES)
DOCUMENTS = (
    *("source", "emotion", "rank", "document_id", "place", "part", "score", "z", "beginning"),
)
SNIPPETS = (
    *("source", "emotion", "rank", "document_id", "place", "part", "first"),
    *("score", "z", "tokens", "heat", "bar"),
)


def list_settings(external: External, measured: Sequence[Measured]) -> Table:
    """What the figures and pages must say; measured at the analysis layer."""
    inputs, model = external.inputs, reader_settings(external.inputs.conn, external.inputs.reader)
    left_out = [f"{source}: {why}" for source, why in external.left_out.items()]
    alone = "one source alone: there is none to agree with" if len(measured) == 1 else None
    settings: dict[str, Cell] = {
        "reader": inputs.reader,
        "corpus": inputs.corpus,
        "model": model["model"],
        "concept": inputs.protocol.concept,
        "labels": inputs.protocol.labels,
        "note": PLANTED_NOTE if inputs.protocol.labels == "planted" else None,
        "layer": external.layer,
        "layer_note": _layer_note(external),
        "layers": ", ".join(map(str, external.layers)),
        "n_layers": model["n_layers"],
        "vectors": "denoised",
        "sources": ", ".join(external.sources),
        "left_out": "; ".join(left_out) or None,
        **_neutral(external, measured[0]),
        "pairs": alone,
        "seed": inputs.seed,
        "permutations": inputs.permutations,
        "resamples": RESAMPLES,
    }
    settings |= {f"offset.{found.source}": tell_offset(found) for found in measured}
    return Table("settings", ("setting", "value"), tuple(settings.items()))


def _layer_note(external: External) -> str | None:
    asked = external.inputs.layer
    if asked == external.layer:
        return None
    return (
        f"layer {asked} was asked for and not projected of every source; "
        f"layer {external.layer} is the nearest that was"
    )


def _neutral(external: External, found: Measured) -> dict[str, Cell]:
    corpus, reference = external.inputs.corpus, found.reference
    if reference is None:
        told = f"fewer than {FEWEST_NEUTRAL} neutral dialogues of corpus {corpus} are extracted"
        return {"neutral_texts": 0, "neutral": f"none: {told} at layer {found.layer}"}
    told = (
        f"their mean over {reference.n} neutral dialogues of corpus {corpus}, in the standard "
        "deviations of these dialogues (Glass's delta), not of the documents"
    )
    few = "" if reference.parts else "; too few of them to compare sources by"
    return {"neutral_texts": reference.n, "neutral": told + few}


def list_sources(external: External, measured: Sequence[Measured], tokens: Sequence[int]) -> Table:
    """A row a source, in words what its raw scores share."""
    rows = []
    for each, found, pooled in zip(external.passes, measured, tokens, strict=True):
        source, sample = found.source, each.sample
        counted, drawn = external.outcomes[source], sample.settings
        kept, origin = sum(counted.values()) - counted["cut"], dict(drawn.get("source", {}))
        rows.append(
            (
                *(source, origin.get("dataset") or origin.get("origin"), canonical_json(origin)),
                *(drawn.get(key) for key in ("rule", "seed", "size")),
                *(sample.seen, canonical_json(dict(sample.skipped)), kept),
                *(counted["done"], pooled, counted["cut"], kept - counted["done"]),
                *(each.settings.get(key) for key in ("max_tokens", "format", "start_token")),
                tell_offset(found),
            )
        )
    return Table("sources", SOURCES, tuple(rows))


def list_outcomes(external: External) -> Table:
    """What became of every document; 'cut' counts some of those that are done once more."""
    rows = [
        (source, outcome, count)
        for source, counted in external.outcomes.items()
        for outcome, count in counted.items()
    ]
    return Table("outcomes", OUTCOMES, tuple(rows))


def rank_emotions(external: External, measured: Sequence[Measured]) -> Table:
    """The emotions of each source, with the protocol's valence where it gives one."""
    labels = {each.name: each.valence for each in external.inputs.protocol.emotions}
    rows = [row for found in measured for row in _ranking_rows(found, labels)]
    return Table("ranking", RANKING, tuple(rows), external.layer)


def _ranking_rows(
    found: Measured, valence: Mapping[str, float | None]
) -> Iterator[tuple[Cell, ...]]:
    raw, neutral, first = found.raw, found.neutral, found.first
    known = np.isfinite(neutral.p)
    q = np.full(len(neutral.p), np.nan)
    if known.any():
        q[known] = benjamini_hochberg(neutral.p[known])
    columns = (
        *(raw.values, raw.low, raw.high, ranks_from_top(raw.values)),
        *(neutral.values, neutral.low, neutral.high, neutral.p, q),
        *(ranks_from_top(neutral.values), first.values, first.low, first.high),
        ranks_from_top(first.values),
    )
    for emotion, *cells in zip(found.emotions, *(each.tolist() for each in columns), strict=True):
        yield found.source, emotion, valence.get(emotion), found.draws.n, *cells
