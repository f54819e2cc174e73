"""Which emotions are steered, with what controls: every arm of the preference experiment, by key.

Selections are made from the probes' r alone, before anything is steered. Knows nothing of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analyses.methods import geometry, scoring
from stores.errors import BadValue

if TYPE_CHECKING:
    from analyses.base import Inputs
    from analyses.reading import Probes
    from engine.models import Model
    from engine.sweep import Arm, ArmKind

Floats = NDArray[np.float64]

MEAN = "mean of emotions"
ONE, BAND = "layer", "band"


class Key(NamedTuple):
    """Who is steered with, how strongly, at one layer or over the band."""

    who: str
    strength: float
    where: str = ONE

    def __str__(self) -> str:
        over = " over the band" if self.where == BAND else ""
        return f"{self.who} {self.strength:+g}{over}"


@dataclass(frozen=True, slots=True)
class Selections:
    """Rows of the emotions that are steered."""

    top: tuple[int, ...]
    """The report's: the largest abs r."""
    spread: tuple[int, ...]
    """Evenly spaced in rank of r, lowest first."""
    some: tuple[int, ...]
    """Of the spread ones, evenly spaced: steered over the band, and with the opposite sign."""

    @property
    def exemplars(self) -> tuple[int, int]:
        """The emotions of the highest and of the lowest r."""
        return self.spread[-1], self.spread[0]

    @property
    def all(self) -> tuple[int, ...]:
        """Every steered emotion once, in the order of its row."""
        return tuple(sorted({*self.top, *self.spread}))


def select_emotions(r: Floats, steered: int, band_emotions: int) -> Selections:
    """Choose by r (e,): `steered` emotions in each selection, fewer when there are fewer."""
    spread = [int(i) for i in scoring.spread(r, steered)]
    places = np.linspace(0, len(spread) - 1, min(band_emotions, len(spread))).round().astype(int)
    top = tuple(int(i) for i in scoring.top(r, steered))
    return Selections(top, tuple(spread), tuple(spread[i] for i in places))


def require_reach(model: Model, layers: Sequence[int]) -> None:
    """BadValue for a layer whose additions to an option never reach the token that answers.

    The effect there would be exactly 0, which is no finding.
    """
    from engine.steering import last_reaching_layer

    last = last_reaching_layer(model)
    if beyond := [layer for layer in layers if layer > last]:
        raise BadValue(
            f"model {model.name}: what is added to an activity at layer {beyond[0]} cannot reach "
            f"the answer, because no later block makes keys and values; use --layer {last} or lower"
        )


def random_name(i: int) -> str:
    """Of the i-th random direction, counted from 0."""
    return f"random {i + 1}"


def random_directions(n: int, d: int, rng: np.random.Generator) -> Floats:
    """(n, d) of length 1, the same in every direction; more of them begin with the same ones."""
    return geometry.unit(rng.standard_normal((n, d)))


def plan_arms(
    inputs: Inputs,
    selections: Selections,
    probes: Probes,
    controls: Mapping[str, Floats],
    norms: Mapping[int, float],
    band: Sequence[int],
) -> dict[Key, Arm]:
    """Every arm once. `controls` are directions (d,) at the analysis layer by name.

    Over the band each layer has its own direction, and the strength is shared out evenly.
    """
    suite, layer = inputs.suite, inputs.layer
    names = probes.emotions
    whole = {name: probes.directions[layer][i] for i, name in enumerate(names)} | dict(controls)
    planned: dict[Key, ArmKind] = {}

    def plan(kind: ArmKind, who: Sequence[str], strengths: Sequence[float]) -> None:
        for name in who:
            for strength in strengths:
                planned.setdefault(Key(name, strength), kind)

    randoms = [name for name in controls if name != MEAN]
    plan("emotion", [names[i] for i in selections.all], [suite.strength])
    plan("random", randoms, [suite.strength])
    plan("mean", [MEAN], [suite.strength])
    plan("opposite", [names[i] for i in selections.some], [-suite.strength])
    plan("dose", [*(names[i] for i in selections.exemplars), randoms[0]], suite.doses)
    arms = {
        key: arm_at(layer, norms[layer], key, kind, whole[key.who]) for key, kind in planned.items()
    }
    for i in selections.some:
        key = Key(names[i], suite.strength, BAND)
        share = suite.strength / len(band)
        added = {at: share * norms[at] * probes.directions[at][i] for at in band}
        arms[key] = _arm(key, "band", added)
    return arms


def arm_at(layer: int, norm: float, key: Key, kind: ArmKind, direction: Floats) -> Arm:
    """Adds a direction (d,) of length 1 at a layer, at `key.strength` of its residual norm."""
    return _arm(key, kind, {layer: key.strength * norm * direction})


def _arm(key: Key, kind: ArmKind, added: Mapping[int, Floats]) -> Arm:
    from engine.sweep import Arm

    vectors = {layer: vector.astype(np.float32) for layer, vector in added.items()}
    return Arm(str(key), kind, key.strength, vectors)
