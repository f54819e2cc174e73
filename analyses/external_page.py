"""The texts that are highest on each emotion, as one HTML page a source.

Written from the rows of the analysis of texts of others alone: every number of a page is in a row.
What stands under one emotion is in external_sections. Knows nothing of where files are kept.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from analyses.external_sections import HEAT, Record, said, write_section
from analyses.keeping import Rows
from analyses.markup import mark, plain, write_page

TABLES = ("ranking", "token_quantiles", "snippets", "documents", "judgements")
HEAD = """<h1>{source}: where each {concept} is highest</h1>
{note}<p>Reader {reader}, corpus {corpus}, layer {layer}. {documents} documents of {source} with
{tokens} tokens, seed {seed}.</p>
{layer_note}<p class=small>Drawn from {origin}: {kept} documents of {seen} seen. {unread} of them
could not be read; {cut} were cut after {max_tokens} tokens. Format {format}, read from token
{start_token} on; {vectors} vectors.</p>
<p>{offset}</p>
<p class=note>The texts are other people's and shown as they were found, unfiltered: some may
offend, be false, or be about real persons. They remain their authors'.</p>"""
LEGEND = """<p class=small>Under each {concept}: the windows of text with the highest mean
projection on its direction, one of a document at most. Above each stands that mean and how far it
is from the mean of all tokens, in their standard deviations. A token's background says how high its
own projection is among all tokens of {source}: above the {levels} percentile. Above the 90th it is
underlined as well. A line break is written ↵.</p>"""
JUDGED = """<p>{subject} as judge: a window's own {concept} scores {value} points of 10 above
another one drawn by lot (95% interval {ci_low} to {ci_high}, {n} windows, p = {p_value}).</p>"""


def pages(rows: Rows) -> dict[str, str]:
    """Of every source its windows and documents, and how they scored: `snippets.SOURCE`."""
    layer = next(table.layer for table in rows.tables if table.name == "ranking")
    found = {name: _by_source(rows, name, layer) for name in TABLES}
    written = {}
    for about in rows.records("sources"):
        source = str(about["source"])
        own = {name: records.get(source, []) for name, records in found.items()}
        written[f"snippets.{source}"] = _write_source(rows, layer, about, own)
    return written


def _by_source(rows: Rows, name: str, layer: int | None) -> dict[str, list[Record]]:
    """The records of a table by source; none where the analysis has no such table."""
    there = any((table.name, table.layer) == (name, layer) for table in rows.tables)
    return _grouped(rows.records(name, layer) if there else [], "source")


def _grouped(records: Sequence[Record], column: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[str(record[column])].append(record)
    return found


def _write_source(
    rows: Rows, layer: int | None, about: Record, own: Mapping[str, Sequence[Record]]
) -> str:
    settings = rows.settings
    facts = said(settings | dict(about)) | {"layer": str(layer), "seed": str(about["seed"])}
    ranking, order = _in_order(own["ranking"])
    grouped = {name: _grouped(records, "emotion") for name, records in own.items()}
    judged = rows.select(f"judge.{about['source']}", layer)
    body = [
        HEAD.format_map(facts | _notes(settings)),
        *(JUDGED.format_map(facts | said(asdict(row))) for row in judged),
        LEGEND.format_map(facts | {"levels": _levels()}),
        *_index(ranking, order),
        *(
            write_section(number, len(ranking), record, _of_emotion(grouped, record))
            for number, record in enumerate(ranking, 1)
        ),
    ]
    place = f"reader {settings['reader']}, corpus {settings['corpus']}, layer {layer}"
    return write_page(f"{about['source']}, {place}", "\n".join(body))


def _of_emotion(
    grouped: Mapping[str, Mapping[str, Sequence[Record]]], record: Record
) -> dict[str, Sequence[Record]]:
    return {name: found.get(str(record["emotion"]), []) for name, found in grouped.items()}


def _notes(settings: Record) -> dict[str, str]:
    """What must be known before believing a number, where there is something."""
    told = {name: settings.get(name) for name in ("note", "layer_note")}
    return {
        name: f"<p class=note>{plain(str(note), 300)}</p>\n" if note else ""
        for name, note in told.items()
    }


def _in_order(ranking: Sequence[Record]) -> tuple[list[Record], str]:
    """The emotions as they rank against neutral texts, raw where there are none; and which."""
    known = any(record["neutral_rank"] is not None for record in ranking)
    key, words = (
        ("neutral_rank", "their distance from the reader's neutral texts")
        if known
        else ("raw_rank", "their raw means, for want of neutral texts")
    )
    return sorted(ranking, key=lambda record: float(record[key] or np.inf)), words


def _levels() -> str:
    return ", ".join(mark(name, level) for level, name in enumerate(HEAT.values(), 1))


def _index(ranking: Sequence[Record], order: str) -> Iterator[str]:
    yield f"<p class=small>In the order of {plain(order)}, the highest first:</p>\n<nav>"
    for number, record in enumerate(ranking, 1):
        yield f'<a href="#e{number}">{plain(str(record["emotion"]))}</a>'
    yield "</nav>"
