"""External text: which emotions are high in texts of others, raw and centred, and do sources agree?

From the newest finished pass over each source. The rows by source are told by external_measures,
those by two sources by external_agreement, the tables by external_rows and external_texts. Reads no
model.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from analyses.base import Analysis, Inputs, Result
from analyses.external_agreement import compare_sources
from analyses.external_figures import figures
from analyses.external_judge import judge_metrics, judge_table
from analyses.external_measures import Measured, Neutral, describe, draw_neutral, measure
from analyses.external_page import pages
from analyses.external_reading import External, know_documents, open_external, read_neutral
from analyses.external_rows import list_outcomes, list_settings, list_sources, rank_emotions
from analyses.external_texts import TokenScale, best_documents, scale_tokens, show_texts
from analyses.geometry_rows import joined
from stores.judgements import read_judgements
from stores.projections import Projection, read_scores, read_snippets, read_summaries
from stores.results import Metric
from stores.seeds import text_seed


def run(inputs: Inputs) -> Result:
    """Every layer that all sources have; tables at the analysis layer. NotReady without a source.

    documents, cut, unread count documents by source; `unread` are those without numbers. tokens
    counts what was pooled of the others.
    """
    external = open_external(inputs)
    found = [_at_layer(external, layer) for layer in external.layers]
    return joined([Result(tuple(_count(external))), *found])


def _count(external: External) -> Iterator[Metric]:
    for source, counted in external.outcomes.items():
        drawn = sum(counted.values()) - counted["cut"]
        counts = {"documents": counted["done"], "cut": counted["cut"]}
        for name, value in (counts | {"unread": drawn - counted["done"]}).items():
            yield Metric(name, value, subject=source, n=drawn)


def _at_layer(external: External, layer: int) -> Result:
    inputs = external.inputs
    neutral = draw_neutral(read_neutral(inputs, layer), _rng(inputs, "neutral texts"))
    measured = [_measure(external, each, layer, neutral) for each in external.passes]
    scales = [scale_tokens(read_summaries(inputs.conn, each.id, layer)) for each in external.passes]
    pairs = compare_sources(measured, inputs.permutations, partial(_rng, inputs))
    parts = [Result(tuple(pairs))]
    for each, found, scale in zip(external.passes, measured, scales, strict=True):
        chance = _rng(inputs, "chance", found.source)
        parts.append(Result(tuple(describe(found, scale.rank_error, scale.tokens, chance))))
        parts.append(_judged(inputs, each, layer))
    if layer == external.layer:
        parts += _tables(external, measured, scales)
    return joined(parts)


def _measure(external: External, each: Projection, layer: int, neutral: Neutral | None) -> Measured:
    inputs, source = external.inputs, each.sample.source
    ids, scores, _ = read_scores(inputs.conn, each.id, layer)
    # Of the layer nothing: the same documents are drawn at each.
    rng = _rng(inputs, "documents", source)
    return measure(source, layer, each.emotions, ids, scores, neutral, rng)


def _judged(inputs: Inputs, each: Projection, layer: int) -> Result:
    """What judges said of the snippets, if they were asked."""
    source = each.sample.source
    judgements = read_judgements(inputs.conn, each.id, layer)
    if not judgements:
        return Result()
    rng = _rng(inputs, "judges", source)
    metrics = judge_metrics(source, judgements, layer, inputs.permutations, rng)
    table = judge_table([(source, judgement) for judgement in judgements], layer)
    return Result(tuple(metrics), (table,))


def _tables(external: External, measured: list[Measured], scales: list[TokenScale]) -> list[Result]:
    """All that is shown of the analysis layer."""
    conn, layer = external.inputs.conn, external.layer
    tables = (
        list_settings(external, measured),
        list_sources(external, measured, [scale.tokens for scale in scales]),
        list_outcomes(external),
        rank_emotions(external, measured),
    )
    counted = zip(measured, scales, strict=True)
    tokens = [Metric("tokens", scale.tokens, subject=found.source) for found, scale in counted]
    parts = [Result(tuple(tokens), tables)]
    for each, found, scale in zip(external.passes, measured, scales, strict=True):
        snippets = read_snippets(conn, each.id, layer)
        best = best_documents(found)
        wanted = {int(found.ids[row]) for rows in best for row in rows}
        wanted |= {snippet.document_id for snippet in snippets}
        known = know_documents(conn, each, wanted)
        parts.append(Result(tables=show_texts(found, scale, best, snippets, known)))
    return parts


def _rng(inputs: Inputs, *purpose: str) -> np.random.Generator:
    """One for each purpose, so that a source's numbers do not hang on which others there are."""
    return np.random.default_rng(text_seed(inputs.corpus, inputs.seed, "external", *purpose))


ANALYSIS = Analysis(
    name="external",
    question="Which emotions are high in texts of others, raw and centred, and do sources agree?",
    needs=("vectors", "projections"),
    run=run,
    draw=figures,
    pages=pages,
)
