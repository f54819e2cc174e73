"""Criteria V1 to V6 and the geometry of a demo model's emotion vectors.

Knows nothing of stories or steering: it is given the vectors [e, d], in the protocol's order.
"""

from __future__ import annotations

import numpy as np

from engine.demo.measures import (
    Floats,
    adjusted_rand,
    center,
    cluster,
    correlation,
    principal_axes,
    rank_correlation,
    unit,
)
from engine.demo.residuals import Reader, last_residuals
from engine.demo.tokenizer import is_single_token
from stores.protocol import Protocol

OPPOSITES = (
    ("happy", "sad"),
    ("calm", "desperate"),
    ("proud", "ashamed"),
    ("excited", "bored"),
    ("loving", "hostile"),
)
TOP_TOKENS = 20
STRONG = 0.7


def score_geometry(protocol: Protocol, vectors: Floats, seed: int) -> dict[str, object]:
    """The two axes against planted valence and arousal, and clusters against planted families."""
    scores, shares = principal_axes(vectors)
    labels = [np.array(list(protocol.label(c).values())) for c in ("valence", "arousal")]
    families = sorted({str(emotion.family) for emotion in protocol.emotions})
    planted = np.array([families.index(str(emotion.family)) for emotion in protocol.emotions])
    found = cluster(unit(vectors), len(families), np.random.default_rng(seed))
    return {
        "variance": [round(float(share), 3) for share in shares[:4]],
        "r_pc1_valence": abs(correlation(scores[:, 0], labels[0])),
        "r_pc2_arousal": abs(correlation(scores[:, 1], labels[1])),
        "ari": adjusted_rand(found, planted),
    }


def score_words(reader: Reader, protocol: Protocol, vectors: Floats) -> dict[str, object]:
    """V1 and V2: what the vectors say through the final norm's weight and the unembedding."""
    with_norm = reader.model.lm_head.weight * reader.model.model.norm.weight
    logits: Floats = unit(vectors) @ with_norm.double().cpu().numpy().T
    rows = dict(zip(protocol.names, logits, strict=True))
    found = 0
    for name, row in rows.items():
        forms = {form for word in (name, name.capitalize()) for form in (word, " " + word)}
        ids = [reader.tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        own = {each[0] for each in ids if len(each) == 1}
        found += bool(own & set(np.argsort(-row)[:TOP_TOKENS].tolist()))
    fast = reader.tokenizer.backend_tokenizer
    return {
        "V1": found,
        "V2": sum(float(rows[one] @ rows[other]) < 0 for one, other in OPPOSITES),
        "single_token_emotions": sum(is_single_token(fast, name) for name in protocol.names),
    }


def score_scenarios(reader: Reader, protocol: Protocol, vectors: Floats) -> dict[str, object]:
    """V3 and V4: scenarios [s] against the probes of the scenarios' own emotions [p]."""
    emotions = sorted({scenario.emotion for scenario in protocol.scenarios})
    probes = unit(vectors[[protocol.names.index(name) for name in emotions]])
    residuals = last_residuals(reader, [scenario.prompt for scenario in protocol.scenarios])
    own = [emotions.index(scenario.emotion) for scenario in protocol.scenarios]
    scores: dict[str, object] = {}
    for name, states in (("", residuals), ("_centered", center(residuals))):
        cosines = unit(states) @ probes.T
        ranks = [1 + int((row > row[e]).sum()) for row, e in zip(cosines, own, strict=True)]
        scores |= {f"V3{name}": ranks.count(1), f"V4{name}": float(np.mean(ranks))}
    return scores


def score_intensity(reader: Reader, protocol: Protocol, vectors: Floats) -> dict[str, object]:
    """V5 and V6: how the probes move with the number in each template."""
    directions = dict(zip(protocol.names, unit(vectors), strict=True))
    right, strong, stated = 0, 0, 0
    table: dict[str, dict[str, float]] = {}
    for template in protocol.intensity:
        prompts = [template.prompt.format(x=x) for x in template.values]
        states = unit(last_residuals(reader, prompts))
        x = np.arange(len(prompts), dtype=np.float64)
        rho = {e: rank_correlation(x, states @ directions[e]) for e in template.directions}
        agrees = {e: rho[e] * d.sign > 0 for e, d in template.directions.items()}
        right += sum(agrees.values())
        strong += sum(abs(value) > STRONG for value in rho.values())
        stated += sum(agrees[e] for e, d in template.directions.items() if d.stated)
        table[template.key] = {e: round(value, 2) for e, value in rho.items()}
    return {"V5": right, "V6": strong, "V5_stated": stated, "intensity": table}
