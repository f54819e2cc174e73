"""What a user asked for, as the inputs of analyses. Knows nothing of what those compute."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from analyses.base import Analysis, Inputs
from analyses.readiness import unfinished_stage
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.protocol import Protocol
from stores.readers import count_layers
from stores.workspace import Workspace

DEPTH = Fraction(2, 3)
"""Of the analysis layer, where nothing else is asked for."""


def choose(known: Mapping[str, Analysis], names: Sequence[str]) -> list[Analysis]:
    """The analyses of these names, or all for 'all'. UsageError lists the known ones."""
    if unknown := [name for name in names if name not in known and name != "all"]:
        raise UsageError(f"unknown analysis {unknown[0]!r}; known: {', '.join(known)}, all")
    if not names:
        raise UsageError(
            f"which analysis? {', '.join(known)}, or all; --list tells what they answer"
        )
    return [known[name] for name in known if "all" in names or name in names]


def open_inputs(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    reader: str,
    corpus: str,
    layers: tuple[int, ...],
    layer: int | None,
    rest: Mapping[str, Any] = MappingProxyType({}),
    *,
    seed: int,
    permutations: int,
) -> Inputs:
    """The inputs at these extracted layers; the analysis layer is the one nearest to 2/3 depth.

    `rest` is what else `Inputs` takes, suite, model, stop and watch; None stands for the default.

    NotReady when no layer is extracted.
    """
    if not layers:
        raise NotReady(
            f"no layer of corpus {corpus} is extracted by reader {reader}: "
            f"{unfinished_stage(conn, reader, corpus)}"
        )
    if layer is None:
        n_layers = count_layers(conn, reader)
        layer = min(layers, key=lambda each: abs(Fraction(each + 1, n_layers) - DEPTH))
    return Inputs(
        conn=conn,
        workspace=workspace,
        protocol=protocol,
        reader=reader,
        corpus=corpus,
        layers=layers,
        layer=layer,
        seed=seed,
        permutations=permutations,
        **{key: value for key, value in rest.items() if value is not None},
    )
