"""What a user asked for, as the inputs of analyses. Knows nothing of what those compute."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from analyses.base import Analysis, Inputs
from analyses.readiness import require_two_stories, unfinished_stage
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.projections import known_projections
from stores.protocol import Protocol
from stores.readers import count_layers, is_imported
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


def allow(
    chosen: Sequence[Analysis], inputs: Inputs, names: Sequence[str]
) -> tuple[list[Analysis], dict[str, str]]:
    """Which of `chosen` to run, and why not the others: what 'all' brought in and cannot be had.

    One that the user named is always kept: its own error says what is missing.
    """
    imported = is_imported(inputs.conn, inputs.reader)
    reasons = {"norms": "it needs --norms FILE"} if inputs.norms is None else {}
    if imported:
        reasons |= dict.fromkeys(("activations", "model"), "its vectors were imported")
    else:
        try:
            require_two_stories(inputs.conn, inputs.reader, inputs.corpus)
        except NotReady as error:
            reasons["halves"] = str(error)
    if not known_projections(inputs.conn, inputs.reader, inputs.corpus):
        reasons["projections"] = "no texts were projected yet (`cli.py project`)"
    left_out = {
        analysis.name: reasons[need]
        for analysis in chosen
        for need in analysis.needs
        if need in reasons and analysis.name not in names
    }
    return [analysis for analysis in chosen if analysis.name not in left_out], left_out


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

    `rest` is what else `Inputs` takes, norms, suite, model, ...; None stands for the default.

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
