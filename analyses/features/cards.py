"""Feature cards: where the features that matter fire, what they write, where to read more.

    cards          a feature each: how many of the stories it fires in, its mean code over all of
                   them, the tokens its decoder row raises and lowers most, where it is described
    card_emotions  the emotions it tells best, and those it was chosen for; AUC over all stories,
                   those it was chosen by among them
    card_snippets  the stories with its highest mean codes, a window around the peak of each

Lists are JSON. Tables of the compared layer. Knows nothing of pages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from analyses.base import Result
from analyses.features.page import pages
from analyses.features.reading import Crosscheck, Ints
from analyses.methods.codespace import mean_codes
from analyses.methods.geometry import unit
from analyses.methods.telling import feature_aucs
from stores.corpora import read_texts
from stores.database import canonical_json
from stores.results import Cell, Table

if TYPE_CHECKING:
    from engine.features.snippets import FeatureSnippet

__all__ = ["make_cards", "pages"]

MOST = 60
"""Features that get a card."""
TOLD, TEXTS = 5, 5
"""Emotions that a feature tells best, and stories, on its card."""
TOP, BOTTOM = 10, 5
"""Tokens at each end of the logit lens."""
NEURONPEDIA = "https://www.neuronpedia.org"

CARDS = (
    *("card", "feature", "auc_for", "cosine_for", "stories", "share", "mean_code"),
    *("top_tokens", "bottom_tokens", "link"),
)
CARD_EMOTIONS = ("feature", "rank", "emotion", "chosen_by", "auc", "cosine", "mean_code")
CARD_SNIPPETS = (
    *("feature", "rank", "text_id", "emotion", "mean_code", "peak", "first", "tokens", "codes"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Carded:
    """The c features that get a card, on n stories of e emotions."""

    features: list[int]
    share: NDArray[np.float64]
    """[c] of the stories in which they fire."""
    mean: NDArray[np.float64]
    """[c] mean codes of all stories."""
    best: dict[int, dict[int, float]]
    """Feature -> its mean codes in the stories with the highest, by their row, these first."""
    aucs: NDArray[np.float32]
    """[e, c] over all stories."""
    cosines: NDArray[np.float64]
    """[e, c]"""
    means: NDArray[np.float64]
    """[e, c] mean codes of the emotions' stories."""
    chosen: dict[str, Ints]
    """[e] by what they were chosen: `auc` and `cosine`."""

    def chosen_for(self, by: str, feature: int) -> list[int]:
        return np.flatnonzero(self.chosen[by] == feature).tolist()


def make_cards(found: Crosscheck, chosen: dict[str, Ints]) -> Result:
    """The three tables, of features that are the best for an emotion by AUC or by cosine.

    Those of the emotions that are told best come first, and those with the highest cosines.
    """
    carded = open_cards(found, chosen)
    tables = (
        ("cards", CARDS, _card_rows(found, carded)),
        ("card_emotions", CARD_EMOTIONS, _emotion_rows(found, carded)),
        ("card_snippets", CARD_SNIPPETS, _snippet_rows(found, carded)),
    )
    return Result(
        tables=tuple(
            Table(name, columns, tuple(rows), found.layer) for name, columns, rows in tables
        )
    )


def open_cards(found: Crosscheck, chosen: dict[str, Ints]) -> Carded:
    """The features that get a card, and what holds of them."""
    every = np.unique(np.concatenate([chosen["auc"], chosen["cosine"]]))
    sae, count = found["sae"], len(found.emotions)
    aucs = feature_aucs(sae.codes[:, every], found.own, count)
    cosines = found.directions @ unit(sae.rows[every]).T
    places = order_features(chosen, every, aucs, cosines)[:MOST]
    features = every[places].tolist()
    codes = sae.codes[:, features]
    columns, stories = codes.tocsc(), len(found.own)
    bounds = pairwise(columns.indptr.tolist())
    held = {feature: slice(*ends) for feature, ends in zip(features, bounds, strict=True)}
    return Carded(
        features,
        np.diff(columns.indptr) / stories,
        np.asarray(codes.sum(axis=0), np.float64) / stories,
        {f: _highest(columns.indices[own], columns.data[own]) for f, own in held.items()},
        aucs[:, places],
        cosines[:, places],
        mean_codes(codes, found.own, count),
        chosen,
    )


def _highest(rows: NDArray[np.int32], codes: NDArray[np.float32]) -> dict[int, float]:
    """Of equals the first."""
    order = np.argsort(-codes, kind="stable")[:TEXTS]
    return dict(zip(rows[order].tolist(), codes[order].tolist(), strict=True))


def order_features(
    chosen: dict[str, Ints],
    every: Ints,
    aucs: NDArray[np.float32],
    cosines: NDArray[np.float64],
) -> list[int]:
    """Where the features stand in `every` [c] (ascending), the most telling first.

    By turns that of the emotion with the next highest AUC [e, c] and that with the next highest
    cosine [e, c].
    """
    ranked = []
    for by, scores in (("auc", aucs), ("cosine", cosines)):
        places = np.searchsorted(every, chosen[by])
        own = scores[np.arange(len(places)), places]
        ranked.append(places[np.argsort(-own, kind="stable")].tolist())
    return list(dict.fromkeys(place for pair in zip(*ranked, strict=True) for place in pair))


def describe_feature(neuronpedia: str | None, feature: int) -> str | None:
    """Where the feature is described, for an SAE that says what it is called there."""
    return None if neuronpedia is None else f"{NEURONPEDIA}/{quote(neuronpedia)}/{feature}"


def _card_rows(found: Crosscheck, carded: Carded) -> Iterator[tuple[Cell, ...]]:
    from engine.lens import read_lens

    rows = found["sae"].rows[carded.features].astype(np.float64)
    lens = read_lens(found.model, rows, [], through_norm=False, top=TOP)
    for i, feature in enumerate(carded.features):
        yield (
            i + 1,
            feature,
            *(_names(found, carded.chosen_for(by, feature)) for by in ("auc", "cosine")),
            len(found.own),
            float(carded.share[i]),
            float(carded.mean[i]),
            _spell(found, lens.top[i]),
            _spell(found, lens.bottom[i, :BOTTOM]),
            describe_feature(found.identity.neuronpedia, feature),
        )


def _names(found: Crosscheck, emotions: Sequence[int]) -> str:
    return canonical_json([found.emotions[i] for i in emotions])


def _spell(found: Crosscheck, tokens: NDArray[np.int64]) -> str:
    tokenizer = found.model.tokenizer
    return canonical_json([str(tokenizer.decode([token])) for token in tokens.tolist()])


def _emotion_rows(found: Crosscheck, carded: Carded) -> Iterator[tuple[Cell, ...]]:
    """Those that a feature was chosen for and the first few of the others, by AUC."""
    for i, feature in enumerate(carded.features):
        by = {name: carded.chosen_for(name, feature) for name in ("auc", "cosine")}
        order = np.argsort(-carded.aucs[:, i], kind="stable").tolist()
        shown = {*order[:TOLD], *by["auc"], *by["cosine"]}
        for rank, emotion in enumerate((each for each in order if each in shown), 1):
            yield (
                feature,
                rank,
                found.emotions[emotion],
                " and ".join(name for name in by if emotion in by[name]) or None,
                *(
                    float(table[emotion, i])
                    for table in (carded.aucs, carded.cosines, carded.means)
                ),
            )


def _snippet_rows(found: Crosscheck, carded: Carded) -> Iterator[tuple[Cell, ...]]:
    ids = found["sae"].pooled.text_ids
    place = {int(ids[row]): row for rows in carded.best.values() for row in rows}
    rank = dict.fromkeys(carded.features, 0)
    for each in _read(found, {f: ids[list(rows)].tolist() for f, rows in carded.best.items()}):
        rank[each.feature] += 1
        row = place[each.text_id]
        yield (
            each.feature,
            rank[each.feature],
            each.text_id,
            found.emotions[found.own[row]],
            carded.best[each.feature][row],
            each.peak,
            each.first,
            canonical_json(list(each.pieces)),
            canonical_json([round(code, 4) for code in each.codes]),
        )


def _read(found: Crosscheck, wanted: dict[int, list[int]]) -> "list[FeatureSnippet]":
    """Windows of the stories, read as they were encoded."""
    from engine.features.snippets import read_snippets

    settings = found.encoding.settings
    ids = sorted({text_id for own in wanted.values() for text_id in own})
    return read_snippets(
        found.model,
        found.layer,
        found["sae"].sae,
        read_texts(found.inputs.conn, "stories", ids),
        wanted,
        format=settings["format"],
        start_token=settings["start_token"],
    )
