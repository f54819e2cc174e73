"""Made-up rows of a comparison of an SAE, for its figures and its page."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyses.base import Rows
from analyses.features.alignment import CURVES
from analyses.features.cards import CARD_EMOTIONS, CARD_SNIPPETS, CARDS
from analyses.features.comparison import EMOTIONS
from analyses.features.shapes import COMPONENTS
from stores.results import Cell, Metric, Table
from tests.analyses.sheets import words

LAYER = 20
SETTINGS: dict[str, Cell] = {
    **{"reader": "llama-3.1-8b", "corpus": "main", "layer": LAYER, "concept": "emotion"},
    **{"vectors": "denoised", "labels": "editorial", "name": "llama-scope-lxr-8x-l20r-8x"},
    **{"source": "llama_scope_lxr_8x/l20r_8x", "architecture": "jumprelu", "features": 32768},
    **{"alive": 29_311, "control": "topk, k = 51, seed 0", "differences": "", "forced": 0},
}
KS = (1, 2, 4, 8, 16, 32)


def feature_rows(
    emotions: Sequence[str] = tuple(words(40)),
    *,
    cards: int = 6,
    seed: int = 0,
    settings: dict[str, Cell] | None = None,
    valence: bool = True,
    changes: dict[str, Any] | None = None,
) -> Rows:
    """Every table that figures and page are made of; `changes` are cells of all cards' tables."""
    rng = np.random.default_rng(seed)
    features = rng.permutation(32768)[: len(emotions)].tolist()
    tables = (
        Table("settings", ("setting", "value"), tuple((SETTINGS | (settings or {})).items())),
        Table("emotions", EMOTIONS, tuple(_emotions(rng, emotions, features)), LAYER),
        Table("rebuild", CURVES, _rebuilt(), LAYER),
        Table("aucs", ("feature", *emotions), tuple(_aucs(rng, emotions, features)), LAYER),
        Table("components", COMPONENTS, tuple(_components(rng, emotions, valence)), LAYER),
        *_cards(rng, emotions, features[:cards], changes or {}),
    )
    return Rows(tuple(_metrics(len(emotions))), tables)


def _emotions(rng: np.random.Generator, emotions: Sequence[str], features: list[int]) -> Any:
    cosines, aucs = rng.beta(6, 8, len(emotions)), 0.5 + 0.5 * rng.beta(4, 3, len(emotions))
    for i, (name, cosine, auc) in enumerate(zip(emotions, cosines, aucs, strict=True)):
        half = float(rng.normal(0.33, 0.01))
        p, auc_p = 0.2 * float(cosine < half + 0.05) or 1e-4, 0.2 * float(auc < 0.6) or 1e-3
        yield (
            *(name, f"family {i % 10}", features[i], float(cosine), half, half + 0.05, p, p),
            *(half + float(rng.normal(0.0, 0.02)), features[i], float(auc), auc - 0.05, auc + 0.05),
            *(auc_p, auc_p, 0.5 + 0.3 * float(rng.beta(3, 4))),
        )


def _rebuilt() -> tuple[tuple[Cell, ...], ...]:
    ends = {("raw", "sae"): 0.8, ("raw", "control"): 0.5}
    ends |= {("denoised", "sae"): 0.9, ("denoised", "control"): 0.55}
    return tuple(
        (target, bank, k, share, share - 0.03, share + 0.03)
        for (target, bank), end in ends.items()
        for k in range(1, 33)
        for share in [end * (1.0 - 0.8 * k**-0.5)]
    )


def _aucs(rng: np.random.Generator, emotions: Sequence[str], features: list[int]) -> Any:
    for i, feature in enumerate(features[:60]):
        row = np.clip(rng.normal(0.5, 0.08, len(emotions)), 0.0, 1.0)
        row[max(0, i - 2) : i + 3] = 0.9
        yield (feature, *row.tolist())


def _components(rng: np.random.Generator, emotions: Sequence[str], valence: bool) -> Any:
    linear = rng.normal(size=(len(emotions), 2)) * [2.0, 1.0]
    coded = -3.0 * linear + rng.normal(0.0, 0.5, linear.shape)
    control = 0.1 * linear + rng.normal(0.0, 0.1, linear.shape)
    for i, name in enumerate(emotions):
        known = (float(np.sign(linear[i, 0])), None)[i % 9 == 8] if valence else None
        points = np.concatenate([linear[i], coded[i], control[i]]).tolist()
        yield (name, f"family {i % 10}", known, *points)


def _metrics(count: int) -> list[Metric]:
    both = [
        Metric(name, value, LAYER, subject, 1026, chance, 0.1, 0.2)
        for name, value in (("variance_unexplained", 0.15), ("l0", 51.0), ("dead_features", 0.1))
        for subject, chance in (("sae", 0.6), ("control", None))
    ]
    names = ("cosine.mean", "auc.mean", "rsa")
    pairs = [(name, 0.41, 0.33) for name in names] + [(f"{n}.control", 0.33, None) for n in names]
    pairs += [(f"{name}.gain", 0.08, 0.0) for name in ("auc", "rsa")]
    counts = [(f"{name}.found", 80.0, None) for name in ("cosine", "auc")]
    counts += [(f"{name}.found.control", 2.0, None) for name in ("cosine", "auc")]
    return both + [
        Metric(name, value, LAYER, None, count, chance, 0.1, 0.9, 0.001)
        for name, value, chance in (*pairs, *counts)
    ]


def _cards(
    rng: np.random.Generator, emotions: Sequence[str], features: list[int], changes: dict[str, Any]
) -> tuple[Table, ...]:
    rows: dict[str, list[dict[str, Any]]] = {"cards": [], "emotions": [], "snippets": []}
    vocabulary = words()
    for card, feature in enumerate(features, 1):
        own = emotions[card - 1]
        rows["cards"].append(
            {
                **{"card": card, "feature": feature, "auc_for": json.dumps([own])},
                **{"cosine_for": json.dumps([own]), "stories": 1026, "share": 0.125},
                **{"mean_code": 0.25, "top_tokens": json.dumps([f" {own}"] * 10)},
                "bottom_tokens": json.dumps([" flat"] * 5),
                "link": f"https://www.neuronpedia.org/llama3.1-8b/20-llamascope/{feature}",
            }
        )
        shown = [own, *(name for name in emotions if name != own)][:5]
        for rank, name in enumerate(shown, 1):
            chosen = "auc and cosine" if name == own else None
            scores = {
                "auc": 0.95 - 0.05 * rank,
                "cosine": 0.5 - 0.1 * rank,
                "mean_code": 1.0 / rank,
            }
            row = {"feature": feature, "rank": rank, "emotion": name, "chosen_by": chosen}
            rows["emotions"].append(row | scores)
        for rank in range(1, 6):
            tokens = [f" {vocabulary[i][:6]}" for i in rng.integers(len(vocabulary), size=30)]
            codes = np.clip(rng.normal(0.0, 1.0, 30), 0.0, None).round(4)
            codes[20] = 6.0 - rank / 2.0
            rows["snippets"].append(
                {
                    **{"feature": feature, "rank": rank, "text_id": 100 * rank, "emotion": own},
                    **{"mean_code": 2.0 / rank, "peak": codes[20], "first": 50},
                    **{"tokens": json.dumps(tokens), "codes": json.dumps(codes.tolist())},
                }
            )
    named = (
        ("cards", CARDS, rows["cards"]),
        ("card_emotions", CARD_EMOTIONS, rows["emotions"]),
        ("card_snippets", CARD_SNIPPETS, rows["snippets"]),
    )
    return tuple(
        Table(
            name,
            columns,
            tuple(tuple(changes.get(column, row[column]) for column in columns) for row in records),
            LAYER,
        )
        for name, columns, records in named
    )
