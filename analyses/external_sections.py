"""What a page says of one emotion: how it ranks, its windows token by token, its documents.

Knows nothing of other emotions or of what is said once for the whole page.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analyses.markup import mark, plain
from stores.results import Cell

Record = Mapping[str, Cell]

HEAT = {"q50": "50th", "q75": "75th", "q90": "90th", "q95": "95th", "q99": "99th", "q999": "99.9th"}
"""The columns of `token_quantiles` above which a token's background is one level stronger."""
LONGEST_TEXT = 600
"""Characters of a cell that are written: the beginning of a document and the longest sentence."""
NEUTRAL = "{neutral} sd from neutral texts ({neutral_low} to {neutral_high}), rank {neutral_rank}; "
RANKS = """<p class=small>{before}raw {raw}, rank {raw_rank}; first in {first} of the documents,
rank {first_rank} of {count}. Underlined: above {q90}. <a href="#top">Index</a></p>"""
WINDOW = """<li><p class=small>{score} ({z} sd), document {document_id}, {place}{part}, from token
{first}{judged}</p><p class=text dir=auto lang="">{text}</p></li>"""
DOCUMENT = """<li><p class=small>{score} ({z} sd from the mean of the documents), document
{document_id}, {place}{part}</p><p class=text dir=auto lang="">{beginning}</p></li>"""
JUDGED = "; {judge}: {emotion} {own}, {other_emotion} {other}"
NONE = "<p class=small>No window: no text that was read is as long as one.</p>"


def write_section(
    number: int, count: int, record: Record, own: Mapping[str, Sequence[Record]]
) -> str:
    """Row `record` of `ranking`, and the emotion's `own` rows in other tables, as HTML.

    number: its place on the page, which is its anchor; count: of all emotions.
    """
    scale = own["token_quantiles"][0]
    facts = said(dict(scale) | dict(record)) | {
        "first": f"{record['first']:.1%}",
        "count": str(count),
    }
    before = "" if record["neutral"] is None else NEUTRAL.format_map(facts)
    return "\n".join(
        [
            f"<section id=e{number}><h2>{facts['emotion']}</h2>",
            RANKS.format_map(facts | {"before": before}),
            *_windows(own["snippets"], scale, own["judgements"]),
            *_documents(own["documents"]),
            "</section>",
        ]
    )


def _windows(
    snippets: Sequence[Record], scale: Record, judgements: Sequence[Record]
) -> Iterator[str]:
    if not snippets:
        yield NONE
        return
    limits = np.array([scale[key] for key in HEAT], np.float64)
    yield "<ol>"
    for snippet in snippets:
        judged = [
            JUDGED.format_map(said(each))
            for each in judgements
            if each["document_id"] == snippet["document_id"]
        ]
        tokens, heat = json.loads(str(snippet["tokens"])), json.loads(str(snippet["heat"]))
        levels = np.searchsorted(limits, heat)
        text = "".join(mark(*pair) for pair in zip(tokens, levels.tolist(), strict=True))
        yield WINDOW.format_map(_placed(snippet) | {"text": text, "judged": "".join(judged)})
    yield "</ol>"


def _documents(documents: Sequence[Record]) -> Iterator[str]:
    if documents:
        told = f"How the {len(documents)} highest documents begin"
        yield f"<details><summary>{told}</summary><ol>"
        yield from (DOCUMENT.format_map(_placed(document)) for document in documents)
        yield "</ol></details>"


def _placed(record: Record) -> dict[str, str]:
    """What is said of a text; a part of its source only where it has one."""
    facts = said(record)
    return facts | {
        "part": f", {facts['part']}" if record["part"] else "",
        "document_id": str(record["document_id"]),
    }


def said(record: Record) -> dict[str, str]:
    """Every cell as HTML: numbers with three digits, texts shown as texts."""
    return {name: _said(cell) for name, cell in record.items()}


def _said(cell: Cell) -> str:
    if cell is None:
        return "not known"
    if isinstance(cell, str):
        return plain(cell, LONGEST_TEXT)
    return f"{cell:,}" if isinstance(cell, int) else _number(cell)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.3g}"
