"""The page of feature cards: what an SAE's features that matter are about, and what that is worth.

Written from rows alone: every number of the page is in a row. Knows nothing of how they were made.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analyses.base import Rows
from analyses.external_sections import Record, said
from analyses.keeping import PLANTED_NOTE
from analyses.markup import LEVELS, mark, plain, write_page
from stores.results import Cell, Metric

NAMED = 3
"""Emotions in the heading of a card."""
SHOWN = 10
"""Emotions in the table of a card."""
NUMBERS = {
    "variance_unexplained": "variance unexplained",
    "l0": "features that fire on a token",
    "dead_features": "share of features that never fired",
    "loss_recovered": "loss recovered",
    "cosine.mean": "best cosine with a vector, mean",
    "cosine.found": "vectors with a feature nearer than chance (q < .05)",
    "cosine.gain": "best cosine beyond that of the control, mean",
    "rebuild.denoised.8": "share of a vector explained by 8 features",
    "auc.mean": "AUC of the best feature on other topics, mean",
    "auc.gain": "AUC beyond that of the control's best, mean",
    "auc.found": "{concept}s told better than chance (q < .05)",
    "rsa": "likeness of codes and vectors (RSA)",
    "rsa.gain": "RSA beyond that of the control",
}
"""Metrics at the head of the page, and what they are called there."""
HEAD = """<h1>{name}: its features beside the {concept} vectors</h1>
{notes}<p>Reader {reader}, corpus {corpus}, layer {layer}; {vectors} vectors. SAE {source}:
{architecture}, {features} features, of which {alive} fired on this corpus.</p>
<p>A feature that tells {concept}s apart proves little by itself: of activations that carry
{concept}s, random features tell them apart too. So each number stands beside that of random ones:
its random control ({control}), or for cosines the best of as many random rows.</p>"""
LEGEND = """<p class=small>On each card: the {concept}s whose stories the feature tells best from
all others, in bold those that it is the best feature for. AUC: over all stories, those that it was
chosen by among them; in brackets on topics that it was not chosen on, against that of the control's
best. Cosine: of its decoder row with the vector; in brackets what the best of as many random rows
stays below in 95 of 100 draws. Then the tokens that its decoder row raises and lowers most (logit
lens, through no norm), and the stories with its highest mean codes, around the peak. A token's
background says how high the code is there, in sixths of the highest on the card: {levels}. From the
third on it is underlined as well. A line break is written ↵.</p>"""
WHERE = """<p class=small>Fires in {share} of {stories} stories; mean code {mean_code}. {link}<a
href="#top">Index</a></p>"""
TOKENS = "<p>Raises {top}<br>Lowers {bottom}</p>"
WINDOW = """<li><p class=small>{emotion}, story {text_id}, from token {first}: mean code
{mean_code}, highest {peak}</p><p class=text dir=auto lang="">{text}</p></li>"""
NONE = "<p>No feature fired on any story.</p>"


def pages(rows: Rows) -> dict[str, str]:
    """The page of cards: `cards`."""
    settings = rows.settings
    facts = said(settings) | {"levels": _levels(), "notes": "".join(_notes(settings))}
    cards = _records(rows, "cards")
    about = {str(row["emotion"]): row for row in _records(rows, "emotions")}
    emotions, snippets = (_by_feature(rows, name) for name in ("card_emotions", "card_snippets"))
    body = [
        HEAD.format_map(facts),
        *_numbers(rows, str(settings["concept"])),
        LEGEND.format_map(facts),
        *_index(cards),
        *(
            line
            for card in cards
            for line in _section(card, emotions[card["feature"]], snippets[card["feature"]], about)
        ),
    ]
    place = f"reader {settings['reader']}, corpus {settings['corpus']}, layer {settings['layer']}"
    return {"cards": write_page(f"{settings['name']}, {place}", "\n".join(body))}


def _records(rows: Rows, name: str) -> Sequence[Record]:
    layer = next(table.layer for table in rows.tables if table.name == name)
    return rows.records(name, layer)


def _by_feature(rows: Rows, name: str) -> Mapping[Cell, Sequence[Record]]:
    found: dict[Cell, list[Record]] = defaultdict(list)
    for record in _records(rows, name):
        found[record["feature"]].append(record)
    return found


def _notes(settings: Record) -> Iterator[str]:
    """What must be known before believing a number."""
    if settings["labels"] == "planted":
        yield f"<p class=note>{plain(PLANTED_NOTE)}</p>\n"
    if settings["differences"]:
        told = plain(str(settings["differences"]), 600)
        yield f"<p class=note>This SAE is not the reader's, and was forced on it: {told}</p>\n"


def _levels() -> str:
    return ", ".join(mark(f"{i}/6", i) for i in range(1, len(LEVELS) + 1))


def _numbers(rows: Rows, concept: str) -> Iterator[str]:
    yield "<table><tr><th></th><th>SAE</th><th>random</th><th>95% interval</th></tr>"
    for metric, told in NUMBERS.items():
        found = [row for row in rows.select(metric) if row.subject in (None, "sae")]
        if found:
            cells = said({"value": found[0].value, "chance": _chance(rows, found[0])})
            name, interval = plain(told.format(concept=concept)), _interval(found[0])
            yield (
                f"<tr><td>{name}</td><td>{cells['value']}</td><td>{cells['chance']}</td>"
                f"<td>{interval}</td></tr>"
            )
    yield "</table>"


def _chance(rows: Rows, row: Metric) -> float | None:
    """What chance gives, or the control, by whose row it is told where chance is not."""
    rivals = rows.select(f"{row.metric}.control")
    return rivals[0].value if row.chance is None and rivals else row.chance


def _interval(row: Metric) -> str:
    ends = said({"low": row.ci_low, "high": row.ci_high})
    return "" if row.ci_low is None else f"{ends['low']} to {ends['high']}"


def _index(cards: Sequence[Record]) -> Iterator[str]:
    if not cards:
        yield NONE
        return
    yield "<nav>"
    for card in cards:
        first = plain((_chosen(card) or [""])[0])
        yield f'<a href="#f{card["feature"]}">{card["feature"]} {first}</a>'
    yield "</nav>"


def _chosen(card: Record) -> list[str]:
    """The emotions that the feature is the best for, each once."""
    both = [json.loads(str(card[name])) for name in ("auc_for", "cosine_for")]
    return list(dict.fromkeys(name for names in both for name in names))


def _section(
    card: Record,
    emotions: Sequence[Record],
    snippets: Sequence[Record],
    about: Mapping[str, Record],
) -> Iterator[str]:
    names, feature = _chosen(card), card["feature"]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    heading = f"{', '.join(map(plain, names[:NAMED]))}{more}"
    yield f"<section id=f{feature}><h2>{feature}: {heading}</h2>"
    yield WHERE.format_map(said(card) | {"share": f"{card['share']:.1%}", "link": _link(card)})
    yield from _emotions(emotions, about)
    tokens = {end: _tokens(card[f"{end}_tokens"]) for end in ("top", "bottom")}
    yield TOKENS.format_map(tokens)
    yield from _windows(snippets)
    yield "</section>"


def _link(card: Record) -> str:
    """To where others describe the feature; only there, whatever a row says."""
    link = str(card["link"] or "")
    if not link.startswith("https://www.neuronpedia.org/"):
        return ""
    return f'<a href="{plain(link, 300)}" rel="noopener noreferrer">Neuronpedia</a> '


def _tokens(listed: Cell) -> str:
    return ", ".join(f"“{plain(token)}”" for token in json.loads(str(listed)))


def _emotions(emotions: Sequence[Record], about: Mapping[str, Record]) -> Iterator[str]:
    yield "<table><tr><th></th><th>AUC</th><th>cosine</th><th>mean code</th></tr>"
    # Those that it was chosen for come first when not all are shown.
    kept = sorted(emotions, key=lambda row: (row["chosen_by"] is None, row["rank"]))[:SHOWN]
    for row in sorted(kept, key=lambda row: float(row["rank"] or 0)):
        by, known = str(row["chosen_by"] or ""), about[str(row["emotion"])]
        name = plain(str(row["emotion"]))
        auc, cosine = _two(row["auc"]), _two(row["cosine"])
        if "auc" in by:
            auc += f" ({_two(known['auc'])}, control {_two(known['control_auc'])})"
        if "cosine" in by:
            cosine += f" ({_two(known['null_high'])})"
        yield (
            f"<tr><td>{f'<b>{name}</b>' if by else name}</td><td>{auc}</td><td>{cosine}</td>"
            f"<td>{said(row)['mean_code']}</td></tr>"
        )
    if len(kept) < len(emotions):
        yield f"<tr><td>and {len(emotions) - len(kept)} more</td></tr>"
    yield "</table>"


def _two(cell: Cell) -> str:
    """A number with two digits behind the point."""
    return "not known" if cell is None else f"{float(cell):.2f}"


def _windows(snippets: Sequence[Record]) -> Iterator[str]:
    highest = max((float(row["peak"] or 0.0) for row in snippets), default=0.0)
    yield "<ol>"
    for row in snippets:
        tokens, codes = json.loads(str(row["tokens"])), json.loads(str(row["codes"]))
        levels = np.ceil(np.array(codes) / (highest or 1.0) * len(LEVELS)).clip(0, len(LEVELS))
        text = "".join(
            mark(*pair) for pair in zip(tokens, levels.astype(int).tolist(), strict=True)
        )
        yield WINDOW.format_map(said(row) | {"text_id": str(row["text_id"]), "text": text})
    yield "</ol>"
