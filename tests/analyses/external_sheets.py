"""Made-up rows of the analysis of texts of others, with its own tables, for figures and pages."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.base import Rows
from analyses.external_rows import DOCUMENTS, QUANTILES, RANKING, SNIPPETS, SOURCES, TOKEN_QUANTILES
from stores.results import Cell, Metric, Table
from tests.analyses.planted import Floats
from tests.analyses.sheets import words

LAYER = 3
SETTINGS: dict[str, Cell] = {
    **{"reader": "toy", "corpus": "main", "layer": LAYER, "concept": "emotion", "seed": 0},
    **{"labels": "planted", "note": "toy model, planted geometry", "layer_note": None},
    "vectors": "denoised",
}
ABOUT: dict[str, Cell] = {
    **{"origin": "files", "drawn_from": "{}", "rule": "lowest", "seed": 11, "size": 5000},
    **{"seen": 9000, "skipped": "{}", "kept": 5000, "documents": 4990, "tokens": 700123},
    **{"cut": 12, "unread": 10, "max_tokens": 512, "format": "raw", "start_token": 50},
    "offset": "Raw, one is first in 98% of the documents: an offset, not an emotion.",
}


def external_rows(
    sources: Sequence[str] = ("pile", "lmsys"),
    emotions: Sequence[str] = tuple(words(40)),
    *,
    snippets: int = 10,
    neutral: bool = True,
    seed: int = 0,
    changes: dict[str, Any] | None = None,
) -> Rows:
    """Every table as the analysis has it; `changes` are cells of every document and snippet."""
    rng = np.random.default_rng(seed)
    offset = rng.normal(0.0, 3.0, len(emotions))
    tables: dict[str, list[tuple[Cell, ...]]] = {}
    for source in sources:
        tables.setdefault("sources", []).append(_row(SOURCES, ABOUT | {"source": source}))
        raw = offset + rng.normal(0.0, 0.3, len(emotions))
        against = rng.normal(0.0, 0.3, len(emotions)) if neutral else None
        for i, emotion in enumerate(emotions):
            about = {"source": source, "emotion": emotion}
            ranked = _ranked(i, raw, against)
            tables.setdefault("ranking", []).append(_row(RANKING, about | ranked))
            scale = {"tokens": 700123, "mean": 0.0, "sd": 1.0}
            scale |= {name: 4.0 * share - 2.0 for name, share in QUANTILES.items()}
            tables.setdefault("token_quantiles", []).append(_row(TOKEN_QUANTILES, about | scale))
            for rank in range(1, snippets + 1):
                text = _text(rng, rank) | about | (changes or {})
                tables.setdefault("documents", []).append(_row(DOCUMENTS, text))
                tables.setdefault("snippets", []).append(_row(SNIPPETS, text))
    columns = {
        **{"sources": SOURCES, "ranking": RANKING, "token_quantiles": TOKEN_QUANTILES},
        **{"documents": DOCUMENTS, "snippets": SNIPPETS},
    }
    kept = [Table("settings", ("setting", "value"), tuple(SETTINGS.items()))]
    for name, found in tables.items():
        layer = None if name == "sources" else LAYER
        kept.append(Table(name, columns[name], tuple(found), layer))
    return Rows((), tuple(kept))


def judged(rows: Rows, source: str) -> Rows:
    """The same with what a judge said of the first snippet of every emotion."""
    columns = ("source", "judge", "emotion", "document_id", "own", "other", "other_emotion")
    seen = [
        (source, "scripted judge", row["emotion"], row["document_id"], 8.0, 2.0, "cold")
        for row in rows.records("snippets", LAYER)
        if row["source"] == source and row["rank"] == 1
    ]
    metric = Metric(
        *(f"judge.{source}", 5.5, LAYER, "scripted judge", 40, 0.0, 4.5, 6.5),
        p_value=0.005,
    )
    table = Table("judgements", columns, tuple(seen), LAYER)
    return Rows((*rows.metrics, metric), (*rows.tables, table))


def _row(columns: Sequence[str], cells: dict[str, Any]) -> tuple[Cell, ...]:
    return tuple(cells[name] for name in columns)


def _ranked(i: int, raw: Floats, against: Floats | None) -> dict[str, Cell]:
    found: dict[str, Cell] = {"valence": (-1.0, 1.0, None)[i % 3], "n": 4990}
    shares = np.linspace(0.0, 2.0 / len(raw), len(raw))
    columns = (("raw", raw), ("neutral", against), ("first", shares))
    for name, values in columns:
        cells: tuple[Cell, ...] = (None,) * 4
        if values is not None:
            at = float(values[i])
            cells = (at, at - 0.01, at + 0.01, int((values > at).sum()) + 1)
        names = (name, f"{name}_low", f"{name}_high", f"{name}_rank")
        found |= dict(zip(names, cells, strict=True))
    return found | {"neutral_p": None, "neutral_q": None}


def _text(rng: np.random.Generator, rank: int) -> dict[str, Any]:
    vocabulary = words()
    tokens = [f" {vocabulary[i][:6]}" for i in rng.integers(len(vocabulary), size=30)]
    heat = rng.normal(1.5, 1.0, 30).round(4).tolist()
    return {
        **{"rank": rank, "document_id": int(rng.integers(10**6)), "first": 50, "score": 1.5},
        **{"place": f"folder/texts.jsonl:{rank}", "part": "Github", "z": 1.5, "bar": 1.6},
        **{"tokens": json.dumps(tokens), "heat": json.dumps(heat)},
        "beginning": "".join(tokens),
    }
