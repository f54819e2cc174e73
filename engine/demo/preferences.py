"""What the demo model prefers, what it feels about each activity, and how steering moves that.

Criteria V7 to V11. Prompts are read once up to the steered layer; each vector then costs only the
layers above it, and only for the pairs that hold a steered activity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.demo.layers import final_logits
from engine.demo.measures import Floats, correlation, elo, spread, unit
from engine.demo.residuals import Reader, batches, residual
from engine.tokens import render_prompt
from stores.errors import ModelError
from stores.protocol import Activity, Protocol

STRENGTH = 0.5
"""Length of what is added, as a share of the mean residual norm."""
N_STEERED_EMOTIONS, N_RANDOM = 35, 8
CLEAR = 0.3
"""|r| above which an emotion counts for V9."""


@dataclass(frozen=True)
class Question:
    """A two-option prompt: token ids, the options' indices, and the token range of each option."""

    ids: list[int]
    pair: tuple[int, int]
    spans: tuple[slice, slice]


@dataclass(frozen=True)
class Waiting:
    """Questions read up to the steered layer: residual [n, t, d], and where to add and to read."""

    pairs: list[tuple[int, int]]
    hidden: Tensor
    steered: Tensor
    last: Tensor


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> slice:
    """The tokens that share a character with [start, end)."""
    inside = [t for t, (first, last) in enumerate(offsets) if first < end and last > start]
    return slice(inside[0], inside[-1] + 1)


def ask_pairs(reader: Reader, protocol: Protocol) -> list[Question]:
    """Every ordered pair of activities as a question, up to where the letter is due."""
    names = [activity.name for activity in protocol.activities]
    pairs = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    template = protocol.prompts["preference"]
    texts = [
        render_prompt(reader.tokenizer, template.format(a=names[a], b=names[b]), prefill=" (")
        for a, b in pairs
    ]
    encoded = reader.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    questions = []
    for n, (a, b) in enumerate(pairs):
        offsets = encoded["offset_mapping"][n]
        first = texts[n].index(names[a])
        second = texts[n].index(names[b], first + len(names[a]))
        spans = (
            token_span(offsets, first, first + len(names[a])),
            token_span(offsets, second, second + len(names[b])),
        )
        questions.append(Question(encoded["input_ids"][n], (a, b), spans))
    return questions


def letter_ids(reader: Reader) -> list[int]:
    """Token ids of the two answers after a bracket. Raises ModelError if they are not single."""
    ids = [
        reader.tokenizer(f" ({letter}", add_special_tokens=False)["input_ids"] for letter in "AB"
    ]
    if any(len(each) != 2 for each in ids):
        raise ModelError(f"{reader.tokenizer.name_or_path}: A and B are not one token after ' ('")
    return [each[1] for each in ids]


def steered_activities(activities: Sequence[Activity]) -> set[int]:
    """Indices of the even-numbered activities of each category; the others are the controls."""
    categories = dict.fromkeys(activity.category for activity in activities)
    members = [[n for n, a in enumerate(activities) if a.category == c] for c in categories]
    return {n for own in members for n in own[::2]}


def wait(reader: Reader, questions: Sequence[Question], steered: set[int]) -> list[Waiting]:
    """Read questions up to the steered layer, in batches."""
    waiting = []
    for batch in batches([question.ids for question in questions], reader.model.device):
        chosen = [questions[index] for index in batch.indices]
        where = torch.zeros(batch.ids.shape)
        for row, question in zip(where, chosen, strict=True):
            for option, span in zip(question.pair, question.spans, strict=True):
                if option in steered:
                    row[span] = 1.0
        waiting.append(
            Waiting(
                pairs=[question.pair for question in chosen],
                hidden=residual(reader, batch.ids),
                steered=where.to(batch.ids.device)[..., None],
                last=batch.lengths - 1,
            )
        )
    return waiting


def chosen_first(
    reader: Reader, waiting: Sequence[Waiting], shape: Floats, added: Tensor | None = None
) -> Floats:
    """P(A) [a, a] of each ordered pair, with `added` [d] on steered spans; else as in `shape`."""
    letters, chosen = letter_ids(reader), shape.copy()
    for part in waiting:
        hidden = part.hidden if added is None else part.hidden + part.steered * added
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=reader.fast):
            logits = final_logits(reader.model, hidden, reader.upper, part.last)
        a, b = logits[:, letters].double().T
        first = torch.sigmoid(a - b).cpu().numpy()
        chosen[tuple(np.array(part.pairs).T)] = first
    return chosen


def ratings(first: Floats) -> Floats:
    """Elo [a] from P(A) [a, a], both orders averaged."""
    return elo((first + 1 - first.T) / 2)


def activity_probes(reader: Reader, protocol: Protocol) -> Floats:
    """Mean residual [a, d] on each activity's own tokens when asked how it would feel."""
    gerunds = [activity.gerund for activity in protocol.activities]
    texts = [
        render_prompt(reader.tokenizer, protocol.prompts["feeling"].format(activity=gerund))
        for gerund in gerunds
    ]
    encoded = reader.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    means = np.zeros((len(texts), reader.model.config.hidden_size))
    for batch in batches(encoded["input_ids"], reader.model.device):
        hidden = residual(reader, batch.ids).double().cpu().numpy()
        for row, index in zip(hidden, batch.indices, strict=True):
            start = texts[index].index(gerunds[index])
            offsets = encoded["offset_mapping"][index]
            means[index] = row[token_span(offsets, start, start + len(gerunds[index]))].mean(axis=0)
    return means


def score_preferences(
    reader: Reader, protocol: Protocol, vectors: Floats, norm: float, rng: np.random.Generator
) -> dict[str, object]:
    """V7 to V11. `vectors` [e, d] in the protocol's order, `norm` the mean residual norm."""
    activities, valence = protocol.activities, np.array(list(protocol.label("valence").values()))
    steered = steered_activities(activities)
    questions = ask_pairs(reader, protocol)
    unsteered = np.full((len(activities), len(activities)), 0.5)
    baseline = chosen_first(reader, wait(reader, questions, steered), unsteered)
    before = ratings(baseline)
    directions = unit(vectors)
    projections = activity_probes(reader, protocol) @ directions.T
    r = np.array([correlation(column, before) for column in projections.T])

    affected = [question for question in questions if steered & set(question.pair)]
    waiting = wait(reader, affected, steered)

    def change(direction: Floats) -> float:
        added = torch.from_numpy(STRENGTH * norm * direction).to(waiting[0].hidden)
        after = ratings(chosen_first(reader, waiting, baseline, added))
        return float((after - before)[sorted(steered)].mean())

    selections = {
        "top": [int(e) for e in np.argsort(-np.abs(r))[:N_STEERED_EMOTIONS]],
        "spread": spread(r, N_STEERED_EMOTIONS),
    }
    chosen = sorted({e for selection in selections.values() for e in selection})
    changes = {e: change(directions[e]) for e in chosen}
    noise = [change(d) for d in unit(rng.normal(size=(N_RANDOM, vectors.shape[1])))]
    return {
        **_score_ratings(activities, before, r, valence),
        **_score_steering(selections, changes, r, valence),
        "random_delta_elo": [round(x, 1) for x in noise],
        "accuracy": _agreement(baseline, activities),
    }


def _score_ratings(
    activities: Sequence[Activity], before: Floats, r: Floats, valence: Floats
) -> dict[str, object]:
    by_category: dict[str, list[float]] = {}
    for activity, rating in zip(activities, before, strict=True):
        by_category.setdefault(activity.category, []).append(float(rating))
    means = {category: float(np.mean(own)) for category, own in by_category.items()}
    order = np.argsort(r)
    right = [int((valence[order[-3:]] > 0).sum()), int((valence[order[:3]] < 0).sum())]
    return {
        "V7": max(means.values()) - min(means.values()),
        "V8": min(right),
        "V9": int((np.abs(r) > CLEAR).sum()),
        "category_elo": {category: round(mean) for category, mean in means.items()},
        "r_elo_valence": correlation(r, valence),
    }


def _score_steering(
    selections: dict[str, list[int]], changes: dict[int, float], r: Floats, valence: Floats
) -> dict[str, object]:
    scores: dict[str, object] = {}
    for name, selection in selections.items():
        delta = np.array([changes[e] for e in selection])
        scores[f"V10_{name}"] = correlation(delta, r[selection])
        scores[f"V11_{name}"] = int((np.sign(delta) == np.sign(valence[selection])).sum())
        scores[f"delta_elo_{name}"] = [round(float(delta.min()), 1), round(float(delta.max()), 1)]
    return scores


def _agreement(first: Floats, activities: Sequence[Activity]) -> float:
    """Share of ordered pairs of different planted value whose better one is chosen."""
    value = np.array([activity.value or 0.0 for activity in activities])
    better = np.sign(value[:, None] - value[None])
    return float((np.sign(first - 0.5) == better)[better != 0].mean())
