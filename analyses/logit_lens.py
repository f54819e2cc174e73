"""V1 and V2: which words the emotion vectors raise, and whether opposites point apart.

Rows at the analysis layer: V1 (.norm .eligible .controlled), V2 (.norm .centred .controlled).
Tables: settings, words, tokens, pairs. Reads no prompt. Knows nothing of how logits are made.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analyses.base import Analysis, Inputs, Result, Rows
from analyses.criteria import judge, settings_table
from analyses.methods.geometry import upper_triangle
from analyses.methods.scoring import Scored, score_own
from analyses.methods.statistics import binomial_p, wilson_interval
from analyses.reading import open_model, open_probes
from stores.results import Cell, Metric, Table

if TYPE_CHECKING:
    from engine.lens import Lens
    from engine.models import Model

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]

TOP, LISTED = 20, 10
"""Tokens among which a word must be, and tokens that are listed at each end."""
V1_BAR, V2_BAR = 20, 4
OPPOSITES = (
    ("happy", "sad"),
    ("calm", "desperate"),
    ("proud", "ashamed"),
    ("excited", "bored"),
    ("loving", "hostile"),
)
NOTHING = Scored(0.0, 0, 0.0, 0.0, 0.0, 1.0)
"""Where no word is one token, or no opposites are listed."""


def run(inputs: Inputs) -> Result:
    """Hold every emotion's direction against the unembedding, raw and through the final norm."""
    model, probes = open_model(inputs), open_probes(inputs)
    layer, names = inputs.layer, probes.emotions
    own = find_words(model, names)
    lenses = read_lenses(model, probes.directions[layer], own)
    tables = (
        settings_table(inputs, top=TOP),
        list_words(model, names, own, lenses, layer),
        list_tokens(model, names, lenses, layer),
    )
    return Result(tables=tables) + score_lenses(inputs, names, own, lenses)


def find_words(model: "Model", names: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens that are each emotion's own word; none for a word of several."""
    from engine.lens import word_tokens

    return [word_tokens(model.tokenizer, name) for name in names]


def read_lenses(
    model: "Model", directions: Floats, own: Sequence[Sequence[int]]
) -> dict[str, "Lens"]:
    """Directions (e, d) read off the unembedding, raw and through the final norm."""
    from engine.lens import read_lens

    return {
        reading: read_lens(model, directions, own, through_norm=reading == "norm", top=TOP)
        for reading in ("raw", "norm")
    }


def score_lenses(
    inputs: Inputs,
    names: Sequence[str],
    own: Sequence[Sequence[int]],
    lenses: Mapping[str, "Lens"],
) -> Result:
    """V1 and V2 of one direction for each emotion, from what `read_lenses` read."""
    hits = {reading: lens.hits for reading, lens in lenses.items()}
    dots = {reading: lens.products for reading, lens in lenses.items()}
    dots["centred"] = lenses["raw"].centred
    eligible = np.array([bool(tokens) for tokens in own])
    rng = np.random.default_rng(inputs.seed)
    words = score_words(hits, eligible, inputs.layer, inputs.permutations, rng)
    return words + score_opposites(names, dots, inputs.layer)


def score_words(
    hits: Mapping[str, Hits],
    eligible: Hits,
    layer: int,
    permutations: int,
    rng: np.random.Generator,
) -> Result:
    """V1 from hits (e, e) by reading: [i, j] says that vector i has a token of word j on top.

    Chance and p: which word is whose, permuted. Only a word that is one token can be hit, so the
    controlled reading is about the emotions `eligible` (e,) alone.
    """
    tables = {**hits, "eligible": hits["raw"][np.ix_(eligible, eligible)]}
    scored = {reading: _count_own(table, permutations, rng) for reading, table in tables.items()}
    readings = {"V1": "raw", "V1.norm": "norm", "V1.eligible": "eligible"}
    return Result(_judgements(readings | {"V1.controlled": "eligible"}, scored, layer, V1_BAR))


def _count_own(hits: Hits, permutations: int, rng: np.random.Generator) -> Scored:
    if not hits.size:
        return NOTHING
    return score_own(hits, rng, permutations)


def score_opposites(names: Sequence[str], dots: Mapping[str, Floats], layer: int) -> Result:
    """V2 from dots (e, e) of logit vectors by reading: opposites with a negative product.

    Chance is the share of negative products among all pairs of emotions; p is exactly binomial with
    that share. Opposites that the protocol does not list are left out.
    """
    pairs = [(names.index(a), names.index(b)) for a, b in OPPOSITES if {a, b} <= set(names)]
    scored = {reading: _count_negative(products, pairs) for reading, products in dots.items()}
    readings = {"V2": "raw", "V2.norm": "norm", "V2.centred": "centred", "V2.controlled": "raw"}
    metrics = _judgements(readings, scored, layer, V2_BAR)
    rows = tuple(
        (reading, names[i], names[j], products[i, j], _cosine(products, i, j))
        for reading, products in dots.items()
        for i, j in pairs
    )
    columns = ("reading", "emotion", "opposite", "dot", "cosine")
    return Result(metrics, (Table("pairs", columns, rows, layer),))


def _count_negative(products: Floats, pairs: Sequence[tuple[int, int]]) -> Scored:
    if not pairs:
        return NOTHING
    n, found = len(pairs), sum(bool(products[pair] < 0.0) for pair in pairs)
    share = float((upper_triangle(products) < 0.0).mean())
    low, high = wilson_interval(found, n)
    return Scored(found, n, n * share, n * low, n * high, binomial_p(found, n, share))


def _judgements(
    readings: Mapping[str, str], scored: Mapping[str, Scored], layer: int, bar: int
) -> tuple[Metric, ...]:
    return tuple(
        judge(metric, scored[reading], layer, at_least=bar) for metric, reading in readings.items()
    )


def _cosine(products: Floats, i: int, j: int) -> float:
    return float(products[i, j] / np.sqrt(products[i, i] * products[j, j]))


def list_words(
    model: "Model",
    names: Sequence[str],
    own: Sequence[Sequence[int]],
    lenses: Mapping[str, "Lens"],
    layer: int,
) -> Table:
    """Every emotion's own tokens with the best rank among them, none for a word of several."""
    rows = tuple(
        (
            reading,
            name,
            " ".join(map(repr, _tokens(model, own[i]))),
            rank or None,
            bool(lens.hits[i, i]),
        )
        for reading, lens in lenses.items()
        for i, name in enumerate(names)
        for rank in [int(lens.ranks[i, i])]
    )
    return Table("words", ("reading", "emotion", "own_tokens", "rank", "hit"), rows, layer)


def list_tokens(
    model: "Model", names: Sequence[str], lenses: Mapping[str, "Lens"], layer: int
) -> Table:
    """The tokens that every vector raises and lowers most."""
    rows: list[tuple[Cell, ...]] = []
    for reading, lens in lenses.items():
        for end, ids, values in (
            ("top", lens.top, lens.top_values),
            ("bottom", lens.bottom, lens.bottom_values),
        ):
            for name, chosen, logits in zip(names, ids, values, strict=True):
                listed = chosen[:LISTED].tolist()
                seen = zip(listed, _tokens(model, listed), logits.tolist(), strict=False)
                rows += [(reading, name, end, k, *each) for k, each in enumerate(seen, 1)]
    columns = ("reading", "emotion", "end", "rank", "token_id", "token", "logit")
    return Table("tokens", columns, tuple(rows), layer)


def _tokens(model: "Model", ids: Sequence[int]) -> list[str]:
    return [str(model.tokenizer.decode([token])) for token in ids]


def draw(_rows: Rows) -> dict[str, Figure]:
    """No figures: the tables are lists of words."""
    return {}


ANALYSIS = Analysis(
    name="logit_lens",
    question="Do the vectors speak for their own words, and opposites against each other?",
    needs=("vectors", "model"),
    run=run,
    draw=draw,
)
