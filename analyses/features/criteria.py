"""V1 to V4 read with features in place of the vectors: the best feature of each emotion.

Rows at the compared layer: those of the verification suite with `.vector`, `.auc`, `.cosine`,
`.control` or `.control_cosine` behind, by whose directions were read; V3 and V4 also with `.codes`
behind that, where a feature's own code at the end of a prompt takes the place of its cosine.
Emotions that share a feature are not told apart by it. Those of a random dictionary may well pass a
criterion: only what the SAE's do beyond the control's speaks for it. Tables: criteria, scenarios.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from analyses.base import Result
from analyses.criteria import read_ends
from analyses.features.reading import Crosscheck, Floats, Ints
from analyses.logit_lens import find_words, read_lenses, score_lenses
from analyses.methods.alignment import best_cosines
from analyses.methods.geometry import unit
from analyses.scenarios import ask_scenarios, list_scenarios, scenario_emotions, score_readings
from stores.encodings import Bank
from stores.results import Cell, Metric, Table

VECTOR, CONTROL, NEAREST = "vector", "control", "control_cosine"
BANK_OF: dict[str, Bank] = {"auc": "sae", "cosine": "sae", CONTROL: "control", NEAREST: "control"}
"""Whose decoder row takes the place of an emotion's vector."""


def score_features(found: Crosscheck, chosen: dict[str, Ints]) -> Result:
    """Rows V1 ... V4 under each choice of features, [e] each by name, beside the vectors' own.

    Names: `auc` and `cosine` of the SAE's, `control` of the control's by AUC; to these comes
    `control_cosine`. A protocol without scenarios has rows V3 and V4 without a value.
    """
    chosen = with_nearest(found, chosen)
    directions = chosen_directions(found, chosen)
    scored = _score_words(found, directions)
    if not found.inputs.protocol.scenarios:
        nothing = tuple(Metric(name, None, found.layer) for name in ("V3", "V4"))
        scored = {choice: rows + nothing for choice, rows in scored.items()}
        return Result(_named(scored), (_table(scored, found.layer),))
    readings = _read_scenarios(found, directions, chosen)
    for choice, read in readings.items():
        scored[choice] = scored.get(choice, ()) + score_readings(found.inputs, read).metrics
    tables = (_table(scored, found.layer), _list_scenarios(found, readings, chosen))
    return Result(_named(scored), tables)


def with_nearest(found: Crosscheck, chosen: Mapping[str, Ints]) -> dict[str, Ints]:
    """The choices, and the control's nearest to each vector: the rival of `cosine`."""
    alive = np.flatnonzero(found["control"].alive)
    _, nearest = best_cosines(found.directions, found["control"].rows[alive])
    return {**chosen, NEAREST: alive[nearest]}


def chosen_directions(found: Crosscheck, chosen: Mapping[str, Ints]) -> dict[str, Floats]:
    """Directions [e, d] of length 1 by choice: the vectors' own, then decoder rows."""
    rows = {choice: found[bank].rows[chosen[choice]] for choice, bank in BANK_OF.items()}
    return {VECTOR: found.directions} | {choice: unit(own) for choice, own in rows.items()}


def _score_words(
    found: Crosscheck, directions: Mapping[str, Floats]
) -> dict[str, tuple[Metric, ...]]:
    """V1 and V2 of directions [e, d] by choice."""
    own = find_words(found.model, found.emotions)
    scored = {}
    for choice, rows in directions.items():
        lenses = read_lenses(found.model, rows, own)
        scored[choice] = score_lenses(found.inputs, found.emotions, own, lenses).metrics
    return scored


def _read_scenarios(
    found: Crosscheck, directions: Mapping[str, Floats], chosen: Mapping[str, Ints]
) -> dict[str, Floats]:
    """What stands for each scenario's emotion at the end of each prompt, (p, s), by choice."""
    protocol = found.inputs.protocol
    own = [found.emotions.index(name) for name in scenario_emotions(protocol)]
    states, _ = read_ends(found.inputs, "scenario", ask_scenarios(protocol))
    ends = unit(states).T
    cosines = {choice: rows[own] @ ends for choice, rows in directions.items()}
    return cosines | _read_codes(found, {choice: rows[own] for choice, rows in chosen.items()})


def _read_codes(found: Crosscheck, chosen: Mapping[str, Ints]) -> dict[str, Floats]:
    """Codes (p, s) of chosen features [p] at the last token of each prompt."""
    from engine.asking import ask, choose_form
    from engine.features.codes import encode_tokens
    from engine.packing import Segment

    form = choose_form(found.model, found.inputs.suite.form)
    banks = list(found.dictionaries)
    saes = [found[bank].sae for bank in banks]
    columns: dict[str, list[Floats]] = {choice: [] for choice in BANK_OF}
    for question in ask_scenarios(found.inputs.protocol):
        prompt = ask(found.model, form, question.text)
        end = Segment(prompt.ids, slice(prompt.last, None))
        codes = dict(zip(banks, encode_tokens(found.model, found.layer, saes, end), strict=True))
        for choice, bank in BANK_OF.items():
            columns[choice].append(codes[bank][0, chosen[choice]].astype(np.float64))
    return {f"{choice}.codes": np.stack(read, axis=1) for choice, read in columns.items()}


def _named(scored: Mapping[str, Iterable[Metric]]) -> tuple[Metric, ...]:
    return tuple(
        replace(row, metric=f"{row.metric}.{choice}")
        for choice, rows in scored.items()
        for row in rows
    )


def _table(scored: Mapping[str, Iterable[Metric]], layer: int) -> Table:
    """Every reading of the suite, and what it comes to by each choice."""
    found = {choice: {row.metric: row.value for row in rows} for choice, rows in scored.items()}
    rows = tuple(
        (row.metric, row.n, row.threshold, *(own.get(row.metric) for own in found.values()))
        for row in scored[VECTOR]
    )
    return Table("criteria", ("reading", "n", "bar", *found), rows, layer)


def _list_scenarios(
    found: Crosscheck, readings: Mapping[str, Floats], chosen: Mapping[str, Ints]
) -> Table:
    """By every choice, what its scenario's own probe reads, its rank, and which is highest there.

    Readings are cosines, or codes.
    """
    protocol = found.inputs.protocol
    names = scenario_emotions(protocol)
    rows: list[tuple[Cell, ...]] = []
    for choice, read in readings.items():
        features = chosen.get(choice.removesuffix(".codes"))
        seen = list_scenarios("", names, protocol.scenarios, read[:, : len(names)], found.layer)
        for name, row in zip(names, seen.rows, strict=True):
            feature = None if features is None else int(features[found.emotions.index(name)])
            rows.append((choice, feature, *row))
    columns = ("by", "feature", "emotion", "variant", "reading", "rank", "rank_centred", "highest")
    return Table("scenarios", columns, tuple(rows), found.layer)
