"""Scores a trained demo model against what was planted: `python -m engine.demo.scorecard DIR`.

A training aid: it tells within a minute whether a recipe works. The verification suite proper is an
analysis and reads the database; this reads a folder and knows nothing of either.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import LlamaForCausalLM

from engine.demo.criteria import (
    score_geometry,
    score_intensity,
    score_scenarios,
    score_words,
)
from engine.demo.grammar import sample_long, sample_short, write_dialogue, write_story
from engine.demo.measures import Floats, center, remove_common, unit
from engine.demo.preferences import score_preferences
from engine.demo.reading import planted_reading
from engine.demo.residuals import (
    Reader,
    encode_texts,
    mean_norm,
    pooled_means,
    token_loss,
    write_texts,
)
from engine.demo.world import DEMO_FOLDER, World, load_world
from engine.models import default_layer, load_model

START_TOKEN = 50
NEUTRAL_TEXTS, NEUTRAL_SHARE = 200, 0.5
HELD_OUT = 200
"""Documents of each length that the loss is measured on."""

TARGETS = {
    "V1": 30,
    "V2": 4,
    "V3": 8,
    "V4": 2,
    "V5": 20,
    "V6": 15,
    "V7": 600,
    "V8": 3,
    "V9": 100,
    "V10_spread": 0.8,
    "V11_spread": 28,
    "r_pc1_valence": 0.85,
    "r_pc2_arousal": 0.8,
}
"""The least that passes; for V4, a mean rank, the most."""


@dataclass(frozen=True)
class Settings:
    """How much is read. `source` of the stories: the model itself, or the grammar it learned."""

    source: str
    per_emotion: int
    seed: int


def write_stories(reader: Reader, world: World, settings: Settings) -> list[list[str]]:
    """`per_emotion` stories about different topics for each emotion, in the protocol's order."""
    rng = random.Random(f"stories/{settings.seed}")
    protocol = world.protocol
    plan = [
        (name, topic)
        for name in protocol.names
        for topic in rng.sample(protocol.topics, settings.per_emotion)
    ]
    if settings.source == "grammar":
        texts = [write_story(world, name, topic, rng) for name, topic in plan]
    else:
        template = protocol.prompts["story"]
        prompts = [template.format(emotion=name, topic=topic) for name, topic in plan]
        texts = write_texts(reader, prompts, seed=settings.seed)
    n = settings.per_emotion
    return [texts[first : first + n] for first in range(0, len(texts), n)]


def emotion_vectors(
    reader: Reader, world: World, stories: Sequence[Sequence[str]]
) -> tuple[Floats, dict[str, object]]:
    """Denoised emotion vectors [e, d], and how reliable they are."""
    rng = random.Random("neutral")
    topics = [rng.choice(world.protocol.neutral_topics) for _ in range(NEUTRAL_TEXTS)]
    neutral = pool(reader, [write_dialogue(world, topic, rng) for topic in topics])
    pooled = [pool(reader, own) for own in stories]
    if not all(len(means) for means in pooled):
        raise ValueError(f"an emotion has no story of more than {START_TOKEN} tokens")
    vectors = center(np.array([means.mean(axis=0) for means in pooled]))
    halves = [
        center(np.array([means[half::2].mean(axis=0) for means in pooled if len(means) > 1]))
        for half in (0, 1)
    ]
    agreement = (unit(halves[0]) * unit(halves[1])).sum(axis=1).mean() if len(halves[0]) else 0.0
    quality: dict[str, object] = {
        "stories_read": sum(len(means) for means in pooled),
        "neutral_read": len(neutral),
        "split_half": float(agreement),
    }
    return remove_common(vectors, neutral, NEUTRAL_SHARE), quality


def pool(reader: Reader, texts: Sequence[str]) -> Floats:
    """Pooled means [n, d] of the texts that are long enough."""
    means = pooled_means(reader, encode_texts(reader, texts), START_TOKEN)
    kept: Floats = means[~np.isnan(means).any(axis=1)]
    return kept


def score_stories(world: World, stories: Sequence[Sequence[str]]) -> dict[str, object]:
    """What the stories themselves hold: leaked names, and cues of the emotion's own family."""
    leaks, shares, known, sentences = 0, [], 0, 0
    for name, own in zip(world.protocol.names, stories, strict=True):
        for text in own:
            reading = planted_reading(world, text, name)
            leaks += re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None
            known += reading.known
            sentences += reading.sentences
            if reading.own_share is not None:
                shares.append(reading.own_share)
    return {
        "leaks": leaks,
        "own_cues": float(np.mean(shares)) if shares else 0.0,
        "known_sentences": known / max(1, sentences),
    }


def score(reader: Reader, world: World, settings: Settings) -> dict[str, object]:
    """The whole scorecard as JSON values; criteria with a target say whether they meet it."""
    started = time.monotonic()
    protocol, rng = world.protocol, np.random.default_rng(settings.seed)
    stories = write_stories(reader, world, settings)
    written = time.monotonic() - started
    texts = [text for own in stories for text in own]
    vectors, quality = emotion_vectors(reader, world, stories)
    norm = mean_norm(reader, encode_texts(reader, texts))
    held_out = random.Random(f"held out/{settings.seed}")
    scores: dict[str, object] = {
        "loss_long": token_loss(
            reader, [sample_long(world, held_out).text for _ in range(HELD_OUT)]
        ),
        "loss_short": token_loss(
            reader, [sample_short(world, held_out).text for _ in range(HELD_OUT)]
        ),
        **quality,
        **score_stories(world, stories),
        **score_geometry(protocol, vectors, settings.seed),
        **score_words(reader, protocol, vectors),
        **score_scenarios(reader, protocol, vectors),
        **score_intensity(reader, protocol, vectors),
        **score_preferences(reader, protocol, vectors, norm, rng),
        "mean_norm": norm,
    }
    return {
        "layer": reader.layer,
        "source": settings.source,
        "per_emotion": settings.per_emotion,
        "seconds": {"stories": written, "all": time.monotonic() - started},
        "scores": scores,
        "missed": missed(scores),
    }


def missed(scores: dict[str, object]) -> list[str]:
    """Criteria that do not meet their target, each with its value."""
    values = {name: float(cast("float", scores[name])) for name in TARGETS}
    return [
        f"{name} = {value:.3g}, target {'<=' if name == 'V4' else '>='} {TARGETS[name]}"
        for name, value in values.items()
        if (value > TARGETS[name] if name == "V4" else value < TARGETS[name])
    ]


def rounded(value: object) -> object:
    """JSON values with floats of four decimals."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> None:
    """Load, score, and write JSON to stdout."""
    parser = argparse.ArgumentParser(prog="python -m engine.demo.scorecard", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layer", type=int, help="0-based; default: nearest 2/3 of the depth")
    parser.add_argument("--source", choices=("model", "grammar"), default="model")
    parser.add_argument("--per-emotion", type=int, default=6, help="stories for each emotion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--exact", action="store_true", help="no bf16 in steering")
    parser.add_argument("--random-init", action="store_true", help="random weights of this shape")
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    loaded = load_model(str(chosen.folder), device=chosen.device, dtype="float32")
    network = cast("LlamaForCausalLM", loaded.model)
    if chosen.random_init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chosen.seed)
            network = LlamaForCausalLM(network.config)
        network = network.to(loaded.device)  # type: ignore[arg-type]
    layer = default_layer(loaded.n_layers) if chosen.layer is None else chosen.layer
    network.set_attn_implementation("eager")  # faster than fused attention on short rows
    reader = Reader(network, loaded.tokenizer, layer, fast=not chosen.exact)
    settings = Settings(chosen.source, chosen.per_emotion, chosen.seed)
    with torch.inference_mode():
        card = score(reader, load_world(chosen.world), settings)
    sys.stdout.write(json.dumps(rounded(card), indent=1) + "\n")


if __name__ == "__main__":
    main()
